package iptables

import (
	"iter"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/node/proxy"
)

// followed is what the rules are made from, followed change by change.
type followed struct {
	store  *store.Store
	keeper *proxy.Keeper
	// at is the version that rules are of.
	at    store.Version
	rules proxy.Rules
	// loses: connections may have become stale since that was found out last.
	loses bool
}

// watched are the resources that rules are made from.
var watched = []string{"services", "pods", "endpoints", endpointSlices, "nodes"}

const endpointSlices = "discovery.k8s.io/endpointslices"

func follow(cfg Config) *followed {
	return &followed{store: cfg.Store, keeper: proxy.NewKeeper(cfg.Proxy)}
}

// look has the rules be those of now, and tells whether something has changed that they are made from. anew: which nodes can be reached may have
// changed, and with it everything.
func (w *followed) look(anew bool) (changed bool) {
	snap, events, complete := w.store.Changes(w.at, watched...)
	w.at = snap.Version()
	var c proxy.Changes
	known := complete && !anew
	if known {
		c, known = changes(snap, events)
	}
	switch {
	case !known:
		w.rules = w.keeper.Begin(view(snap))
	case len(c.Services)+len(c.Pods) == 0:
		return false
	default:
		w.rules = w.keeper.Update(c)
	}
	w.loses = w.loses || w.rules.Loses
	return true
}

// changes are what events mean for services. known is false if they may concern all.
func changes(snap *store.Snapshot, events []store.Event) (c proxy.Changes, known bool) {
	c = proxy.Changes{Services: map[types.NamespacedName]*corev1.Service{}, Backing: func(svc *corev1.Service) proxy.Backing { return backing(snap, svc) }}
	service := func(namespace, name string) *corev1.Service {
		svc, _ := store.Get[corev1.Service](snap, crdt.Key{Resource: "services", Namespace: namespace, Name: name})
		return svc
	}
	concerned := func(namespace, name string) {
		svc := service(namespace, name)
		c.Services[types.NamespacedName{Namespace: namespace, Name: name}] = svc
	}
	for _, e := range events {
		switch k := e.Entry.Key; k.Resource {
		case "services":
			concerned(k.Namespace, k.Name)
		case "endpoints":
			if svc := service(k.Namespace, k.Name); svc == nil || len(svc.Spec.Selector) == 0 {
				concerned(k.Namespace, k.Name)
			}
		case endpointSlices:
			for _, one := range sides(e) {
				of := one.Labels()
				if name := of[discoveryv1.LabelServiceName]; name != "" && !proxy.Repeats(of) {
					concerned(k.Namespace, name)
				}
			}
		case "nodes":
			was, is, ok := decoded[corev1.Node](e)
			if !ok || !proxy.SameNode(was, is) {
				return c, false
			}
		case "pods":
			was, is, ok := decoded[corev1.Pod](e)
			if !ok {
				return c, false
			}
			if proxy.Same(was, is) {
				continue
			}
			c.Pods = append(c.Pods, proxy.PodChange{Was: was, Is: is})
			for _, one := range sides(e) {
				for key, value := range one.Labels() {
					for svc := range snap.Indexed(store.BySelector, store.LabelTerm(key, value), "services", k.Namespace, "") {
						concerned(k.Namespace, svc.Key.Name)
					}
				}
			}
		}
	}
	return c, true
}

// sides are the object before a change and after it, as far as there is one.
func sides(e store.Event) (out []*store.Entry) {
	if e.Old != nil {
		out = append(out, e.Old)
	}
	if e.Type != store.Deleted {
		out = append(out, e.Entry)
	}
	return out
}

// decoded is the object before a change and after it; nil is none. ok is false if one is there that is no T.
func decoded[T any](e store.Event) (was, is *T, ok bool) {
	var err error
	if e.Old != nil {
		if was, err = store.As[T](e.Old); err != nil {
			return nil, nil, false
		}
	}
	if e.Type != store.Deleted {
		if is, err = store.As[T](e.Entry); err != nil {
			return nil, nil, false
		}
	}
	return was, is, true
}

// view is everything.
func view(snap *store.Snapshot) proxy.View {
	return proxy.View{
		Services: store.List[corev1.Service](snap, "services", ""),
		Pods:     store.Having[corev1.Pod](snap, store.ByAddress, "pods"),
		Nodes:    nodes.Of(snap),
		Backing:  func(svc *corev1.Service) proxy.Backing { return backing(snap, svc) },
	}
}

// nodes are all nodes, with no more of each than rules are made from.
var nodes = store.NewMemo("nodes", func(all iter.Seq[*store.Entry]) (out []*corev1.Node) {
	for e := range all {
		if n, err := store.As[corev1.Node](e); err == nil {
			out = append(out, &corev1.Node{
				ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: n.Labels},
				Spec:       corev1.NodeSpec{PodCIDR: n.Spec.PodCIDR},
				Status:     corev1.NodeStatus{Addresses: n.Status.Addresses},
			})
		}
	}
	return out
})

// backing finds what may say where a service is.
func backing(snap *store.Snapshot, svc *corev1.Service) (from proxy.Backing) {
	if len(svc.Spec.Selector) > 0 {
		from.Pods = store.Select[corev1.Pod](snap, "pods", svc.Namespace, labels.SelectorFromSet(svc.Spec.Selector))
	} else if e, ok := store.Get[corev1.Endpoints](snap, crdt.Key{Resource: "endpoints", Namespace: svc.Namespace, Name: svc.Name}); ok {
		from.Endpoints = e
	}
	from.Slices = store.Find[discoveryv1.EndpointSlice](snap, store.ByLabel, store.LabelTerm(discoveryv1.LabelServiceName, svc.Name), endpointSlices, svc.Namespace)
	return from
}
