package control

import (
	"bytes"
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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
				out = append(out, selectors(w, resource, o)...)
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
	for i := range e.Entry.Key.Name {
		k := crdt.Key{Resource: resource, Namespace: e.Entry.Key.Namespace, Name: e.Entry.Key.Name[:i+1]}
		if _, ok := w.snap.Get(k); ok {
			out = append(out, k)
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

// selectors are the objects of a resource, in an object's namespace, that may select it by its labels.
func selectors(w *world, resource string, o *store.Entry) (out []crdt.Key) {
	ns := o.Key.Namespace
	if !store.Selects(resource) {
		return everyOne(w, resource, ns)
	}
	terms := []string{""}
	for k, v := range o.Labels() {
		terms = append(terms, store.LabelTerm(k, v))
	}
	for _, term := range terms {
		for s := range w.snap.Indexed(store.BySelector, term, resource, ns, "") {
			out = append(out, s.Key)
		}
	}
	return out
}

// theSelectors concerns the owners of a resource that select the object, or did.
func theSelectors(resource string) concern {
	return func(w *world, e store.Event) (out []crdt.Key) {
		for _, o := range both(e) {
			out = append(out, selectors(w, resource, o)...)
		}
		return out
	}
}

// theScaled concerns all budgets in the object's namespace if another number of pods is wanted, or by another.
func theScaled(w *world, e store.Event) []crdt.Key {
	if e.Type == store.Modified && sameRaw(e, "spec", "replicas") && sameRaw(e, "metadata", "ownerReferences") {
		return nil
	}
	return everyOne(w, budgets, e.Entry.Key.Namespace)
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

// theVolume concerns the volumes that a claim is bound to, or that are for it.
func theVolume(w *world, e store.Event) (out []crdt.Key) {
	for _, o := range both(e) {
		if name := o.Text("spec", "volumeName"); name != "" {
			out = append(out, crdt.Key{Resource: volumes, Name: name})
		}
	}
	for v := range w.snap.Indexed(store.ByClaim, e.Entry.Key.Namespace+"/"+e.Entry.Key.Name, volumes, "", "") {
		out = append(out, v.Key)
	}
	return out
}

// theQuotas concerns the quotas of the object's namespace, if what is charged for it may be another.
func theQuotas(w *world, e store.Event) []crdt.Key {
	k := e.Entry.Key
	switch {
	case k.Resource == definitions && e.Type != store.Modified:
		return everybody() // another kind is counted
	case k.Namespace == "" || e.Type == store.Modified && !charged(e.Old, e.Entry):
		return nil
	}
	return everyOne(w, resourceQuotas, k.Namespace)
}

// everyOneIf concerns all owners, if a Node comes or goes or differs in what matters.
func everyOneIf(matters ...func(a, b *corev1.Node) bool) concern {
	return func(_ *world, e store.Event) []crdt.Key {
		if differ(e, matters...) {
			return everybody()
		}
		return nil
	}
}

// differ tells whether a Node comes or goes, or differs in any of what matters.
func differ(e store.Event, matters ...func(a, b *corev1.Node) bool) bool {
	if e.Type != store.Modified {
		return true
	}
	is, err := store.As[corev1.Node](e.Entry)
	was, failed := store.As[corev1.Node](e.Old)
	if err != nil || failed != nil {
		return true
	}
	for _, m := range matters {
		if m(was, is) {
			return true
		}
	}
	return false
}

// What of a Node matters. Most changes of Nodes are of none of it: they say what the kubelet has measured.

// reach is whether, and since when, the Node is said to be out of reach.
func reach(a, b *corev1.Node) bool {
	return !equality.Semantic.DeepEqual(taint(a, corev1.TaintNodeUnreachable), taint(b, corev1.TaintNodeUnreachable))
}

// readiness is the Node's own word.
func readiness(a, b *corev1.Node) bool { return ready(a) != ready(b) }

// taints are all that the Node has.
func taints(a, b *corev1.Node) bool {
	return !equality.Semantic.DeepEqual(a.Spec.Taints, b.Spec.Taints)
}

// labelled is what selects the Node.
func labelled(a, b *corev1.Node) bool { return !maps.Equal(a.Labels, b.Labels) }

// zoned is where the Node is.
func zoned(a, b *corev1.Node) bool {
	return a.Labels[corev1.LabelTopologyZone] != b.Labels[corev1.LabelTopologyZone]
}

// addressed is how the Node is reached.
func addressed(a, b *corev1.Node) bool {
	return !equality.Semantic.DeepEqual(a.Status.Addresses, b.Status.Addresses)
}

// theAPI concerns the Service of the API, whose endpoints are the nodes.
func theAPI(_ *world, e store.Event) []crdt.Key {
	if !differ(e, addressed) {
		return nil
	}
	return []crdt.Key{{Resource: "services", Namespace: metav1.NamespaceDefault, Name: apiName}}
}

// theSlices concerns the Services that a Node matters to: the API's by its address, and all by its zone.
func theSlices(w *world, e store.Event) []crdt.Key {
	if differ(e, zoned) {
		return everybody()
	}
	return theAPI(w, e)
}

// theNamespaces concerns the namespace that the object is in, and all if a kind is defined or no longer is.
func theNamespaces(w *world, e store.Event) []crdt.Key {
	if e.Entry.Key.Resource == definitions && e.Type != store.Modified {
		return everybody()
	}
	return theNamespace(w, e)
}

// theNumbers concerns the claims of the numbers that a Service has, or had.
func theNumbers(_ *world, e store.Event) (out []crdt.Key) {
	for _, o := range both(e) {
		if svc, err := store.As[corev1.Service](o); err == nil {
			out = append(out, numbersOf(svc)...)
		}
	}
	return out
}

// theUsers concerns the Services that have a number: those of a claim, and those that a Service shares, or shared, any with.
func theUsers(w *world, e store.Event) (out []crdt.Key) {
	numbers := []crdt.Key{e.Entry.Key}
	if e.Entry.Key.Resource == "services" {
		if e.Type == store.Modified && sameRaw(e, "spec") && sameRaw(e, "metadata", "creationTimestamp") {
			return nil
		}
		numbers = theNumbers(w, e)
	}
	for _, number := range numbers {
		for _, svc := range users(w, number) {
			out = append(out, crdt.Key{Resource: "services", Namespace: svc.Namespace, Name: svc.Name})
		}
	}
	return out
}

// theClasses concerns the classes of volume attributes that a volume or claim names, or named.
func theClasses(_ *world, e store.Event) (out []crdt.Key) {
	for _, o := range both(e) {
		for _, path := range [][]string{
			{"spec", "volumeAttributesClassName"}, {"status", "currentVolumeAttributesClassName"}, {"status", "modifyVolumeStatus", "targetVolumeAttributesClassName"},
		} {
			if name := o.Text(path...); name != "" {
				out = append(out, crdt.Key{Resource: attributeClasses, Name: name})
			}
		}
	}
	return out
}

// theAggregates concerns the ClusterRoles that are made of others.
func theAggregates(w *world, e store.Event) (out []crdt.Key) {
	if e.Type == store.Modified && sameRaw(e, "rules") && sameRaw(e, "metadata", "labels") {
		return nil
	}
	for o := range w.snap.Under(store.ByAggregation, "") {
		out = append(out, o.Key)
	}
	return out
}

// sameRaw tells whether an object that has changed is the same at a path of names.
func sameRaw(e store.Event, path ...string) bool {
	return bytes.Equal(e.Old.Raw(path...), e.Entry.Raw(path...))
}
