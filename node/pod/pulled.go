package pod

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"k8s.io/kubernetes/pkg/util/parsers"

	"murmur/durable"
)

// pulled remembers with whose credentials each image of this node was pulled. An image that is here is only for pods that could
// have pulled it: a private one is no less private because another tenant's pod ran on this node before (KEP-2535). One that no
// pull brought, such as those imported, is for every pod; so is one that was pulled without credentials.
//
// The directory is the whole state: a file for each image, and one for each pull that is under way, so that what a daemon that
// was killed has pulled is not taken for imported. Passwords are in none: credentials are known by a hash.
type pulled struct {
	dir string

	mu      sync.Mutex // held over reads and writes of small files: two pulls of one image add to one record
	serial  uint64
	written map[string]uint64 // by file: the serial of its last write in this process
}

// pullRecord is what is known of one image, by repository: what was asked for under one name was not under another.
type pullRecord struct {
	Image        string                 `json:"image"`
	Repositories map[string]*pullAccess `json:"repositories"`
}

type pullAccess struct {
	Anyone bool `json:"anyone,omitempty"`
	// Hashes are of credentials, Secrets where they come from: one whose password is changed is still the one that may.
	Hashes  []string `json:"hashes,omitempty"`
	Secrets []string `json:"secrets,omitempty"`
}

// maxAccess is how many credentials are remembered for one image; those that were used longest ago are asked for again.
const maxAccess = 100

func fileOf(name string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(name))) }

func (p *pulled) recordPath(id string) string { return filepath.Join(p.dir, fileOf(id)) }
func (p *pulled) intentPath(image string) string {
	return filepath.Join(p.dir, "intents", fileOf(image))
}

// repositoryOf is an image's name without tag and digest.
func repositoryOf(image string) string {
	repository, _, _, err := parsers.ParseImageName(image)
	if err != nil {
		return image
	}
	return repository
}

// read is the record of an image; nil if there is none.
func (p *pulled) read(id string) (*pullRecord, error) {
	text, err := os.ReadFile(p.recordPath(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r := &pullRecord{}
	if err := json.Unmarshal(text, r); err != nil || r.Image != id {
		return &pullRecord{Image: id}, nil // unreadable: everybody shows his credentials
	}
	return r, nil
}

// may tells whether a pod with these credentials may use an image that is here under the name that it asks for.
func (p *pulled) may(id, image string, auths []Auth) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r, err := p.read(id)
	if err != nil {
		return false, err
	}
	if r == nil {
		_, err := os.Stat(p.intentPath(image))
		if errors.Is(err, fs.ErrNotExist) {
			return true, nil
		}
		return false, err
	}
	a := r.Repositories[repositoryOf(image)]
	if a == nil {
		return false, nil
	}
	return a.Anyone || slices.ContainsFunc(auths, func(auth Auth) bool {
		return slices.Contains(a.Hashes, auth.hash()) || auth.Secret != "" && slices.Contains(a.Secrets, auth.Secret)
	}), nil
}

// intend notes that an image is about to be pulled.
func (p *pulled) intend(image string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.write(p.intentPath(image), []byte(image))
}

// done notes that a pull has ended: it brought the image id with the credentials given, none for nil, or failed if id is empty.
func (p *pulled) done(image, id string, with *Auth) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if id != "" {
		r, err := p.read(id)
		if err != nil {
			return err
		}
		if r == nil {
			r = &pullRecord{Image: id}
		}
		if r.Repositories == nil {
			r.Repositories = map[string]*pullAccess{}
		}
		a := r.Repositories[repositoryOf(image)]
		if a == nil {
			a = &pullAccess{}
			r.Repositories[repositoryOf(image)] = a
		}
		if with == nil {
			a.Anyone = true
		} else {
			a.Hashes = latest(a.Hashes, with.hash())
			if with.Secret != "" {
				a.Secrets = latest(a.Secrets, with.Secret)
			}
		}
		text, err := json.Marshal(r)
		if err != nil {
			return err
		}
		if err := p.write(p.recordPath(id), text); err != nil {
			return err
		}
	}
	delete(p.written, fileOf(image))
	if err := os.Remove(p.intentPath(image)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// mark is the moment before images are listed, for keep.
func (p *pulled) mark() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.serial
}

// keep forgets the images that were no more at the mark. What was pulled since is in no list: forgotten, it would be everybody's.
func (p *pulled) keep(mark uint64, live map[string]bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	names := map[string]bool{}
	for id := range live {
		names[fileOf(id)] = true
	}
	entries, err := os.ReadDir(p.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if e.Type().IsRegular() && !names[e.Name()] && p.written[e.Name()] <= mark {
			delete(p.written, e.Name())
			if err := os.Remove(filepath.Join(p.dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// write puts a file in place at once.
func (p *pulled) write(path string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	p.serial++
	if p.written == nil {
		p.written = map[string]uint64{}
	}
	p.written[filepath.Base(path)] = p.serial
	return durable.Write(path, text, 0o600)
}

// latest puts an entry at the end of a list that is kept short.
func latest(list []string, entry string) []string {
	list = append(slices.DeleteFunc(list, func(e string) bool { return e == entry }), entry)
	return list[max(0, len(list)-maxAccess):]
}

// hash is by what credentials are known again.
func (a Auth) hash() string {
	text, _ := json.Marshal([]string{a.Username, a.Password, a.IdentityToken, a.RegistryToken, a.Server})
	return fmt.Sprintf("%x", sha256.Sum256(text))
}
