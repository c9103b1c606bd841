package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"murmur/durable"
)

// Prefix is what every sealed text begins with, of this version and of those to come.
const Prefix = "murmur-sealed:"

const v1 = Prefix + "v1:"

// keySize is that of AES-256.
const keySize = 32

// ErrNoKey says that there is no key: the machine has started anew since, or its file is gone.
var ErrNoKey = errors.New("the key of this boot is not there")

// Key seals and opens.
type Key struct {
	aead cipher.AEAD
	raw  []byte
}

func newKey(raw []byte) (*Key, error) {
	if len(raw) != keySize {
		return nil, fmt.Errorf("a key is %d bytes, not %d", keySize, len(raw))
	}
	block, err := aes.NewCipher(raw)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	return &Key{aead: aead, raw: raw}, nil
}

// Owner names the container that a text is for, among all of a node.
func Owner(podUID, container string) string { return podUID + "/" + container }

// Is tells whether a text is a sealed one, or would be taken for one.
func Is(text string) bool { return strings.HasPrefix(text, Prefix) }

// Seal returns a text that says nothing of this one, and that opens for the same owner.
func (k *Key) Seal(text, owner string) string {
	return v1 + base64.RawURLEncoding.EncodeToString(k.aead.Seal(nil, nil, []byte(text), []byte(owner)))
}

// Open returns what was sealed. Its errors say nothing of the text.
func (k *Key) Open(text, owner string) (string, error) {
	body, ok := strings.CutPrefix(text, v1)
	if !ok {
		return "", errors.New("it is not sealed in a way that is known here")
	}
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if err != nil {
		return "", errors.New("it is sealed, and broken")
	}
	out, err := k.aead.Open(nil, nil, sealed, []byte(owner))
	if err != nil {
		return "", errors.New("it was sealed for another container or under another key: the container must be made anew")
	}
	return string(out), nil
}

// DirBeside is the directory of the key, by runc's own, in which it has one for each of containerd's namespaces. It is the one thing that
// the daemon and the program in place of runc, which is told nothing but what runc is told, both know.
func DirBeside(runcRoot string) string { return filepath.Join(filepath.Dir(runcRoot), "seal") }

func file(dir string) string { return filepath.Join(dir, "key") }

// Load reads the key in a directory.
func Load(dir string) (*Key, error) {
	raw, err := os.ReadFile(file(dir))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w (%s)", ErrNoKey, file(dir))
	}
	if err != nil {
		return nil, fmt.Errorf("read the key: %w", err)
	}
	k, err := newKey(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file(dir), err)
	}
	return k, nil
}

// Create makes a key and keeps it in a directory, which is there and in memory.
func Create(dir string) (*Key, error) {
	raw := make([]byte, keySize)
	if _, err := rand.Read(raw); err != nil {
		return nil, err
	}
	k, err := newKey(raw)
	if err != nil {
		return nil, err
	}
	return k, k.Keep(dir)
}

// Keep writes the key to a directory, whole or not at all.
func (k *Key) Keep(dir string) error {
	if err := durable.Write(file(dir), k.raw, 0o600); err != nil {
		return fmt.Errorf("keep the key of this boot: %w", err)
	}
	return nil
}

// Kept tells whether a directory has this key.
func (k *Key) Kept(dir string) bool {
	raw, err := os.ReadFile(file(dir))
	return err == nil && string(raw) == string(k.raw)
}
