package secrecy

import (
	"errors"
	"fmt"
	"os"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
)

// sealedByTPM is a key that only the TPM which sealed it gives out again: it is encrypted under the storage key that the TPM derives
// from a seed of its own whenever it is asked to. Nothing stays in the TPM.
type sealedByTPM struct {
	Public  []byte `json:"public"`
	Private []byte `json:"private"`
}

// openTPM connects to a TPM 2.0: a device such as /dev/tpmrm0, or the socket of one that is software.
func openTPM(path string) (transport.TPMCloser, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode()&os.ModeSocket != 0 {
		return linuxudstpm.Open(path)
	}
	return linuxtpm.Open(path)
}

// storageKey is the TPM's storage key, loaded until end is called.
type storageKey struct {
	tpm     transport.TPM
	created *tpm2.CreatePrimaryResponse
	public  *tpm2.TPMTPublic
}

func loadStorageKey(tpm transport.TPM) (*storageKey, error) {
	created, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(tpm)
	if err != nil {
		return nil, fmt.Errorf("derive the storage key: %w", err)
	}
	public, err := created.OutPublic.Contents()
	if err != nil {
		return nil, errors.Join(err, flush(tpm, created.ObjectHandle))
	}
	return &storageKey{tpm, created, public}, nil
}

func flush(tpm transport.TPM, handle tpm2.TPMHandle) error {
	_, err := tpm2.FlushContext{FlushHandle: handle}.Execute(tpm)
	return err
}

// session authorises one command. Its salt is for the storage key alone, and with one of the options of AESEncryption what is secret in the
// command or its response is encrypted: who listens on the wires to the chip learns nothing.
func (k *storageKey) session(options ...tpm2.AuthOption) tpm2.Session {
	return tpm2.HMAC(tpm2.TPMAlgSHA256, 16, append(options, tpm2.Salted(k.created.ObjectHandle, *k.public))...)
}

func (k *storageKey) parent(options ...tpm2.AuthOption) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: k.created.ObjectHandle, Name: k.created.Name, Auth: k.session(options...)}
}

func (k *storageKey) end() error { return flush(k.tpm, k.created.ObjectHandle) }

// withTPM does something with the storage key of the TPM at path.
func withTPM(path string, do func(*storageKey) error) (err error) {
	tpm, err := openTPM(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tpm.Close()) }()
	k, err := loadStorageKey(tpm)
	if err != nil {
		return err
	}
	return errors.Join(do(k), k.end())
}

// sealByTPM has the TPM at path encrypt a key that it alone gives out again.
func sealByTPM(path string, key [32]byte) (*sealedByTPM, error) {
	var out sealedByTPM
	err := withTPM(path, func(k *storageKey) error {
		made, err := tpm2.Create{
			ParentHandle: k.parent(tpm2.AESEncryption(128, tpm2.EncryptIn)),
			InSensitive:  tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: key[:]})}},
			InPublic: tpm2.New2B(tpm2.TPMTPublic{Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
				ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, UserWithAuth: true, NoDA: true}}),
		}.Execute(k.tpm)
		if err != nil {
			return fmt.Errorf("seal: %w", err)
		}
		out = sealedByTPM{Public: tpm2.Marshal(made.OutPublic), Private: tpm2.Marshal(made.OutPrivate)}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &out, nil
}

// unseal has the TPM at path give out a key that it sealed.
func (s *sealedByTPM) unseal(path string) (key [32]byte, err error) {
	public, err := tpm2.Unmarshal[tpm2.TPM2BPublic](s.Public)
	if err != nil {
		return key, fmt.Errorf("read the public part: %w", err)
	}
	private, err := tpm2.Unmarshal[tpm2.TPM2BPrivate](s.Private)
	if err != nil {
		return key, fmt.Errorf("read the private part: %w", err)
	}
	err = withTPM(path, func(k *storageKey) error {
		loaded, err := tpm2.Load{ParentHandle: k.parent(), InPublic: *public, InPrivate: *private}.Execute(k.tpm)
		if err != nil {
			return fmt.Errorf("load what was sealed: %w", err)
		}
		auth := tpm2.AuthHandle{Handle: loaded.ObjectHandle, Name: loaded.Name, Auth: k.session(tpm2.AESEncryption(128, tpm2.EncryptOut))}
		got, err := tpm2.Unseal{ItemHandle: auth}.Execute(k.tpm)
		if err := errors.Join(err, flush(k.tpm, loaded.ObjectHandle)); err != nil {
			return fmt.Errorf("unseal: %w", err)
		}
		if len(got.OutData.Buffer) != len(key) {
			return fmt.Errorf("unseal: %d bytes came, want %d", len(got.OutData.Buffer), len(key))
		}
		key = [32]byte(got.OutData.Buffer)
		return nil
	})
	return key, err
}
