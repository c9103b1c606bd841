package arch

import (
	"go/ast"
	"path/filepath"
	"strings"
	"testing"
)

// maxScans is how many places walk all objects of a resource, in all namespaces. It only ever becomes smaller: who asks for some looks
// them up (store.Index), and a loop is told what has changed (Store.Changes).
const maxScans = 23

// TestWholeResourcesAreRarelyWalked counts calls of Snapshot.Range and store.List with an empty namespace.
func TestWholeResourcesAreRarelyWalked(t *testing.T) {
	var found []string
	for _, p := range packages(t) {
		if strings.HasPrefix(p.name(), "test/") || strings.HasPrefix(p.name(), "crdt") {
			continue
		}
		for _, file := range p.GoFiles {
			path := filepath.Join(p.Dir, file)
			ast.Inspect(parse(t, path), func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				at := -1 // where the namespace is among the arguments
				switch f := call.Fun.(type) {
				case *ast.SelectorExpr:
					if f.Sel.Name == "Range" && len(call.Args) == 3 {
						at = 1
					}
				case *ast.IndexExpr:
					if of, ok := f.X.(*ast.SelectorExpr); ok && of.Sel.Name == "List" && len(call.Args) == 3 {
						at = 2
					}
				}
				if at < 0 {
					return true
				}
				if lit, ok := call.Args[at].(*ast.BasicLit); ok && lit.Value == `""` {
					found = append(found, p.name()+"/"+file)
				}
				return true
			})
		}
	}
	switch n := len(found); {
	case n > maxScans:
		t.Errorf("%d places walk whole resources, at most %d may: %v", n, maxScans, found)
	case n < maxScans:
		t.Errorf("%d places walk whole resources: have maxScans say so", n)
	}
}
