package accepted

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// README has what becomes of fields between these lines.
const (
	begin = "<!-- what becomes of fields: made by `go test ./httpapi/accepted -update` -->\n"
	end   = "<!-- end -->\n"
)

// absences is what README says: of all that is refused or warned of the fields, by kind, and what happens.
func absences() string {
	var b strings.Builder
	group := func(title string, of func(Row) bool) {
		var says []string
		kinds := map[string][]string{}             // by what is said
		fields := map[string]map[string][]string{} // and by kind
		for _, r := range Rows() {
			if !of(r) {
				continue
			}
			if fields[r.Say] == nil {
				says, fields[r.Say] = append(says, r.Say), map[string][]string{}
			}
			if fields[r.Say][r.Kind] == nil {
				kinds[r.Say] = append(kinds[r.Say], r.Kind)
			}
			for _, p := range r.Paths {
				fields[r.Say][r.Kind] = append(fields[r.Say][r.Kind], join(p, r.leaf))
			}
		}
		b.WriteString(title + "\n\n")
		for _, text := range says {
			var of []string
			for _, k := range kinds[text] {
				of = append(of, k+" "+short(fields[text][k]))
			}
			b.WriteString("- " + strings.Join(of, "; "))
			if text != "" {
				b.WriteString(": " + text)
			}
			b.WriteString("\n")
		}
		b.WriteString("\n")
	}
	group("Refused:", func(r Row) bool { return r.Is == Refused && (r.By == Refuser || r.Say == "") })
	group("Refused by the node, and said in a warning before:", func(r Row) bool { return r.Is == Refused && r.By != Refuser && r.Say != "" })
	group("Accepted with a warning:", func(r Row) bool { return r.Is == Warned && r.Dropped == "" })
	var gates []string
	for _, r := range Rows() {
		if r.Dropped != "" {
			gates = append(gates, r.Dropped)
		}
	}
	slices.Sort(gates)
	b.WriteString("Dropped with a warning: the fields of features that upstream has off by default, " + strings.Join(slices.Compact(gates), ", ") + ".\n\n")
	return b.String()
}

// short are paths with what they have in common written once, and without the spec that all have.
func short(paths []string) string {
	common := strings.Split(paths[0], ".")
	common = common[:len(common)-1]
	for _, p := range paths[1:] {
		for len(common) > 0 && !below(p, strings.Join(common, ".")) {
			common = common[:len(common)-1]
		}
	}
	prefix := strings.Join(common, ".")
	var rest []string
	for _, p := range paths {
		rest = append(rest, strings.TrimPrefix(strings.TrimPrefix(p, prefix), "."))
	}
	prefix = strings.TrimPrefix(strings.TrimPrefix(prefix, "spec"), ".")
	switch {
	case prefix == "":
		return "`" + strings.Join(rest, "`, `") + "`"
	case len(rest) == 1:
		return "`" + prefix + "." + rest[0] + "`"
	}
	return "`" + prefix + "`: `" + strings.Join(rest, "`, `") + "`"
}

// TestReadme: README says of fields what the table says.
func TestReadme(t *testing.T) {
	file := filepath.Join("..", "..", "README.md")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	has, after, ended := strings.Cut(rest, end)
	if !ok || !ended {
		t.Fatalf("%s has no part from %q to %q", file, begin, end)
	}
	want := "\n" + absences()
	if *update && has != want {
		if err := os.WriteFile(file, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := differ(has, want); diff != "" {
		t.Errorf("%s is not what the table says; run with -update:\n%s", file, diff)
	}
}
