package gossip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// Network is where an agent's packets and connections go if not to the machine's own network: test/memnet has one in memory.
type Network interface {
	// ListenPacket opens an address for datagrams.
	ListenPacket(at netip.AddrPort) (PacketConn, error)
	// Listen opens an address for connections.
	Listen(ctx context.Context, at netip.AddrPort) (net.Listener, error)
	// Dial connects from an address of this node's to another's.
	Dial(ctx context.Context, from netip.Addr, to netip.AddrPort) (net.Conn, error)
}

// PacketConn sends and receives datagrams.
type PacketConn interface {
	ReadFrom(b []byte) (n int, from netip.AddrPort, err error)
	WriteTo(b []byte, to netip.AddrPort) error
	Close() error
}

// listen opens the port for streams.
func (c *Config) listen(ctx context.Context, at netip.AddrPort) (net.Listener, error) {
	if c.Network != nil {
		return c.Network.Listen(ctx, at)
	}
	var lc net.ListenConfig
	return lc.Listen(ctx, "tcp", at.String())
}

// dial connects to a peer's port for streams.
func (c *Config) dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if c.Network != nil {
		return c.Network.Dial(ctx, c.Addr, to)
	}
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: c.Addr.AsSlice()}}
	return d.DialContext(ctx, "tcp", to.String())
}

// transport carries memberlist over a Network.
type transport struct {
	network  Network
	at       netip.AddrPort
	packets  PacketConn
	listener net.Listener
	inbox    chan *memberlist.Packet
	conns    chan net.Conn
	done     chan struct{}
	loops    sync.WaitGroup
}

var _ memberlist.Transport = (*transport)(nil)

// openTransport opens both ports and begins to read: memberlist expects that of what it is given.
func openTransport(ctx context.Context, n Network, at netip.AddrPort) (*transport, error) {
	t := &transport{network: n, at: at, inbox: make(chan *memberlist.Packet, 256), conns: make(chan net.Conn), done: make(chan struct{})}
	var err error
	if t.packets, err = n.ListenPacket(at); err != nil {
		return nil, err
	}
	if t.listener, err = n.Listen(ctx, at); err != nil {
		return nil, errors.Join(err, t.packets.Close())
	}
	t.loops.Go(t.readPackets)
	t.loops.Go(t.accept)
	return t, nil
}

func (t *transport) readPackets() {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := t.packets.ReadFrom(buf)
		if err != nil {
			return
		}
		p := &memberlist.Packet{Buf: append([]byte(nil), buf[:n]...), From: net.UDPAddrFromAddrPort(from), Timestamp: time.Now()}
		select {
		case t.inbox <- p:
		case <-t.done:
			return
		}
	}
}

func (t *transport) accept() {
	for {
		c, err := t.listener.Accept()
		if err != nil {
			return
		}
		select {
		case t.conns <- c:
		case <-t.done:
			_ = c.Close()
			return
		}
	}
}

// FinalAdvertiseAddr is the address listened on.
func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return t.at.Addr().AsSlice(), int(t.at.Port()), nil
}

// WriteTo sends a datagram.
func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return time.Time{}, fmt.Errorf("send to %s: %w", addr, err)
	}
	return time.Now(), t.packets.WriteTo(b, to)
}

// PacketCh gives the datagrams received.
func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.inbox }

// StreamCh gives the connections accepted.
func (t *transport) StreamCh() <-chan net.Conn { return t.conns }

// DialTimeout connects to another member.
func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return t.network.Dial(ctx, t.at.Addr(), to)
}

// Shutdown closes both ports and waits for the loops.
func (t *transport) Shutdown() error {
	close(t.done)
	err := errors.Join(t.packets.Close(), t.listener.Close())
	t.loops.Wait()
	return err
}
