package sched

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/types"

	"murmur/durable"
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
	if err := durable.Write(path, b, 0o600); err != nil {
		return fmt.Errorf("save the incarnation of this node: %w", err)
	}
	return nil
}
