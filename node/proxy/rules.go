package proxy

import (
	"cmp"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Prefix begins the name of every chain that is ours.
const Prefix = "MURMUR-"

// mark is the bit of the packet mark that asks for masquerade in POSTROUTING. It is kube-proxy's bit, which
// other software (CNI plugins, network policies) already knows to leave alone.
const mark = "0x4000/0x4000"

// Build makes the rules for a view.
func Build(v View, cfg Config) Rules { return NewKeeper(cfg).Begin(v) }

// builder makes the part of one service, with what is the same for all.
type builder struct {
	cfg   Config
	index *index
	owned owned
	// holders are the Services that have an address and port for those outside, each one of them.
	holders   map[Frontend]*corev1.Service
	contested []Contest

	*part
}

// part is what one service has of the tables, or all of them.
type part struct {
	services  []string // nat MURMUR-SERVICES
	nodePorts []string // nat MURMUR-NODEPORTS
	chains    []Chain  // nat, per service port

	refused         []string // filter MURMUR-SERVICES
	refusedExternal []string // filter MURMUR-EXTERNAL
	firewall        []string // filter MURMUR-FIREWALL

	fronts []front
}

// hold finds out which Service has an address and port of its maker's choice: the elder, if two have chosen one, so that a new one takes nothing
// from those that are there, and all nodes agree.
func (b *builder) hold(services []*corev1.Service) {
	b.holders, b.contested = map[Frontend]*corev1.Service{}, nil
	byAge := slices.Clone(services)
	slices.SortFunc(byAge, func(a, c *corev1.Service) int {
		return cmp.Or(a.CreationTimestamp.Compare(c.CreationTimestamp.Time), cmp.Compare(a.UID, c.UID), keyOf(a).compare(keyOf(c)))
	})
	for _, svc := range byAge {
		for _, port := range svc.Spec.Ports {
			for _, addr := range b.chosen(svc) {
				at := Frontend{protocol(port.Protocol), addr, uint16(port.Port)}
				if port.Port < 1 || port.Port > 65535 || b.holders[at] == svc {
					continue
				}
				if b.holders[at] == nil {
					b.holders[at] = svc
					continue
				}
				b.contested = append(b.contested, Contest{Service: svc, At: at, Holder: b.holders[at]})
			}
		}
	}
}

// held are those of some addresses at which a port is a Service's.
func (b *builder) held(svc *corev1.Service, port corev1.ServicePort, addrs []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(addrs, func(a netip.Addr) bool {
		return b.holders[Frontend{protocol(port.Protocol), a, uint16(port.Port)}] != svc
	})
}

// clusterIP is the address of a service that has rules: not of one that is headless, an ExternalName, IPv6, ours by another way, or at an
// address that no service can have.
func (b *builder) clusterIP(svc *corev1.Service) (netip.Addr, bool) {
	a, err := netip.ParseAddr(svc.Spec.ClusterIP)
	return a, err == nil && a.Is4() && svc.Spec.Type != corev1.ServiceTypeExternalName && !b.owned.closed(a)
}

// balancers are the addresses that a load balancer has given a service.
func (b *builder) balancers(svc *corev1.Service) (out []netip.Addr) {
	if svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
		for _, in := range svc.Status.LoadBalancer.Ingress {
			if in.IPMode == nil || *in.IPMode == corev1.LoadBalancerIPModeVIP {
				out = append(out, b.outside([]string{in.IP})...)
			}
		}
	}
	return out
}

// chosen are the addresses beside its cluster address at which a service wants to answer.
func (b *builder) chosen(svc *corev1.Service) []netip.Addr {
	if _, ok := b.clusterIP(svc); !ok {
		return nil
	}
	return append(b.outside(svc.Spec.ExternalIPs), b.balancers(svc)...)
}

// of makes the part of a service; nil if it has none.
func (b builder) of(svc *corev1.Service) *part {
	clusterIP, ok := b.clusterIP(svc)
	if !ok {
		return nil
	}
	b.part = &part{}
	all := b.index.addresses(svc)
	for i, port := range svc.Spec.Ports {
		if port.Port < 1 || port.Port > 65535 {
			continue
		}
		b.port(svc, clusterIP, port, endpoints(all, i))
	}
	return b.part
}

// port adds all rules of one port of one service.
func (b *builder) port(svc *corev1.Service, clusterIP netip.Addr, port corev1.ServicePort, all []Endpoint) {
	name := svc.Namespace + "/" + svc.Name
	if port.Name != "" {
		name += ":" + port.Name
	}
	proto := protocol(port.Protocol)
	p := strings.ToLower(string(proto))
	p = fmt.Sprintf("-p %s -m %s", p, p)
	chosen := b.index.choose(svc, all)

	cluster := chainName("SVC", name, string(proto))
	local := chainName("SVL", name, string(proto))
	external := chainName("EXT", name, string(proto))
	firewall := chainName("FW", name, string(proto))

	internal, internalEndpoints := cluster, chosen.cluster
	if deref(svc.Spec.InternalTrafficPolicy) == corev1.ServiceInternalTrafficPolicyLocal {
		internal, internalEndpoints = local, chosen.local
	}
	outer, outerEndpoints := cluster, chosen.cluster
	if svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		outer, outerEndpoints = local, chosen.local
	}
	externalIPs := b.held(svc, port, b.outside(svc.Spec.ExternalIPs))
	balancerIPs := b.held(svc, port, b.balancers(svc))
	nodePort := port.NodePort
	if svc.Spec.Type != corev1.ServiceTypeNodePort && svc.Spec.Type != corev1.ServiceTypeLoadBalancer || b.owned.port(proto, nodePort) {
		nodePort = 0
	}
	sources := prefixes(svc.Spec.LoadBalancerSourceRanges)
	isExternal := len(externalIPs) > 0 || len(balancerIPs) > 0 || nodePort != 0

	// The cluster address.
	to := func(addr netip.Addr) string { return fmt.Sprintf("-d %s/32 %s --dport %d", addr, p, port.Port) }
	b.front(Frontend{proto, clusterIP, uint16(port.Port)}, internalEndpoints)
	if len(internalEndpoints) > 0 {
		b.services = append(b.services, fmt.Sprintf("%s %s -j %s", to(clusterIP), comment(name+" cluster IP"), internal))
	} else {
		b.refused = append(b.refused, refuse(to(clusterIP), name, proto, chosen.any)...)
	}

	// Addresses and ports for those outside.
	target := external
	if chosen.any && len(balancerIPs) > 0 && len(sources) > 0 {
		target = firewall
	}
	for _, addr := range externalIPs {
		b.front(Frontend{proto, addr, uint16(port.Port)}, slices.Concat(chosen.cluster, outerEndpoints))
		if chosen.any {
			b.services = append(b.services, fmt.Sprintf("%s %s -j %s", to(addr), comment(name+" external IP"), external))
		}
		if len(outerEndpoints) == 0 {
			b.refusedExternal = append(b.refusedExternal, refuse(to(addr), name, proto, chosen.any)...)
		}
	}
	for _, addr := range balancerIPs {
		b.front(Frontend{proto, addr, uint16(port.Port)}, slices.Concat(chosen.cluster, outerEndpoints))
		if chosen.any {
			b.services = append(b.services, fmt.Sprintf("%s %s -j %s", to(addr), comment(name+" load balancer IP"), target))
		}
		if target == firewall {
			b.firewall = append(b.firewall, fmt.Sprintf("%s %s -j DROP", to(addr), comment(name+" is not for this source")))
		}
		if len(outerEndpoints) == 0 {
			b.refusedExternal = append(b.refusedExternal, refuse(to(addr), name, proto, chosen.any)...)
		}
	}
	if nodePort != 0 {
		to := fmt.Sprintf("%s --dport %d", p, nodePort)
		b.front(Frontend{Protocol: proto, Port: uint16(nodePort)}, slices.Concat(chosen.cluster, outerEndpoints))
		if chosen.any {
			b.nodePorts = append(b.nodePorts, fmt.Sprintf("%s %s -j %s", to, comment(name), external))
		}
		if len(outerEndpoints) == 0 {
			b.refusedExternal = append(b.refusedExternal, refuse("-m addrtype --dst-type LOCAL "+to, name, proto, chosen.any)...)
		}
	}

	// The chains behind them, only when something leads there.
	if isExternal && chosen.any {
		b.chains = append(b.chains, Chain{external, b.external(svc, name, cluster, outer, len(outerEndpoints) > 0, len(chosen.cluster) > 0)})
		if target == firewall {
			var rules []string
			for _, from := range sources {
				rules = append(rules, fmt.Sprintf("-s %s %s -j %s", from, comment(name+" load balancer IP"), external))
			}
			b.chains = append(b.chains, Chain{firewall, rules})
		}
	}
	usesLocal := (internal == local || isExternal && outer == local) && len(chosen.local) > 0
	usesCluster := (internal == cluster || isExternal) && len(chosen.cluster) > 0
	fromOutside := ""
	if b.cfg.ClusterCIDR.IsValid() {
		// A client that is no pod has an address its pod's answers would not come back through: this node's own, for one.
		fromOutside = fmt.Sprintf("! -s %s %s %s -j %s", b.cfg.ClusterCIDR, to(clusterIP), comment(name+" from outside the pods"), Prefix+"MARK-MASQ")
	}
	if usesCluster {
		var first []string
		if internal == cluster && fromOutside != "" {
			first = []string{fromOutside}
		}
		b.chains = append(b.chains, Chain{cluster, append(first, b.draw(svc, name, proto, chosen.cluster)...)})
	}
	if usesLocal {
		var first []string
		if internal == local && fromOutside != "" {
			first = []string{fromOutside}
		}
		b.chains = append(b.chains, Chain{local, append(first, b.draw(svc, name, proto, chosen.local)...)})
	}
	used := []Endpoint{}
	if usesCluster {
		used = append(used, chosen.cluster...)
	}
	if usesLocal {
		used = append(used, chosen.local...)
	}
	there := map[string]bool{}
	for _, e := range used {
		if chain := endpointChain(name, proto, e); !there[chain] {
			there[chain] = true
			b.endpoint(svc, name, chain, p, e)
		}
	}
}

func (b *builder) front(at Frontend, endpoints []Endpoint) {
	b.fronts = append(b.fronts, front{at, endpoints})
}

// external is the chain for what comes by node port, external address or load balancer. With policy Local the client's
// address is kept, so only this node's endpoints can be used, except for clients that are here anyway.
func (b *builder) external(svc *corev1.Service, name, cluster, outer string, hasOuter, hasCluster bool) []string {
	var rules []string
	masquerade := Prefix + "MARK-MASQ"
	if svc.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
		rules = append(rules, fmt.Sprintf("%s -j %s", comment("masquerade traffic from outside for "+name), masquerade))
	} else if hasCluster {
		if b.cfg.ClusterCIDR.IsValid() {
			rules = append(rules, fmt.Sprintf("-s %s %s -j %s", b.cfg.ClusterCIDR, comment("pods take any endpoint of "+name), cluster))
		}
		rules = append(rules,
			fmt.Sprintf("-m addrtype --src-type LOCAL %s -j %s", comment("masquerade this node's traffic for "+name), masquerade),
			fmt.Sprintf("-m addrtype --src-type LOCAL %s -j %s", comment("this node takes any endpoint of "+name), cluster))
	}
	if hasOuter {
		rules = append(rules, "-j "+outer)
	}
	return rules
}

// draw sends a new connection to one of the endpoints, each with the same chance, or with ClientIP affinity to the one
// the client had last.
func (b *builder) draw(svc *corev1.Service, name string, proto corev1.Protocol, endpoints []Endpoint) []string {
	var rules []string
	says := func(e Endpoint) string { return comment(name + " -> " + e.Addr.String()) }
	if seconds := affinity(svc); seconds > 0 {
		for _, e := range endpoints {
			sep := endpointChain(name, proto, e)
			rules = append(rules, fmt.Sprintf("%s -m recent --name %s --rcheck --seconds %d --reap -j %s", says(e), sep, seconds, sep))
		}
	}
	for i, e := range endpoints {
		chance := ""
		if left := len(endpoints) - i; left > 1 {
			chance = fmt.Sprintf("-m statistic --mode random --probability %.10f ", 1/float64(left))
		}
		rules = append(rules, fmt.Sprintf("%s %s-j %s", says(e), chance, endpointChain(name, proto, e)))
	}
	return rules
}

// endpoint is the chain that ends at one pod. A pod that reaches itself through a service must be masqueraded: it
// would drop a packet with its own address as the source.
func (b *builder) endpoint(svc *corev1.Service, name, chain, p string, e Endpoint) {
	remember := ""
	if affinity(svc) > 0 {
		remember = fmt.Sprintf("-m recent --name %s --set ", chain)
	}
	b.chains = append(b.chains, Chain{chain, []string{
		fmt.Sprintf("-s %s/32 %s -j %sMARK-MASQ", e.Addr.Addr(), comment(name), Prefix),
		fmt.Sprintf("%s %s %s-j DNAT --to-destination %s", p, comment(name), remember, e.Addr),
	}})
}

func (b *builder) natTable() Table {
	services := append(b.owned.translation(), b.services...)
	services = append(services,
		comment("node ports; this must be the last rule")+" -m addrtype --dst-type LOCAL -j "+Prefix+"NODEPORTS")
	post := []string{"-m mark --mark " + mark + " -j " + Prefix + "MASQUERADE"}
	if b.cfg.NoBridgeNetfilter && b.index.podCIDR.IsValid() {
		post = append(post, fmt.Sprintf("-s %s -d %s -m conntrack --ctstate DNAT %s -j %sMASQUERADE",
			b.index.podCIDR, b.index.podCIDR, comment("answers between pods of one bridge would bypass conntrack"), Prefix))
	}
	if b.cfg.ClusterCIDR.IsValid() {
		post = append(post,
			fmt.Sprintf("-s %s -d %s %s -j RETURN", b.cfg.ClusterCIDR, b.cfg.ClusterCIDR, comment("pods see each other's addresses")),
			fmt.Sprintf("-s %s ! -d 224.0.0.0/4 %s -j %sMASQUERADE", b.cfg.ClusterCIDR, comment("pods leave the cluster as this node"), Prefix))
	}
	chains := []Chain{
		{Prefix + "SERVICES", services},
		{Prefix + "OWN", b.owned.places("ACCEPT")},
		{Prefix + "NODEPORTS", b.nodePorts},
		{Prefix + "POSTROUTING", post},
		{Prefix + "MARK-MASQ", []string{"-j MARK --set-xmark " + mark}},
		{Prefix + "MASQUERADE", []string{"-j MARK --set-xmark 0x0/0x4000", "-j MASQUERADE --random-fully"}},
	}
	return Table{
		Name:   "nat",
		Chains: append(chains, b.chains...),
		Jumps: []Jump{
			jump("PREROUTING", "SERVICES", "murmur services"),
			jump("OUTPUT", "SERVICES", "murmur services"),
			jump("POSTROUTING", "POSTROUTING", "murmur masquerade"),
		},
	}
}

func (b *builder) filterTable() Table {
	refused := b.refused
	if b.cfg.ServiceCIDR.IsValid() {
		// Whatever is still addressed to a service was not translated: nobody has this address and port.
		unknown := fmt.Sprintf("-d %s -m addrtype ! --dst-type LOCAL", b.cfg.ServiceCIDR)
		refused = append(refused, reject(unknown, "no such service")...)
	}
	firewall := append(b.owned.firewall(), b.firewall...)
	firewall = append(firewall,
		"! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT "+
			comment("route_localnet opens the loopback to node ports only")+" -j DROP")
	forward := []string{
		"-m conntrack --ctstate INVALID -j DROP",
		"-m mark --mark " + mark + " -j ACCEPT",
		"-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
	}
	if b.cfg.ClusterCIDR.IsValid() {
		forward = append(forward,
			fmt.Sprintf("-s %s -j ACCEPT", b.cfg.ClusterCIDR),
			fmt.Sprintf("-d %s -j ACCEPT", b.cfg.ClusterCIDR))
	}
	fresh := []string{"-m", "conntrack", "--ctstate", "NEW"}
	return Table{
		Name: "filter",
		Chains: []Chain{
			{Prefix + "SERVICES", refused},
			{Prefix + "EXTERNAL", b.refusedExternal},
			{Prefix + "FIREWALL", firewall},
			{Prefix + "MEMBERS", b.owned.members()},
			{Prefix + "FORWARD", forward},
		},
		Jumps: []Jump{
			jump("INPUT", "FIREWALL", "murmur firewall"),
			jump("INPUT", "EXTERNAL", "murmur external services", fresh...),
			jump("OUTPUT", "FIREWALL", "murmur firewall"),
			jump("OUTPUT", "SERVICES", "murmur services", fresh...),
			jump("FORWARD", "FIREWALL", "murmur firewall"),
			jump("FORWARD", "SERVICES", "murmur services", fresh...),
			jump("FORWARD", "EXTERNAL", "murmur external services", fresh...),
			jump("FORWARD", "FORWARD", "murmur forwarding"),
		},
	}
}

func jump(from, chain, says string, match ...string) Jump {
	rule := append(slices.Clone(match), "-m", "comment", "--comment", says, "-j", Prefix+chain)
	return Jump{from, rule}
}

// refuse answers what no endpoint can: at once when there is none anywhere, and with silence when another node
// would have one and policy Local keeps us from it, as load balancers expect.
func refuse(match, name string, proto corev1.Protocol, elsewhere bool) []string {
	if elsewhere {
		return []string{fmt.Sprintf("%s %s -j DROP", match, comment(name+" has no local endpoints"))}
	}
	with := "icmp-port-unreachable"
	if proto == corev1.ProtocolTCP {
		with = "tcp-reset" // not rate limited, as ICMP errors are
	}
	return []string{fmt.Sprintf("%s %s -j REJECT --reject-with %s", match, comment(name+" has no endpoints"), with)}
}

func reject(match, says string) []string {
	return []string{
		fmt.Sprintf("%s -p tcp %s -j REJECT --reject-with tcp-reset", match, comment(says)),
		fmt.Sprintf("%s %s -j REJECT --reject-with icmp-port-unreachable", match, comment(says)),
	}
}

// affinity is the seconds a client stays with its endpoint, 0 for none.
func affinity(svc *corev1.Service) int32 {
	if svc.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	if c := svc.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		return *c.ClientIP.TimeoutSeconds
	}
	return corev1.DefaultClientIPServiceAffinitySeconds
}

func endpointChain(name string, proto corev1.Protocol, e Endpoint) string {
	return chainName("SEP", name, string(proto), e.Addr.String())
}

// chainName hashes what a chain stands for: iptables allows 28 characters.
func chainName(kind string, of ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(of, "|")))
	return Prefix + kind + "-" + base32.StdEncoding.EncodeToString(sum[:])[:16]
}

// comment quotes text for iptables-restore. Names were validated; anything a shell or a parser might take for more
// than a name is dropped all the same, since every node programs what any node accepted.
func comment(text string) string {
	clean := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(" -./:>_';", r) {
			return r
		}
		return -1
	}, text)
	if len(clean) > 255 {
		clean = clean[:255]
	}
	return `-m comment --comment "` + clean + `"`
}

// outside are those of the addresses at which a service may answer beside its cluster address.
func (b *builder) outside(texts []string) []netip.Addr {
	var list []netip.Addr
	for _, t := range texts {
		if a, err := netip.ParseAddr(t); err == nil && a.Is4() && !b.owned.has(a) {
			list = append(list, a)
		}
	}
	return list
}

func prefixes(texts []string) []netip.Prefix {
	var list []netip.Prefix
	for _, t := range texts {
		if p, err := netip.ParsePrefix(strings.TrimSpace(t)); err == nil && p.Addr().Is4() {
			list = append(list, p.Masked())
		}
	}
	return list
}
