package accepted

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

var update = flag.Bool("update", false, "write testdata/fields and the README anew")

// opaque are types that are one value, whatever they are made of.
var opaque = []string{"Time", "MicroTime", "Duration", "Quantity", "IntOrString", "RawExtension", "JSONSchemaProps", "LabelSelector", "FieldsV1"}

// leaves walks a type to its leaves.
func leaves(t reflect.Type, path string, visit func(path string)) {
	t = inner(t)
	if t.Kind() != reflect.Struct || slices.Contains(opaque, t.Name()) || t.NumField() == 0 {
		visit(path)
		return
	}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Name == "TypeMeta" {
			continue
		}
		if name == "status" {
			visit(join(path, name))
			continue
		}
		leaves(f.Type, join(path, name), visit)
	}
}

// fields are all leaves of a kind, and those of them that are not as they are elsewhere in the table.
func fields(t *table, k Kind) (own, all []string) {
	leaves(reflect.TypeOf(k.External), "", func(path string) {
		all = append(all, path)
		if !slices.ContainsFunc(t.mounts, func(m mount) bool {
			return m.kind == k.Name && below(path, m.at) && t.find(k.Name, path) == t.find(m.as, join(m.from, path[len(m.at):]))
		}) {
			own = append(own, path)
		}
	})
	return own, all
}

// TestEveryFieldHasARow walks the types of all kinds, and holds what the table says of each field against testdata/fields: a field that
// upstream adds fails here until somebody has looked at what becomes of it, also where a row speaks of all around it.
func TestEveryFieldHasARow(t *testing.T) {
	table := newTable()
	var b strings.Builder
	for _, k := range Kinds() {
		own, all := fields(table, k)
		for _, path := range all {
			if table.find(k.Name, path) == nil {
				t.Errorf("%s %s has no row: say what becomes of it", k.Name, path)
			}
		}
		fmt.Fprintf(&b, "%s\n", k.Name)
		for _, path := range own {
			if r := table.find(k.Name, path); r != nil {
				fmt.Fprintf(&b, "  %-12s %s%s\n", r.Is, path, qualified(r))
			}
		}
	}
	golden := filepath.Join("testdata", "fields")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := differ(string(want), b.String()); diff != "" {
		t.Errorf("what becomes of fields is not what %s says; look at each, then run with -update:\n%s", golden, diff)
	}
}

// qualified is what limits a row.
func qualified(r *Row) string {
	switch {
	case r.Dropped != "":
		return " (dropped)"
	case len(r.Unless) > 0:
		return " (unless " + strings.Join(r.Unless, ", ") + ")"
	}
	return ""
}

// differ lists the lines that only one of two texts has.
func differ(a, b string) string {
	var out []string
	only := func(mark, a, b string) {
		have := strings.Split(b, "\n")
		for line := range strings.SplitSeq(a, "\n") {
			if !slices.Contains(have, line) {
				out = append(out, mark+line)
			}
		}
	}
	only("-", a, b)
	only("+", b, a)
	if len(out) == 0 && a != b {
		return "the order"
	}
	return strings.Join(out, "\n")
}

// TestRowsAreOfFields: no row speaks of what is not there, twice of one field, or without what its disposition needs.
func TestRowsAreOfFields(t *testing.T) {
	paths := map[string][]string{}
	for _, k := range Kinds() {
		_, paths[k.Name] = fields(newTable(), k)
		paths[every] = append(paths[every], paths[k.Name]...)
	}
	seen := map[string]bool{}
	for _, r := range Rows() {
		if len(r.Paths) == 0 {
			t.Errorf("a row of %s has no path", r.Kind)
		}
		for _, p := range r.Paths {
			if seen[r.Kind+" "+p] {
				t.Errorf("%s %s has two rows", r.Kind, p)
			}
			seen[r.Kind+" "+p] = true
			plain, _, _ := strings.Cut(p, "[")
			if !slices.ContainsFunc(paths[r.Kind], func(leaf string) bool { return below(leaf, plain) }) {
				t.Errorf("%s has no field %s", r.Kind, p)
			}
		}
		switch r.Is {
		case Acted, Refused:
			if r.By == "" || r.Test == "" {
				t.Errorf("%s %v: by whom, and what shows it?", r.Kind, r.Paths)
			}
		case Warned:
			if r.Say == "" || r.By != "" {
				t.Errorf("%s %v: a warning says something, and nobody acts", r.Kind, r.Paths)
			}
		case Kept:
			if r.Say != "" || r.By != "" || r.Test != "" {
				t.Errorf("%s %v is kept, that is all", r.Kind, r.Paths)
			}
		default:
			t.Errorf("%s %v: %q is no disposition", r.Kind, r.Paths, r.Is)
		}
	}
}

// unsaid are fields that somebody acts on and that the test of their row does not set by name, and what there is instead. A path speaks of all below it.
var unsaid = map[string]string{
	"CertificateSigningRequest spec.expirationSeconds":                            "the test asks for the life that follows from each number of seconds",
	"ClusterRole aggregationRule.clusterRoleSelectors":                            "the default roles that the test asks have it",
	"CustomResourceDefinition spec.names.categories":                              "upstream's discovery",
	"CustomResourceDefinition spec.preserveUnknownFields":                         "upstream's validation: it must be false",
	"CustomResourceDefinition spec.versions.additionalPrinterColumns":             "upstream's tables; the test has columns with a name, a type and a path",
	"CustomResourceDefinition spec.versions.deprecationWarning":                   "upstream's serving; the test has the warning without it",
	"CustomResourceDefinition spec.versions.subresources.scale.labelSelectorPath": "upstream's serving; the test has the other two paths of scale",
	"FlowSchema spec.rules":                                                       "upstream's filter; the default schemas have them",
	"MutatingWebhookConfiguration webhooks.clientConfig.service.port":             "upstream's client; the test has the port that it defaults to",
	"MutatingWebhookConfiguration webhooks.matchPolicy":                           "upstream's matching, the same as that of policies in TestPolicyMatching",
	"MutatingWebhookConfiguration webhooks.objectSelector":                        "upstream's matching, the same as that of policies in TestPolicyMatching",
	"MutatingWebhookConfiguration webhooks.reinvocationPolicy":                    "upstream's dispatcher; the suite's specs",
	"MutatingWebhookConfiguration webhooks.rules.scope":                           "upstream's matching, the same as that of policies in TestPolicyMatching",
	"Pod spec.ephemeralContainers.targetContainerName":                            "node/pod hands the target on, node/containerd shares its processes; only kubectl debug sets it",
	"Pod spec.volumes.projected.sources.clusterTrustBundle.path":                  "files of all sources are written by the same function",
	"PriorityLevelConfiguration spec":                                             "upstream's queues; the test has levels with few seats that reject",
	"RuntimeClass handler":                                                        "node/pod hands it to containerd; the suite's RuntimeClass specs",
	"ValidatingAdmissionPolicy spec.auditAnnotations":                             "upstream's evaluation",
	"ValidatingAdmissionPolicy spec.validations.messageExpression":                "upstream's evaluation",
	"MutatingAdmissionPolicyBinding spec.paramRef.selector":                       "upstream's evaluation; the test has parameters by name",
	"ValidatingAdmissionPolicyBinding spec.paramRef.selector":                     "upstream's evaluation; the test has parameters by name",
	"ValidatingWebhookConfiguration webhooks.clientConfig.service.port":           "upstream's client; the test has the port that it defaults to",
	"ValidatingWebhookConfiguration webhooks.matchPolicy":                         "upstream's matching, the same as that of policies in TestPolicyMatching",
	"ValidatingWebhookConfiguration webhooks.objectSelector":                      "upstream's matching, the same as that of policies in TestPolicyMatching",
	"ValidatingWebhookConfiguration webhooks.rules.scope":                         "upstream's matching, the same as that of policies in TestPolicyMatching",
}

// excused is the entry of unsaid that speaks of a field; "" is none.
func excused(kind, path string) string {
	for what := range unsaid {
		if k, p, _ := strings.Cut(what, " "); k == kind && below(path, p) {
			return what
		}
	}
	return ""
}

// TestRowsAreTrueToTheTree: packages that rows name are there, so are the tests that show it, and what is to be shown occurs in the test itself, in what it
// calls or in the data that it reads: a test that never says the name of a field shows nothing of it.
func TestRowsAreTrueToTheTree(t *testing.T) {
	root := filepath.Join("..", "..")
	packages := map[string]*testsOf{}
	of := func(pkg string) *testsOf {
		if packages[pkg] == nil {
			packages[pkg] = readTests(t, root, pkg)
		}
		return packages[pkg]
	}
	for _, r := range Rows() {
		if r.By != "" {
			if files, err := filepath.Glob(filepath.Join(root, r.By, "*.go")); err != nil || len(files) == 0 {
				t.Errorf("%s %v is %s by %s, which is no package", r.Kind, r.Paths, r.Is, r.By)
			}
		}
		if r.Test == "" {
			continue
		}
		pkg, name, _ := strings.Cut(r.Test, ".")
		if !of(pkg).has(name) {
			t.Errorf("%s %v: there is no test %s", r.Kind, r.Paths, r.Test)
		}
		// An entry of a map is shown by an entry of its sort.
		for _, p := range r.Paths {
			if _, key, keyed := strings.Cut(strings.TrimSuffix(p, "]"), "["); keyed && r.Is == Acted && !strings.Contains(of(pkg).text(name), strings.Trim(key, "*")) {
				t.Errorf("%s %s is to be shown by %s, where nobody says it", r.Kind, p, r.Test)
			}
		}
	}
	table, needed := newTable(), map[string]bool{}
	for _, k := range Kinds() {
		own, _ := fields(table, k)
		names := goNames(k)
		for _, path := range own {
			r := table.find(k.Name, path)
			if r == nil || r.Is != Acted {
				continue
			}
			pkg, test, _ := strings.Cut(r.Test, ".")
			last := path[strings.LastIndexByte(path, '.')+1:]
			said := of(pkg).words(test)
			if said[last] || said[names[path]] {
				continue
			}
			if what := excused(k.Name, path); what != "" {
				needed[what] = true
			} else {
				t.Errorf("%s %s is to be shown by %s, where nobody says it; those that do: %v", k.Name, path, r.Test, of(pkg).saying(last, names[path]))
			}
		}
	}
	for what := range unsaid {
		if !needed[what] {
			t.Errorf("%s is excused, and need not be", what)
		}
	}
}

// testsOf are the tests of a package, by what they are made of.
type testsOf struct {
	// source is the text of each top-level declaration, names what it refers to.
	source map[string]string
	names  map[string][]string
	// data is what is in testdata, by file.
	data map[string]string
	said map[string]map[string]bool
}

func readTests(t *testing.T, root, pkg string) *testsOf {
	t.Helper()
	p := &testsOf{source: map[string]string{}, names: map[string][]string{}, data: map[string]string{}, said: map[string]map[string]bool{}}
	dir := filepath.Join(root, pkg)
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	// What tests of the kubelet and of its driver have in common.
	common, err := filepath.Glob(filepath.Join(root, "node/pod/podtest/*.go"))
	if err != nil {
		t.Fatal(err)
	}
	set := token.NewFileSet()
	for _, file := range append(files, common...) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := parser.ParseFile(set, file, text, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parsed.Decls {
			var names []string
			switch d := d.(type) {
			case *ast.FuncDecl:
				names = []string{d.Name.Name}
			case *ast.GenDecl:
				for _, s := range d.Specs {
					switch s := s.(type) {
					case *ast.ValueSpec:
						for _, n := range s.Names {
							names = append(names, n.Name)
						}
					case *ast.TypeSpec:
						names = append(names, s.Name.Name)
					}
				}
			}
			var used []string
			ast.Inspect(d, func(n ast.Node) bool {
				if id, ok := n.(*ast.Ident); ok {
					used = append(used, id.Name)
				}
				return true
			})
			source := string(text[set.Position(d.Pos()).Offset:set.Position(d.End()).Offset])
			for _, n := range names {
				p.source[n] += source
				p.names[n] = append(p.names[n], used...)
			}
		}
	}
	if err := filepath.WalkDir(filepath.Join(dir, "testdata"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return nil
		}
		text, err := os.ReadFile(path)
		p.data[path[len(dir)+1:]] = string(text)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *testsOf) has(test string) bool { return strings.HasPrefix(p.source[test], "func "+test+"(") }

// text is what a test is made of: itself, what it refers to, and the data that it names.
func (p *testsOf) text(test string) string {
	var b strings.Builder
	seen := map[string]bool{}
	var follow func(string)
	follow = func(name string) {
		if seen[name] || p.source[name] == "" || name != test && strings.HasPrefix(name, "Test") {
			return
		}
		seen[name] = true
		b.WriteString(p.source[name] + "\n")
		for _, n := range p.names[name] {
			follow(n)
		}
	}
	follow(test)
	own := b.String()
	for path, text := range p.data {
		// A test names the directory, or the file, that it reads.
		parts := strings.Split(path, "/")
		for i := len(parts); i > 0; i-- {
			if strings.Contains(own, strconv.Quote(strings.Join(parts[:i], "/"))) || i > 1 && strings.Contains(own, strconv.Quote("testdata")) && strings.Contains(own, strconv.Quote(parts[i-1])) {
				b.WriteString(text + "\n")
				break
			}
		}
	}
	return b.String()
}

// saying lists the tests that say one of some words.
func (p *testsOf) saying(words ...string) (out []string) {
	for name := range p.source {
		if strings.HasPrefix(name, "Test") && p.has(name) && slices.ContainsFunc(words, func(w string) bool { return w != "" && p.words(name)[w] }) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func (p *testsOf) words(test string) map[string]bool {
	if p.said[test] == nil {
		p.said[test] = map[string]bool{}
		for word := range strings.FieldsFuncSeq(p.text(test), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }) {
			p.said[test][word] = true
		}
	}
	return p.said[test]
}

// goNames are the names of a kind's leaves in Go.
func goNames(k Kind) map[string]string {
	out := map[string]string{}
	leaves(reflect.TypeOf(k.External), "", func(path string) {
		t, name := reflect.TypeOf(k.External), ""
		for element := range strings.SplitSeq(path, ".") {
			f, ok := named(inner(t), element)
			if !ok {
				return
			}
			t, name = f.Type, f.Name
		}
		out[path] = name
	})
	return out
}

// inner is what a pointer, a list or a map is of.
func inner(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
		t = t.Elem()
	}
	return t
}

// TestCompile: what rows say something of can be found in internal objects.
func TestCompile(t *testing.T) {
	if _, err := New(); err != nil {
		t.Fatal(err)
	}
	table := newTable()
	for _, k := range Kinds() {
		said := table.said(k.Name)
		_, all := fields(table, k)
		for _, path := range all {
			r := table.find(k.Name, path)
			if r == nil || r.Say == "" {
				continue
			}
			if !slices.ContainsFunc(slices.Collect(maps.Keys(said)), func(p string) bool { return below(path, p) && said[p] == r }) {
				t.Errorf("%s %s: nobody would be told %q", k.Name, path, r.Say)
			}
		}
	}
}
