package arch

import (
	"go/ast"
	"path/filepath"
	"slices"
	"testing"
)

// TestPurePackagesAreFunctionsOfTheirArguments: what two nodes must come to in the same way is decided where nothing else is to be had.
func TestPurePackagesAreFunctionsOfTheirArguments(t *testing.T) {
	for _, name := range pure {
		i := slices.IndexFunc(packages(t), func(p listed) bool { return p.name() == name })
		if i < 0 {
			t.Errorf("%s is said to be pure, and is not there", name)
			continue
		}
		p := packages(t)[i]
		for _, imported := range p.Imports {
			if slices.Contains(impurePackages, imported) {
				t.Errorf("%s imports %s", name, imported)
			}
		}
		for _, file := range p.GoFiles {
			ast.Inspect(parse(t, filepath.Join(p.Dir, file)), func(n ast.Node) bool {
				if f, ok := n.(*ast.SelectorExpr); ok {
					if of, ok := f.X.(*ast.Ident); ok && slices.Contains(impureFunctions, of.Name+"."+f.Sel.Name) {
						t.Errorf("%s/%s uses %s.%s", name, file, of.Name, f.Sel.Name)
					}
				}
				return true
			})
		}
	}
}
