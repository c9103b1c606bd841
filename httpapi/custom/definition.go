package custom

import (
	"cmp"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"murmur/crdt/store"
	"murmur/httpapi/admit"
	"murmur/httpapi/storage"
)

// Established tells whether the objects of a definition are.
func Established(crd *apiextensionsv1.CustomResourceDefinition) bool {
	return apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.Established) && !admit.Reserved(crd.Spec.Group)
}

// Terminating tells whether a kind is being taken away, so that no more objects of it are made.
func Terminating(crd *apiextensionsv1.CustomResourceDefinition) bool {
	return crd.DeletionTimestamp != nil || apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.Terminating)
}

// DefinitionForm is the form of definitions. With whatever is written goes what follows from it: the names that are accepted,
// and the conditions. So a kind is there with the answer to the request that made its definition.
type DefinitionForm struct {
	storage.Native
	Store *store.Store
}

// Stored settles what is written.
func (f DefinitionForm) Stored(obj runtime.Object, base *store.Entry) (runtime.Object, error) {
	out, err := f.Native.Stored(obj, base)
	if crd, ok := out.(*apiextensionsv1.CustomResourceDefinition); ok && err == nil {
		settle(crd, Definitions(f.Store.Snapshot()), metav1.Now())
	}
	return out, err
}

// Definitions are those that there are, without their schemas and annotations, which Definition has. Read only.
func Definitions(snap *store.Snapshot) []*apiextensionsv1.CustomResourceDefinition {
	return outlines.Of(snap)
}

// outlines are the definitions without what most of each is.
var outlines = store.NewMemo(storage.Definitions, func(all iter.Seq[*store.Entry]) (out []*apiextensionsv1.CustomResourceDefinition) {
	for e := range all {
		crd, err := store.As[apiextensionsv1.CustomResourceDefinition](e)
		if err != nil {
			continue
		}
		bare := *crd
		bare.Annotations, bare.ManagedFields = nil, nil
		bare.Spec.Versions = slices.Clone(crd.Spec.Versions)
		for i := range bare.Spec.Versions {
			bare.Spec.Versions[i].Schema = nil
		}
		out = append(out, &bare)
	}
	return out
})

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
