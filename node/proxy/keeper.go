package proxy

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Keeper keeps the rules of a view that changes. A service has a part of its own in them, which is made anew when something that it is made from
// has changed; the tables are the parts of all, one behind the other. What all are made from, which nodes there are and can be reached, changes seldom:
// then all is made anew.
type Keeper struct {
	cfg   Config
	b     builder
	parts map[key]*part
	// order are the keys of parts, sorted.
	order []key
	// choosing are the services that choose addresses for themselves: who has one depends on all that want it.
	choosing map[key]*corev1.Service
	flows    Flows
}

// NewKeeper keeps nothing yet: see Begin.
func NewKeeper(cfg Config) *Keeper {
	cfg.APIPort, cfg.GossipPort = cmp.Or(cfg.APIPort, 6443), cmp.Or(cfg.GossipPort, 7946)
	cfg.StreamPort, cfg.TunnelPort = cmp.Or(cfg.StreamPort, 7947), cmp.Or(cfg.TunnelPort, 8472)
	return &Keeper{cfg: cfg}
}

// Changes are what has become of a view.
type Changes struct {
	// Services are those of which something has changed, or of what may say where they are; nil is one that is gone. Gone and back at once is changed.
	Services map[types.NamespacedName]*corev1.Service
	// Pods are the changes of pods, in their order.
	Pods []PodChange
	// Backing finds what may now say where a service is.
	Backing func(*corev1.Service) Backing
}

// PodChange is a pod before and after; nil is none.
type PodChange struct{ Was, Is *corev1.Pod }

// Begin makes all rules from a view.
func (k *Keeper) Begin(v View) Rules {
	before := k.flows
	x := newIndex(v, k.cfg)
	k.b = builder{cfg: k.cfg, index: x, owned: newOwned(v, k.cfg)}
	k.parts, k.order, k.choosing, k.flows = map[key]*part{}, nil, map[key]*corev1.Service{}, newFlows(k.cfg)
	for _, p := range v.Pods {
		k.pod(p, 1)
	}
	for _, svc := range v.Services {
		if len(k.b.chosen(svc)) > 0 {
			k.choosing[keyOf(svc)] = svc
		}
	}
	k.b.hold(slices.Collect(maps.Values(k.choosing)))
	for _, svc := range v.Services {
		if p := k.b.of(svc); p != nil {
			k.parts[keyOf(svc)] = p
			for _, f := range p.fronts {
				k.flows.count(f, 1)
			}
		}
	}
	k.order = slices.SortedFunc(maps.Keys(k.parts), key.compare)
	x.release()
	r := k.rules()
	r.Loses = before.loses(k.flows)
	return r
}

// Update makes the rules anew as far as something has changed since the last.
func (k *Keeper) Update(c Changes) Rules {
	k.b.index.backing = c.Backing
	t := &touched{fronts: map[Frontend]map[netip.AddrPort]int{}, pods: map[netip.Addr][2]bool{}}
	for _, p := range c.Pods {
		for _, one := range []*corev1.Pod{p.Was, p.Is} {
			t.pod(k.flows, one)
		}
		k.pod(p.Was, -1)
		k.pod(p.Is, 1)
	}
	dirty, hold := map[key]*corev1.Service{}, false
	for name, svc := range c.Services {
		n := key{name.Namespace, name.Name}
		dirty[n] = svc
		hold = hold || k.choosing[n] != nil
		delete(k.choosing, n)
		if svc != nil && len(k.b.chosen(svc)) > 0 {
			k.choosing[n], hold = svc, true
		}
	}
	if hold {
		maps.Copy(dirty, k.choosing)
		k.b.hold(slices.Collect(maps.Values(k.choosing)))
	}
	for n, svc := range dirty {
		k.replace(t, n, svc)
	}
	k.b.index.release()
	r := k.rules()
	r.Loses = t.loses(k.flows)
	return r
}

// replace makes the part of a service anew; nil is one that is gone.
func (k *Keeper) replace(t *touched, n key, svc *corev1.Service) {
	was := k.parts[n]
	var is *part
	if svc != nil {
		is = k.b.of(svc)
	}
	for i, p := range []*part{was, is} {
		if p == nil {
			continue
		}
		for _, f := range p.fronts {
			t.front(k.flows, f.at)
			k.flows.count(f, 2*i-1)
		}
	}
	at, there := slices.BinarySearchFunc(k.order, n, key.compare)
	switch {
	case is == nil && there:
		delete(k.parts, n)
		k.order = slices.Delete(k.order, at, at+1)
	case is != nil:
		k.parts[n] = is
		if !there {
			k.order = slices.Insert(k.order, at, n)
		}
	}
}

// rules are the parts of all in one.
func (k *Keeper) rules() Rules {
	b := k.b
	parts := make([]*part, len(k.order))
	services, chains := 0, 0
	for i, n := range k.order {
		parts[i] = k.parts[n]
		services, chains = services+len(parts[i].services), chains+len(parts[i].chains)
	}
	b.part = &part{services: make([]string, 0, services), chains: make([]Chain, 0, chains)}
	for _, p := range parts {
		b.services = append(b.services, p.services...)
		b.nodePorts = append(b.nodePorts, p.nodePorts...)
		b.chains = append(b.chains, p.chains...)
		b.refused = append(b.refused, p.refused...)
		b.refusedExternal = append(b.refusedExternal, p.refusedExternal...)
		b.firewall = append(b.firewall, p.firewall...)
	}
	return Rules{Tables: []Table{b.filterTable(), b.natTable()}, Flows: k.flows, Contested: b.contested}
}

// pod counts the address of a pod, or with -1 takes it away.
func (k *Keeper) pod(p *corev1.Pod, n int) {
	if addr, ok := addressOf(p); ok {
		k.flows.countPod(addr, k.b.index.reachable(p.Spec.NodeName), n)
	}
}

func addressOf(p *corev1.Pod) (netip.Addr, bool) {
	if p == nil || !Alive(p) {
		return netip.Addr{}, false
	}
	addr, err := netip.ParseAddr(p.Status.PodIP)
	return addr, err == nil
}

func keyOf(svc *corev1.Service) key { return key{svc.Namespace, svc.Name} }

func (k key) compare(o key) int {
	return cmp.Or(cmp.Compare(k.namespace, o.namespace), cmp.Compare(k.name, o.name))
}

// touched are the flows that an update changes, as they were before it.
type touched struct {
	fronts map[Frontend]map[netip.AddrPort]int
	// pods are whether an address was that of a pod on a node that can be reached, and on one that cannot.
	pods map[netip.Addr][2]bool
}

func (t *touched) front(f Flows, at Frontend) {
	if _, ok := t.fronts[at]; !ok {
		t.fronts[at] = maps.Clone(f.set(at))
	}
}

func (t *touched) pod(f Flows, p *corev1.Pod) {
	if addr, ok := addressOf(p); ok {
		if _, noted := t.pods[addr]; !noted {
			t.pods[addr] = [2]bool{f.alive[addr] > 0, f.dead[addr] > 0}
		}
	}
}

// loses tells whether connections that were right before may be stale now: see Flows.loses.
func (t *touched) loses(now Flows) bool {
	for addr, was := range t.pods {
		if was[0] && now.alive[addr] == 0 || !was[1] && now.dead[addr] > 0 {
			return true
		}
	}
	for at, was := range t.fronts {
		if losesAt(at, was, now.set(at)) {
			return true
		}
	}
	return false
}

// SameNode tells whether a change of a node changes no rule. nil is no node.
func SameNode(a, b *corev1.Node) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Name == b.Name && a.Spec.PodCIDR == b.Spec.PodCIDR && slices.Equal(a.Status.Addresses, b.Status.Addresses) &&
		a.Labels[corev1.LabelTopologyZone] == b.Labels[corev1.LabelTopologyZone]
}
