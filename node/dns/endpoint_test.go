package dns

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"murmur/crdt/store"
	"murmur/node/proxy"
)

var destination = regexp.MustCompile(`--to-destination (\S+)`)

// TestProxyAndDNSAgree asks both where the same Services are: as rules of packets for a cluster address, and as SRV records
// of a headless Service. They differ in one thing, that is written at proxy.Published.
func TestProxyAndDNSAgree(t *testing.T) {
	service := func(spec string) string {
		return "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: default}\nspec: {clusterIP: None, ports: [{name: p, port: 80, targetPort: p}]" + spec + "}"
	}
	pod := func(name, node, ip, status, more string) string {
		ending := ""
		if strings.Contains(more, "ending") {
			ending, more = `, deletionTimestamp: "2026-01-01T00:00:00Z"`, ""
		}
		return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: default, labels: {app: web}%s}\n"+
			"spec: {nodeName: %s, containers: [{name: c, ports: [{name: p, containerPort: 8080}]}]%s}\nstatus: {podIP: %s, phase: Running, conditions: [{type: Ready, status: %q}]}",
			name, ending, node, more, ip, status)
	}
	slice := func(name, label, endpoints string) string {
		return fmt.Sprintf("apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: %s, namespace: default, labels: {kubernetes.io/service-name: web%s}}\n"+
			"addressType: IPv4\nports: [{name: p, port: 99}]\nendpoints: [%s]", name, label, endpoints)
	}
	const (
		selected = ", selector: {app: web}"
		all      = ", publishNotReadyAddresses: true"
		ending   = "ending"
		none     = ""
	)
	for _, c := range []struct {
		name    string
		objects []string
		// want is what both say. proxy and dns are what each says where they differ.
		want, proxy, dns string
	}{
		{name: "nothing", objects: []string{service(selected)}},
		{name: "ready pods, in two places", want: "10.42.1.1:8080 10.42.2.1:8080", objects: []string{
			service(selected), pod("a", "n1", "10.42.1.1", "True", none), pod("b", "n2", "10.42.2.1", "True", none)}},
		{name: "a pod that is not ready, beside a ready one", want: "10.42.1.1:8080", objects: []string{
			service(selected), pod("a", "n1", "10.42.1.1", "True", none), pod("b", "n2", "10.42.2.1", "False", none)}},
		{name: "no pod is ready", objects: []string{service(selected), pod("a", "n1", "10.42.1.1", "False", none)}},
		{name: "a pod that is ending, beside a ready one", want: "10.42.1.1:8080", objects: []string{
			service(selected), pod("a", "n1", "10.42.1.1", "True", none), pod("b", "n2", "10.42.2.1", "True", ending)}},
		{name: "only pods that are ending, and one of them serves", proxy: "10.42.2.1:8080", objects: []string{
			service(selected), pod("a", "n1", "10.42.1.1", "False", ending), pod("b", "n2", "10.42.2.1", "True", ending)}},
		{name: "an ending pod that serves, and one that was never ready", proxy: "10.42.2.1:8080", objects: []string{
			service(selected), pod("a", "n1", "10.42.1.1", "False", none), pod("b", "n2", "10.42.2.1", "True", ending)}},
		{name: "whatever is said of readiness", want: "10.42.1.1:8080 10.42.2.1:8080 10.42.2.2:8080", objects: []string{
			service(selected + all), pod("a", "n1", "10.42.1.1", "False", none), pod("b", "n2", "10.42.2.1", "True", ending), pod("c", "n2", "10.42.2.2", "False", ending)}},
		{name: "a node that is not reachable", want: "10.42.1.1:8080", objects: []string{
			service(selected + all), pod("a", "n1", "10.42.1.1", "True", none), pod("b", "lost", "10.42.9.1", "True", none)}},
		{name: "a pod that has ended, and one of no address", objects: []string{
			service(selected), strings.Replace(pod("a", "n1", "10.42.1.1", "True", none), "phase: Running", "phase: Failed", 1), pod("b", "n1", `""`, "True", none)}},
		{name: "pods of other labels and of another namespace", objects: []string{
			service(selected), strings.Replace(pod("a", "n1", "10.42.1.1", "True", none), "app: web", "app: other", 1),
			strings.Replace(pod("b", "n1", "10.42.1.2", "True", none), "namespace: default", "namespace: other", 1)}},
		{name: "a pod without a port of the name, and one whose sidecar has it", want: "10.42.1.2:7070", objects: []string{
			service(selected), strings.Replace(pod("a", "n1", "10.42.1.1", "True", none), "name: p,", "name: q,", 1),
			strings.Replace(pod("b", "n1", "10.42.1.2", "True", ", initContainers: [{name: i, restartPolicy: Always, ports: [{name: p, containerPort: 7070}]}]"), "[{name: p, containerPort: 8080}]", "[]", 1)}},
		{name: "slices that a user made", want: "172.16.0.1:99 172.16.0.2:99", objects: []string{
			service(none), slice("one", none, "{addresses: [172.16.0.1]}, {addresses: [172.16.0.2], conditions: {ready: true}}, {addresses: [172.16.0.3], conditions: {ready: false}}"),
			slice("two", none, "{addresses: [172.16.0.2], conditions: {ready: false}}, {addresses: [172.16.0.4], nodeName: lost}")}},
		{name: "a slice beside pods", want: "10.42.1.1:8080 172.16.0.1:99", objects: []string{
			service(selected), pod("a", "n1", "10.42.1.1", "True", none), slice("one", none, "{addresses: [172.16.0.1]}")}},
		{name: "slices that repeat the pods, and that are another Service's", want: "10.42.1.1:8080", objects: []string{
			service(selected), pod("a", "n1", "10.42.1.1", "True", none),
			slice("one", ", endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io", "{addresses: [10.42.1.9]}"),
			strings.Replace(slice("two", none, "{addresses: [10.42.1.8]}"), "service-name: web", "service-name: other", 1)}},
		{name: "a slice with one that is ending and serves", proxy: "172.16.0.1:99", objects: []string{
			service(none), slice("one", none, "{addresses: [172.16.0.1], conditions: {ready: false, serving: true, terminating: true}}")}},
		{name: "slices, whatever they say of readiness", want: "172.16.0.1:99 172.16.0.2:99", objects: []string{
			service(all), slice("one", none, "{addresses: [172.16.0.1], conditions: {ready: false, serving: true, terminating: true}}, {addresses: [172.16.0.2], conditions: {ready: false}}")}},
		{name: "Endpoints, and the slice that mirrors them", want: "172.16.0.1:99", objects: []string{
			service(none), "apiVersion: v1\nkind: Endpoints\nmetadata: {name: web, namespace: default}\n" +
				"subsets: [{addresses: [{ip: 172.16.0.1}, {ip: 172.16.0.3, nodeName: lost}], notReadyAddresses: [{ip: 172.16.0.2}], ports: [{name: p, port: 99}]}]",
			slice("web-x", ", endpointslice.kubernetes.io/managed-by: endpointslicemirroring-controller.k8s.io", "{addresses: [172.16.0.1], conditions: {ready: true}}")}},
		{name: "Endpoints, whatever they say of readiness", want: "172.16.0.1:99 172.16.0.2:99", objects: []string{
			service(all), "apiVersion: v1\nkind: Endpoints\nmetadata: {name: web, namespace: default}\n" +
				"subsets: [{addresses: [{ip: 172.16.0.1}], notReadyAddresses: [{ip: 172.16.0.2}], ports: [{name: p, port: 99}]}]"}},
		{name: "Endpoints of a Service that selects", objects: []string{
			service(selected), "apiVersion: v1\nkind: Endpoints\nmetadata: {name: web, namespace: default}\n" +
				"subsets: [{addresses: [{ip: 172.16.0.1}], ports: [{name: p, port: 99}]}]"}},
		{name: "what is no address of another machine", want: "172.16.0.1:99", objects: []string{
			service(none), slice("one", none, "{addresses: [172.16.0.1, 127.0.0.1, 169.254.1.1, 224.0.0.1, 'fd00::1', nonsense]}")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			snap := newStore(t, strings.Join(append([]string{"apiVersion: v1\nkind: Namespace\nmetadata: {name: default}"}, c.objects...), "\n---\n")).Snapshot()
			reachable := func(node string) bool { return node != "lost" }
			if c.want != "" {
				c.proxy, c.dns = c.want, c.want
			}

			svc := store.List[corev1.Service](snap, "services", "default")[0].DeepCopy()
			svc.Spec.ClusterIP = "10.43.0.80"
			rules := proxy.Build(proxy.View{
				Services: []*corev1.Service{svc}, Pods: store.List[corev1.Pod](snap, "pods", ""),
				Slices:    store.List[discoveryv1.EndpointSlice](snap, "discovery.k8s.io/endpointslices", ""),
				Endpoints: store.List[corev1.Endpoints](snap, "endpoints", ""),
			}, proxy.Config{Node: "n1", Reachable: reachable})
			var sent []string
			for _, table := range rules.Tables {
				for _, chain := range table.Chains {
					for _, found := range destination.FindAllStringSubmatch(strings.Join(chain.Rules, "\n"), -1) {
						sent = append(sent, found[1])
					}
				}
			}
			slices.Sort(sent)
			if got := strings.Join(sent, " "); got != c.proxy {
				t.Errorf("the proxy sends to %q, want %q", got, c.proxy)
			}

			m, _ := Answer(dns.Question{Name: "web.default.svc.cluster.local.", Qtype: dns.TypeSRV, Qclass: dns.ClassINET}, View{Snapshot: snap,
				Zone: "cluster.local.", Reachable: reachable, ClusterCIDR: netip.MustParsePrefix("10.42.0.0/16"), ServiceCIDR: netip.MustParsePrefix("10.43.0.0/16")})
			addrs := map[string]string{}
			for _, rr := range m.Extra {
				addrs[rr.Header().Name] = rr.(*dns.A).A.String()
			}
			var told []string
			for _, rr := range m.Answer {
				told = append(told, fmt.Sprintf("%s:%d", addrs[rr.(*dns.SRV).Target], rr.(*dns.SRV).Port))
			}
			slices.Sort(told)
			if got := strings.Join(told, " "); got != c.dns {
				t.Errorf("DNS tells of %q, want %q", got, c.dns)
			}
		})
	}
}
