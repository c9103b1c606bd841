package primary

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"

	"murmur/wire"
)

// TestFrames holds the bytes around the messages of a call, which other daemons read and write.
func TestFrames(t *testing.T) {
	here, there := net.Pipe()
	written := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(there)
		written <- b
	}()
	c := newCall(here)
	for _, payload := range []string{"abc", "", "d"} {
		if err := c.send([]byte(payload)); err != nil {
			t.Fatal(err)
		}
	}
	if err := here.Close(); err != nil {
		t.Fatal(err)
	}
	if got, want := string(<-written), "\x00\x00\x00\x03abc\x00\x00\x00\x00\x00\x00\x00\x01d"; got != want {
		t.Errorf("written as %q, want %q", got, want)
	}

	for said, want := range map[string]struct {
		payload string
		err     error
	}{
		"":                          {err: io.EOF},
		"\x00\x00":                  {err: io.ErrUnexpectedEOF},
		"\x00\x00\x00\x00rest":      {},
		"\x00\x00\x00\x03abcrest":   {payload: "abc"},
		"\x00\x00\x00\x03ab":        {err: io.ErrUnexpectedEOF},
		"\x01\x00\x00\x01":          {err: wire.ErrTooLong},
		"\xff\xff\xff\xff and more": {err: wire.ErrTooLong},
	} {
		here, there := net.Pipe()
		go func() { _, _ = there.Write([]byte(said)); _ = there.Close() }()
		got, err := newCall(here).receive()
		if !errors.Is(err, want.err) || err == nil && !bytes.Equal(got, []byte(want.payload)) {
			t.Errorf("%q: %q, %v, want %q, %v", said, got, err, want.payload, want.err)
		}
		_ = here.Close()
	}
}
