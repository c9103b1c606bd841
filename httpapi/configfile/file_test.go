package configfile

import (
	"strings"
	"testing"

	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	"k8s.io/apiserver/pkg/apis/audit/validation"
	"k8s.io/apiserver/pkg/audit"
)

// TestPlaces: what is wrong in a file is said with its line and column.
func TestPlaces(t *testing.T) {
	const head = "apiVersion: audit.k8s.io/v1\nkind: Policy\n"
	for _, c := range []struct{ name, file, want string }{
		{"good", head + "rules:\n- level: Metadata\n", ""},
		{"good, as JSON", `{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [{"level": "None"}]}`, ""},
		{"empty", "", "f:1:1: the file is empty"},
		{"only a comment", "# nothing\n", "f:1:1: the file is empty"},
		{"two documents", head + "rules:\n- level: None\n---\na: b\n", "f:6:2: a second document"},
		{"syntax", head + "rules:\n- level: [None\n", "f:4:10: "},
		{"a tab", head + "rules:\n\t- level: None\n", "f:4:1: "},
		{"unknown field", head + "rules:\n- level: None\n- level: None\n  vebrs: [get]\n", "f:6:3: unknown field rules[1].vebrs"},
		{"duplicate field", head + "rules:\n- level: None\n  level: Metadata\n", "f:5:3: "},
		{"wrong type", head + "rules:\n- level: None\n  verbs: get\n", "f:5:3: "},
		{"invalid", head + "rules:\n- level: None\n- level: Everything\n", `f:5:3: rules[1].level: Unsupported value: "Everything"`},
		{"invalid, twice", head + "rules:\n- level: Nothing\n- level: None\n  nonResourceURLs: ['*/x']\n", `f:6:21: rules[1].nonResourceURLs[0]: Invalid value: "*/x"`},
		{"no version", "kind: Policy\nrules: []\n", "f:1:"},
		{"no kind", "apiVersion: audit.k8s.io/v1\nrules: []\n", "f:1:"},
		{"another version", "\nkind: Policy\napiVersion: audit.k8s.io/v9\n", "f:3:1: "},
		{"another kind", "kind: Event\napiVersion: audit.k8s.io/v1\n", "f:1:1: "},
		{"no object", "- 1\n", "f:1:"},
	} {
		p := &auditinternal.Policy{}
		f, err := Parse("f", []byte(c.file))
		if err == nil {
			err = f.Decode(audit.Scheme, p)
		}
		if err == nil {
			err = f.Invalid(validation.ValidatePolicy(p))
		}
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// FuzzParse: no file breaks the reader.
func FuzzParse(f *testing.F) {
	f.Add([]byte("a: [1, {b: c}]\n"))
	f.Add([]byte("a: &x\n  b: *x\n"))
	f.Fuzz(func(_ *testing.T, b []byte) {
		file, err := Parse("f", b)
		if err != nil {
			return
		}
		_ = file.Decode(audit.Scheme, &auditinternal.Policy{})
		_ = file.Error("rules[0].level", "x")
	})
}
