package virtual

import (
	"bytes"
	"iter"
	"os"
	"testing"

	"murmur/gossip"
)

// TestMain makes what is made once in a process before the first bubble, so that it belongs to none: the compressor.
func TestMain(m *testing.M) {
	p := gossip.NewPlane(gossip.PlaneConfig{Self: "warm", Held: nothing{}})
	p.Connected(0, "peer", 0)
	p.Committed(0, bytes.Repeat([]byte("x"), 1<<10))
	os.Exit(m.Run())
}

// nothing is an empty store.
type nothing struct{}

func (nothing) Digest() [16]byte                       { return [16]byte{} }
func (nothing) Vector() []byte                         { return nil }
func (nothing) Delta([]byte) (iter.Seq[[]byte], error) { return func(func([]byte) bool) {}, nil }
