package arch

import (
	"go/ast"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// quoted is what stands between backticks; declared looks like something in one of our packages, file like one of our files.
var (
	quoted   = regexp.MustCompile("`([^`\n]+)`")
	declared = regexp.MustCompile(`^([a-z]+(?:/[a-z]+)*)\.([A-Za-z]\w*(?:\.[A-Za-z]\w*)?)$`)
	file     = regexp.MustCompile(`^[a-z]+(?:/[\w.-]+)*\.(?:go|md|sh|txt)$`)
)

// TestDocsNameWhatExists: a document that names a function, a type or a file which is not there sends its reader the wrong way. least is
// how many names each must have, so that a document which is written otherwise does not pass unread.
func TestDocsNameWhatExists(t *testing.T) {
	ours := map[string]map[string]bool{}
	for _, p := range packages(t) {
		names := map[string]bool{}
		for _, f := range slices.Concat(p.GoFiles, p.CgoFiles, p.TestGoFiles, p.XTestGoFiles) {
			declarations(parse(t, filepath.Join(p.Dir, f)), names)
		}
		ours[p.name()] = names
	}
	for doc, least := range map[string]int{"docs/ARCHITECTURE.md": 60, "CONTRIBUTING.md": 40, "GLOSSARY.md": 10} {
		b, err := os.ReadFile(filepath.Join(root, doc))
		if err != nil {
			t.Error(err)
			continue
		}
		found := 0
		for _, m := range quoted.FindAllStringSubmatch(string(b), -1) {
			if d := declared.FindStringSubmatch(m[1]); d != nil && !file.MatchString(m[1]) {
				names, known := ours[d[1]]
				switch {
				case !known && strings.Contains(d[1], "/"):
					t.Errorf("%s names %s: there is no package %s", doc, m[1], d[1])
				case known && !names[d[2]]:
					t.Errorf("%s names %s, which package %s does not have", doc, m[1], d[1])
				case known:
					found++
				}
			} else if file.MatchString(m[1]) && strings.Contains(m[1], "/") {
				if _, err := os.Stat(filepath.Join(root, m[1])); err != nil {
					t.Errorf("%s names a file: %v", doc, err)
				}
				found++
			}
		}
		if found < least {
			t.Errorf("%s names %d things of ours, want at least %d", doc, found, least)
		}
	}
}

// TestArchitectureDrawsTheImports holds the list of imports in docs/ARCHITECTURE.md against the source. A line for `x/...` is of all below x.
func TestArchitectureDrawsTheImports(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(root, "docs", "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(b), "```imports\n")
	block, _, found := strings.Cut(block, "```")
	if !found {
		t.Fatal("docs/ARCHITECTURE.md has no block of imports")
	}
	for line := range strings.Lines(block) {
		pkg, drawn, ok := strings.Cut(line, ">")
		if !ok {
			t.Errorf("%q is no line of imports", line)
			continue
		}
		pkg = strings.TrimSpace(pkg)
		var have []string
		known := false
		for _, p := range packages(t) {
			if !within(p.name(), []string{pkg}) {
				continue
			}
			known = true
			for _, i := range p.Imports {
				if name, ok := strings.CutPrefix(i, "murmur/"); ok && !within(name, []string{pkg}) {
					have = append(have, name)
				}
			}
		}
		if !known {
			t.Errorf("docs/ARCHITECTURE.md draws %s, which is not there", pkg)
		}
		slices.Sort(have)
		have = slices.Compact(have)
		want := strings.Fields(drawn)
		slices.Sort(want)
		if !slices.Equal(have, want) {
			t.Errorf("docs/ARCHITECTURE.md draws %s > %v, and it is > %v", pkg, want, have)
		}
	}
}

// declarations are the names of a file: of functions, methods (Type.Method), types, their fields (Type.Field), variables and constants.
func declarations(f *ast.File, names map[string]bool) {
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			names[receiver(d)+d.Name.Name] = true
		case *ast.GenDecl:
			for _, s := range d.Specs {
				switch s := s.(type) {
				case *ast.ValueSpec:
					for _, n := range s.Names {
						names[n.Name] = true
					}
				case *ast.TypeSpec:
					names[s.Name.Name] = true
					for _, l := range members(s.Type) {
						for _, n := range l.Names {
							names[s.Name.Name+"."+n.Name] = true
						}
					}
				}
			}
		}
	}
}

// members are the fields of a struct, and the methods of an interface.
func members(of ast.Expr) []*ast.Field {
	switch of := of.(type) {
	case *ast.StructType:
		return of.Fields.List
	case *ast.InterfaceType:
		return of.Methods.List
	}
	return nil
}
