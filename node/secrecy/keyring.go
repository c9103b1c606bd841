package secrecy

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/crypto/scrypt"

	"murmur/durable"
)

// KeyringFile is the name of the file in a data directory that has the sealed data keys.
const KeyringFile = "secrets.json"

// Outside says where the key is that opens the data keys: in a file, made of a passphrase, or with the machine's TPM.
type Outside struct {
	// DataDir is where the data keys are; the file must not be below it, or a copy of it would be all that is needed.
	DataDir string
	// KeyFile is made if it is not there and there is nothing yet that it would open.
	KeyFile string
	// Passphrase is taken instead of the file if it is not empty.
	Passphrase string
	// TPM is the device of a TPM 2.0 that is taken instead of the file if it is not empty, or the socket of one that is software.
	TPM string
}

// Key is a data key.
type Key struct {
	Name  string
	Made  time.Time
	Bytes [32]byte
}

// Keyring is the data keys of a node, the one that writes first. It is not safe for concurrent use.
type Keyring struct {
	path   string
	master [32]byte
	kdf    *kdf
	tpm    *sealedByTPM
	Keys   []Key
}

// kdf is how a passphrase becomes a key: scrypt (RFC 7914).
type kdf struct {
	Salt []byte `json:"salt"`
	N    int    `json:"n"`
}

// Bounds of a passphrase, and of what its key may cost.
const (
	minPassphrase = 12
	scryptN       = 1 << 15
	maxScryptN    = 1 << 20
)

// file is a keyring as it is on the disk.
type file struct {
	Version int          `json:"version"`
	KDF     *kdf         `json:"scrypt,omitempty"`
	TPM     *sealedByTPM `json:"tpm,omitempty"`
	Keys    []sealedKey  `json:"keys"`
}

// sealedKey is a data key under the key outside: XChaCha20-Poly1305 of it, behind the nonce, bound to its name.
type sealedKey struct {
	Name   string    `json:"name"`
	Made   time.Time `json:"made"`
	Sealed []byte    `json:"sealed"`
}

const (
	keyringVersion = 1
	maxKeyring     = 1 << 20
)

// HasKeyring tells whether a data directory has data keys.
func HasKeyring(dataDir string) bool {
	_, err := os.Stat(filepath.Join(dataDir, KeyringFile))
	return err == nil
}

// OpenKeyring opens the data keys of a data directory, or makes the first.
func OpenKeyring(o Outside, now time.Time) (*Keyring, error) {
	k := &Keyring{path: filepath.Join(o.DataDir, KeyringFile)}
	if o.Passphrase != "" && o.TPM != "" {
		return nil, errors.New("a passphrase and a TPM are two ways to seal the data keys: give one")
	}
	f, err := k.read()
	if err != nil {
		return nil, err
	}
	if f == nil {
		f = &file{Version: keyringVersion}
		if o.Passphrase != "" {
			f.KDF = &kdf{Salt: make([]byte, 16), N: scryptN}
			if _, err := rand.Read(f.KDF.Salt); err != nil {
				return nil, err
			}
		}
	}
	k.kdf, k.tpm = f.KDF, f.TPM
	switch {
	case k.kdf != nil:
		err = k.byPassphrase(o.Passphrase)
	case k.tpm != nil:
		err = k.byTPM(o)
	case o.TPM != "" && len(f.Keys) == 0:
		err = k.makeByTPM(o.TPM)
	default:
		err = k.byFile(o, len(f.Keys) > 0)
	}
	if err != nil {
		return nil, err
	}
	for _, s := range f.Keys {
		key, err := k.open(s)
		if err != nil {
			return nil, err
		}
		k.Keys = append(k.Keys, key)
	}
	if len(k.Keys) == 0 {
		return k, k.Add(now)
	}
	return k, nil
}

func (k *Keyring) read() (*file, error) {
	in, err := os.Open(k.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the data keys: %w", err)
	}
	defer in.Close()
	b, err := io.ReadAll(io.LimitReader(in, maxKeyring))
	f := &file{}
	if err == nil {
		err = json.Unmarshal(b, f)
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s, the sealed data keys, cannot be read: %w", k.path, err)
	case f.Version != keyringVersion:
		return nil, fmt.Errorf("%s, the sealed data keys, is of version %d, which this program does not know", k.path, f.Version)
	case f.KDF != nil && (f.KDF.N < 2 || f.KDF.N > maxScryptN || f.KDF.N&(f.KDF.N-1) != 0):
		return nil, fmt.Errorf("%s: scrypt with N=%d is not believed", k.path, f.KDF.N)
	}
	return f, nil
}

func (k *Keyring) byPassphrase(passphrase string) error {
	switch {
	case passphrase == "":
		return fmt.Errorf("the data keys in %s were sealed with a passphrase: give it in MURMUR_SECRETS_PASSPHRASE or --secrets-passphrase-file", k.path)
	case len(passphrase) < minPassphrase:
		return fmt.Errorf("the passphrase of the data keys has %d characters, and at least %d are wanted", len(passphrase), minPassphrase)
	}
	b, err := scrypt.Key([]byte(passphrase), k.kdf.Salt, k.kdf.N, 8, 1, len(k.master))
	if err != nil {
		return fmt.Errorf("make a key of the passphrase: %w", err)
	}
	k.master = [32]byte(b)
	return nil
}

func (k *Keyring) byTPM(o Outside) (err error) {
	if o.TPM == "" {
		return fmt.Errorf("the data keys in %s were sealed by this machine's TPM: give --secrets-tpm", k.path)
	}
	k.master, err = k.tpm.unseal(o.TPM)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("--secrets-tpm: there is no TPM at %s, and without this machine's the Secrets in %s cannot be read: is its driver loaded? (%w)", o.TPM, o.DataDir, err)
	}
	if err != nil {
		return fmt.Errorf("--secrets-tpm %s does not open the data keys in %s: %w (one that was cleared, or another machine's, cannot: move %s away and join anew, the others have the Secrets)",
			o.TPM, k.path, err, o.DataDir)
	}
	return nil
}

func (k *Keyring) makeByTPM(path string) (err error) {
	if _, err := rand.Read(k.master[:]); err != nil {
		return err
	}
	if k.tpm, err = sealByTPM(path, k.master); err != nil {
		return fmt.Errorf("--secrets-tpm %s: %w", path, err)
	}
	return nil
}

func (k *Keyring) byFile(o Outside, needed bool) error {
	switch {
	case o.Passphrase != "":
		return fmt.Errorf("the data keys in %s were sealed with a key file, and a passphrase was given: give --secrets-key-file", k.path)
	case o.TPM != "":
		return fmt.Errorf("the data keys in %s were sealed with a key file, and a TPM was given: start once with --secrets-encryption=off, then with --secrets-encryption --secrets-tpm", k.path)
	}
	if rel, err := filepath.Rel(o.DataDir, o.KeyFile); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
		return fmt.Errorf("--secrets-key-file %s is below the data directory: whoever has that would have the key too", o.KeyFile)
	}
	info, err := os.Stat(o.KeyFile)
	switch {
	case errors.Is(err, os.ErrNotExist) && needed:
		return fmt.Errorf("the key file %s is gone, and without it the Secrets in %s cannot be read: bring it back from where you keep it", o.KeyFile, o.DataDir)
	case errors.Is(err, os.ErrNotExist):
		return k.makeFile(o.KeyFile)
	case err != nil:
		return fmt.Errorf("--secrets-key-file: %w", err)
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("--secrets-key-file %s has mode %04o: others can read it; chmod 0600", o.KeyFile, info.Mode().Perm())
	}
	b, err := os.ReadFile(o.KeyFile)
	if err != nil {
		return fmt.Errorf("--secrets-key-file: %w", err)
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(b)))
	if err != nil || len(key) != len(k.master) {
		return fmt.Errorf("--secrets-key-file %s: want %d hexadecimal digits, as `openssl rand -hex 32` prints", o.KeyFile, 2*len(k.master))
	}
	k.master = [32]byte(key)
	return nil
}

func (k *Keyring) makeFile(path string) error {
	if _, err := rand.Read(k.master[:]); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make the key file: %w", err)
	}
	if err := durable.Write(path, []byte(hex.EncodeToString(k.master[:])+"\n"), 0o600); err != nil {
		return fmt.Errorf("make the key file: %w", err)
	}
	return nil
}

func (k *Keyring) open(s sealedKey) (Key, error) {
	a, err := chacha20poly1305.NewX(k.master[:])
	if err != nil {
		return Key{}, err
	}
	if len(s.Sealed) < a.NonceSize() {
		return Key{}, fmt.Errorf("%s: the data key %s is cut off", k.path, s.Name)
	}
	b, err := a.Open(nil, s.Sealed[:a.NonceSize()], s.Sealed[a.NonceSize():], []byte(s.Name))
	if err != nil || len(b) != 32 {
		return Key{}, fmt.Errorf("%s: the data key %s was sealed with another key file or passphrase than this", k.path, s.Name)
	}
	return Key{Name: s.Name, Made: s.Made, Bytes: [32]byte(b)}, nil
}

// Add makes a data key that writes from now on. Those before still read.
func (k *Keyring) Add(now time.Time) error {
	key := Key{Made: now.UTC().Truncate(time.Second)}
	id := make([]byte, 6)
	if _, err := rand.Read(id); err != nil {
		return err
	}
	key.Name = base64.RawURLEncoding.EncodeToString(id)
	if _, err := rand.Read(key.Bytes[:]); err != nil {
		return err
	}
	return k.keep(append([]Key{key}, k.Keys...))
}

// Drop gives up all keys but the one that writes.
func (k *Keyring) Drop() error { return k.keep(k.Keys[:1:1]) }

// Remove gives up all keys, and the keyring.
func (k *Keyring) Remove() error {
	if err := os.Remove(k.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	k.Keys = nil
	return nil
}

// keep has the keyring hold these keys.
func (k *Keyring) keep(keys []Key) error {
	f := file{Version: keyringVersion, KDF: k.kdf, TPM: k.tpm}
	a, err := chacha20poly1305.NewX(k.master[:])
	if err != nil {
		return err
	}
	for _, key := range keys {
		nonce := make([]byte, a.NonceSize())
		if _, err := rand.Read(nonce); err != nil {
			return err
		}
		f.Keys = append(f.Keys, sealedKey{key.Name, key.Made, a.Seal(nonce, nonce, key.Bytes[:], []byte(key.Name))})
	}
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	if err := durable.Write(k.path, b, 0o600); err != nil {
		return fmt.Errorf("write the sealed data keys: %w", err)
	}
	k.Keys = keys
	return nil
}
