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
	"murmur/httpapi/custom"
)

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
		crd := custom.Definition(n.store.Snapshot(), schema.GroupResource{Group: "example.com", Resource: plural})
		if crd == nil {
			return "gone"
		}
		names := apihelpers.FindCRDCondition(crd, apiextensionsv1.NamesAccepted)
		accepted := crd.Status.AcceptedNames
		return fmt.Sprintf("%s: %s/%s, served=%v", names.Reason, accepted.Plural, accepted.Kind, custom.Established(crd))
	}
	first, second := "gadgets", "zoodads" // it is as old or older
	settled := func() bool {
		meet(t, a, b)
		for _, n := range sides {
			if status(n, first) != "NoConflicts: "+first+"/Gadget, served=true" ||
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
