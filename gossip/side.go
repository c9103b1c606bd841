package gossip

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// Two members that cannot read each other's membership traffic, because one of them was away while its key was replaced, never learn
// that the other is alive, and so open no streams. Their certificates are as good as ever: a side connection asks one service of
// a node at its address, without any membership.

// ServiceSide is the one service that is answered on side connections.
const ServiceSide = "ring"

// sideProtocol marks them in the handshake.
const sideProtocol = "murmur-side/1"

// errNoSide is returned for a node of an earlier version.
var errNoSide = errors.New("it knows no side connections")

// DialSide opens a connection to ServiceSide of the node whose streams are at an address. Who that is its certificate says.
func (a *Agent) DialSide(ctx context.Context, at netip.AddrPort) (net.Conn, error) {
	conn, err := a.config.dial(ctx, at)
	if err != nil {
		return nil, err
	}
	tc := tls.Client(conn, a.mux.tls(sideProtocol))
	name, err := a.mux.shake(ctx, tc)
	if err == nil && tc.ConnectionState().NegotiatedProtocol != sideProtocol {
		err = errNoSide
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("side connection to %s: %w", at, err), conn.Close())
	}
	return &peerConn{Conn: tc, peer: name, chain: tc.ConnectionState().PeerCertificates}, nil
}

// side hands a side connection to its service.
func (x *mux) side(name string, tc *tls.Conn) {
	x.mu.Lock()
	sv := x.services[ServiceSide]
	x.mu.Unlock()
	if sv == nil || !sv.offer(&peerConn{Conn: tc, peer: name, chain: tc.ConnectionState().PeerCertificates}) {
		_ = tc.Close()
	}
}

// Cut closes the sessions with peers that were shut out since, and lists them as members no more.
func (a *Agent) Cut() {
	select {
	case a.events <- nil: // look at the members
	default:
	}
	a.mux.mu.Lock()
	var sessions []*session
	for _, s := range a.mux.sessions {
		sessions = append(sessions, s)
	}
	a.mux.mu.Unlock()
	for _, s := range sessions {
		if a.config.refuse(s) {
			a.log.Warn("stream connection cut: its certificate is not believed any more", "peer", s.name)
			_ = s.mux.Close()
		}
	}
}

// refuse tells whether the peer of a session that stands has been shut out since. A certificate that was good at the handshake stays so
// while the session lives, though its CA may be gone meanwhile.
func (c *Config) refuse(s *session) bool { return c.Refuse != nil && c.Refuse(s.chain) != nil }
