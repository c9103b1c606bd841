package admit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/warning"
	core "k8s.io/kubernetes/pkg/apis/core"
)

// Group is the API group of what the store and its nodes keep for themselves.
const Group = "murmur.io"

// Reserved tells whether an API group is the store's own, or may become so. No kind can be defined in it: its objects would have
// the keys of the store's documents, which say that a node was forgotten, or whose a port is.
func Reserved(group string) bool { return group == Group || strings.HasSuffix(group, "."+Group) }

// word is an annotation by which nodes and controllers tell each other things, and who may write it through the API. Nodes
// write theirs into the store, which asks nobody.
type word struct {
	resource schema.GroupResource
	// name of the annotation; one that ends in a slash stands for all that begin so.
	name string
	// by tells whether a user may; nil: nobody.
	by func(user.Info) bool
	// of says who reads it, and what it does.
	of string
}

// words are all annotations that something here believes and a tenant could write. Those under partition.murmur.io are not
// among them: they are wishes of users.
func words() []word {
	pods, nodes := core.Resource("pods"), core.Resource("nodes")
	return []word{
		{pods, "placement.murmur.io/", nil, "sched: who places a pod, and which nodes hold it"},
		{nodes, "placement.murmur.io/", nil, "sched: in which life a node is"},
		{nodes, "murmur.io/", nil, "node: where the members of the cluster are found, and whose commits are whose"},
		{pods, "murmur.io/", counts, "node/control: which slot of its owner a pod fills, how often it was tried, and whom it covers"},
		{pods, core.MirrorPodAnnotationKey, isNode, "sched, node/control: a pod that is not evicted, since its node would make it again"},
		{pods, "kubernetes.io/config.source", isNode, "sched: a pod that is run from a file, which tolerates all taints and is not evicted"},
	}
}

func isNode(u user.Info) bool {
	_, ok := NodeName(u)
	return ok
}

// counters are the controllers that number their pods.
var counters = []string{"daemon-set-controller", "job-controller", "replicaset-controller", "replication-controller"}

func counts(u user.Info) bool {
	return u != nil && slices.ContainsFunc(counters, func(c string) bool { return serviceaccount.MatchesUsername("kube-system", c, u.GetName()) })
}

func (w word) is(annotation string) bool {
	if strings.HasSuffix(w.name, "/") {
		return strings.HasPrefix(annotation, w.name)
	}
	return annotation == w.name
}

// closed tells whether an annotation of a resource is not for a user to write.
func closed(resource schema.GroupResource, annotation string, u user.Info) bool {
	for _, w := range words() {
		if w.resource == resource && w.is(annotation) {
			return w.by == nil || !w.by(u)
		}
	}
	return false
}

const reservedName = "ReservedNames"

// reserved keeps the words of nodes and controllers, and the group of the store, from everybody else.
//
// On creation such annotations are dropped, with a warning: manifests that were read from a cluster have them, and a pod that is made
// from one is another pod. On an update they stay what they are: one that is missing is put back, for a manifest need not have
// it, and one that is changed or added is refused. What a webhook or a policy did in between is refused too.
type reserved struct {
	*admission.Handler
	arbiter func() map[string]string
}

// Admit drops and puts back.
func (reserved) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	now, old, resource, ok := annotated(a)
	if !ok {
		return nil
	}
	has := now.GetAnnotations()
	if old == nil {
		var dropped []string
		for k := range has {
			if closed(resource, k, a.GetUserInfo()) {
				dropped = append(dropped, k)
			}
		}
		if len(dropped) == 0 {
			return nil
		}
		slices.Sort(dropped)
		for _, k := range dropped {
			delete(has, k)
			warning.AddWarning(ctx, "", fmt.Sprintf("metadata.annotations[%s]: is written by the cluster itself; dropped", k))
		}
		now.SetAnnotations(has)
		return nil
	}
	for k, v := range old.GetAnnotations() {
		if _, there := has[k]; there || !closed(resource, k, a.GetUserInfo()) {
			continue
		}
		if has == nil {
			has = map[string]string{}
		}
		has[k] = v
		now.SetAnnotations(has)
		warning.AddWarning(ctx, "", fmt.Sprintf("metadata.annotations[%s]: is written by the cluster itself; kept", k))
	}
	return nil
}

// Validate refuses what is still otherwise than it was.
func (r reserved) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if crd, ok := a.GetObject().(*apiextensions.CustomResourceDefinition); ok {
		if a.GetOperation() == admission.Create && Reserved(crd.Spec.Group) {
			return admission.NewForbidden(a, fmt.Errorf("the API group %s and all below it are the cluster's own: choose another group", Group))
		}
		return nil
	}
	now, old, resource, ok := annotated(a)
	if !ok {
		return nil
	}
	was := map[string]string{}
	switch {
	case old != nil:
		was = old.GetAnnotations()
	case r.arbiter != nil && resource == core.Resource("pods") && a.GetSubresource() == "":
		was = r.arbiter()
	}
	for _, k := range slices.Sorted(maps.Keys(now.GetAnnotations())) {
		if before, there := was[k]; closed(resource, k, a.GetUserInfo()) && (!there || before != now.GetAnnotations()[k]) {
			return refused(a, k)
		}
	}
	if old == nil {
		return nil
	}
	for _, k := range slices.Sorted(maps.Keys(was)) {
		if _, there := now.GetAnnotations()[k]; !there && closed(resource, k, a.GetUserInfo()) {
			return refused(a, k)
		}
	}
	return nil
}

func refused(a admission.Attributes, annotation string) error {
	return admission.NewForbidden(a, fmt.Errorf("metadata.annotations[%s] is written by the cluster itself and cannot be changed", annotation))
}

// metadata is what a write is about.
type metadata interface {
	GetAnnotations() map[string]string
	SetAnnotations(map[string]string)
}

// annotated is the object of a write whose annotations matter, as it is to be and as it was, and what it is; old is nil if it is new. The
// annotations of a Binding become the pod's.
func annotated(a admission.Attributes) (now, old metadata, of schema.GroupResource, ok bool) {
	switch a.GetObject().(type) {
	case *core.Pod, *core.Binding:
		of = core.Resource("pods")
	case *core.Node:
		of = core.Resource("nodes")
	default:
		return nil, nil, of, false
	}
	now, err := accessor(a.GetObject())
	if err != nil {
		return nil, nil, of, false
	}
	if a.GetOperation() != admission.Update {
		return now, nil, of, true
	}
	if old, err = accessor(a.GetOldObject()); err != nil {
		return nil, nil, of, false
	}
	return now, old, of, true
}

func accessor(obj runtime.Object) (metadata, error) {
	if obj == nil {
		return nil, errors.New("no object")
	}
	return meta.Accessor(obj)
}
