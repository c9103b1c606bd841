package arch

import (
	"go/ast"
	"path/filepath"
	"slices"
	"testing"
)

// renames are the files that give a file another name and do not replace content by it: a socket, and logs that are rotated.
var renames = []string{"node/admin.go", "node/pod/logs.go"}

// TestFilesAreReplacedInOnePlace: what is replaced as a whole is durable's to replace. A copy of it forgets a sync sooner or later.
func TestFilesAreReplacedInOnePlace(t *testing.T) {
	found := 0
	for _, p := range packages(t) {
		for _, file := range p.GoFiles {
			ast.Inspect(parse(t, filepath.Join(p.Dir, file)), func(n ast.Node) bool {
				if f, ok := n.(*ast.SelectorExpr); ok && f.Sel.Name == "Rename" {
					if of, ok := f.X.(*ast.Ident); ok && of.Name == "os" {
						found++
						if name := filepath.Join(p.name(), file); p.name() != "durable" && !slices.Contains(renames, name) {
							t.Errorf("%s replaces a file by itself: durable does that", name)
						}
					}
				}
				return true
			})
		}
	}
	if found < 1+len(renames) {
		t.Errorf("%d renames were found: durable's is one", found)
	}
}
