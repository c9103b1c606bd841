package node

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/node/secrecy"
)

// safe is a node's disk with what encrypts it, opened as a daemon does.
type safe struct {
	*Node
	t    *testing.T
	stop func()
}

func openSafe(t *testing.T, cfg Config) (*safe, error) {
	t.Helper()
	v, err := openVault(cfg)
	if err != nil {
		return nil, err
	}
	store, err := store.Open(store.Config{Dir: filepath.Join(cfg.DataDir, "store"), Cluster: "test", Sealer: v.sealer()})
	if err != nil {
		return nil, unlocked(err)
	}
	if err := v.opened(cfg.DataDir); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- store.Run(ctx) }()
	s := &safe{Node: &Node{cfg: cfg, vault: v, store: store, log: slog.New(slog.DiscardHandler)}, t: t}
	s.stop = func() {
		cancel()
		if err := errors.Join(<-done, store.Close()); err != nil {
			t.Error(err)
		}
	}
	return s, nil
}

func (s *safe) put(name, value string) {
	s.t.Helper()
	k := crdt.Key{Resource: "secrets", Namespace: "default", Name: name}
	base, ok := s.store.Snapshot().Get(k)
	if !ok {
		base = nil
	}
	o := &corev1.Secret{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Data: map[string][]byte{"k": []byte(value)},
	}
	w := store.Write{Key: k, Base: base, Object: o}
	if value == "" {
		w.Object = nil
	}
	if _, err := s.store.Commit(s.t.Context(), w); err != nil {
		s.t.Fatal(err)
	}
}

func (s *safe) get(name string) string {
	o, _ := store.Get[corev1.Secret](s.store.Snapshot(), crdt.Key{Resource: "secrets", Namespace: "default", Name: name})
	if o == nil {
		return ""
	}
	return string(o.Data["k"])
}

// plain lists the files of a data directory with one of some values, as they are or as the API writes them.
func plain(t *testing.T, dir string, values ...string) (out []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		for _, v := range values {
			if bytes.Contains(b, []byte(v)) || bytes.Contains(b, []byte(base64.StdEncoding.EncodeToString([]byte(v)))) {
				out = append(out, path)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

const kept, gone = "the value of a Secret that is kept", "the value of a Secret that was deleted"

func TestADiskIsEncryptedRotatedAndPlainAgain(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{DataDir: filepath.Join(dir, "data"), Secrets: SecretsConfig{KeyFile: filepath.Join(dir, "etc", "secrets.key")}}
	start := func(own string) *safe {
		t.Helper()
		c := cfg
		c.Secrets.Own = own
		s, err := openSafe(t, c)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := start("")
	s.put("kept", kept)
	s.put("gone", gone)
	s.put("gone", "")
	if _, err := s.rotateSecrets(t.Context()); err == nil || !strings.Contains(err.Error(), "nothing is encrypted") {
		t.Errorf("rotated although nothing is encrypted: %v", err)
	}
	s.stop()
	if len(plain(t, cfg.DataDir, kept)) == 0 || len(plain(t, cfg.DataDir, gone)) == 0 {
		t.Fatal("nothing is found on a disk that is not encrypted: this tests nothing")
	}
	if err := os.MkdirAll(filepath.Join(cfg.DataDir, "store.left"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(cfg.DataDir, "store.left", "x"), []byte(kept), 0o600); err != nil {
		t.Fatal(err)
	}
	nowhere := func(when string) {
		t.Helper()
		if files := plain(t, cfg.DataDir, kept, gone); len(files) > 0 {
			t.Errorf("%s: in %v", when, files)
		}
	}
	s = start("on")
	nowhere("turned on")
	s.put("gone", gone)
	s.put("gone", "")
	before, err := s.secrets()
	if err != nil || before.Mode != "own" || len(before.Writes) != 1 || !strings.HasPrefix(before.Writes[0], "secrets: secretbox:") {
		t.Errorf("status %+v, %v", before, err)
	}
	after, err := s.rotateSecrets(t.Context())
	if err != nil || after.Writes[0] == before.Writes[0] {
		t.Errorf("rotated to %+v, %v", after, err)
	}
	nowhere("rotated")
	s.stop()
	if s = start(""); s.get("kept") != kept { // it stays on
		t.Errorf("after a start the Secret is %q", s.get("kept"))
	}
	s.stop()
	nowhere("started again")

	// A rotation that ended half-way: there are two keys, and the store is of the first.
	ring, err := secrecy.OpenKeyring(secrecy.Outside{DataDir: cfg.DataDir, KeyFile: cfg.Secrets.KeyFile}, metav1.Now().Time)
	if err != nil {
		t.Fatal(err)
	}
	if err := ring.Add(metav1.Now().Time); err != nil {
		t.Fatal(err)
	}
	s = start("")
	if st, err := s.secrets(); err != nil || s.get("kept") != kept || len(s.vault.ring.Keys) != 1 || !strings.HasSuffix(st.Writes[0], ring.Keys[0].Name) {
		t.Errorf("after a rotation that ended half-way: %+v, %v, %d keys", st, err, len(s.vault.ring.Keys))
	}
	s.stop()

	// Without the key nothing is read, and nothing is lost.
	hidden := cfg.Secrets.KeyFile + ".hidden"
	if err := os.Rename(cfg.Secrets.KeyFile, hidden); err != nil {
		t.Fatal(err)
	}
	if _, err := openSafe(t, cfg); err == nil || !strings.Contains(err.Error(), "bring it back") {
		t.Errorf("without the key: %v", err)
	}
	if err := os.Rename(hidden, cfg.Secrets.KeyFile); err != nil {
		t.Fatal(err)
	}
	s = start("off")
	if s.get("kept") != kept || secrecy.HasKeyring(cfg.DataDir) {
		t.Errorf("turned off the Secret is %q", s.get("kept"))
	}
	s.stop()
	if s = start(""); s.get("kept") != kept {
		t.Errorf("plain again the Secret is %q", s.get("kept"))
	}
	s.stop()
}

func TestADiskIsEncryptedAsAFileSays(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "encryption.yaml")
	cfg := Config{DataDir: filepath.Join(dir, "data"), Secrets: SecretsConfig{File: path, KeyFile: filepath.Join(dir, "secrets.key")}}
	write := func(keys string) {
		t.Helper()
		text := "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers: [{aesgcm: {keys: [" + keys + "]}}]\n"
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	key := func(name string, b byte) string {
		return "{name: " + name + ", secret: " + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{b}, 32)) + "}"
	}
	write(key("one", 1))
	s, err := openSafe(t, cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.put("kept", kept)
	write("nonsense")
	if _, err := s.rotateSecrets(t.Context()); err == nil || !strings.Contains(err.Error(), path+":5:") {
		t.Errorf("a file that is wrong: %v", err)
	}
	write(key("two", 2))
	st, err := s.rotateSecrets(t.Context())
	if err != nil || len(st.Writes) != 1 || st.Writes[0] != "secrets: aesgcm:two" {
		t.Errorf("%+v, %v", st, err)
	}
	s.stop()
	if files := plain(t, cfg.DataDir, kept); len(files) > 0 {
		t.Errorf("in %v", files)
	}
	if s, err = openSafe(t, cfg); err != nil {
		t.Fatal(err)
	}
	if s.get("kept") != kept {
		t.Errorf("it is %q", s.get("kept"))
	}
	s.stop()
	for what, change := range map[string]func(*Config){
		"no configuration": func(c *Config) { c.Secrets.File = "" },
		"another key":      func(*Config) { write(key("one", 1)) },
	} {
		c := cfg
		change(&c)
		if _, err := openSafe(t, c); !errors.Is(err, store.ErrSealed) || !strings.Contains(err.Error(), "--encryption-provider-config") {
			t.Errorf("with %s: %v", what, err)
		}
	}
	both := cfg
	both.Secrets.Own = "on"
	// What a start that makes the disk plain needs to open it is no fault at the next start.
	if v, err := openVault(Config{DataDir: t.TempDir(), Secrets: SecretsConfig{Own: "off", Passphrase: "correct horse battery"}}); err != nil || v != nil {
		t.Errorf("off again: %v %v", v, err)
	}
	for _, alone := range []SecretsConfig{{TPM: "/dev/tpmrm0"}, {Passphrase: "correct horse battery"}} {
		if _, err := openVault(Config{DataDir: t.TempDir(), Secrets: alone}); err == nil || !strings.Contains(err.Error(), "give --secrets-encryption too") {
			t.Errorf("%+v: %v", alone, err)
		}
	}
	if _, err := openSafe(t, both); err == nil || !strings.Contains(err.Error(), "give one") {
		t.Errorf("with both: %v", err)
	}
}
