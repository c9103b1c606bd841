package memnet

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"murmur/gossip"
)

// Network connects hosts.
type Network struct {
	// mu guards what follows.
	mu      sync.Mutex
	delay   func(from, to netip.Addr) time.Duration
	cut     map[[2]netip.Addr]bool
	packets map[netip.AddrPort]*packetConn
	streams map[netip.AddrPort]*listener
	ports   uint16
	// changed is closed and replaced when links are cut or mended.
	changed chan struct{}
}

// New makes a network in which everything takes the given time one way.
func New(delay func(from, to netip.Addr) time.Duration) *Network {
	return &Network{
		delay: delay, cut: map[[2]netip.Addr]bool{}, packets: map[netip.AddrPort]*packetConn{}, streams: map[netip.AddrPort]*listener{},
		ports: 30000, changed: make(chan struct{}),
	}
}

// Cut cuts or mends the link from one host to another, in that direction only.
func (n *Network) Cut(from, to netip.Addr, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if cut {
		n.cut[[2]netip.Addr{from, to}] = true
	} else {
		delete(n.cut, [2]netip.Addr{from, to})
	}
	close(n.changed)
	n.changed = make(chan struct{})
}

// link tells whether a link is cut, and what closes when that may have changed.
func (n *Network) link(from, to netip.Addr) (cut bool, changed <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cut[[2]netip.Addr{from, to}], n.changed
}

// ListenPacket opens an address for datagrams.
func (n *Network) ListenPacket(at netip.AddrPort) (gossip.PacketConn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.packets[at] != nil {
		return nil, fmt.Errorf("listen on %s: %w", at, syscall.EADDRINUSE)
	}
	c := &packetConn{network: n, at: at, inbox: make(chan datagram, 1024), done: make(chan struct{})}
	n.packets[at] = c
	return c, nil
}

type datagram struct {
	from netip.AddrPort
	data []byte
}

type packetConn struct {
	network *Network
	at      netip.AddrPort
	inbox   chan datagram
	done    chan struct{}
	once    sync.Once
}

func (c *packetConn) ReadFrom(b []byte) (int, netip.AddrPort, error) {
	select {
	case d := <-c.inbox:
		return copy(b, d.data), d.from, nil
	case <-c.done:
		return 0, netip.AddrPort{}, net.ErrClosed
	}
}

func (c *packetConn) WriteTo(b []byte, to netip.AddrPort) error {
	d := datagram{c.at, append([]byte(nil), b...)}
	time.AfterFunc(c.network.delay(c.at.Addr(), to.Addr()), func() {
		if cut, _ := c.network.link(c.at.Addr(), to.Addr()); cut {
			return
		}
		c.network.mu.Lock()
		dest := c.network.packets[to]
		c.network.mu.Unlock()
		if dest == nil {
			return
		}
		select {
		case dest.inbox <- d:
		default: // a full socket buffer
		}
	})
	return nil
}

func (c *packetConn) Close() error {
	c.once.Do(func() {
		close(c.done)
		c.network.mu.Lock()
		defer c.network.mu.Unlock()
		if c.network.packets[c.at] == c {
			delete(c.network.packets, c.at)
		}
	})
	return nil
}

// Listen opens an address for connections.
func (n *Network) Listen(_ context.Context, at netip.AddrPort) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.streams[at] != nil {
		return nil, fmt.Errorf("listen on %s: %w", at, syscall.EADDRINUSE)
	}
	l := &listener{network: n, at: at, backlog: make(chan net.Conn, 128), done: make(chan struct{})}
	n.streams[at] = l
	return l, nil
}

type listener struct {
	network *Network
	at      netip.AddrPort
	backlog chan net.Conn
	done    chan struct{}
	once    sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.backlog:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.done)
		l.network.mu.Lock()
		delete(l.network.streams, l.at)
		l.network.mu.Unlock()
	})
	return nil
}

func (l *listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.at) }

// Dial connects two hosts. Over a cut link it waits, as one does for an answer that does not come.
func (n *Network) Dial(ctx context.Context, from netip.Addr, to netip.AddrPort) (net.Conn, error) {
	refused := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "memory", Addr: net.TCPAddrFromAddrPort(to), Err: err}
	}
	for {
		there, changed := n.link(from, to.Addr())
		back, _ := n.link(to.Addr(), from)
		if !there && !back {
			break
		}
		select {
		case <-ctx.Done():
			return refused(ctx.Err())
		case <-changed:
		}
	}
	trip := time.NewTimer(n.delay(from, to.Addr()) + n.delay(to.Addr(), from))
	defer trip.Stop()
	select {
	case <-ctx.Done():
		return refused(ctx.Err())
	case <-trip.C:
	}
	n.mu.Lock()
	l := n.streams[to]
	n.ports++
	local := netip.AddrPortFrom(from, n.ports)
	n.mu.Unlock()
	if l == nil {
		return refused(syscall.ECONNREFUSED)
	}
	near, far := n.pair(local, to)
	select {
	case l.backlog <- far:
		return near, nil
	default:
		return refused(syscall.ECONNREFUSED)
	}
}
