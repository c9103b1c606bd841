package wire

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// TestFormat holds the bytes of a frame. All versions of the daemon write and read these.
func TestFormat(t *testing.T) {
	for _, c := range []struct {
		parts []string
		want  string
	}{
		{nil, "\x00\x00\x00\x00"},
		{[]string{"", ""}, "\x00\x00\x00\x00"},
		{[]string{"payload"}, "\x00\x00\x00\x07payload"},
		{[]string{"\x01", "{}"}, "\x00\x00\x00\x03\x01{}"},
		{[]string{strings.Repeat("x", 0x10203)}, "\x00\x01\x02\x03" + strings.Repeat("x", 0x10203)},
	} {
		var parts [][]byte
		for _, p := range c.parts {
			parts = append(parts, []byte(p))
		}
		var w writes
		if err := Write(&w, 1<<20, parts...); err != nil || len(w) != 1 || w[0] != c.want {
			t.Errorf("%.20q written as %.40q, %v, want %.40q", c.parts, w, err, c.want)
		}
		got, err := Read(iotest.OneByteReader(strings.NewReader(c.want+"next")), 1<<20)
		if err != nil || string(got) != strings.Join(c.parts, "") {
			t.Errorf("%.20q read as %.20q, %v", c.want, got, err)
		}
	}
}

// writes are what was written, by call.
type writes []string

func (w *writes) Write(b []byte) (int, error) { *w = append(*w, string(b)); return len(b), nil }

// TestBounds: what is too long is refused by who writes and by who reads, with its size, and without a byte of it.
func TestBounds(t *testing.T) {
	var w writes
	if err := Write(&w, 4, []byte("1234")); err != nil {
		t.Error(err)
	}
	err := Write(&w, 4, []byte("123"), []byte("45"))
	if !errors.Is(err, ErrTooLong) || !strings.Contains(err.Error(), "5 bytes, at most 4") || len(w) != 1 {
		t.Errorf("%v, written: %q", err, w)
	}
	if got, err := Read(strings.NewReader("\x00\x00\x00\x041234"), 4); err != nil || string(got) != "1234" {
		t.Errorf("%q, %v", got, err)
	}
	for in, size := range map[string]string{"\x00\x00\x00\x0512345": "5 bytes", "\x80\x00\x00\x00": "2147483648 bytes", "\xff\xff\xff\xff": "4294967295 bytes"} {
		r := strings.NewReader(in)
		_, err := Read(r, 4)
		if !errors.Is(err, ErrTooLong) || !strings.Contains(err.Error(), size+", at most 4") || r.Len() != len(in)-head {
			t.Errorf("%q: %v, %d bytes left", in, err, r.Len())
		}
	}
	broken := errors.New("broken")
	if _, err := Read(io.MultiReader(strings.NewReader("\x00\x00\x00\x05123"), iotest.ErrReader(broken)), 5); !errors.Is(err, broken) {
		t.Errorf("%v, want that of the reader", err)
	}
}

// TestEnds: an end between frames is one, and an end within is none.
func TestEnds(t *testing.T) {
	whole := "\x00\x00\x00\x05hello"
	for i := range len(whole) {
		want := io.ErrUnexpectedEOF
		if i == 0 {
			want = io.EOF
		}
		if _, err := Read(strings.NewReader(whole[:i]), 100); err != want {
			t.Errorf("after %d bytes: %v, want %v", i, err, want)
		}
	}
}

// greedy is a reader that arrives in small pieces and notes how much room was ever made for what has not arrived.
type greedy struct {
	left, arrived, most int
}

func (g *greedy) Read(b []byte) (int, error) {
	if g.arrived == 0 && len(b) == head {
		return copy(b, "\x3f\xff\xff\xff"), nil // a gigabyte
	}
	if g.left == 0 {
		return 0, io.EOF
	}
	g.most = max(g.most, len(b)-g.arrived)
	n := min(len(b), g.left, 1000)
	g.left -= n
	g.arrived += n
	return n, nil
}

// TestALengthCostsNothing: room is made for what has arrived, and as much again.
func TestALengthCostsNothing(t *testing.T) {
	for _, sent := range []int{0, 1, 1000, step, step + 1, 10 * step} {
		g := &greedy{left: sent}
		if b, err := Read(g, 1<<30); err != io.ErrUnexpectedEOF || b != nil {
			t.Fatalf("%d bytes of a gigabyte: %d, %v", sent, len(b), err)
		}
		if sent > 0 && g.most > step {
			t.Errorf("of %d bytes that came: there was room for %d more than had", sent, g.most)
		}
	}
	// What comes whole is in one piece that is no longer than it.
	for _, n := range []int{0, 1, step - 1, step, step + 1, 3*step + 7} {
		var w bytes.Buffer
		if err := Write(&w, n, make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		if b, err := Read(&w, n); err != nil || len(b) != n || cap(b) > n {
			t.Errorf("%d bytes: %d, room for %d, %v", n, len(b), cap(b), err)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x05hello\x00\x00\x00\x00"), uint16(10))
	f.Add([]byte("\xff\xff\xff\xff"), uint16(0))
	f.Fuzz(func(t *testing.T, in []byte, most uint16) {
		r := bytes.NewReader(in)
		var again bytes.Buffer
		for {
			b, err := Read(r, int(most))
			if err != nil {
				break
			}
			if len(b) > int(most) {
				t.Fatalf("%d bytes, at most %d", len(b), most)
			}
			if err := Write(&again, int(most), b); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.HasPrefix(in, again.Bytes()) {
			t.Fatalf("%q is written as %q", in, again.Bytes())
		}
	})
}
