// Package formattest compares what is written to disks and to peers with what was recorded of it, below testdata/format of the
// package under test. What a daemon of a format wrote is read for as long as there are such daemons: whoever has to change one of these
// files gives the format a new number, and keeps reading the old one.
package formattest

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var rewrite = flag.Bool("formats.rewrite", false, "write testdata/format anew: only for a format that has its own number")

// Format is something as it is written now, and what reads it.
type Format struct {
	Bytes []byte
	Read  func(*testing.T, []byte)
}

// Run has each format read what is recorded of it, and compares that with how it is written now.
func Run(t *testing.T, formats map[string]Format) {
	for name, f := range formats {
		t.Run(name, func(t *testing.T) {
			old := Recorded(t, name+".1.hex", f.Bytes)
			f.Read(t, old)
			if !bytes.Equal(old, f.Bytes) {
				t.Errorf("it is written as\n%x\nand was as\n%x", f.Bytes, old)
			}
		})
	}
}

// Recorded is what testdata/format has, which becomes what is given if that is asked for.
func Recorded(t *testing.T, name string, now []byte) []byte {
	t.Helper()
	file := filepath.Join("testdata", "format", name)
	if *rewrite {
		if err := os.WriteFile(file, []byte(hex.EncodeToString(now)+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(string(bytes.TrimSpace(text)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
