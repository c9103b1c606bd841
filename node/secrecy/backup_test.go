package secrecy

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
)

// key makes a private key's file and gives the public one.
func key(t *testing.T) (file, public string) {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "key.txt")
	if err := os.WriteFile(file, []byte("# a key\n"+id.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, id.Recipient().String()
}

func seal(t *testing.T, plain []byte, keys ...string) []byte {
	t.Helper()
	r, err := ParseRecipients(keys)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w, err := r.Seal(&out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestABackupIsReadByItsRecipientsOnly(t *testing.T) {
	plain := bytes.Repeat([]byte("what is in a backup "), 20000)
	one, first := key(t)
	two, second := key(t)
	other, _ := key(t)
	sealed := seal(t, plain, first, second)
	if bytes.Contains(sealed, []byte("what is in")) {
		t.Error("it is not encrypted")
	}
	for _, file := range []string{one, two} {
		r, err := Open(bytes.NewReader(sealed), file)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
	// Whoever cuts it off, anywhere, or changes it, is found out before the end.
	for _, n := range []int{len(ageMagic) + 3, 200, len(sealed) / 2, len(sealed) - 1} {
		broken := bytes.Clone(sealed)
		broken[n] ^= 1
		for what, b := range map[string][]byte{"cut off": sealed[:n], "changed": broken} {
			r, err := Open(bytes.NewReader(b), one)
			if err == nil {
				_, err = io.ReadAll(r)
			}
			if err == nil {
				t.Errorf("%s at %d: it is read", what, n)
			}
		}
	}
	for _, c := range []struct {
		in   []byte
		file string
		want string
	}{
		{sealed, "", "the backup is encrypted: give"},
		{sealed, other, "decrypt the backup"},
		{sealed, filepath.Join(t.TempDir(), "none"), "no such file"},
		{plain, one, "not encrypted: leave --identity out"},
	} {
		if _, err := Open(bytes.NewReader(c.in), c.file); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
	if _, err := ParseRecipients([]string{first, "ssh-rsa AAAA"}); err == nil || !strings.Contains(err.Error(), "age-keygen") {
		t.Errorf("a key that is none: %v", err)
	}
	r, err := Open(bytes.NewReader(plain), "")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("a plain one: %d bytes, %v", len(got), err)
	}
}
