package dns

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"murmur/crdt/store"
	"murmur/node/proxy"
)

// walked is names by a walk over all services.
func walked(v View, addr netip.Addr) (list []string) {
	pods := slices.DeleteFunc(store.List[corev1.Pod](v.Snapshot, "pods", ""), func(p *corev1.Pod) bool { return p.Status.PodIP != addr.String() || !proxy.Alive(p) })
	for _, svc := range store.List[corev1.Service](v.Snapshot, "services", "") {
		if svc.Spec.ClusterIP == addr.String() {
			return []string{v.host(svc)}
		}
		if svc.Spec.ClusterIP != corev1.ClusterIPNone || len(svc.Spec.Selector) > 0 && len(pods) == 0 {
			continue
		}
		for _, e := range v.endpoints(svc) {
			if name := e.host + "." + v.host(svc); e.Addr == addr && !slices.Contains(list, name) {
				list = append(list, name)
			}
		}
	}
	if len(list) == 0 {
		for _, p := range pods {
			list = append(list, dashed(addr)+"."+p.Namespace+".pod."+v.Zone)
		}
	}
	slices.Sort(list)
	return list
}

// TestNamesAreLookedUp: what an address is called is found without a walk, whatever says that a service has it.
func TestNamesAreLookedUp(t *testing.T) {
	named := 0
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 1))
		var docs []string
		ip := func() string { return fmt.Sprint("10.42.0.", r.IntN(6)) }
		ns := func() string { return fmt.Sprint("ns", r.IntN(2)) }
		for i := range 10 {
			docs = append(docs, fmt.Sprintf("{apiVersion: v1, kind: Pod, metadata: {namespace: %s, name: p%d, labels: {app: a%d, tier: t%d}}, "+
				"spec: {hostname: h%d, subdomain: s%d, containers: []}, status: {phase: %s, podIP: %s, podIPs: [{ip: %[8]s}], conditions: [{type: Ready, status: '%v'}]}}",
				ns(), i, r.IntN(3), r.IntN(2), i, r.IntN(6), []string{"Running", "Running", "Failed"}[r.IntN(3)], ip(), []string{"True", "False"}[r.IntN(2)]))
		}
		for i := range 6 {
			selector := []string{"", ", selector: {app: a0}", ", selector: {app: a1, tier: t0}", ", selector: {tier: t1}"}[r.IntN(4)]
			cluster := []string{"None", "None", "10.42.0.5"}[r.IntN(3)]
			in := ns()
			docs = append(docs, fmt.Sprintf("{apiVersion: v1, kind: Service, metadata: {namespace: %s, name: s%d}, spec: {clusterIP: %s, clusterIPs: [%[3]s], ports: [{port: 80}]%s}}", in, i, cluster, selector))
			if r.IntN(2) == 0 {
				docs = append(docs, fmt.Sprintf("{apiVersion: v1, kind: Endpoints, metadata: {namespace: %s, name: s%d}, subsets: [{addresses: [{ip: %s}], ports: [{port: 80}]}]}", in, i, ip()))
			}
			if r.IntN(2) == 0 {
				docs = append(docs, fmt.Sprintf("{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {namespace: %s, name: s%d-x, labels: {kubernetes.io/service-name: s%[2]d}}, "+
					"addressType: IPv4, endpoints: [{addresses: [%s, %s]}], ports: [{port: 80}]}", in, i, ip(), ip()))
			}
		}
		s := newStore(t, strings.Join(docs, "\n---\n"))
		v := View{Snapshot: s.Snapshot(), Zone: "cluster.local.", ClusterCIDR: netip.MustParsePrefix("10.42.0.0/16"), ServiceCIDR: netip.MustParsePrefix("10.43.0.0/16")}
		for i := range 6 {
			addr := netip.MustParseAddr(fmt.Sprint("10.42.0.", i))
			want, have := walked(v, addr), v.names(addr)
			if named += len(want); !slices.Equal(have, want) {
				t.Errorf("%s is called %q, by a walk %q, among\n%s", addr, have, want, strings.Join(docs, "\n"))
			}
		}
	}
	if named < 50 {
		t.Errorf("only %d names were found in all", named)
	}
}
