package admit

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"k8s.io/apiserver/pkg/admission"
)

// absent are plugins that upstream enables by default and that are not here, and why.
var absent = map[string]string{}

// added are plugins of the chain that upstream does not enable by default, and why they are here.
var added = map[string]string{
	"NodeRestriction":        "upstream leaves it to who sets a cluster up, and kubeadm and k3s enable it: a node is no administrator",
	"DenyServiceExternalIPs": "upstream leaves it to who sets a cluster up: an external address takes the traffic for it on every node. Config.ExternalIPs lets it out",
	"ReservedNames":          "ours: annotations and a group by which nodes and controllers tell each other things; after all that is built in, before policies and webhooks",
	"AcceptedFields":         "ours: who sets a field that nothing acts on is told so (httpapi/accepted); the last of ours, of what is stored when all of them are through",
	"PlacementRecord":        "ours: a new pod says who places it; after ReservedNames, which drops what its maker said of that",
}

// TestChain: the chain is what upstream enables by default, in upstream's order, but for what the two tables say.
func TestChain(t *testing.T) {
	all, byDefault := upstream(t)
	if len(all) < 30 || len(byDefault) < 20 {
		t.Fatalf("read %d plugins of upstream, %d of them on by default", len(all), len(byDefault))
	}
	var have []string
	for _, p := range chain(Config{Arbiter: func() map[string]string { return nil }}) {
		have = append(have, p.name)
	}
	for _, name := range all {
		if slices.Contains(byDefault, name) && !slices.Contains(have, name) && absent[name] == "" {
			t.Errorf("upstream enables %s by default; it is not here, and nothing says why", name)
		}
	}
	for name := range absent {
		if slices.Contains(have, name) || !slices.Contains(byDefault, name) {
			t.Errorf("%s is here, or not on by default upstream: take it off the list of what is absent", name)
		}
	}
	var known []string
	for _, name := range have {
		switch {
		case !slices.Contains(byDefault, name) && added[name] == "":
			t.Errorf("%s is not on by default upstream, and nothing says why it is here", name)
		case slices.Contains(all, name):
			known = append(known, name)
		}
	}
	for name := range added {
		if !slices.Contains(have, name) || slices.Contains(byDefault, name) {
			t.Errorf("%s is not here, or on by default upstream: take it off the list of what is added", name)
		}
	}
	if !slices.IsSortedFunc(known, func(a, b string) int { return slices.Index(all, a) - slices.Index(all, b) }) {
		t.Errorf("the order is %v, upstream's %v", known, all)
	}
	// Ours stand between the last that is built in and the first that users make.
	ours := slices.Index(have, reservedName)
	if have[ours-1] != "PodResizeValidator" || have[ours+1] != placementName || have[ours+2] != acceptedName || have[ours+3] != "MutatingAdmissionPolicy" {
		t.Errorf("ours stand between %v", have[ours-1:ours+4])
	}
	var open []string
	for _, p := range chain(Config{ExternalIPs: true}) {
		open = append(open, p.name)
	}
	if slices.Contains(open, "DenyServiceExternalIPs") {
		t.Error("external addresses are let in, and refused")
	}
}

// TestPluginsAreNamedAsTheyRegister: a name of the chain without its plugin would be a panic at the start.
func TestPluginsAreNamedAsTheyRegister(t *testing.T) {
	for _, p := range chain(Config{Arbiter: func() map[string]string { return nil }}) {
		plugins := admission.NewPlugins()
		p.register(plugins)
		if got := plugins.Registered(); len(got) != 1 || got[0] != p.name {
			t.Errorf("%s registers %v", p.name, got)
		}
	}
}

// upstream reads the names of upstream's plugins in order, and of those that are on by default, from its source: the package that
// holds them needs half of an API server.
func upstream(t *testing.T) (all, byDefault []string) {
	t.Helper()
	file := filepath.Join(dirs(t, "k8s.io/kubernetes/pkg/kubeapiserver/options")["k8s.io/kubernetes/pkg/kubeapiserver/options"], "plugins.go")
	source, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	paths := map[string]string{} // by the name of the import
	for _, i := range source.Imports {
		p, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		name := path.Base(p)
		if i.Name != nil {
			name = i.Name.Name
		}
		paths[name] = p
	}
	var of []string
	for _, p := range paths {
		if strings.Contains(p, "admission/") {
			of = append(of, p)
		}
	}
	names := map[string]string{} // of plugins, by path
	for p, dir := range dirs(t, of...) {
		names[p] = pluginName(t, dir)
	}
	read := func(list []ast.Expr) (out []string) {
		for _, e := range list {
			if sel, ok := e.(*ast.SelectorExpr); ok && sel.Sel.Name == "PluginName" {
				out = append(out, names[paths[sel.X.(*ast.Ident).Name]])
			}
		}
		return out
	}
	ast.Inspect(source, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ValueSpec:
			if n.Names[0].Name == "AllOrderedPlugins" {
				all = read(n.Values[0].(*ast.CompositeLit).Elts)
			}
		case *ast.AssignStmt:
			if name, ok := n.Lhs[0].(*ast.Ident); ok && name.Name == "defaultOnPlugins" {
				byDefault = read(n.Rhs[0].(*ast.CallExpr).Args)
			}
		}
		return true
	})
	if slices.Contains(all, "") || slices.Contains(byDefault, "") {
		t.Fatalf("a plugin without a name in %q or %q", all, byDefault)
	}
	return all, byDefault
}

// dirs is where packages are.
func dirs(t *testing.T, packages ...string) map[string]string {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list", "-find", "-f", "{{.ImportPath}} {{.Dir}}"}, packages...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	found := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if p, dir, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			found[p] = dir
		}
	}
	return found
}

// pluginName is the constant of that name in a package.
func pluginName(t *testing.T, dir string) (name string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		source, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(source, func(n ast.Node) bool {
			if spec, ok := n.(*ast.ValueSpec); ok && spec.Names[0].Name == "PluginName" && len(spec.Values) == 1 {
				if lit, ok := spec.Values[0].(*ast.BasicLit); ok {
					if name, err = strconv.Unquote(lit.Value); err != nil {
						t.Fatal(err)
					}
				}
			}
			return true
		})
	}
	return name
}
