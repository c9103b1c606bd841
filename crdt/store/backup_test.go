package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"murmur/crdt"
)

func TestBackupIsRestoredUnderANewOrigin(t *testing.T) {
	a := open(t, "")
	for i := range 1500 {
		put(t, a, fmt.Sprint("x", i), func(c *corev1.ConfigMap) { c.Data = map[string]string{"k": "v"} })
	}
	var file bytes.Buffer
	if err := a.Backup(&file); err != nil {
		t.Fatal(err)
	}
	put(t, a, "x1", func(c *corev1.ConfigMap) { c.Data["k"] = "later" })
	dir := filepath.Join(t.TempDir(), "store")
	if err := Restore(dir, bytes.NewReader(file.Bytes()), nil); err != nil {
		t.Fatal(err)
	}
	if err := Restore(dir, bytes.NewReader(file.Bytes()), nil); err == nil {
		t.Error("a backup was restored over a store")
	}
	b := open(t, dir)
	if b.Origin() == a.Origin() {
		t.Error("the restored store has the origin of the one that was backed up")
	}
	if e, ok := b.Snapshot().Get(cmKey("x1")); !ok || b.Status().Objects != 1500 {
		t.Fatalf("%d objects restored, want 1500", b.Status().Objects)
	} else if e.Version>>versionBits == a.Snapshot().Version()>>versionBits {
		t.Error("versions of the restored store are those of the other")
	}
	// Both go on, and neither's commits are taken for the other's.
	put(t, b, "x2", func(c *corev1.ConfigMap) { c.Data["k"] = "restored" })
	sync2(t, a, b)
	sync2(t, b, a)
	for _, s := range []*Store{a, b} {
		for name, want := range map[string]string{"x1": "later", "x2": "restored"} {
			if cm, _ := Get[corev1.ConfigMap](s.Snapshot(), cmKey(name)); cm.Data["k"] != want {
				t.Errorf("%s is %q, want %q", name, cm.Data["k"], want)
			}
		}
	}
	if a.Digest() != b.Digest() {
		t.Error("digests differ after exchange")
	}
}

// The tag of a version is one of 29,215: an origin drawn by chance may have its predecessor's.
func TestNoVersionIsTakenForOneOfTheOriginBefore(t *testing.T) {
	const before = crdt.Origin(7 << crdt.EpochBits)
	var draws []byte
	for _, o := range []crdt.Origin{before + maxTag - minTag, before + 2*(maxTag-minTag), before + 5} {
		draws = binary.BigEndian.AppendUint64(draws, uint64(o))
	}
	for name, change := range map[string]crdt.Origin{"an epoch": anEpoch, "a store": aStore} {
		m, err := (&meta{origin: before}).renewed(bytes.NewReader(draws), change)
		if err != nil || m.origin != before+5 || m.reserved.Of(before) {
			t.Errorf("%s goes on under %x, version %v: %v", name, m.origin, m.reserved, err)
		}
	}
}

func TestDamagedBackupIsRefused(t *testing.T) {
	a := open(t, "")
	put(t, a, "x", func(*corev1.ConfigMap) {})
	var file bytes.Buffer
	if err := a.Backup(&file); err != nil {
		t.Fatal(err)
	}
	whole := file.Bytes()
	undamaged := &Memory{}
	if err := restore(undamaged, &file, nil); err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		for _, damaged := range [][]byte{whole[:i], append(append(bytes.Clone(whole[:i]), whole[i]^0x40), whole[i+1:]...)} {
			dir := filepath.Join(t.TempDir(), "store")
			d := &Memory{}
			err := restore(d, bytes.NewReader(damaged), nil)
			// A bit that means nothing to the decompressor does no harm.
			key := diskDocument + cmKey("x").Encode()
			if err == nil && !bytes.Equal(d.records[key][8:], undamaged.records[key][8:]) {
				t.Fatalf("a backup damaged at byte %d of %d was restored", i, len(whole))
			}
			if i%50 == 0 {
				if err := Restore(dir, bytes.NewReader(whole[:i]), nil); !errors.Is(err, ErrBackup) {
					t.Errorf("a backup damaged at byte %d: %v", i, err)
				}
				if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
					t.Error("a refused backup left a store behind")
				}
			}
		}
	}
}

// A damaged file is noticed when the store is opened, and the error says what to do.
func TestDamagedStoreIsRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s, err := Open(Config{Dir: dir, Cluster: "test"})
	if err != nil {
		t.Fatal(err)
	}
	stop := run(t, s)
	for i := range 500 {
		put(t, s, fmt.Sprint("x", i), func(c *corev1.ConfigMap) { c.Data = map[string]string{"k": strings.Repeat("v", 1000)} })
	}
	stop() // what is in memory goes to a table
	tables, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatalf("no tables in %s: %v", dir, err)
	}
	whole, err := os.ReadFile(tables[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{100, len(whole) / 3, len(whole) / 2} {
		b := bytes.Clone(whole)
		b[at] ^= 0x10
		if err := os.WriteFile(tables[0], b, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Open(Config{Dir: dir, Cluster: "test"})
		if err == nil || !strings.Contains(err.Error(), "start once with --join") {
			t.Errorf("a store damaged at byte %d of %d: %v", at, len(b), err)
		}
	}
	if err := os.WriteFile(tables[0], whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if n := open(t, dir).Status().Objects; n != 500 {
		t.Errorf("%d objects in the undamaged store", n)
	}
}
