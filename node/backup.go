package node

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"murmur/crdt/store"
	"murmur/node/member"
	"murmur/node/secrecy"
)

// A backup is one file: the identity of the node, with the secrets of the cluster, and the store as it was at one moment.
//
//	"murmur backup 1\n", length (uvarint) and JSON of the identity, the store's own backup
const backupMagic = "murmur backup 1\n"

// maxIdentity bounds what a reader takes for an identity.
const maxIdentity = 1 << 20

// errNoBackup is returned for a file that is no backup.
var errNoBackup = errors.New("this is no backup made by `murmur backup`, or it is cut off")

func (n *Node) backup(w io.Writer) error {
	if err := n.settled(); err != nil {
		return err
	}
	id, err := json.Marshal(n.self.Identity())
	if err != nil {
		return err
	}
	if _, err := w.Write(append(binary.AppendUvarint([]byte(backupMagic), uint64(len(id))), id...)); err != nil {
		return err
	}
	return n.store.Backup(w)
}

// Restore makes of a backup the disk of a node that has none yet; identity is the file of a private key if it is encrypted. The node meets whoever of the cluster is still there and
// takes their word for what has happened since. alone tells that nobody is: the others are forgotten, and the backup is where the
// cluster goes on. It returns the node's name.
func Restore(cfg Config, file io.Reader, identity string, alone bool) (name string, err error) {
	named := cfg.NodeName
	if cfg, err = cfg.complete(); err != nil {
		return "", err
	}
	held, err := lock(cfg.DataDir)
	if err != nil {
		return "", err
	}
	defer held.Close()
	dir := filepath.Join(cfg.DataDir, "store")
	if exists(member.File(cfg.DataDir)) || exists(dir) {
		return "", fmt.Errorf("%s is the disk of a node already: give another --data-dir, or remove it if nothing in it is needed", cfg.DataDir)
	}
	plain, err := secrecy.Open(file, identity)
	if err != nil {
		return "", err
	}
	r := bufio.NewReader(plain)
	magic := make([]byte, len(backupMagic))
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != backupMagic {
		return "", errNoBackup
	}
	size, err := binary.ReadUvarint(r)
	if err != nil || size > maxIdentity {
		return "", errNoBackup
	}
	id := &member.Identity{}
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil || json.Unmarshal(b, id) != nil {
		return "", errNoBackup
	}
	v, err := openVault(cfg)
	if err != nil {
		return "", err
	}
	if err := store.Restore(dir, r, v.sealer()); err != nil {
		return "", err
	}
	// The node that was backed up may be alive: this is another incarnation of it, or another node if it is given a name.
	id = id.Restored(alone)
	if named != "" {
		id.NodeName = named
	}
	if err := id.Save(cfg.DataDir); err != nil {
		return "", err
	}
	if err := restored(cfg, id.NodeName, alone); err != nil {
		return "", fmt.Errorf("the node is restored, but that is not in its audit log: %w", err)
	}
	return id.NodeName, nil
}

// neighbours are the nodes that a store which is behind knows: one of them can tell what has happened since.
func neighbours(s *store.Snapshot, self string) (out []member.Inviter) {
	for _, o := range registered.Of(s).nodes {
		if o.serf.IsValid() && o.name != self && len(out) < maxInviters {
			out = append(out, member.Inviter{NodeName: o.name, Serf: o.serf})
		}
	}
	return out
}
