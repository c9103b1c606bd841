package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// ErrTooLong is returned for a frame that is longer than allowed.
var ErrTooLong = errors.New("the frame is too long")

const (
	// head is the length in front of a frame.
	head = 4
	// step is how much is made ready for a frame before any of it has arrived.
	step = 64 << 10
)

// Write writes one frame whose payload is the parts one after the other, at most most bytes, with one Write of w.
func Write(w io.Writer, most int, parts ...[]byte) error {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	if n > most || n > math.MaxUint32 {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrTooLong, n, most)
	}
	b := binary.BigEndian.AppendUint32(make([]byte, 0, head+n), uint32(n))
	for _, p := range parts {
		b = append(b, p...)
	}
	_, err := w.Write(b)
	return err
}

// Read reads the payload of one frame, at most most bytes. The error is io.EOF where the reader ends before a frame, and
// io.ErrUnexpectedEOF where it ends within one.
func Read(r io.Reader, most int) ([]byte, error) {
	var length [head]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	announced := binary.BigEndian.Uint32(length[:])
	if int64(announced) > int64(most) {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLong, announced, most)
	}
	n := int(announced)
	b := make([]byte, min(n, step))
	for have := 0; have < n; {
		got, err := io.ReadFull(r, b[have:])
		have += got
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, err
		}
		if have < n {
			grown := make([]byte, min(n, 2*have))
			copy(grown, b)
			b = grown
		}
	}
	return b, nil
}
