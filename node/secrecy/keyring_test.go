package secrecy

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func outside(t *testing.T) Outside {
	t.Helper()
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	return Outside{DataDir: data, KeyFile: filepath.Join(dir, "etc", "secrets.key")}
}

func opening(t *testing.T, o Outside) *Keyring {
	t.Helper()
	k, err := OpenKeyring(o, time.Unix(1000, 0))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKeyring(t *testing.T) {
	byPhrase := outside(t)
	byPhrase.Passphrase = "correct horse battery"
	byTPM := outside(t)
	byTPM.TPM = startTPM(t)
	for name, o := range map[string]Outside{"file": outside(t), "passphrase": byPhrase, "TPM": byTPM} {
		t.Run(name, func(t *testing.T) {
			if HasKeyring(o.DataDir) {
				t.Fatal("there is a keyring before there is one")
			}
			k := opening(t, o)
			first := k.Keys[0]
			if again := opening(t, o); len(again.Keys) != 1 || again.Keys[0] != first {
				t.Errorf("opened again it has %v", again.Keys)
			}
			if err := k.Add(time.Unix(2000, 0)); err != nil {
				t.Fatal(err)
			}
			second := k.Keys[0]
			if again := opening(t, o); len(again.Keys) != 2 || again.Keys[0] != second || again.Keys[1] != first || second.Bytes == first.Bytes || second.Name == first.Name {
				t.Errorf("with a second key: %v", again.Keys)
			}
			if err := k.Drop(); err != nil {
				t.Fatal(err)
			}
			if again := opening(t, o); len(again.Keys) != 1 || again.Keys[0] != k.Keys[0] {
				t.Errorf("rotated: %v", again.Keys)
			}
			// No key lies in the data directory.
			b, err := os.ReadFile(filepath.Join(o.DataDir, KeyringFile))
			if err != nil {
				t.Fatal(err)
			}
			for _, key := range [][]byte{first.Bytes[:], k.Keys[0].Bytes[:], k.master[:]} {
				if bytes.Contains(b, key) || bytes.Contains(b, []byte(hex.EncodeToString(key))) || bytes.Contains(b, []byte(base64.StdEncoding.EncodeToString(key)[:40])) {
					t.Error("a key is in the data directory")
				}
			}
			for _, path := range []string{filepath.Join(o.DataDir, KeyringFile), o.KeyFile} {
				if info, err := os.Stat(path); err == nil && info.Mode().Perm() != 0o600 {
					t.Errorf("%s has mode %v", path, info.Mode())
				}
			}
			if err := k.Remove(); err != nil || HasKeyring(o.DataDir) {
				t.Errorf("removed: %v", err)
			}
		})
	}
}

func TestAKeyringRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(t *testing.T, o *Outside)
		want   string
	}{
		"key file gone":      {func(t *testing.T, o *Outside) { os.Remove(o.KeyFile) }, "is gone, and without it"},
		"another key":        {func(t *testing.T, o *Outside) { os.WriteFile(o.KeyFile, []byte(strings.Repeat("ab", 32)), 0o600) }, "sealed with another key file or passphrase"},
		"no key":             {func(t *testing.T, o *Outside) { os.WriteFile(o.KeyFile, []byte("x"), 0o600) }, "want 64 hexadecimal digits"},
		"open to all":        {func(t *testing.T, o *Outside) { os.Chmod(o.KeyFile, 0o644) }, "chmod 0600"},
		"TPM instead":        {func(t *testing.T, o *Outside) { o.TPM = "/dev/tpmrm0" }, "sealed with a key file"},
		"two ways":           {func(t *testing.T, o *Outside) { o.TPM, o.Passphrase = "/dev/tpmrm0", "correct horse battery" }, "give one"},
		"passphrase instead": {func(t *testing.T, o *Outside) { o.Passphrase = "correct horse battery" }, "sealed with a key file"},
		"damaged": {func(t *testing.T, o *Outside) {
			os.WriteFile(filepath.Join(o.DataDir, KeyringFile), []byte("{"), 0o600)
		}, "cannot be read"},
		"another version": {func(t *testing.T, o *Outside) {
			os.WriteFile(filepath.Join(o.DataDir, KeyringFile), []byte(`{"version":9}`), 0o600)
		}, "version 9"},
		"costly": {func(t *testing.T, o *Outside) {
			os.WriteFile(filepath.Join(o.DataDir, KeyringFile), []byte(`{"version":1,"scrypt":{"n":1073741824}}`), 0o600)
		}, "is not believed"},
	} {
		o := outside(t)
		opening(t, o)
		c.change(t, &o)
		if _, err := OpenKeyring(o, time.Unix(1000, 0)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	o := outside(t)
	o.KeyFile = filepath.Join(o.DataDir, "secrets.key")
	if _, err := OpenKeyring(o, time.Unix(1000, 0)); err == nil || !strings.Contains(err.Error(), "below the data directory") {
		t.Errorf("a key in the data directory: %v", err)
	}
	o = outside(t)
	o.Passphrase = "short"
	if _, err := OpenKeyring(o, time.Unix(1000, 0)); err == nil || !strings.Contains(err.Error(), "at least 12") {
		t.Errorf("a short passphrase: %v", err)
	}
	o.Passphrase = "correct horse battery"
	opening(t, o)
	for _, wrong := range []string{"", "incorrect horse battery"} {
		o.Passphrase = wrong
		if _, err := OpenKeyring(o, time.Unix(1000, 0)); err == nil {
			t.Errorf("opened with the passphrase %q", wrong)
		}
	}
}
