package sched

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/types"
)

// life is what outlives the process: which life this is, and what it has promised to fencers.
type life struct {
	Incarnation uint64               `json:"incarnation"`
	Promises    map[types.UID]Ballot `json:"promises,omitempty"`
}

const lifeFile = "placement.json"

// begin reads the last life and writes the next one. A node without a directory has no memory and lives once.
func begin(dir string) (life, error) {
	var l life
	if dir != "" {
		b, err := os.ReadFile(filepath.Join(dir, lifeFile))
		if err == nil {
			err = json.Unmarshal(b, &l)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return l, fmt.Errorf("read the incarnation of this node: %w", err)
		}
	}
	l.Incarnation++
	return l, l.save(dir)
}

// save makes it durable: after a crash either the old or the new file is there, whole.
func (l life) save(dir string) error {
	if dir == "" {
		return nil
	}
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("save the incarnation of this node: %w", err)
	}
	path := filepath.Join(dir, lifeFile)
	if err := writeSynced(path+".new", b); err != nil {
		return fmt.Errorf("save the incarnation of this node: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("save the incarnation of this node: %w", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func writeSynced(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}
