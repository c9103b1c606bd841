package relay

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
)

// end is one end of a connection in memory whose directions end one by one.
type end struct {
	*io.PipeReader
	*io.PipeWriter
}

func ends() (a, b end) {
	ar, bw := io.Pipe()
	br, aw := io.Pipe()
	return end{ar, aw}, end{br, bw}
}

func (e end) CloseWrite() error { return e.PipeWriter.Close() }
func (e end) Close() error      { return errors.Join(e.PipeReader.Close(), e.PipeWriter.Close()) }

// TestJoin: one direction's end is not the other's.
func TestJoin(t *testing.T) {
	for _, c := range []struct {
		name        string
		client, far func(end) string
		heard       string // by the client
	}{
		{"the far end does not listen, and speaks", func(e end) string {
			fmt.Fprint(e, "nobody hears this")
			fmt.Fprint(e, "nor this")
			b, _ := io.ReadAll(e)
			e.Close()
			return string(b)
		}, func(e end) string {
			e.PipeReader.Close()
			fmt.Fprint(e, "one")
			fmt.Fprint(e, " two")
			e.CloseWrite()
			return ""
		}, "one two"},
		{"the client has said all, and listens", func(e end) string {
			fmt.Fprint(e, "all")
			e.CloseWrite()
			b, _ := io.ReadAll(e)
			e.Close()
			return string(b)
		}, func(e end) string {
			b, _ := io.ReadAll(e)
			fmt.Fprintf(e, "heard %s", b)
			e.Close()
			return string(b)
		}, "heard all"},
		{"the far end hangs up while the client speaks", func(e end) string {
			fmt.Fprint(e, "a")
			b, _ := io.ReadAll(e)
			fmt.Fprint(e, "b")
			e.Close()
			return string(b)
		}, func(e end) string {
			var b [1]byte
			io.ReadFull(e, b[:])
			fmt.Fprint(e, "bye")
			e.Close()
			return string(b[:])
		}, "bye"},
		{"the client hangs up", func(e end) string {
			e.Close()
			return ""
		}, func(e end) string {
			b, _ := io.ReadAll(e)
			e.Close()
			return string(b)
		}, ""},
	} {
		client, near := ends()
		far, there := ends()
		heard := make(chan string, 1)
		var wg sync.WaitGroup
		wg.Go(func() { heard <- c.client(client) })
		wg.Go(func() { c.far(there) })
		join(near, near, far)
		wg.Wait()
		if got := <-heard; got != c.heard {
			t.Errorf("%s: heard %q, want %q", c.name, got, c.heard)
		}
	}
}
