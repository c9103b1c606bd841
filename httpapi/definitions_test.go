package httpapi

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"murmur/crdt"
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
	return fmt.Sprintf("%s/%s/%s/%s %v %s served=%v", n.Plural, n.Singular, n.Kind, n.ListKind, n.ShortNames, names.Reason, established(crd))
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

// TestDefinitionsSettleWhenOthersGo: a name that becomes free is accepted without anybody's request.
func TestDefinitionsSettleWhenOthersGo(t *testing.T) {
	n := newNode(t, nil)
	const crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
	body := func(plural string) string {
		return strings.NewReplacer("widgets", plural, "singular: widget,", "", "shortNames: [wd], ", "").Replace(widgets)
	}
	for _, plural := range []string{"widgets", "gadgets"} {
		if code, got, _ := n.send("POST", crds, "", body(plural)); code != 201 {
			t.Fatalf("create %s: %d %v", plural, code, got)
		}
	}
	list := func(plural string) int {
		code, _, _ := n.send("GET", "/apis/example.com/v1/"+plural, "", "")
		return code
	}
	if a, b := list("widgets"), list("gadgets"); a != 200 || b != 404 {
		t.Errorf("two definitions of one kind: %d and %d", a, b)
	}
	if code, got, _ := n.send("DELETE", crds+"/widgets.example.com", "", ""); code != 200 {
		t.Fatalf("delete: %d %v", code, got)
	}
	for deadline := time.Now().Add(10 * time.Second); list("gadgets") != 200; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the name did not become the other's")
		}
	}
}

// meet has two nodes tell each other what they have, until both have the same.
func meet(t *testing.T, a, b *node) {
	t.Helper()
	for range 2 {
		for _, pair := range [][2]*node{{a, b}, {b, a}} {
			deltas, err := pair[0].store.Delta(pair[1].store.Vector())
			check(t, err)
			for d := range deltas {
				_, _, err := pair[1].store.Merge(context.Background(), d)
				check(t, err)
			}
		}
	}
}

// TestDefinitionsOfTwoSides: each side of a partition defines a kind of the same name, and one takes away what the other uses. When
// they meet both say the same of every definition, and nothing is left of what is gone.
func TestDefinitionsOfTwoSides(t *testing.T) {
	sides := [2]*node{newNode(t, nil), newNode(t, func(c *Config) { c.Node = "n2" })}
	a, b := sides[0], sides[1]
	a.expect(201, "POST", crdsPath, "", widgets)
	a.expect(201, "POST", widgetsPath, "", widgetYAML("x", "colour: red, ports: [{port: 1}]"))
	meet(t, a, b)
	// The definition has come to the other side, and is served there.
	b.expect(200, "GET", widgetsPath+"/x", "", "", `"colour":"red"`)

	// Keyed lists are merged by key, and all else by field.
	a.expect(200, "PATCH", widgetsPath+"/x", "application/merge-patch+json", `{"spec":{"ports":[{"port":1},{"port":2}],"colour":"blue"}}`)
	b.expect(200, "PATCH", widgetsPath+"/x", "application/merge-patch+json", `{"spec":{"ports":[{"port":1},{"port":3}],"size":7}}`)
	// Two definitions want one kind.
	gadgets := strings.NewReplacer("widgets", "gadgets", "singular: widget,", "", "shortNames: [wd], ", "", "kind: Widget", "kind: Gadget").Replace(widgets)
	a.expect(201, "POST", crdsPath, "", gadgets)
	b.expect(201, "POST", crdsPath, "", strings.ReplaceAll(gadgets, "gadgets", "zoodads"))
	b.expect(201, "POST", strings.Replace(widgetsPath, "widgets", "zoodads", 1), "", strings.Replace(widgetYAML("d", "colour: red"), "Widget", "Gadget", 1))
	meet(t, a, b)
	for _, n := range sides {
		got := n.expect(200, "GET", widgetsPath+"/x", "", "", `"colour":"blue"`, `"size":7`)
		if ports, _ := at(got, "spec", "ports").([]any); len(ports) != 3 {
			t.Errorf("%s: ports that two sides added: %v", n.cfg.Node, ports)
		}
	}
	status := func(n *node, plural string) string {
		crd := definition(n.store.Snapshot(), schema.GroupResource{Group: "example.com", Resource: plural})
		if crd == nil {
			return "gone"
		}
		return said(crd)
	}
	first, second := "gadgets", "zoodads" // it is as old or older
	settled := func() bool {
		meet(t, a, b)
		for _, n := range sides {
			if status(n, first) != fmt.Sprintf("%[1]s/gadget/Gadget/GadgetList [] NoConflicts served=true", first) ||
				!strings.HasSuffix(status(n, second), "served=false") {
				return false
			}
		}
		return status(a, second) == status(b, second)
	}
	a.eventually("one of two definitions has the kind, on both nodes", settled)

	// Who takes away what is not served finds no way but the store's.
	waiting := crdt.Key{Resource: "example.com/zoodads", Namespace: "default", Name: "d"}
	if _, ok := a.store.Snapshot().Get(waiting); !ok {
		t.Error("an object of a kind that is not served went")
	}
	check(t, a.As("system:apiserver", "system:masters").Delete(context.Background(), waiting, metav1.DeleteOptions{}))
	if _, ok := a.store.Snapshot().Get(waiting); ok {
		t.Error("an object of a kind that is not served stays")
	}

	// One side takes the kind away, the other makes an object of it.
	a.expect(200, "DELETE", crdsPath+"/widgets.example.com", "", "")
	b.expect(201, "POST", widgetsPath, "", widgetYAML("late", "colour: red"))
	a.eventually("the definition is gone", func() bool { return status(a, "widgets") == "gone" })
	meet(t, a, b)
	a.eventually("nothing is left of it on either side", func() bool {
		meet(t, a, b)
		for _, n := range sides {
			for range n.store.Snapshot().Range("example.com/widgets", "", "") {
				return false
			}
		}
		return true
	})
	b.expect(404, "GET", widgetsPath, "", "")
}
