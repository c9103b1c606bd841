package seal

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func create(t testing.TB) *Key {
	t.Helper()
	k, err := Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestRoundTrip: a text opens as it was, for its owner and under its key, and for and under no other; twice sealed, it is two texts.
func TestRoundTrip(t *testing.T) {
	k, other := create(t), create(t)
	for _, text := range []string{"", "x", Prefix, v1 + "AAAA", "one\ntwo\x00\xff", strings.Repeat("long", 1<<18)} {
		a, b := k.Seal(text, Owner("u", "c")), k.Seal(text, Owner("u", "c"))
		if a == b || !Is(a) || text != "" && len(text) > 3 && strings.Contains(a[len(v1):], text) {
			t.Errorf("%.20q is sealed as %.40q and %.40q", text, a, b)
		}
		if got, err := k.Open(a, Owner("u", "c")); err != nil || got != text {
			t.Errorf("%.20q opens as %.20q, %v", text, got, err)
		}
		for what, open := range map[string]func() (string, error){
			"of another pod":       func() (string, error) { return k.Open(a, Owner("v", "c")) },
			"of another container": func() (string, error) { return k.Open(a, Owner("u", "d")) },
			"under another key":    func() (string, error) { return other.Open(a, Owner("u", "c")) },
			"cut":                  func() (string, error) { return k.Open(a[:len(a)-1], Owner("u", "c")) },
			"of another version":   func() (string, error) { return k.Open(strings.Replace(a, "v1", "v2", 1), Owner("u", "c")) },
		} {
			if got, err := open(); err == nil || got != "" || len(text) > 3 && strings.Contains(err.Error(), text) {
				t.Errorf("%.20q, %s: %q, %v", text, what, got, err)
			}
		}
	}
}

// TestKeyFile: the key outlives who made it, only its owner may read it, and what is no key is said to be none.
func TestKeyFile(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(dir); !errors.Is(err, ErrNoKey) {
		t.Errorf("of nothing: %v", err)
	}
	made, err := Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, "key"))
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	read, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := read.Open(made.Seal("x", "o"), "o"); err != nil || got != "x" || !made.Kept(dir) || create(t).Kept(dir) {
		t.Errorf("%q %v", got, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "key"), []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil || errors.Is(err, ErrNoKey) || made.Kept(dir) {
		t.Errorf("of a short one: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%v %v", entries, err)
	}
}

const annotated = `"annotations":{"io.kubernetes.cri.sandbox-uid":"u","io.kubernetes.cri.container-name":"c"}`

func quote(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

// TestConfig: variables and arguments are opened and nothing else is touched; what cannot be is said by name and without what is in it.
func TestConfig(t *testing.T) {
	k := create(t)
	sealed := func(text string) string { return k.Seal(text, Owner("u", "c")) }
	have := func() (*Key, error) { return k, nil }
	for name, c := range map[string]struct{ in, want, err string }{
		"nothing sealed": {in: `{"process":{"env":["A=b"],"args":["a"]}}`},
		"only mentioned": {in: `{"process":{"env":["A=see ` + Prefix + `"],"args":["a","x` + sealed("s") + `"],"cwd":"` + sealed("s") + `"},` + annotated + `}`},
		"a variable": {in: `{"x":[1,2.50,{"y":"` + Prefix + `"}],"root":{"path":"rootfs","readonly":true},"process":{"env":["A=b","S=` + sealed("a \"b\"=<c>\n") + `","D=e"],"args":["a"],"z":18446744073709551615},` + annotated + `}`,
			want: `{` + annotated + `,"process":{"args":["a"],"env":["A=b","S=a \"b\"=\u003cc\u003e\n","D=e"],"z":18446744073709551615},"root":{"path":"/b/rootfs","readonly":true},"x":[1,2.50,{"y":"` + Prefix + `"}]}`},
		"arguments": {in: `{"root":{"path":"/r"},"process":{"args":["a","` + sealed("b") + `","c"]},` + annotated + `}`,
			want: `{` + annotated + `,"process":{"args":["a","b","c"]},"root":{"path":"/r"}}`},
		"what looks sealed, sealed": {in: `{"process":{"env":["A=` + sealed(v1+"AAAA") + `"]},` + annotated + `}`, want: `{` + annotated + `,"process":{"env":["A=` + v1 + `AAAA"]}}`},
		"what looks sealed":         {in: `{"process":{"env":["A=` + v1 + `AAAA"]},` + annotated + `}`, err: "variable A: it was sealed for another container"},
		"of another pod":            {in: `{"process":{"env":["A=` + k.Seal("secret", Owner("v", "c")) + `"]},` + annotated + `}`, err: "variable A: it was sealed for another container"},
		"of nobody":                 {in: `{"process":{"env":["A=` + sealed("secret") + `"]}}`, err: "variable A: it was sealed for another container"},
		"broken":                    {in: `{"process":{"env":["A=` + v1 + `!"]},` + annotated + `}`, err: "variable A: it is sealed, and broken"},
		"of a later version":        {in: `{"process":{"env":["A=` + Prefix + `v9:AAAA"]},` + annotated + `}`, err: "variable A: it is not sealed in a way"},
		"an argument of another":    {in: `{"process":{"args":["a","` + v1 + `AAAA"]},` + annotated + `}`, err: "argument 1: it was sealed"},
		"the program":               {in: `{"process":{"args":["` + sealed("secret") + `"]},` + annotated + `}`, err: "the program that is to run is named by a Secret"},
		"a zero byte":               {in: `{"process":{"env":["A=` + sealed("sec\x00ret") + `"]},` + annotated + `}`, err: "variable A: the Secret has a zero byte"},
		"no configuration":          {in: `[` + quote(Prefix) + `]`, err: "cannot unmarshal"},
		"no environment":            {in: `{"process":{"env":"A=` + Prefix + `"}}`, err: "env: "},
	} {
		got, err := Config([]byte(c.in), "/b", have)
		if string(got) != c.want || (err == nil) != (c.err == "") || err != nil && (!strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "secret")) {
			t.Errorf("%s:\n%s, %v\nwant\n%s, %s", name, got, err, c.want, c.err)
		}
	}
	if _, err := Config([]byte(`{"process":{"env":["A=`+sealed("s")+`"]},`+annotated+`}`), "/b", func() (*Key, error) { return Load(t.TempDir()) }); !errors.Is(err, ErrNoKey) {
		t.Errorf("without a key: %v", err)
	}
}

// TestProcess: a command gets the container's variables; its arguments are those of who runs it, whatever they look like.
func TestProcess(t *testing.T) {
	k := create(t)
	sealed := k.Seal("b", Owner("u", "c"))
	state := func(text string) func() ([]byte, error) { return func() ([]byte, error) { return []byte(text), nil } }
	whose := state(`{"id":"x","config":{"labels":["io.kubernetes.cri.container-name=c","odd","io.kubernetes.cri.sandbox-uid=u","bundle=/b"]}}`)
	gone := func() ([]byte, error) { return nil, os.ErrNotExist }
	for name, c := range map[string]struct {
		in        string
		state     func() ([]byte, error)
		want, err string
	}{
		"nothing sealed":   {in: `{"env":["A=b"],"args":["a"]}`, state: gone},
		"only in argument": {in: `{"env":["A=b"],"args":["echo","` + sealed + `"]}`, state: gone},
		"a variable":       {in: `{"args":["echo","` + sealed + `"],"env":["A=` + sealed + `"],"terminal":true}`, state: whose, want: `{"args":["echo","` + sealed + `"],"env":["A=b"],"terminal":true}`},
		"of another":       {in: `{"env":["A=` + sealed + `"]}`, state: state(`{"config":{"labels":["io.kubernetes.cri.container-name=d","io.kubernetes.cri.sandbox-uid=u"]}}`), err: "variable A: it was sealed for another"},
		"of nobody":        {in: `{"env":["A=` + sealed + `"]}`, state: state(`{}`), err: "variable A: it was sealed for another"},
		"no state":         {in: `{"env":["A=` + sealed + `"]}`, state: gone, err: "does not exist"},
		"a broken state":   {in: `{"env":["A=` + sealed + `"]}`, state: state(`{`), err: "runc's state"},
	} {
		got, err := Process([]byte(c.in), c.state, func() (*Key, error) { return k, nil })
		if string(got) != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s:\n%s, %v\nwant\n%s, %s", name, got, err, c.want, c.err)
		}
	}
}

// FuzzOpen: what opens was sealed, for whom it opens.
func FuzzOpen(f *testing.F) {
	k := create(f)
	good := k.Seal("text", "owner")
	for _, s := range []string{"", Prefix, v1, good, good[:len(good)-4], v1 + "AAAA", strings.Replace(good, "v1", "v2", 1)} {
		f.Add(s, "owner")
	}
	f.Add(good, "other")
	f.Fuzz(func(t *testing.T, text, owner string) {
		if got, err := k.Open(text, owner); err == nil && (text != good || owner != "owner" || got != "text") {
			t.Errorf("%q opens for %q as %q", text, owner, got)
		}
	})
}

// FuzzConfig: whatever a configuration is, it is left alone, refused, or handed on without a sealed variable; and nothing but process and
// root is changed.
func FuzzConfig(f *testing.F) {
	k := create(f)
	for _, text := range []string{"", "null", "{}", `{"process":{"env":["A=` + k.Seal("x", Owner("u", "c")) + `"],"args":["a"]},"root":{"path":"r"},` + annotated + `}`,
		`{"process":{"env":["A=` + v1 + `"]}}`, `{"process":null,"x":"` + Prefix + `"}`, `{"process":{"env":null,"args":["` + Prefix + `"]}}`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := Config(text, "/b", func() (*Key, error) { return k, nil })
		if err != nil || got == nil {
			if got != nil {
				t.Errorf("%s and %v", got, err)
			}
			if f, bad := parse(text); err == nil && bad == nil && maySeal(text) {
				var process fields
				var env []string
				if errors.Join(f.into("process", &process), process.into("env", &env)) == nil {
					for _, e := range env {
						if _, value, _ := strings.Cut(e, "="); Is(value) {
							t.Errorf("%q is left in %s", e, text)
						}
					}
				}
			}
			return
		}
		var before, after map[string]json.RawMessage
		if err := errors.Join(json.Unmarshal(text, &before), json.Unmarshal(got, &after)); err != nil {
			t.Fatalf("%v: %s", err, got)
		}
		if len(before) != len(after) {
			t.Errorf("%d fields became %d", len(before), len(after))
		}
	})
}
