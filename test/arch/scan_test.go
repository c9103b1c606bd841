package arch

import (
	"go/ast"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// maxScans is how many places walk all objects of a resource, in all namespaces, and are not in mayScan. It only ever becomes smaller: who asks
// for some looks them up (store.Index), what follows from all of a few is made once per change (store.Memo), and a loop is told what has changed
// (Store.Changes).
const maxScans = 11

// mayScan are the files with places that walk whole resources, each with its number of them, because that is what is asked for.
var mayScan = map[string]struct {
	places int
	why    string
}{
	"httpapi/allocator/address.go": {1, "upstream's interface of an allocator has a walk over all that is allocated; no request takes it"},
	"httpapi/allocator/port.go":    {1, "likewise"},
	"httpapi/custom/controller.go": {1, "a definition is deleted, and all objects of its kind go with it"},
	"node/iptables/followed.go":    {2, "at the start, and when who can be reached or a node's addresses have changed: any rule may be another"},
	"node/move.go":                 {1, "somebody has a node join another cluster, which is refused if anybody has made anything in its own"},
}

// memos are the files that have something made from all objects of a resource whenever one of them has changed: how many things, and why the
// objects are few and seldom change, or what would not be cheaper.
var memos = map[string]struct {
	number int
	why    string
}{
	"httpapi/authz/authz.go":       {1, "ClusterRoles: what aggregated ones have depends on the labels of all"},
	"httpapi/custom/definition.go": {1, "definitions of custom kinds: discovery, API services and names are of all of them"},
	"httpapi/policy/types.go":      {1, "ValidatingAdmissionPolicies whose types are to be checked"},
	"node/iptables/followed.go":    {1, "Nodes: zones, addresses and blocks, for when all rules are made anew"},
	"node/member/statement.go":     {1, "statements of members: what is believed follows from all of them together"},
	"node/network/block.go":        {1, "Nodes: a route leads to each, and a block is one that none has"},
	"node/pod/objects.go":          {1, "ClusterTrustBundles, of which a volume selects some"},
	"node/roster.go":               {1, "Nodes: who is registered, which many parts ask"},
	"sched/scheduler.go":           {1, "Nodes: an arbiter offers a pod to any, and images weigh by how many have them"},
}

// TestWholeResourcesAreRarelyWalked counts calls of Snapshot.Range and store.List with an empty namespace, of store.Having, and of store.NewMemo.
func TestWholeResourcesAreRarelyWalked(t *testing.T) {
	scans, made := map[string]int{}, map[string]int{}
	for _, p := range packages(t) {
		if strings.HasPrefix(p.name(), "test/") || strings.HasPrefix(p.name(), "crdt") {
			continue
		}
		for _, file := range p.GoFiles {
			path := filepath.Join(p.Dir, file)
			ast.Inspect(parse(t, path), func(n ast.Node) bool {
				if call, ok := n.(*ast.CallExpr); ok {
					switch {
					case walks(call):
						scans[p.name()+"/"+file]++
					case callee(call) == "NewMemo":
						made[p.name()+"/"+file]++
					}
				}
				return true
			})
		}
	}
	var found []string
	for file, n := range scans {
		for range n - mayScan[file].places {
			found = append(found, file)
		}
	}
	slices.Sort(found)
	switch n := len(found); {
	case n > maxScans:
		t.Errorf("%d places walk whole resources, at most %d may: %v", n, maxScans, found)
	case n < maxScans:
		t.Errorf("%d places walk whole resources: have maxScans say so", n)
	}
	for file, may := range mayScan {
		if scans[file] < may.places {
			t.Errorf("%s walks whole resources in %d places: have mayScan say so", file, scans[file])
		}
	}
	if len(mayScan) > 12 {
		t.Errorf("%d files may walk whole resources, at most 12", len(mayScan))
	}
	for _, file := range slices.Sorted(maps.Keys(made)) {
		if made[file] != memos[file].number {
			t.Errorf("%s has %d memos of whole resources: have the table say so, and why the objects are few", file, made[file])
		}
	}
	for file := range memos {
		if made[file] == 0 {
			t.Errorf("%s has no memo", file)
		}
	}
}

// walks tells of a call whether it walks all objects of a resource.
func walks(call *ast.CallExpr) bool {
	at := -1 // where the namespace is among the arguments
	switch name := callee(call); {
	case name == "Having":
		return true
	case name == "Range" && len(call.Args) == 3:
		at = 1
	case name == "List" && len(call.Args) == 3:
		at = 2
	default:
		return false
	}
	lit, ok := call.Args[at].(*ast.BasicLit)
	return ok && lit.Value == `""`
}

// callee is the name of a method, or of a function of another package, that is called.
func callee(call *ast.CallExpr) string {
	fun := call.Fun
	if of, ok := fun.(*ast.IndexExpr); ok {
		fun = of.X
	}
	if f, ok := fun.(*ast.SelectorExpr); ok {
		return f.Sel.Name
	}
	return ""
}
