package encryption

import (
	"bytes"
	"context"
	"encoding/base64"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "encryption.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func load(t *testing.T, resources string) *Encryption {
	t.Helper()
	e, err := Load(file(t, head+resources))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

const head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n"

// secret is a key's secret of 32 bytes.
func secret(b byte) string { return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{b}, 32)) }

func TestEncryption(t *testing.T) {
	e := load(t, `- resources: [secrets, widgets.example.com]
  providers:
  - secretbox: {keys: [{name: two, secret: `+secret(2)+`}, {name: one, secret: `+secret(1)+`}]}
  - aesgcm: {keys: [{name: old, secret: `+secret(3)+`}]}
  - identity: {}
- resources: ["*.apps"]
  providers: [{aesgcm: {keys: [{name: a, secret: `+secret(4)+`}]}}]
- resources: ["*."]
  providers: [{identity: {}}]
`)
	plain := []byte("\x01what is in it")
	for resource, want := range map[string]string{
		"secrets": "k8s:enc:secretbox:v1:two:", "example.com/widgets": "k8s:enc:secretbox:v1:two:", "apps/deployments": "k8s:enc:aesgcm:v1:a:",
		"configmaps": "\x01", "batch/jobs": "\x01", "example.org/widgets": "\x01",
	} {
		stored, err := e.Seal(resource, "n", plain)
		if err != nil || !bytes.HasPrefix(stored, []byte(want)) || want[0] == 'k' && bytes.Contains(stored, plain) {
			t.Errorf("%s is stored as %q, %v", resource, stored, err)
		}
		back, stale, err := e.Open(resource, "n", stored)
		if err != nil || stale || !bytes.Equal(back, plain) {
			t.Errorf("%s is read as %q, stale %v, %v", resource, back, stale, err)
		}
		if _, stale, err := e.Open(resource, "n", plain); err != nil || stale != (want[0] == 'k') {
			t.Errorf("%s that is plain: stale %v, %v", resource, stale, err)
		}
	}
	// What another key or provider of the list wrote is read, and is to be written anew.
	for _, provider := range []string{"secretbox: {keys: [{name: one, secret: " + secret(1) + "}]}", "aesgcm: {keys: [{name: old, secret: " + secret(3) + "}]}"} {
		stored, err := load(t, "- resources: [secrets]\n  providers: [{"+provider+"}]\n").Seal("secrets", "n", plain)
		if err != nil {
			t.Fatal(err)
		}
		if back, stale, err := e.Open("secrets", "n", stored); err != nil || !stale || !bytes.Equal(back, plain) {
			t.Errorf("by %s: %q, stale %v, %v", provider, back, stale, err)
		}
	}
	stored, _ := e.Seal("apps/deployments", "n", plain)
	stored[len(stored)-1] ^= 1
	for what, open := range map[string]func() ([]byte, bool, error){
		"changed": func() ([]byte, bool, error) { return e.Open("apps/deployments", "n", stored) },
		"of another object": func() ([]byte, bool, error) {
			s, _ := e.Seal("apps/deployments", "m", plain)
			return e.Open("apps/deployments", "n", s)
		},
		"by no key of it":      func() ([]byte, bool, error) { return e.Open("secrets", "n", []byte("k8s:enc:secretbox:v1:three:xxxx")) },
		"by no provider of it": func() ([]byte, bool, error) { return e.Open("secrets", "n", []byte("k8s:enc:kms:v2:xxxx")) },
		"of a resource not named": func() ([]byte, bool, error) {
			return e.Open("batch/jobs", "n", []byte("k8s:enc:secretbox:v1:two:xxxx"))
		},
	} {
		if back, _, err := open(); err == nil {
			t.Errorf("what is %s is read as %q", what, back)
		}
	}
}

func TestIDSaysWhatIsWritten(t *testing.T) {
	one := "- resources: [secrets]\n  providers: [{secretbox: {keys: [{name: k, secret: " + secret(1) + "}%s]}}%s]\n"
	of := func(more ...string) string {
		return load(t, strings.Replace(strings.Replace(one, "%s", more[0], 1), "%s", more[1], 1)).ID()
	}
	was := of("", "")
	if got := of(", {name: old, secret: "+secret(2)+"}", ", {identity: {}}"); got != was {
		t.Error("what is only read is in the ID")
	}
	for what, text := range map[string]string{
		"another key of the name": strings.ReplaceAll(one, secret(1), secret(9)),
		"another resource":        strings.ReplaceAll(one, "[secrets]", "[secrets, configmaps]"),
		"another provider":        strings.ReplaceAll(one, "secretbox", "aesgcm"),
	} {
		if load(t, strings.ReplaceAll(text, "%s", "")).ID() == was {
			t.Errorf("%s: the ID is the same", what)
		}
	}
	if id := load(t, "- resources: [secrets]\n  providers: [{identity: {}}, {secretbox: {keys: [{name: k, secret: "+secret(1)+"}]}}]\n").ID(); id != "" {
		t.Errorf("what encrypts nothing has the ID %q", id)
	}
}

func TestOwnKeys(t *testing.T) {
	a, b := Key{Name: "a", Bytes: [32]byte{1}}, Key{Name: "b", Bytes: [32]byte{2}}
	old, err := OfSecrets(a)
	if err != nil {
		t.Fatal(err)
	}
	stored, err := old.Seal("secrets", "n", []byte("\x01x"))
	if err != nil {
		t.Fatal(err)
	}
	both, err := OfSecrets(b, a)
	if err != nil {
		t.Fatal(err)
	}
	off, err := NoLonger(b, a)
	if err != nil {
		t.Fatal(err)
	}
	for name, e := range map[string]*Encryption{"both": both, "off": off} {
		if back, stale, err := e.Open("secrets", "n", stored); err != nil || !stale || string(back) != "\x01x" {
			t.Errorf("%s: %q, stale %v, %v", name, back, stale, err)
		}
	}
	if plain, err := off.Seal("secrets", "n", []byte("\x01x")); err != nil || string(plain) != "\x01x" || off.ID() != "" {
		t.Errorf("turned off it is stored as %q, %v, ID %q", plain, err, off.ID())
	}
	none, err := OfSecrets()
	if err != nil || none.ID() != "" {
		t.Errorf("without keys: ID %q, %v", none.ID(), err)
	}
}

func TestWhatIsWrongIsSaidWithItsPlace(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", ":1:1: the file is empty"},
		{"apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n", "resources"},
		{head + "- resources: [secrets]\n  providers:\n  - aescbc: {keys: [{name: a, secret: " + secret(1) + "}]}\n", ":6:5: resources[0].providers[0].aescbc: the provider aescbc is not there; there are secretbox, aesgcm and identity"},
		{head + "- resources: [secrets]\n  providers:\n  - kms: {name: a, endpoint: unix:///x}\n", ":6:5: "},
		{head + "- resources: [secrets]\n  providers:\n  - secretbox: {keys: [{name: a, secret: c2hvcnQ=}]}\n", ":6:"},
		{head + "- resources: [secrets]\n  providers:\n  - secretbox: {keys: [{name: a, secret: '!'}]}\n", ":6:"},
		{head + "- resources: [secrets]\n  provider: []\n", ":5:3: unknown field"},
		{head + "- resources: [secrets]\n  providers: [{identity: {}, secretbox: {}}]\n", ":5:"},
		{head + "- resources: [Secrets]\n  providers: [{identity: {}}]\n", ":4:"},
		{"apiVersion: apiserver.config.k8s.io/v1\nkind: AuditPolicy\n", ":2:"},
		{head + "- resources: [secrets\n", "encryption.yaml:"},
	} {
		_, err := Load(file(t, c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), secret(1)) {
			t.Errorf("%q: %v, want %q", c.text, err, c.want)
		}
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a file that is not there is read")
	}
}

func TestAFileThatChangesIsTaken(t *testing.T) {
	text := head + "- resources: [secrets]\n  providers: [{secretbox: {keys: [{name: k, secret: " + secret(1) + "}]}}]\n"
	path := file(t, text)
	e, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var log bytes.Buffer
	taken, ended := make(chan *Encryption), make(chan struct{})
	go func() {
		defer close(ended)
		e.follow(ctx, time.Millisecond, slog.New(slog.NewTextHandler(&log, nil)), func(e *Encryption) error { taken <- e; return nil })
	}()
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	write("nonsense: [")
	time.Sleep(50 * time.Millisecond) // whether it is looked at meanwhile changes what the log says, and not what is taken
	write(strings.ReplaceAll(text, secret(1), secret(2)))
	if next := <-taken; next.ID() == e.ID() || next.ID() == "" {
		t.Errorf("taken as %q, was %q", next.ID(), e.ID())
	}
	cancel()
	<-ended
}
