package custom

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// defined is a definition of a group, made some seconds after others, with what it has accepted.
func defined(plural, kind string, made int64, short ...string) *apiextensionsv1.CustomResourceDefinition {
	crd := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: plural + ".example.com", CreationTimestamp: metav1.Unix(made, 0)}}
	crd.Spec.Group = "example.com"
	crd.Spec.Names = apiextensionsv1.CustomResourceDefinitionNames{Plural: plural, Singular: strings.TrimSuffix(plural, "s"), Kind: kind, ListKind: kind + "List", ShortNames: short}
	crd.Spec.Versions = []apiextensionsv1.CustomResourceDefinitionVersion{{Name: "v1", Served: true, Storage: true}}
	return crd
}

// said is a definition's status in a line.
func said(crd *apiextensionsv1.CustomResourceDefinition) string {
	n := crd.Status.AcceptedNames
	names := apihelpers.FindCRDCondition(crd, apiextensionsv1.NamesAccepted)
	return fmt.Sprintf("%s/%s/%s/%s %v %s served=%v", n.Plural, n.Singular, n.Kind, n.ListKind, n.ShortNames, names.Reason, Established(crd))
}

func TestNamesAreAcceptedOnce(t *testing.T) {
	all := func(crds ...*apiextensionsv1.CustomResourceDefinition) []*apiextensionsv1.CustomResourceDefinition {
		return crds
	}
	at := metav1.Unix(100, 0)
	expect := func(crd *apiextensionsv1.CustomResourceDefinition, want string) {
		t.Helper()
		if got := said(crd); got != want {
			t.Errorf("%s: %s, want %s", crd.Name, got, want)
		}
	}
	a, b := defined("as", "A", 1, "x"), defined("bs", "A", 2, "x")
	if !settle(a, all(a), at) || settle(a.DeepCopy(), all(a), at) {
		t.Error("a settled status is news, or a new one is none")
	}
	settle(b, all(a, b), at)
	expect(a, "as/a/A/AList [x] NoConflicts served=true")
	expect(b, "bs/b// [] ListKindConflict served=false")

	// What is accepted stays, also if who comes to want it is older.
	a.Spec.Names.Kind, a.Spec.Names.ListKind = "B", "BList"
	b.Spec.Names.ShortNames = nil
	settle(a, all(a, b), at)
	settle(b, all(a, b), at)
	expect(b, "bs/b/A/AList [] NoConflicts served=true")
	a.Spec.Names.Kind, a.Spec.Names.ListKind = "A", "AList"
	settle(a, all(a, b), at)
	expect(a, "as/a/B/BList [x] ListKindConflict served=true")

	// Two sides that have both accepted a name: the elder keeps it, whoever looks first.
	for _, first := range []int{0, 1} {
		pair := all(defined("as", "A", 1), defined("bs", "A", 2))
		settle(pair[0], nil, at)
		settle(pair[1], nil, at)
		for i := range pair {
			settle(pair[(first+i)%2], pair, at)
		}
		expect(pair[0], "as/a/A/AList [] NoConflicts served=true")
		expect(pair[1], "bs/b// [] ListKindConflict served=false")
		// The elder goes: the name is free.
		settle(pair[1], pair[1:], metav1.Unix(200, 0))
		expect(pair[1], "bs/b/A/AList [] NoConflicts served=true")
		if c := apihelpers.FindCRDCondition(pair[1], apiextensionsv1.Established); c.LastTransitionTime.Unix() != 200 {
			t.Errorf("the condition changed at %v", c.LastTransitionTime)
		}
	}
	// Another group has names of its own.
	other := defined("bs", "A", 2)
	other.Spec.Group = "example.org"
	settle(other, all(a, other), at)
	expect(other, "bs/b/A/AList [] NoConflicts served=true")
}

func TestConditionsOfDefinitions(t *testing.T) {
	crd := defined("as", "A", 1)
	crd.Spec.Group = "as.k8s.io"
	reason := func(kind apiextensionsv1.CustomResourceDefinitionConditionType) string {
		settle(crd, nil, metav1.Unix(1, 0))
		if c := apihelpers.FindCRDCondition(crd, kind); c != nil {
			return string(c.Status) + " " + c.Reason
		}
		return ""
	}
	for annotation, want := range map[string]string{"": "False MissingAnnotation", "https://github.com/kubernetes/x": "True ApprovedAnnotation",
		"unapproved, for a test": "False UnapprovedAnnotation", "what": "False InvalidAnnotation"} {
		crd.Annotations = map[string]string{apiextensionsv1.KubeAPIApprovedAnnotation: annotation}
		if got := reason(apiextensionsv1.KubernetesAPIApprovalPolicyConformant); got != want {
			t.Errorf("approval %q: %s, want %s", annotation, got, want)
		}
	}
	crd.Spec.PreserveUnknownFields = true
	if got := reason(apiextensionsv1.NonStructuralSchema); got != "True Violations" {
		t.Errorf("preserveUnknownFields: %q", got)
	}
	crd.Spec.PreserveUnknownFields = false
	if got := reason(apiextensionsv1.NonStructuralSchema); got != "" {
		t.Errorf("structural again: %q", got)
	}
}
