package secrecy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	"filippo.io/age"
)

// ageMagic begins a file that age has encrypted.
const ageMagic = "age-encryption.org/v1\n"

// maxIdentityFile bounds a file of private keys.
const maxIdentityFile = 1 << 20

// Recipients are who may read a backup.
type Recipients []age.Recipient

// ParseRecipients reads public keys, "age1...".
func ParseRecipients(keys []string) (Recipients, error) {
	out := make(Recipients, 0, len(keys))
	for _, k := range keys {
		r, err := age.ParseX25519Recipient(k)
		if err != nil {
			return nil, fmt.Errorf("--recipient %q: want a public key such as age1..., which `age-keygen` prints: %w", k, err)
		}
		out = append(out, r)
	}
	return out, nil
}

// Seal encrypts what is written to it. It must be closed when all is written, and only then: what is not closed cannot be read.
func (r Recipients) Seal(w io.Writer) (io.WriteCloser, error) { return age.Encrypt(w, r...) }

// Open reads a backup, with the private keys in a file if it is encrypted.
func Open(in io.Reader, identityFile string) (io.Reader, error) {
	r := bufio.NewReader(in)
	head, err := r.Peek(len(ageMagic))
	sealed := err == nil && string(head) == ageMagic
	switch {
	case !sealed && identityFile != "":
		return nil, errors.New("the backup is not encrypted: leave --identity out")
	case !sealed:
		return r, nil
	case identityFile == "":
		return nil, errors.New("the backup is encrypted: give the file of a private key that it was encrypted to as --identity")
	}
	f, err := os.Open(identityFile)
	if err != nil {
		return nil, fmt.Errorf("--identity: %w", err)
	}
	defer f.Close()
	ids, err := age.ParseIdentities(io.LimitReader(f, maxIdentityFile))
	if err != nil {
		return nil, fmt.Errorf("--identity %s: want a file of `age-keygen`: %w", identityFile, err)
	}
	out, err := age.Decrypt(r, ids...)
	if err != nil {
		return nil, fmt.Errorf("decrypt the backup with %s: %w", identityFile, err)
	}
	return out, nil
}
