package control

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"murmur/crdt"
	"murmur/crdt/store"
)

// Where the API keeps who has which cluster address and node port.
const (
	addressClaims = "networking.k8s.io/ipaddresses"
	portClaims    = "murmur.io/nodeports"
	// claimLife is how long a claim may be without a Service that uses the number: it may be on the way.
	claimLife = time.Minute
)

// Numbers gives out cluster addresses and node ports.
type Numbers interface {
	// Claim makes the claims of a Service's numbers say that they are its.
	Claim(ctx context.Context, svc *corev1.Service, numbers []crdt.Key) error
	// Renumber gives a Service others in place of some of its numbers.
	Renumber(ctx context.Context, svc *corev1.Service, numbers []crdt.Key) error
}

// Each cluster address and node port is kept with one Service. Two sides of a cut network may have given the same one to two: the Service that
// was created first keeps it, ties by UID, and the other gets another.

// users are the Services that have a number, who keeps it first.
func users(w *world, number crdt.Key) []*corev1.Service {
	index := store.ByAddress
	if number.Resource == portClaims {
		index = store.ByPort
	}
	users := slices.DeleteFunc(store.Find[corev1.Service](w.snap, index, number.Name, "services", ""), func(svc *corev1.Service) bool {
		return !slices.Contains(numbersOf(svc), number)
	})
	slices.SortFunc(users, func(a, b *corev1.Service) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(string(a.UID), string(b.UID)))
	})
	return users
}

// numbersOf are the names of the claims of a Service's numbers.
func numbersOf(svc *corev1.Service) []crdt.Key {
	var out []crdt.Key
	add := func(resource, name string) {
		if k := (crdt.Key{Resource: resource, Name: name}); !slices.Contains(out, k) {
			out = append(out, k)
		}
	}
	for _, ip := range svc.Spec.ClusterIPs {
		if _, err := netip.ParseAddr(ip); err == nil {
			add(addressClaims, ip)
		}
	}
	for _, p := range svc.Spec.Ports {
		if p.NodePort != 0 {
			add(portClaims, strconv.Itoa(int(p.NodePort)))
		}
	}
	if p := svc.Spec.HealthCheckNodePort; p != 0 {
		add(portClaims, strconv.Itoa(int(p)))
	}
	return out
}

// serviceNumbers decides about the numbers of one Service.
func serviceNumbers(w *world, e *store.Entry) plan {
	svc, err := store.As[corev1.Service](e)
	if err != nil || svc.DeletionTimestamp != nil {
		return plan{}
	}
	out := plan{}
	var unclaimed []crdt.Key
	for _, k := range numbersOf(svc) {
		if users := users(w, k); len(users) > 0 && users[0].UID != svc.UID {
			reason, what := "ClusterIPAlreadyAllocated", "Cluster IP"
			if k.Resource == portClaims {
				reason, what = "PortAlreadyAllocated", "Node port"
			}
			out.writes = append(out.writes, write{verb: renumber, obj: svc, numbers: []crdt.Key{k}, done: &event{svc, corev1.EventTypeWarning, reason,
				fmt.Sprintf("%s %s was also given to service %s/%s, which is older and keeps it; this service has another now.", what, k.Name, users[0].Namespace, users[0].Name)}})
			continue
		}
		if c, ok := w.snap.Get(k); !ok || claimant(c) != svc.Namespace+"/"+svc.Name {
			unclaimed = append(unclaimed, k)
		}
	}
	if len(unclaimed) > 0 {
		out.writes = append(out.writes, write{verb: claim, obj: svc, numbers: unclaimed})
	}
	return out
}

// unusedClaim drops a claim that nobody has made use of.
func unusedClaim(w *world, e *store.Entry) plan {
	value, err := e.Map()
	if err != nil || claimant(e) == "" || len(users(w, e.Key)) > 0 {
		return plan{}
	}
	out := plan{}
	u := unstructured.Unstructured{Object: value}
	if at := u.GetCreationTimestamp().Add(claimLife); w.now.Before(at) {
		out.at(at)
	} else {
		out.writes = append(out.writes, write{verb: commit, key: e.Key, base: e})
	}
	return out
}

// claimant is the "namespace/name" of the Service that a claim is for; "" if it is for none.
func claimant(e *store.Entry) string {
	if e.Key.Resource == addressClaims {
		a, err := store.As[networkingv1.IPAddress](e)
		if err != nil || a.Spec.ParentRef == nil || a.Spec.ParentRef.Group != "" || a.Spec.ParentRef.Resource != "services" {
			return ""
		}
		return a.Spec.ParentRef.Namespace + "/" + a.Spec.ParentRef.Name
	}
	value, err := e.Map()
	if err != nil {
		return ""
	}
	owner, _, _ := unstructured.NestedString(value, "service")
	return owner
}
