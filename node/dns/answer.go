package dns

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/node/proxy"
)

// ttl is how long clients may keep what we say, in seconds.
const ttl = 5

// version of the Kubernetes DNS specification.
const version = "1.1.0"

// View is what an answer is made from.
type View struct {
	Snapshot                 *store.Snapshot
	Zone                     string     // fully qualified, lower case
	Address                  netip.Addr // of the name server
	ClusterCIDR, ServiceCIDR netip.Prefix
	Reachable                func(node string) bool
}

// name is everything there is under one name.
type name struct {
	exists bool // with records of some type, or names below
	a      []netip.Addr
	srv    []target
	cname  string
	ptr    []string
	txt    string
}

// target is what an SRV record points at.
type target struct {
	host string
	port uint16
	addr netip.Addr
}

// Answer answers a question about the cluster. ours is false when the name is not the cluster's to know. Names that
// alias others of the cluster are followed, eight deep; an answer that ends with an alias outside has no SOA.
func Answer(q dns.Question, v View) (msg *dns.Msg, ours bool) {
	msg = new(dns.Msg)
	msg.Authoritative = true
	asked := q.Name
	for depth := 0; ; depth++ {
		n, ours := v.lookup(strings.ToLower(asked))
		if !ours {
			return msg, depth > 0
		}
		if n.cname != "" && depth < 8 {
			msg.Answer = append(msg.Answer, &dns.CNAME{Hdr: header(asked, dns.TypeCNAME), Target: n.cname})
			if q.Qtype == dns.TypeCNAME {
				return msg, true
			}
			asked = n.cname
			continue
		}
		v.add(msg, asked, q.Qtype, n)
		if !n.exists {
			msg.Rcode = dns.RcodeNameError
		}
		if len(msg.Answer) == 0 || !n.exists || msg.Answer[len(msg.Answer)-1].Header().Rrtype == dns.TypeCNAME {
			msg.Ns = append(msg.Ns, v.soa())
		}
		return msg, true
	}
}

// add puts what a name has of one type into a message.
func (v View) add(msg *dns.Msg, asked string, qtype uint16, n name) {
	is := func(t uint16) bool { return qtype == t || qtype == dns.TypeANY }
	if is(dns.TypeA) {
		for _, a := range n.a {
			msg.Answer = append(msg.Answer, &dns.A{Hdr: header(asked, dns.TypeA), A: a.AsSlice()})
		}
	}
	if is(dns.TypeSRV) {
		seen := map[string]bool{}
		for _, s := range n.srv {
			msg.Answer = append(msg.Answer, &dns.SRV{Hdr: header(asked, dns.TypeSRV), Weight: uint16(max(1, 100/len(n.srv))), Port: s.port, Target: s.host})
			if !seen[s.host] {
				seen[s.host] = true
				msg.Extra = append(msg.Extra, &dns.A{Hdr: header(s.host, dns.TypeA), A: s.addr.AsSlice()})
			}
		}
	}
	if is(dns.TypePTR) {
		for _, p := range n.ptr {
			msg.Answer = append(msg.Answer, &dns.PTR{Hdr: header(asked, dns.TypePTR), Ptr: p})
		}
	}
	if is(dns.TypeTXT) && n.txt != "" {
		msg.Answer = append(msg.Answer, &dns.TXT{Hdr: header(asked, dns.TypeTXT), Txt: []string{n.txt}})
	}
	if strings.EqualFold(asked, v.Zone) {
		if is(dns.TypeSOA) {
			msg.Answer = append(msg.Answer, v.soa())
		}
		if is(dns.TypeNS) {
			msg.Answer = append(msg.Answer, &dns.NS{Hdr: header(asked, dns.TypeNS), Ns: "ns.dns." + v.Zone})
		}
	}
}

func header(of string, t uint16) dns.RR_Header {
	return dns.RR_Header{Name: of, Rrtype: t, Class: dns.ClassINET, Ttl: ttl}
}

func (v View) soa() dns.RR {
	return &dns.SOA{Hdr: header(v.Zone, dns.TypeSOA), Ns: "ns.dns." + v.Zone, Mbox: "hostmaster." + v.Zone,
		Serial: 1, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: ttl}
}

// lookup finds a lower-case name.
func (v View) lookup(asked string) (n name, ours bool) {
	if addr, ok := reverse(asked); ok {
		if !v.ServiceCIDR.Contains(addr) && !v.ClusterCIDR.Contains(addr) {
			return n, false
		}
		ptr := v.names(addr)
		return name{exists: len(ptr) > 0, ptr: ptr}, true
	}
	if !dns.IsSubDomain(v.Zone, asked) {
		return n, false
	}
	labels := dns.SplitDomainName(strings.TrimSuffix(asked, v.Zone))
	if len(labels) == 0 {
		return name{exists: true}, true
	}
	kind, rest := labels[len(labels)-1], labels[:len(labels)-1]
	switch {
	case kind == "svc":
		return v.service(rest), true
	case kind == "pod":
		return v.pod(rest), true
	case kind == "dns-version" && len(rest) == 0:
		return name{exists: true, txt: version}, true
	case kind == "dns" && len(rest) == 0:
		return name{exists: true}, true
	case kind == "dns" && len(rest) == 1 && rest[0] == "ns":
		return name{exists: true, a: []netip.Addr{v.Address}}, true
	}
	return n, true
}

func (v View) namespace(ns string) bool {
	_, ok := v.Snapshot.Get(crdt.Key{Resource: "namespaces", Name: ns})
	return ok
}

// service finds what is before .svc: namespace, service, endpoint or port.
func (v View) service(labels []string) name {
	count := len(labels)
	if count < 2 {
		return name{exists: count == 0 || v.namespace(labels[0])}
	}
	svc, ok := store.Get[corev1.Service](v.Snapshot, crdt.Key{Resource: "services", Namespace: labels[count-1], Name: labels[count-2]})
	if !ok || count > 4 {
		return name{}
	}
	host := v.host(svc)
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		if count > 2 || svc.Spec.ExternalName == "" {
			return name{}
		}
		if addr, err := netip.ParseAddr(svc.Spec.ExternalName); err == nil && addr.Is4() {
			return name{exists: true, a: []netip.Addr{addr}} // an address is no name to point at
		}
		return name{exists: true, cname: dns.Fqdn(strings.ToLower(svc.Spec.ExternalName))}
	}
	clusterIP, err := netip.ParseAddr(svc.Spec.ClusterIP)
	headless := svc.Spec.ClusterIP == corev1.ClusterIPNone
	if !headless && (err != nil || !clusterIP.Is4()) {
		return name{exists: count == 2} // no address yet, or none of our kind
	}
	n := name{exists: count == 2}
	wanted := func(p corev1.ServicePort) bool {
		return count == 2 || count == 4 && p.Name != "" && labels[0] == "_"+p.Name && labels[1] == "_"+protocol(p)
	}
	if count == 3 && strings.HasPrefix(labels[0], "_") {
		for _, p := range svc.Spec.Ports {
			n.exists = n.exists || p.Name != "" && labels[0] == "_"+protocol(p)
		}
		return n
	}
	if !headless {
		if count == 2 {
			n.a = []netip.Addr{clusterIP}
		}
		for _, p := range svc.Spec.Ports {
			if wanted(p) && count != 3 {
				n.exists = true
				n.srv = append(n.srv, target{host, uint16(p.Port), clusterIP})
			}
		}
		return n
	}
	n.exists = false // without a ready endpoint the specification asks for NXDOMAIN
	for _, e := range v.endpoints(svc) {
		switch {
		case count == 2 || count == 3 && e.host == labels[0]:
			n.exists = true
			if !slices.Contains(n.a, e.Addr) {
				n.a = append(n.a, e.Addr)
			}
			fallthrough
		case count == 4:
			for i, p := range svc.Spec.Ports {
				if count == 3 || wanted(p) {
					n.exists = true
					if e.Ports[i] != 0 {
						n.srv = append(n.srv, target{e.host + "." + host, e.Ports[i], e.Addr})
					}
				}
			}
		}
	}
	return n
}

// host is the full name of a service.
func (v View) host(svc *corev1.Service) string {
	return svc.Name + "." + svc.Namespace + ".svc." + v.Zone
}

// pod finds what is before .pod: namespace, or a-b-c-d.namespace.
func (v View) pod(labels []string) name {
	switch len(labels) {
	case 0:
		return name{exists: true}
	case 1:
		return name{exists: v.namespace(labels[0])}
	case 2:
		addr, err := netip.ParseAddr(strings.ReplaceAll(labels[0], "-", "."))
		if err == nil && addr.Is4() && v.namespace(labels[1]) {
			return name{exists: true, a: []netip.Addr{addr}}
		}
	}
	return name{}
}

// names are what an address is called: the service it is, the hostnames it has in headless services, or its pod.
func (v View) names(addr netip.Addr) []string {
	text := addr.String()
	var list []string
	pods := store.Find[corev1.Pod](v.Snapshot, store.ByAddress, text, "pods", "")
	pods = slices.DeleteFunc(pods, func(p *corev1.Pod) bool { return p.Status.PodIP != text || !proxy.Alive(p) })
	for _, svc := range store.Find[corev1.Service](v.Snapshot, store.ByAddress, text, "services", "") {
		if svc.Spec.ClusterIP == text {
			return []string{v.host(svc)}
		}
	}
	for _, svc := range v.headless(text, pods) {
		if svc.Spec.Type == corev1.ServiceTypeExternalName || len(svc.Spec.Selector) > 0 && len(pods) == 0 {
			continue
		}
		for _, e := range v.endpoints(svc) {
			if e.Addr == addr && !slices.Contains(list, e.host+"."+v.host(svc)) {
				list = append(list, e.host+"."+v.host(svc))
			}
		}
	}
	if len(list) == 0 && v.ClusterCIDR.Contains(addr) {
		for _, p := range pods {
			if !p.Spec.HostNetwork {
				list = append(list, dashed(addr)+"."+p.Namespace+".pod."+v.Zone)
			}
		}
	}
	slices.SortFunc(list, func(a, b string) int { return cmp.Compare(a, b) })
	return list
}

// headless are the services without an address of their own of which something says that they may have one, which some pods have: those
// that may select one of the pods, and those whose slices or Endpoints name it.
func (v View) headless(addr string, pods []*corev1.Pod) []*corev1.Service {
	found := map[*corev1.Service]bool{}
	add := func(svc *corev1.Service) {
		if svc.Spec.ClusterIP == corev1.ClusterIPNone {
			found[svc] = true
		}
	}
	named := func(namespace, name string) {
		if svc, ok := store.Get[corev1.Service](v.Snapshot, crdt.Key{Resource: "services", Namespace: namespace, Name: name}); ok {
			add(svc)
		}
	}
	for _, p := range pods {
		for key, value := range p.Labels {
			for _, svc := range store.Find[corev1.Service](v.Snapshot, store.BySelector, store.LabelTerm(key, value), "services", p.Namespace) {
				add(svc)
			}
		}
	}
	for e := range v.Snapshot.Indexed(store.ByAddress, addr, "discovery.k8s.io/endpointslices", "", "") {
		named(e.Key.Namespace, e.Labels()[discoveryv1.LabelServiceName])
	}
	for e := range v.Snapshot.Indexed(store.ByAddress, addr, "endpoints", "", "") {
		named(e.Key.Namespace, e.Key.Name)
	}
	return slices.Collect(maps.Keys(found))
}

// protocol is how names spell a port's.
func protocol(p corev1.ServicePort) string {
	return strings.ToLower(string(cmp.Or(p.Protocol, corev1.ProtocolTCP)))
}

// reverse reads the address in d.c.b.a.in-addr.arpa.
func reverse(asked string) (netip.Addr, bool) {
	text, ok := strings.CutSuffix(asked, ".in-addr.arpa.")
	if !ok {
		return netip.Addr{}, false
	}
	parts := strings.Split(text, ".")
	slices.Reverse(parts)
	addr, err := netip.ParseAddr(strings.Join(parts, "."))
	return addr, err == nil && addr.Is4()
}

func dashed(addr netip.Addr) string { return strings.ReplaceAll(addr.String(), ".", "-") }
