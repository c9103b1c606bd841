package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/httpapi/encryption"
	"murmur/node/secrecy"
)

// SecretsConfig says how what is secret is encrypted on this node's disk.
type SecretsConfig struct {
	// File is an EncryptionConfiguration, as upstream's.
	File string
	// Own is "on" for a data key of the node's own, "off" to give it up; empty goes on as it was.
	Own string
	// KeyFile has the key that the data key is sealed under: secrets.key in ConfigDir. Passphrase, or the TPM at a device, is taken instead of it.
	KeyFile    string
	Passphrase string
	TPM        string
}

// vault encrypts for the store, and changes the keys. It is the store's Sealer.
type vault struct {
	now  atomic.Pointer[encryption.Encryption]
	file string
	ring *secrecy.Keyring
	// ends tells that the keyring is to go once the store is plain.
	ends bool
	// busy has a place for who changes the keys.
	busy chan struct{}
}

// openVault opens what encrypts a node's disk; nil is that nothing does.
func openVault(cfg Config) (*vault, error) {
	c, v := cfg.Secrets, &vault{file: cfg.Secrets.File, busy: make(chan struct{}, 1)}
	has := secrecy.HasKeyring(cfg.DataDir)
	switch {
	case c.File != "" && c.Own == "on":
		return nil, errors.New("--encryption-provider-config and --secrets-encryption are two ways to encrypt: give one")
	case c.File != "" && has:
		return nil, errors.New("this node encrypts with a data key of its own: start it once with --secrets-encryption=off, then with --encryption-provider-config")
	case c.File != "":
		e, err := encryption.Load(c.File)
		if err != nil {
			return nil, err
		}
		v.now.Store(e)
		return v, nil
	case c.Own == "" && !has && (c.TPM != "" || c.Passphrase != ""):
		return nil, errors.New("a passphrase or a TPM to seal the data key was given, and Secrets are not encrypted on this node: give --secrets-encryption too")
	case c.Own != "on" && !has:
		return nil, nil
	}
	var err error
	if v.ring, err = secrecy.OpenKeyring(secrecy.Outside{DataDir: cfg.DataDir, KeyFile: c.KeyFile, Passphrase: c.Passphrase, TPM: c.TPM}, time.Now()); err != nil {
		return nil, err
	}
	v.ends = c.Own == "off"
	return v, v.take()
}

// take has the vault encrypt as the keyring says.
func (v *vault) take() error {
	var keys []encryption.Key
	for _, k := range v.ring.Keys {
		keys = append(keys, encryption.Key{Name: k.Name, Bytes: k.Bytes})
	}
	of := encryption.OfSecrets
	if v.ends {
		of = encryption.NoLonger
	}
	e, err := of(keys...)
	if err != nil {
		return err
	}
	v.now.Store(e)
	return nil
}

// sealer is the vault for a store.
func (v *vault) sealer() store.Sealer {
	if v == nil {
		return nil
	}
	return v
}

// ID names how the vault writes.
func (v *vault) ID() string { return v.now.Load().ID() }

// Seal encrypts a document if its resource is to be.
func (v *vault) Seal(k crdt.Key, plain []byte) ([]byte, error) {
	return v.now.Load().Seal(k.Resource, k.String(), plain)
}

// Open decrypts what Seal has made, under any of the keys.
func (v *vault) Open(k crdt.Key, stored []byte) ([]byte, bool, error) {
	return v.now.Load().Open(k.Resource, k.String(), stored)
}

// opened tells that the store is open, and so written as the vault writes now: other keys are not needed any more.
func (v *vault) opened(dataDir string) error {
	switch {
	case v == nil:
		return nil
	case v.ends:
		return v.ring.Remove()
	}
	// Versions of before kept the store of a cluster that was left.
	if err := os.RemoveAll(filepath.Join(dataDir, "store.left")); err != nil {
		return err
	}
	if v.ring != nil && len(v.ring.Keys) > 1 {
		return v.ring.Drop()
	}
	return nil
}

// unlocked says what may be done about a store that cannot be decrypted.
func unlocked(err error) error {
	if errors.Is(err, store.ErrSealed) {
		return fmt.Errorf("%w; start with the --encryption-provider-config, or the --secrets-encryption and key, that it was encrypted with", err)
	}
	return err
}

// SecretsStatus is how what is secret is encrypted on a node's disk.
type SecretsStatus struct {
	// Mode is "off", "file" or "own".
	Mode string `json:"mode"`
	File string `json:"file,omitempty"`
	// Writes lists resources with the provider and the key that encrypt them.
	Writes []string `json:"writes,omitempty"`
	// Made is when the data key was made, if it is the node's own.
	Made time.Time `json:"made,omitzero"`
}

func (v *vault) status() SecretsStatus {
	switch {
	case v == nil || v.ends:
		return SecretsStatus{Mode: "off"}
	case v.ring == nil:
		return SecretsStatus{Mode: "file", File: v.file, Writes: v.now.Load().Writes()}
	}
	return SecretsStatus{Mode: "own", Writes: v.now.Load().Writes(), Made: v.ring.Keys[0].Made}
}

// secrets tells how what is secret is encrypted.
func (n *Node) secrets() (SecretsStatus, error) {
	done, err := n.vault.hold()
	if err != nil {
		return SecretsStatus{}, err
	}
	defer done()
	return n.vault.status(), nil
}

// hold keeps others from changing the keys.
func (v *vault) hold() (done func(), err error) {
	if v == nil {
		return func() {}, nil
	}
	select {
	case v.busy <- struct{}{}:
		return func() { <-v.busy }, nil
	default:
		return nil, errors.New("the keys are being changed: ask again when that is done")
	}
}

// rotateSecrets encrypts the store with a new data key, or as the configuration file says now, and forgets the key before. If that fails
// half-way the keys of both are kept, and the next start goes on with it.
func (n *Node) rotateSecrets(ctx context.Context) (SecretsStatus, error) {
	v := n.vault
	if v == nil || v.ends {
		return SecretsStatus{}, errors.New("nothing is encrypted on this node: start it with --secrets-encryption or --encryption-provider-config")
	}
	done, err := v.hold()
	if err != nil {
		return SecretsStatus{}, err
	}
	defer done()
	if v.ring == nil {
		e, err := encryption.Load(v.file)
		if err != nil {
			return SecretsStatus{}, err
		}
		if err := n.reseal(ctx, e); err != nil {
			return SecretsStatus{}, err
		}
		return v.status(), nil
	}
	if err = v.ring.Add(time.Now()); err == nil {
		err = v.take()
	}
	if err == nil {
		err = n.store.Reseal(ctx)
	}
	if err == nil {
		err = errors.Join(v.ring.Drop(), v.take())
	}
	if err != nil {
		return SecretsStatus{}, err
	}
	n.log.Info("what is secret is encrypted with a new data key", "key", v.ring.Keys[0].Name)
	return v.status(), nil
}

// reseal writes the store as a configuration says.
func (n *Node) reseal(ctx context.Context, e *encryption.Encryption) error {
	n.vault.now.Store(e)
	if err := n.store.Reseal(ctx); err != nil {
		return err
	}
	n.log.Info("the store is encrypted as the configuration says", "file", n.vault.file, "writes", e.Writes())
	return nil
}

// followSecrets encrypts as the configuration file says when it changes.
func (n *Node) followSecrets(ctx context.Context) error {
	n.vault.now.Load().Follow(ctx, n.log.With("part", "encryption"), func(e *encryption.Encryption) error {
		done, err := n.vault.hold()
		if err != nil {
			return err
		}
		defer done()
		if e.ID() == n.vault.ID() {
			n.vault.now.Store(e)
			return nil
		}
		return n.reseal(ctx, e)
	})
	return nil
}
