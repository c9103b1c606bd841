package memnet

import (
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// window is how much a connection holds that is not read yet.
const window = 256 << 10

// pair makes the two ends of a connection.
func (n *Network) pair(a, b netip.AddrPort) (near, far *conn) {
	there, back := &half{network: n, from: a.Addr(), to: b.Addr()}, &half{network: n, from: b.Addr(), to: a.Addr()}
	there.changed, back.changed = make(chan struct{}), make(chan struct{})
	return &conn{local: a, remote: b, in: back, out: there}, &conn{local: b, remote: a, in: there, out: back}
}

// conn is one end.
type conn struct {
	local, remote netip.AddrPort
	in, out       *half
}

func (c *conn) Read(b []byte) (int, error)         { return c.in.read(b) }
func (c *conn) Write(b []byte) (int, error)        { return c.out.write(b) }
func (c *conn) LocalAddr() net.Addr                { return net.TCPAddrFromAddrPort(c.local) }
func (c *conn) RemoteAddr() net.Addr               { return net.TCPAddrFromAddrPort(c.remote) }
func (c *conn) SetReadDeadline(t time.Time) error  { c.in.setDeadline(&c.in.readBy, t); return nil }
func (c *conn) SetWriteDeadline(t time.Time) error { c.out.setDeadline(&c.out.writeBy, t); return nil }

func (c *conn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// Close ends both directions: what is on its way out still arrives, and then the end.
func (c *conn) Close() error {
	c.in.abandon()
	c.out.end()
	return nil
}

// half is one direction of a connection.
type half struct {
	network  *Network
	from, to netip.Addr

	// mu guards what follows.
	mu      sync.Mutex
	chunks  []chunk
	size    int
	last    time.Time // when the latest chunk arrives
	ended   bool      // the writer closed
	dropped bool      // the reader closed
	readBy  time.Time
	writeBy time.Time
	changed chan struct{} // closed and replaced at every change
}

type chunk struct {
	at   time.Time
	data []byte // nil: the end
}

func (h *half) notify() {
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *half) setDeadline(which *time.Time, t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	*which = t
	h.notify()
}

func (h *half) abandon() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dropped = true
	h.chunks, h.size = nil, 0
	h.notify()
}

func (h *half) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.ended {
		h.ended = true
		h.add(nil)
	}
}

func (h *half) add(data []byte) {
	at := time.Now().Add(h.network.delay(h.from, h.to))
	if at.Before(h.last) {
		at = h.last
	}
	h.last = at
	h.chunks = append(h.chunks, chunk{at, data})
	h.size += len(data)
	h.notify()
}

// wait waits for a change of the half, for links to change, or until a time; zero is never.
func wait(changed, links <-chan struct{}, until time.Time) {
	var due <-chan time.Time
	if !until.IsZero() {
		t := time.NewTimer(time.Until(until))
		defer t.Stop()
		due = t.C
	}
	select {
	case <-changed:
	case <-links:
	case <-due:
	}
}

func expired(deadline time.Time) bool { return !deadline.IsZero() && !time.Now().Before(deadline) }

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func (h *half) read(b []byte) (int, error) {
	for {
		cut, links := h.network.link(h.from, h.to)
		h.mu.Lock()
		until := h.readBy
		switch {
		case h.dropped:
			h.mu.Unlock()
			return 0, net.ErrClosed
		case expired(h.readBy):
			h.mu.Unlock()
			return 0, os.ErrDeadlineExceeded
		case len(h.chunks) > 0 && !cut && !time.Now().Before(h.chunks[0].at):
			defer h.mu.Unlock()
			c := &h.chunks[0]
			if c.data == nil {
				return 0, io.EOF // and stays
			}
			n := copy(b, c.data)
			c.data = c.data[n:]
			h.size -= n
			if len(c.data) == 0 {
				h.chunks = h.chunks[1:]
			}
			h.notify()
			return n, nil
		case len(h.chunks) > 0 && !cut:
			until = earlier(until, h.chunks[0].at)
		}
		changed := h.changed
		h.mu.Unlock()
		wait(changed, links, until)
	}
}

func (h *half) write(b []byte) (int, error) {
	written := 0
	for len(b) > 0 {
		h.mu.Lock()
		switch {
		case h.ended || h.dropped:
			h.mu.Unlock()
			return written, net.ErrClosed
		case expired(h.writeBy):
			h.mu.Unlock()
			return written, os.ErrDeadlineExceeded
		}
		if n := min(len(b), window-h.size); n > 0 {
			h.add(append([]byte(nil), b[:n]...))
			b, written = b[n:], written+n
			h.mu.Unlock()
			continue
		}
		changed, until := h.changed, h.writeBy
		h.mu.Unlock()
		wait(changed, nil, until)
	}
	return written, nil
}
