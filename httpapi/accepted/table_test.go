package accepted

import (
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
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

// unsaid are fields that somebody acts on and no test of ours sets by name, and what there is instead.
var unsaid = map[string]string{
	"ClusterRole aggregationRule.clusterRoleSelectors":                            "the default roles that the test asks have it",
	"CustomResourceDefinition spec.versions.deprecationWarning":                   "upstream's serving; the test has the warning without it",
	"CustomResourceDefinition spec.versions.subresources.scale.labelSelectorPath": "upstream's serving; the test has the other two paths of scale",
	"FlowSchema spec.rules.resourceRules.clusterScope":                            "upstream's filter; the default schemas have it",
	"Pod spec.containers.lifecycle.postStart.httpGet.scheme":                      "upstream's probe package makes the request; the suite's hooks over HTTPS",
	"Pod spec.containers.livenessProbe.httpGet.scheme":                            "upstream's probe package makes the request",
	"Pod spec.containers.livenessProbe.successThreshold":                          "node/pod's prober counts; only the suite sets it",
	"Pod spec.ephemeralContainers.targetContainerName":                            "node/pod hands the target on, node/containerd shares its processes; only kubectl debug sets it",
	"RuntimeClass handler":                                                        "node/pod hands it to containerd; the suite's RuntimeClass specs",
	"ValidatingAdmissionPolicy spec.validations.messageExpression":                "upstream's evaluation",
}

// TestRowsAreTrueToTheTree: packages that rows name are there, so are the tests that show it, and what is to be shown occurs in what they are
// made of: a test that never says the name of a field shows nothing of it.
func TestRowsAreTrueToTheTree(t *testing.T) {
	root := filepath.Join("..", "..")
	read := func(dir string, tests bool) string {
		var b strings.Builder
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, e fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case e.IsDir() && path != filepath.Join(root, dir) && !strings.Contains(path, "testdata"):
				return fs.SkipDir // another package
			case !e.IsDir() && (!tests || strings.HasSuffix(path, "_test.go") || strings.Contains(path, "testdata")):
				text, err := os.ReadFile(path)
				b.Write(text)
				return err
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	world := read("node/pod/podtest", false) // what tests of the kubelet and of its driver have in common
	tests := map[string]string{}
	of := func(pkg string) string {
		if _, ok := tests[pkg]; !ok {
			tests[pkg] = read(pkg, true)
			if strings.Contains(tests[pkg], "podtest.Conform(") {
				tests[pkg] += world
			}
		}
		return tests[pkg]
	}
	words := map[string]map[string]bool{}
	wordsOf := func(pkg string) map[string]bool {
		if words[pkg] == nil {
			words[pkg] = map[string]bool{}
			for word := range strings.FieldsFuncSeq(of(pkg), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }) {
				words[pkg][word] = true
			}
		}
		return words[pkg]
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
		if !regexp.MustCompile(`(?m)^func ` + regexp.QuoteMeta(name) + `\(`).MatchString(of(pkg)) {
			t.Errorf("%s %v: there is no test %s", r.Kind, r.Paths, r.Test)
		}
	}
	table := newTable()
	for _, k := range Kinds() {
		own, _ := fields(table, k)
		names := goNames(k)
		for _, path := range own {
			r := table.find(k.Name, path)
			if r == nil || r.Is != Acted {
				continue
			}
			pkg, _, _ := strings.Cut(r.Test, ".")
			last := path[strings.LastIndexByte(path, '.')+1:]
			if unsaid[k.Name+" "+path] != "" {
				continue
			}
			if said := wordsOf(pkg); !said[last] && !said[names[path]] {
				t.Errorf("%s %s is to be shown by %s, where nobody says it", k.Name, path, r.Test)
			}
		}
	}
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
