package httpapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"murmur/crdt"
	"murmur/httpapi/admit"
	"murmur/httpapi/storage"
	"murmur/httpapi/turn"
)

// established tells whether the objects of a definition are.
func established(crd *apiextensionsv1.CustomResourceDefinition) bool {
	return apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.Established) && !admit.Reserved(crd.Spec.Group)
}

// terminating tells whether a kind is being taken away, so that no more objects of it are made.
func terminating(crd *apiextensionsv1.CustomResourceDefinition) bool {
	return crd.DeletionTimestamp != nil || apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.Terminating)
}

// definitionForm is the form of definitions. With whatever is written goes what follows from it: the names that are accepted,
// and the conditions. So a kind is there with the answer to the request that made its definition.
type definitionForm struct {
	storage.Native
	server *Server
}

// Stored settles what is written.
func (f definitionForm) Stored(obj runtime.Object, base *crdt.Entry) (runtime.Object, error) {
	out, err := f.Native.Stored(obj, base)
	if crd, ok := out.(*apiextensionsv1.CustomResourceDefinition); ok && err == nil {
		settle(crd, f.server.defined(), metav1.Now())
	}
	return out, err
}

// defined lists the definitions that there are.
func (s *Server) defined() []*apiextensionsv1.CustomResourceDefinition {
	return crdt.List[apiextensionsv1.CustomResourceDefinition](s.cfg.Store.Snapshot(), storage.Definitions, "")
}

// settle puts into a definition's status what follows from it and from the others, and says whether that is news.
//
// A name that is accepted is its definition's until it asks for another; who comes later goes without, and is told so in the
// condition NamesAccepted. Two sides of a partition may both have accepted a name. When they meet it is the
// elder's, which is the same on every node; the other is not served until it has names of its own, and its objects
// wait in the store.
func settle(crd *apiextensionsv1.CustomResourceDefinition, all []*apiextensionsv1.CustomResourceDefinition, now metav1.Time) bool {
	was := crd.Status.DeepCopy()
	mine := &crd.Status.AcceptedNames
	// taken are the names of others: of resources, and of kinds.
	taken := [2]map[string]bool{{}, {}}
	ours := held(mine)
	for _, other := range all {
		if other.Name == crd.Name || other.Spec.Group != crd.Spec.Group {
			continue
		}
		elder := older(other, crd)
		for i, theirs := range held(&other.Status.AcceptedNames) {
			for _, name := range theirs {
				if name != "" && (elder || !slices.Contains(ours[i], name)) {
					taken[i][name] = true
				}
			}
		}
	}
	resources, kinds := taken[0], taken[1]
	lost := false
	drop := func(name *string, taken map[string]bool) {
		if taken[*name] {
			*name, lost = "", true
		}
	}
	drop(&mine.Plural, resources)
	drop(&mine.Singular, resources)
	drop(&mine.Kind, kinds)
	drop(&mine.ListKind, kinds)
	mine.ShortNames = slices.DeleteFunc(slices.Clone(mine.ShortNames), func(name string) bool { return resources[name] })

	names := apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.NamesAccepted, Status: apiextensionsv1.ConditionTrue, Reason: "NoConflicts", Message: "no conflicts found"}
	accept := func(wanted string, held *string, taken map[string]bool, reason string) {
		if wanted == *held {
			return
		}
		if taken[wanted] {
			names.Status, names.Reason, names.Message = apiextensionsv1.ConditionFalse, reason, fmt.Sprintf("%q is already in use", wanted)
			return
		}
		*held = wanted
	}
	wanted := crd.Spec.Names
	accept(wanted.Plural, &mine.Plural, resources, "PluralConflict")
	accept(wanted.Singular, &mine.Singular, resources, "SingularConflict")
	var used []string
	for _, name := range wanted.ShortNames {
		if resources[name] {
			used = append(used, fmt.Sprintf("%q is already in use", name))
		}
	}
	if len(used) > 0 {
		names.Status, names.Reason, names.Message = apiextensionsv1.ConditionFalse, "ShortNamesConflict", strings.Join(used, ", ")
	} else {
		mine.ShortNames = wanted.ShortNames
	}
	accept(wanted.Kind, &mine.Kind, kinds, "KindConflict")
	accept(wanted.ListKind, &mine.ListKind, kinds, "ListKindConflict")
	mine.Categories = wanted.Categories

	offered := apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionFalse, Reason: "NotAccepted", Message: "not all names are accepted"}
	if names.Status == apiextensionsv1.ConditionTrue || apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.Established) && !lost && whole(mine) {
		offered = apiextensionsv1.CustomResourceDefinitionCondition{
			Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionTrue, Reason: "InitialNamesAccepted", Message: "the initial names have been accepted"}
	}
	condition(crd, names, now)
	condition(crd, offered, now)
	if c := approval(crd); c != nil {
		condition(crd, *c, now)
	}
	if c := nonStructural(crd); c != nil {
		condition(crd, *c, now)
	} else {
		apihelpers.RemoveCRDCondition(crd, apiextensionsv1.NonStructuralSchema)
	}
	return !reflect.DeepEqual(was, &crd.Status)
}

// held are the names of resources, and those of kinds, that go by what is accepted.
func held(n *apiextensionsv1.CustomResourceDefinitionNames) [2][]string {
	return [2][]string{append([]string{n.Plural, n.Singular}, n.ShortNames...), {n.Kind, n.ListKind}}
}

// whole tells whether none of the names that serving takes is missing.
func whole(n *apiextensionsv1.CustomResourceDefinitionNames) bool {
	return n.Plural != "" && n.Singular != "" && n.Kind != "" && n.ListKind != ""
}

// older is the order in which definitions come to their names.
func older(a, b *apiextensionsv1.CustomResourceDefinition) bool {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name)) < 0
}

// condition sets a condition. The time is that of its change.
func condition(crd *apiextensionsv1.CustomResourceDefinition, c apiextensionsv1.CustomResourceDefinitionCondition, now metav1.Time) {
	have := apihelpers.FindCRDCondition(crd, c.Type)
	if have == nil {
		c.LastTransitionTime = now
		crd.Status.Conditions = append(crd.Status.Conditions, c)
		return
	}
	if c.LastTransitionTime = have.LastTransitionTime; have.Status != c.Status {
		c.LastTransitionTime = now
	}
	c.ObservedGeneration = have.ObservedGeneration
	*have = c
}

// approval says whether a definition in one of the community's groups has been approved by it.
func approval(crd *apiextensionsv1.CustomResourceDefinition) *apiextensionsv1.CustomResourceDefinitionCondition {
	if !apihelpers.IsProtectedCommunityGroup(crd.Spec.Group) {
		return nil
	}
	c := apiextensionsv1.CustomResourceDefinitionCondition{Type: apiextensionsv1.KubernetesAPIApprovalPolicyConformant, Status: apiextensionsv1.ConditionFalse}
	var state apihelpers.APIApprovalState
	switch state, c.Message = apihelpers.GetAPIApprovalState(crd.Annotations); state {
	case apihelpers.APIApproved:
		c.Status, c.Reason = apiextensionsv1.ConditionTrue, "ApprovedAnnotation"
	case apihelpers.APIApprovalBypassed:
		c.Reason = "UnapprovedAnnotation"
	case apihelpers.APIApprovalMissing:
		c.Reason = "MissingAnnotation"
	default:
		c.Reason = "InvalidAnnotation"
	}
	return &c
}

// nonStructural says what in the schemas is not structural. Validation refuses that in what is new.
func nonStructural(crd *apiextensionsv1.CustomResourceDefinition) *apiextensionsv1.CustomResourceDefinitionCondition {
	c := &apiextensionsv1.CustomResourceDefinitionCondition{Type: apiextensionsv1.NonStructuralSchema, Status: apiextensionsv1.ConditionTrue, Reason: "Violations"}
	var wrong field.ErrorList
	if crd.Spec.PreserveUnknownFields {
		wrong = append(wrong, field.Invalid(field.NewPath("spec", "preserveUnknownFields"), true, "must be false"))
	}
	for i, v := range crd.Spec.Versions {
		props, err := internalSchema(crd, v.Name)
		if err != nil || props == nil {
			continue
		}
		s, err := structuralschema.NewStructural(props)
		if err != nil {
			c.Status, c.Reason = apiextensionsv1.ConditionUnknown, "StructuralError"
			c.Message = fmt.Sprintf("failed to check validation schema for version %s: %v", v.Name, err)
			return c
		}
		wrong = append(wrong, structuralschema.ValidateStructural(field.NewPath("spec", "versions").Index(i).Child("schema", "openAPIV3Schema"), s)...)
	}
	if len(wrong) == 0 {
		return nil
	}
	c.Message = wrong.ToAggregate().Error()
	return c
}

// keepDefinitions looks at the definitions whenever one changes. It ends the watches of kinds that changed, takes away the objects
// of those that are deleted, and settles anew what was written without knowing of the others: on another side of a
// partition, or before a name became free.
func (s *Server) keepDefinitions(ctx context.Context) {
	due := turn.New(s.cfg.Node)
	seen := map[string]*apiextensionsv1.CustomResourceDefinition{}
	turn.Attend(ctx, s.cfg.Store, storage.Definitions, func(now time.Time) time.Time {
		s.customs.prune(s.cfg.Store.Snapshot())
		s.sweep(ctx, seen)
		return s.tend(ctx, due, now)
	})
}

// sweep removes what is left of kinds whose definition went while this node looked. A side of a partition that did not know that a kind
// was being taken away may have made objects of it until they met. seen are the definitions of the last look.
func (s *Server) sweep(ctx context.Context, seen map[string]*apiextensionsv1.CustomResourceDefinition) {
	snap := s.cfg.Store.Snapshot()
	present := map[string]bool{}
	for _, crd := range crdt.List[apiextensionsv1.CustomResourceDefinition](snap, storage.Definitions, "") {
		present[crd.Name], seen[crd.Name] = true, crd
	}
	for name, crd := range seen {
		if present[name] {
			continue
		}
		delete(seen, name)
		of, err := customKind(crd)
		if err != nil {
			of = &storage.Kind{Resource: schema.GroupResource{Group: crd.Spec.Group, Resource: crd.Spec.Names.Plural}}
		}
		for e := range snap.Range(of.Key(), "", "") {
			if err := s.remove(ctx, nil, of, e); err != nil {
				s.cfg.Log.Debug("object of a kind that is gone", "object", e.Key, "err", err)
			}
		}
	}
}

// tend does for each definition what is due, and says when the next is.
func (s *Server) tend(ctx context.Context, due *turn.Turns, now time.Time) (next time.Time) {
	all := s.defined()
	present := map[string]bool{}
	for _, crd := range all {
		ending := crd.DeletionTimestamp != nil && slices.Contains(crd.Finalizers, apiextensionsv1.CustomResourceCleanupFinalizer)
		copied := crd.DeepCopy()
		if !settle(copied, all, metav1.Time{Time: now}) && !ending {
			continue
		}
		present[crd.Name] = true
		if at := due.Of(crd.Name, now); now.Before(at) {
			next = turn.Sooner(next, at)
			continue
		}
		var err error
		if ending {
			err = s.cleanUp(ctx, copied)
		} else if _, err = s.System().UpdateStatus(ctx, copied); apierrors.IsConflict(err) {
			err = nil
		}
		if err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
			s.cfg.Log.Warn("definition", "name", crd.Name, "err", err)
		}
		next = turn.Sooner(next, due.Again(crd.Name, now))
	}
	due.Keep(present)
	return next
}

// cleanUp deletes the objects of a definition that is being deleted, and when there are none left lets it go.
func (s *Server) cleanUp(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition) error {
	snap := s.cfg.Store.Snapshot()
	kind, err := customKind(crd)
	if err != nil {
		return err
	}
	left, failed := 0, error(nil)
	for e := range snap.Range(kind.Key(), "", "") {
		if admit.Reserved(crd.Spec.Group) {
			break // these are not its objects
		}
		left++
		if failed = s.remove(ctx, crd, kind, e); failed != nil {
			break
		}
	}
	c := apiextensionsv1.CustomResourceDefinitionCondition{Type: apiextensionsv1.Terminating, Status: apiextensionsv1.ConditionTrue,
		Reason: "InstanceDeletionInProgress", Message: "CustomResource deletion is in progress"}
	if left > 0 {
		for range s.cfg.Store.Snapshot().Range(kind.Key(), "", "") {
			left = -1
			break
		}
	}
	switch {
	case failed != nil:
		c.Reason, c.Message = "InstanceDeletionFailed", fmt.Sprintf("could not issue all deletes: %v", failed)
	case left >= 0:
		c.Status, c.Reason, c.Message = apiextensionsv1.ConditionFalse, "InstanceDeletionCompleted", "removed all instances"
		condition(crd, c, metav1.Now())
		crd.Finalizers = slices.DeleteFunc(crd.Finalizers, func(f string) bool { return f == apiextensionsv1.CustomResourceCleanupFinalizer })
		// The condition is for who watches; the finalizer is what lets it go.
		if now, err := s.System().UpdateStatus(ctx, crd); err == nil {
			crd.ResourceVersion = now.(*apiextensionsv1.CustomResourceDefinition).ResourceVersion
		}
		_, err := s.System().Update(ctx, crd)
		if apierrors.IsConflict(err) {
			err = nil
		}
		return err
	}
	was := apihelpers.FindCRDCondition(crd, apiextensionsv1.Terminating)
	if was != nil && was.Reason == c.Reason && was.Message == c.Message {
		return nil
	}
	condition(crd, c, metav1.Now())
	if _, err := s.System().UpdateStatus(ctx, crd); err != nil && !apierrors.IsConflict(err) {
		return err
	}
	return failed
}

// remove deletes one custom object, or marks it if it has finalizers and its kind is served.
func (s *Server) remove(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition, kind *storage.Kind, e *crdt.Entry) (err error) {
	ctx, end := s.begin(ctx, &call{kind: kind, namespace: e.Key.Namespace, name: e.Key.Name, user: itself}, "delete", e.UID)
	defer func() { end(nil, err) }()
	if crd == nil || !established(crd) {
		return s.discard(ctx, e.Key)
	}
	c, err := s.customs.get(crd)
	if err != nil {
		return err
	}
	ctx = request.WithNamespace(ctx, e.Key.Namespace)
	_, _, err = c.versions[c.kind.Version.Version].storage.CustomResource.Delete(ctx, e.Key.Name, rest.ValidateAllObjectFunc, &metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// discard removes an object of a kind that is not served. Nobody can take away the finalizers that it may have.
func (s *Server) discard(ctx context.Context, k crdt.Key) error {
	e, ok := s.cfg.Store.Snapshot().Get(k)
	if !ok {
		return nil
	}
	_, err := s.cfg.Store.Commit(ctx, crdt.Write{Key: k, Base: e})
	if errors.Is(err, crdt.ErrNotFound) || errors.Is(err, crdt.ErrConflict) {
		return nil // gone, or to be looked at again
	}
	return err
}
