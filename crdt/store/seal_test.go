package store

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/crdt"
)

// testSealer encrypts Secrets with the last of its keys and reads with any: a key is a letter.
type testSealer struct{ held atomic.Pointer[string] }

func sealing(keys string) *testSealer {
	s := &testSealer{}
	s.held.Store(&keys)
	return s
}

func (s *testSealer) keys() string { return *s.held.Load() }
func (s *testSealer) now() byte    { return s.keys()[len(s.keys())-1] }
func (s *testSealer) ID() string   { return string(s.now()) }

func (s *testSealer) aead(key byte) cipher.AEAD {
	block, _ := aes.NewCipher(bytes.Repeat([]byte{key}, 32))
	a, _ := cipher.NewGCM(block)
	return a
}

func (s *testSealer) Seal(k crdt.Key, plain []byte) ([]byte, error) {
	if k.Resource != "secrets" {
		return plain, nil
	}
	nonce := make([]byte, 12)
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	return s.aead(s.now()).Seal(append([]byte{'E', s.now()}, nonce...), nonce, plain, []byte(k.Encode())), nil
}

func (s *testSealer) Open(k crdt.Key, stored []byte) ([]byte, bool, error) {
	if stored[0] != 'E' {
		return stored, k.Resource == "secrets", nil
	}
	if len(stored) < 14 || !strings.Contains(s.keys(), string(stored[1])) {
		return nil, false, errors.New("no such key")
	}
	plain, err := s.aead(stored[1]).Open(nil, stored[2:14], stored[14:], []byte(k.Encode()))
	return plain, stored[1] != s.now(), err
}

func openSealed(t testing.TB, dir string, s Sealer) (*Store, func()) {
	t.Helper()
	st, err := Open(Config{Dir: dir, Cluster: "test", Sealer: s})
	if err != nil {
		t.Fatal(err)
	}
	return st, run(t, st)
}

func secretKey(name string) crdt.Key {
	return crdt.Key{Resource: "secrets", Namespace: "default", Name: name}
}

func putSecret(t testing.TB, s *Store, name, value string) {
	t.Helper()
	base, ok := s.Snapshot().Get(secretKey(name))
	if !ok {
		base = nil
	}
	if _, err := s.Commit(t.Context(), Write{Key: secretKey(name), Base: base, Object: &corev1.Secret{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Data: map[string][]byte{"password": []byte(value)},
	}}); err != nil {
		t.Fatal(err)
	}
}

func secret(s *Store, name string) string {
	o, ok := Get[corev1.Secret](s.Snapshot(), secretKey(name))
	if !ok {
		return ""
	}
	return string(o.Data["password"])
}

// found lists the files below a directory that have a text, or its base64 in any of the three places it may begin.
func found(t testing.TB, dir, text string) (files []string) {
	t.Helper()
	var forms [][]byte
	for i := range 3 {
		b := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", i) + text))
		forms = append(forms, []byte(b[4:len(b)-4])) // what is before and behind changes its ends
	}
	forms = append(forms, []byte(text))
	if err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		for _, f := range forms {
			if bytes.Contains(b, f) {
				files = append(files, path)
				break
			}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return files
}

const (
	oldSecret  = "the-old-secret-of-all-secrets"
	newSecret  = "the-new-secret-of-all-secrets"
	goneSecret = "a-secret-that-was-deleted-again"
)

// TestNoSecretIsInAnyFile: after encryption is turned on, after a rotation and after a restart no file below the directory has the
// bytes of a Secret, of what it was before, or of one that was deleted.
func TestNoSecretIsInAnyFile(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "store")
	nowhere := func(when string) {
		t.Helper()
		for _, text := range []string{oldSecret, newSecret, goneSecret} {
			if files := found(t, parent, text); len(files) > 0 {
				t.Errorf("%s: %q is in %v", when, text, files)
			}
		}
	}
	s, stop := openSealed(t, dir, nil)
	putSecret(t, s, "a", oldSecret)
	putSecret(t, s, "gone", goneSecret)
	put(t, s, "plain", func(c *corev1.ConfigMap) { c.Data = map[string]string{"k": "v"} })
	e, _ := s.Snapshot().Get(secretKey("gone"))
	if _, err := s.Commit(t.Context(), Write{Key: e.Key, Base: e}); err != nil {
		t.Fatal(err)
	}
	if len(found(t, parent, goneSecret)) == 0 || len(found(t, parent, oldSecret)) == 0 {
		t.Fatal("nothing is found in a store that is not encrypted: this tests nothing")
	}
	stop()

	sealer := sealing("a")
	s, stop = openSealed(t, dir, sealer)
	nowhere("turned on")
	origin, behind := s.Origin(), s.Behind()
	putSecret(t, s, "a", newSecret)
	putSecret(t, s, "gone", goneSecret)
	nowhere("written")
	if err := s.disk.(*badgerDisk).drain(); err != nil {
		t.Fatal(err)
	}
	nowhere("passed to the tables")
	// Rotated while writes go on.
	ctx, cancel := context.WithCancel(t.Context())
	wrote := make(chan int)
	go func() {
		n := 0
		for ; ctx.Err() == nil; n++ {
			put(t, s, fmt.Sprint("w", n%10), func(c *corev1.ConfigMap) { c.Data = map[string]string{"n": fmt.Sprint(n)} })
		}
		wrote <- n
	}()
	both := "ab"
	sealer.held.Store(&both)
	if err := s.Reseal(t.Context()); err != nil {
		t.Fatal(err)
	}
	cancel()
	if n := <-wrote; n == 0 {
		t.Log("no write went on")
	}
	nowhere("rotated")
	putSecret(t, s, "b", oldSecret)
	stop()
	nowhere("closed")

	// The old key is not needed any more.
	s, stop = openSealed(t, dir, sealing("b"))
	for name, want := range map[string]string{"a": newSecret, "gone": goneSecret, "b": oldSecret} {
		if got := secret(s, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if s.Origin() != origin || s.Behind() != behind {
		t.Errorf("the origin is %s and was %s, behind %v", s.Origin(), origin, s.Behind())
	}
	stop()
	if _, err := os.Stat(dir + freshSuffix); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old directory is left: %v", err)
	}

	// Who has not the key is told so, and nothing is lost by that.
	for _, wrong := range []Sealer{nil, sealing("x")} {
		if _, err := Open(Config{Dir: dir, Cluster: "test", Sealer: wrong}); !errors.Is(err, ErrSealed) {
			t.Errorf("opened with %v: %v", wrong, err)
		}
	}
	// A backup is of plain documents, and is sealed when it is restored.
	s, stop = openSealed(t, dir, sealing("b"))
	var backup bytes.Buffer
	if err := s.Backup(&backup); err != nil {
		t.Fatal(err)
	}
	stop()
	other := filepath.Join(parent, "other")
	if err := Restore(other, &backup, sealing("c")); err != nil {
		t.Fatal(err)
	}
	nowhere("restored")
	s, stop = openSealed(t, other, sealing("c"))
	if secret(s, "a") != newSecret {
		t.Error("the restored Secret is another")
	}
	stop()
}

// TestARewritingSurvivesAKill ends a process at every step of a rewriting. What is opened then has everything, and only sealed.
func TestARewritingSurvivesAKill(t *testing.T) {
	if dir := os.Getenv("REWRITE_DIR"); dir != "" {
		sealer, both := sealing("a"), "ab"
		s, err := Open(Config{Dir: dir, Cluster: "test", Sealer: sealer})
		if err != nil {
			t.Fatal(err)
		}
		run(t, s)
		s.disk.(*badgerDisk).step = func(step string) {
			if step == os.Getenv("REWRITE_STEP") {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
		}
		sealer.held.Store(&both)
		t.Fatalf("it goes on: %v", s.Reseal(t.Context()))
	}
	for _, step := range []string{stepFilled, stepClosed, stepSwapped, stepOpened, stepRemoved} {
		t.Run(step, func(t *testing.T) {
			parent := t.TempDir()
			dir := filepath.Join(parent, "store")
			s, stop := openSealed(t, dir, sealing("a"))
			putSecret(t, s, "a", newSecret)
			for i := range 50 {
				put(t, s, fmt.Sprint(i), func(c *corev1.ConfigMap) { c.Data = map[string]string{"n": fmt.Sprint(i)} })
			}
			vector, origin := s.Vector(), s.Origin()
			stop()
			cmd := exec.Command(os.Args[0], "-test.run=^TestARewritingSurvivesAKill$")
			cmd.Env = append(os.Environ(), "REWRITE_DIR="+dir, "REWRITE_STEP="+step)
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("%v\n%s", err, out)
			}
			s, stop = openSealed(t, dir, sealing("ab"))
			if got := secret(s, "a"); got != newSecret || s.Snapshot().tree.Len() != 51 {
				t.Errorf("the Secret is %q, of 51 documents there are %d", got, s.Snapshot().tree.Len())
			}
			if !bytes.Equal(s.Vector(), vector) || s.Origin() != origin || s.Behind() {
				t.Errorf("origin %s, was %s; behind %v", s.Origin(), origin, s.Behind())
			}
			if files := found(t, parent, newSecret); len(files) > 0 {
				t.Errorf("it is in %v", files)
			}
			stop()
			// Opened with both keys it was written with the new one, if it was not before.
			s, stop = openSealed(t, dir, sealing("b"))
			if secret(s, "a") != newSecret {
				t.Error("the old key is still needed")
			}
			stop()
			if left, _ := filepath.Glob(dir + ".*"); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// A record that somebody put in another's place is not taken for that one's.
func TestARecordIsOfItsKey(t *testing.T) {
	d := &crdt.Document{Key: secretKey("a"), DeletedAt: crdt.Stamp{HLC: 1, Writer: 1}}
	for _, s := range []Sealer{nil, sealing("a")} {
		r, err := record(s, d, 1)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := unsealed(s, r); err != nil {
			t.Fatal(err)
		}
		r.Key = diskDocument + secretKey("b").Encode()
		if _, _, err := unsealed(s, r); err == nil {
			t.Errorf("with %v: it is", s)
		}
	}
}

// BenchmarkCommit is the cost of one small write, alone: of a kind that is not encrypted it is the same whether others are.
func BenchmarkCommit(b *testing.B) {
	for _, c := range []struct {
		name   string
		sealer Sealer
		put    func(s *Store, i int)
	}{
		{"configmap", nil, nil},
		{"configmap-secrets-sealed", sealing("a"), nil},
		{"secret", nil, func(s *Store, i int) { putSecret(b, s, fmt.Sprint(i%100), fmt.Sprint(oldSecret, i)) }},
		{"secret-sealed", sealing("a"), func(s *Store, i int) { putSecret(b, s, fmt.Sprint(i%100), fmt.Sprint(oldSecret, i)) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			s, _ := openSealed(b, filepath.Join(b.TempDir(), "store"), c.sealer)
			put1 := c.put
			if put1 == nil {
				put1 = func(s *Store, i int) {
					put(b, s, fmt.Sprint(i%100), func(c *corev1.ConfigMap) { c.Data = map[string]string{"n": fmt.Sprint(oldSecret, i)} })
				}
			}
			for i := 0; b.Loop(); i++ {
				put1(s, i)
			}
		})
	}
}
