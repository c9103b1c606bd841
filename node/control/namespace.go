package control

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/crdt/store"
)

// namespace empties a namespace that is being deleted, and then lets it go.
func namespace(w *world, e *store.Entry) plan {
	ns, err := store.As[corev1.Namespace](e)
	if err != nil || ns.DeletionTimestamp == nil {
		return plan{}
	}
	p := plan{}
	left, finalizers := map[string]int{}, map[string]int{}
	// Pods go first: while they run they need what is there for them, NetworkPolicies above all (KEP-5080).
	podless := true
	for range w.snap.Range("pods", ns.Name, "") {
		podless = false
		break
	}
	for _, resource := range w.resources {
		if resource == "namespaces" {
			continue
		}
		for child := range w.snap.Range(resource, ns.Name, "") {
			m := &metav1.PartialObjectMetadata{}
			if err := child.Into(m); err != nil {
				continue
			}
			left[resource]++
			for _, f := range m.Finalizers {
				finalizers[f]++
			}
			if m.DeletionTimestamp == nil && (resource == "pods" || podless) {
				p.writes = append(p.writes, collect(child, metav1.DeletePropagationBackground))
			}
		}
	}
	next := ns.DeepCopy()
	if len(left) == 0 {
		next.Spec.Finalizers = slices.DeleteFunc(next.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
		if len(next.Spec.Finalizers) < len(ns.Spec.Finalizers) {
			p.writes = append(p.writes, write{verb: finalize, obj: next})
		}
		return p
	}
	failed := ""
	if f, ok := w.failures[ns.UID]; ok {
		failed = f.message
	}
	if emptying(next, left, finalizers, failed, metav1.Time{Time: w.now}) {
		p.writes = append(p.writes, write{verb: status, obj: next})
	}
	for i := range p.writes {
		if p.writes[i].verb == remove {
			p.writes[i].failed = &event{ns, corev1.EventTypeWarning, "FailedDelete", "Error deleting: %s"}
		}
	}
	return p
}

// emptying puts into the status what is still in the namespace, and says whether that is news.
func emptying(ns *corev1.Namespace, left, finalizers map[string]int, failed string, now metav1.Time) bool {
	changed := ns.Status.Phase != corev1.NamespaceTerminating
	ns.Status.Phase = corev1.NamespaceTerminating
	set := func(kind corev1.NamespaceConditionType, bad bool, reason, message string) {
		c := corev1.NamespaceCondition{Type: kind, Status: corev1.ConditionFalse, LastTransitionTime: now, Reason: reason, Message: message}
		if bad {
			c.Status = corev1.ConditionTrue
		}
		i := slices.IndexFunc(ns.Status.Conditions, func(c corev1.NamespaceCondition) bool { return c.Type == kind })
		if i < 0 {
			ns.Status.Conditions, changed = append(ns.Status.Conditions, c), true
			return
		}
		have := &ns.Status.Conditions[i]
		if have.Status == c.Status && have.Reason == c.Reason && have.Message == c.Message {
			return
		}
		if have.Status == c.Status {
			c.LastTransitionTime = have.LastTransitionTime
		}
		*have, changed = c, true
	}
	set(corev1.NamespaceDeletionDiscoveryFailure, false, "ResourcesDiscovered", "All resources successfully discovered")
	set(corev1.NamespaceDeletionGVParsingFailure, false, "ParsedGroupVersions", "All legacy kube types successfully parsed")
	if failed == "" {
		set(corev1.NamespaceDeletionContentFailure, false, "ContentDeleted", "All content successfully deleted, may be waiting on finalization")
	} else {
		set(corev1.NamespaceDeletionContentFailure, true, "ContentDeletionFailed", "Failed to delete all resource types: "+failed)
	}
	var parts []string
	for _, r := range slices.Sorted(maps.Keys(left)) {
		parts = append(parts, fmt.Sprintf("%s.%s has %d resource instances", strings.TrimPrefix(r, group(r)+"/"), group(r), left[r]))
	}
	set(corev1.NamespaceContentRemaining, true, "SomeResourcesRemain", "Some resources are remaining: "+strings.Join(parts, ", "))
	parts = nil
	for _, f := range slices.Sorted(maps.Keys(finalizers)) {
		parts = append(parts, fmt.Sprintf("%s in %d resource instances", f, finalizers[f]))
	}
	if len(parts) == 0 {
		set(corev1.NamespaceFinalizersRemaining, false, "ContentHasNoFinalizers", "All content-preserving finalizers finished")
	} else {
		set(corev1.NamespaceFinalizersRemaining, true, "SomeFinalizersRemain", "Some content in the namespace has finalizers remaining: "+strings.Join(parts, ", "))
	}
	return changed
}
