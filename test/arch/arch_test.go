package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// listed is what go list says of a package.
type listed struct {
	ImportPath, Name, Dir                                        string
	Imports, TestImports, XTestImports                           []string
	GoFiles, CgoFiles, TestGoFiles, XTestGoFiles, IgnoredGoFiles []string
}

// name is the path below the module.
func (p listed) name() string { return strings.TrimPrefix(p.ImportPath, "murmur/") }

// home is the package that this one is a room of, or itself.
func (p listed) home() string {
	if strings.HasPrefix(p.name(), "httpapi/") {
		return "httpapi"
	}
	return p.name()
}

func (p listed) files() []string {
	var out []string
	for _, l := range [][]string{p.GoFiles, p.CgoFiles, p.IgnoredGoFiles, p.TestGoFiles, p.XTestGoFiles} {
		for _, f := range l {
			out = append(out, filepath.Join(p.Dir, f))
		}
	}
	return out
}

var root = filepath.Join("..", "..")

// packages lists all of ours.
func packages(t *testing.T) []listed {
	t.Helper()
	all, err := list()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

var list = sync.OnceValues(func() ([]listed, error) {
	cmd := exec.Command("go", "list", "-e",
		"-json=ImportPath,Name,Dir,Imports,TestImports,XTestImports,GoFiles,CgoFiles,TestGoFiles,XTestGoFiles,IgnoredGoFiles", "./...")
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w\n%s", err, &stderr)
	}
	var all []listed
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	if len(all) < 10 {
		return nil, fmt.Errorf("go list found %d packages in %s", len(all), root)
	}
	return all, nil
})

// within tells whether a name is one of those allowed.
func within(name string, allowed []string) bool {
	return slices.ContainsFunc(allowed, func(a string) bool {
		parent, all := strings.CutSuffix(a, "...")
		return a == name || all && (strings.HasPrefix(name, parent) || name+"/" == parent)
	})
}

func roomOf(name string) (room, bool) {
	i := slices.IndexFunc(rooms, func(r room) bool { return within(name, []string{r.pkg}) })
	if i < 0 {
		return room{}, false
	}
	return rooms[i], true
}

func TestPackagesImportOnlyTheirNeighbours(t *testing.T) {
	for _, p := range packages(t) {
		r, ok := roomOf(p.name())
		if !ok {
			t.Errorf("%s is not in the table of packages: write down what it may import", p.name())
			continue
		}
		ours := func(imports []string, may []string, what string) {
			for _, i := range imports {
				if name, ok := strings.CutPrefix(i, "murmur/"); ok && name != p.name() && !within(name, may) {
					t.Errorf("%s imports %s%s; it may import %v", p.name(), name, what, may)
				}
			}
		}
		ours(p.Imports, r.may, "")
		ours(slices.Concat(p.TestImports, p.XTestImports), slices.Concat(r.may, r.tests), " in tests")
	}
}

func moduleOf(imported string) (module, bool) {
	i := slices.IndexFunc(modules, func(m module) bool { return imported == m.path || strings.HasPrefix(imported, m.path+"/") })
	if i < 0 {
		return module{}, false
	}
	return modules[i], true
}

// thirdParty tells imports of other modules from ours and the standard library's.
func thirdParty(imported string) bool {
	first, _, _ := strings.Cut(imported, "/")
	return strings.Contains(first, ".")
}

func TestModulesAreImportedOnlyAtHome(t *testing.T) {
	for _, p := range packages(t) {
		for _, i := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			if _, ok := moduleOf(i); thirdParty(i) && !ok {
				t.Errorf("%s imports %s, whose module is not in the table of modules", p.name(), i)
			}
		}
		if strings.HasPrefix(p.name(), "test/") {
			continue
		}
		for _, i := range p.Imports {
			if m, ok := moduleOf(i); ok && thirdParty(i) && !within(p.name(), m.in) && !within(p.home(), m.in) {
				t.Errorf("%s imports %s; %s is for %v", p.name(), i, m.path, m.in)
			}
		}
	}
}

func TestKubernetesIsBehindTheAPI(t *testing.T) {
	used := map[string]bool{}
	for _, p := range packages(t) {
		for _, i := range p.Imports {
			sub, ok := strings.CutPrefix(i, "k8s.io/kubernetes/")
			if !ok || p.home() == "httpapi" {
				continue
			}
			if !slices.Contains(kubernetes[p.name()], sub) {
				t.Errorf("%s imports %s, which is not one of the single packages listed for it", p.name(), i)
			}
			used[p.name()+" "+sub] = true
		}
	}
	for name, subs := range kubernetes {
		for _, sub := range subs {
			if !used[name+" "+sub] {
				t.Errorf("%s no longer imports k8s.io/kubernetes/%s: take it off the list", name, sub)
			}
		}
	}
}

// TestModulesAreDecided: a new dependency is a decision, and decisions are written down.
func TestModulesAreDecided(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(root, "docs", "adr", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	var text []byte
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, b...)
	}
	for _, m := range modules {
		if !bytes.Contains(text, []byte("`"+m.path+"`")) {
			t.Errorf("docs/adr says nothing of `%s`", m.path)
		}
	}
}

func TestPackagesHaveAHome(t *testing.T) {
	for _, p := range packages(t) {
		for part := range strings.SplitSeq(p.name(), "/") {
			if slices.Contains(banned, part) {
				t.Errorf("package %s: %q says nothing of what is in it", p.name(), part)
			}
		}
	}
}

// TestPackagesExplainThemselves: a library's doc comment is an essay of more than three lines. A program says what it is
// for, and its --help the rest; what serves tests only says whose.
func TestPackagesExplainThemselves(t *testing.T) {
	for _, p := range packages(t) {
		want := 4
		if p.Name == "main" || strings.HasSuffix(p.Name, "test") || strings.HasPrefix(p.name(), "test/") {
			want = 1
		}
		var doc string
		for _, f := range slices.Concat(p.GoFiles, p.CgoFiles, p.TestGoFiles) {
			if d := parse(t, filepath.Join(p.Dir, f)).Doc; d != nil && len(d.Text()) > len(doc) {
				doc = d.Text()
			}
		}
		if n := len(strings.Split(strings.TrimSpace(doc), "\n")); doc == "" || n < want {
			t.Errorf("package %s has a doc comment of %d lines; want at least %d", p.name(), n, want)
		}
	}
}

var unfinished = regexp.MustCompile(`\b(TODO|FIXME|XXX)\b`)

func TestFilesAreFinishedAndShort(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range packages(t) {
		for _, file := range p.files() {
			rel := path.Join(p.name(), filepath.Base(file))
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if n := bytes.Count(b, []byte("\n")); n > maxLines && long[rel] == "" {
				t.Errorf("%s has %d lines; split it, or say in the table why not", rel, n)
			} else if n > maxLines {
				seen[rel] = true
			}
			for _, g := range parse(t, file).Comments {
				if m := unfinished.FindString(g.Text()); m != "" {
					t.Errorf("%s has a comment with %s", rel, m)
				}
			}
		}
	}
	for rel := range long {
		if !seen[rel] {
			t.Errorf("%s is not that long any more: take it off the list", rel)
		}
	}
}

func parse(t *testing.T, file string) *ast.File {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	return f
}
