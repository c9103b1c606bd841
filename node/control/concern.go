package control

import (
	"maps"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"murmur/crdt"
	"murmur/crdt/store"
)

// concern says which owners a change concerns: those that decide from the object that has changed. It may name too many, and owners that
// are not there.
type concern func(*world, store.Event) []crdt.Key

// anyResource stands for the resources that row.concerns does not name.
const anyResource = "*"

// both are the object after a change and before it.
func both(e store.Event) []*store.Entry {
	if e.Old == nil || e.Old == e.Entry {
		return []*store.Entry{e.Entry}
	}
	return []*store.Entry{e.Entry, e.Old}
}

// everyOne are the objects of a resource in a namespace.
func everyOne(w *world, resource, namespace string) (out []crdt.Key) {
	for e := range w.snap.Range(resource, namespace, "") {
		out = append(out, e.Key)
	}
	return out
}

// theController concerns the owner of a kind that controls the object. One that nothing controls may be anybody's to adopt; and where one is
// gone its name is free, for which an owner may have waited whose name that begins with.
func theController(resource, kind string) concern {
	return func(w *world, e store.Event) (out []crdt.Key) {
		ns := e.Entry.Key.Namespace
		for _, o := range both(e) {
			ref, ok := o.Controller()
			switch {
			case !ok && adoptable(e):
				return everyOne(w, resource, ns)
			case ok && ref.Kind == kind:
				out = append(out, crdt.Key{Resource: resource, Namespace: ns, Name: ref.Name})
			}
		}
		return append(out, namesakes(w, resource, e)...)
	}
}

// adoptable tells whether a change may decide who adopts an object: it is new or gone, or differs in its labels or its controller, or in whether
// it lasts.
func adoptable(e store.Event) bool {
	if e.Type != store.Modified {
		return true
	}
	was, _ := e.Old.Controller()
	is, _ := e.Entry.Controller()
	return was.UID != is.UID || !maps.Equal(e.Old.Labels(), e.Entry.Labels()) || e.Old.Text("status", "phase") != e.Entry.Text("status", "phase") ||
		(e.Old.Text("metadata", "deletionTimestamp") == "") != (e.Entry.Text("metadata", "deletionTimestamp") == "")
}

// namesakes are the owners whose names an object's name begins with, once that object is gone.
func namesakes(w *world, resource string, e store.Event) (out []crdt.Key) {
	if e.Type != store.Deleted {
		return nil
	}
	for o := range w.snap.Range(resource, e.Entry.Key.Namespace, "") {
		if strings.HasPrefix(e.Entry.Key.Name, o.Key.Name) {
			out = append(out, o.Key)
		}
	}
	return out
}

// theDeployment concerns the Deployment that controls the ReplicaSet that controls the object.
func theDeployment(w *world, e store.Event) (out []crdt.Key) {
	ns := e.Entry.Key.Namespace
	for _, o := range both(e) {
		ref, ok := o.Controller()
		if !ok || ref.Kind != "ReplicaSet" {
			continue
		}
		set, ok := w.snap.Get(crdt.Key{Resource: replicaSets, Namespace: ns, Name: ref.Name})
		if !ok {
			continue
		}
		if ref, ok := set.Controller(); ok && ref.Kind == "Deployment" {
			out = append(out, crdt.Key{Resource: deployments, Namespace: ns, Name: ref.Name})
		}
	}
	return out
}

// theServices concerns the Services that select the object, or did.
func theServices(w *world, e store.Event) (out []crdt.Key) {
	var had []labels.Set
	for _, o := range both(e) {
		had = append(had, o.Labels())
	}
	for s := range w.snap.Range("services", e.Entry.Key.Namespace, "") {
		svc, err := store.As[corev1.Service](s)
		if err != nil || len(svc.Spec.Selector) == 0 {
			continue
		}
		by := labels.Set(svc.Spec.Selector).AsSelectorPreValidated()
		for _, l := range had {
			if by.Matches(l) {
				out = append(out, s.Key)
				break
			}
		}
	}
	return out
}

// theNeighbours concerns all owners in the object's namespace.
func theNeighbours(resource string) concern {
	return func(w *world, e store.Event) []crdt.Key { return everyOne(w, resource, e.Entry.Key.Namespace) }
}

// theNamesake concerns the owner of the same name in the object's namespace.
func theNamesake(resource string) concern {
	return func(_ *world, e store.Event) []crdt.Key {
		return []crdt.Key{{Resource: resource, Namespace: e.Entry.Key.Namespace, Name: e.Entry.Key.Name}}
	}
}

// theNamespace concerns the namespace that the object is in.
func theNamespace(_ *world, e store.Event) []crdt.Key {
	if e.Entry.Key.Namespace == "" {
		return nil
	}
	return []crdt.Key{{Resource: "namespaces", Name: e.Entry.Key.Namespace}}
}

// theClaims concerns the claims that a pod's volumes are of.
func theClaims(_ *world, e store.Event) (out []crdt.Key) {
	for _, o := range both(e) {
		for _, name := range o.Claims() {
			out = append(out, crdt.Key{Resource: claims, Namespace: o.Key.Namespace, Name: name})
		}
	}
	return out
}

// theVolume concerns the volume that a claim is bound to. One that is gone may be named by a volume that it never named itself.
func theVolume(w *world, e store.Event) (out []crdt.Key) {
	if e.Type == store.Deleted {
		return everyOne(w, volumes, "")
	}
	for _, o := range both(e) {
		if c, err := store.As[corev1.PersistentVolumeClaim](o); err == nil && c.Spec.VolumeName != "" {
			out = append(out, crdt.Key{Resource: volumes, Name: c.Spec.VolumeName})
		}
	}
	return out
}
