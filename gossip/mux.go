package gossip

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
	"golang.org/x/sync/semaphore"

	"murmur/wire"
)

var (
	// ErrUnreachable is returned by Dial for a node that is not alive or not connected.
	ErrUnreachable = errors.New("node is not reachable from here")
	// ErrNotMember is returned for a peer whose certificate does not name the member it should be.
	ErrNotMember = errors.New("peer is not the member it should be")
)

// NodeUser is the common name in a node's certificate.
func NodeUser(node string) string { return "system:node:" + node }

// mux keeps one multiplexed connection to each live peer. Of two nodes the one with the smaller id dials.
type mux struct {
	agent    *Agent
	listener net.Listener
	kick     chan struct{}

	// mu guards what follows.
	mu       sync.Mutex
	sessions map[string]*session  // by node name
	lost     map[string]time.Time // by node name: when the last session ended
	changed  chan struct{}        // closed and replaced when sessions changes
	services map[string]*service
}

// session is the connection to one peer.
type session struct {
	name string
	mux  *yamux.Session
	// chain is what the peer has proven itself with.
	chain []*x509.Certificate
	// packets holds the one packet on its way, done is closed at the end, streams are all goroutines of the session, and merging
	// is a place for every delta being merged.
	packets chan []byte
	done    chan struct{}
	streams sync.WaitGroup
	merging chan struct{}
	// inflated is a place for every byte of the deltas being merged.
	inflated *semaphore.Weighted
	// checking is a place for every message of a check being answered.
	checking chan struct{}
}

func newMux(a *Agent) *mux {
	return &mux{
		agent: a, kick: make(chan struct{}, 1), sessions: map[string]*session{}, lost: map[string]time.Time{}, changed: make(chan struct{}),
		services: map[string]*service{},
	}
}

// tls is the configuration of either end. Which member the peer is, the caller checks with verify. No list of CAs is sent along: a
// peer has one certificate only, and shows it whatever they are.
func (x *mux) tls(protocols ...string) *tls.Config {
	c := x.agent.config
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		NextProtos:           protocols,
		GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.Certificate(), nil },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.Certificate(), nil },
		ClientAuth:           tls.RequireAnyClientCert,
		// A node is known by the name in its certificate, not by its address: VerifyConnection checks who signed it.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, err := c.verify(cs.PeerCertificates)
			return err
		},
		// Every connection is proven anew: what was revoked is not resumed.
		SessionTicketsDisabled: true,
	}
}

// verify checks the certificates of a peer and tells its node name.
func (c *Config) verify(chain []*x509.Certificate) (string, error) {
	if len(chain) == 0 {
		return "", ErrNotMember
	}
	if c.Verify != nil {
		return c.Verify(chain)
	}
	o := x509.VerifyOptions{Roots: c.Roots, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	for _, cert := range chain[1:] {
		o.Intermediates.AddCert(cert)
	}
	if _, err := chain[0].Verify(o); err != nil {
		return "", err
	}
	name, ok := strings.CutPrefix(chain[0].Subject.CommonName, NodeUser(""))
	if !ok {
		return "", fmt.Errorf("%w: certificate of %q is no node's", ErrNotMember, chain[0].Subject.CommonName)
	}
	return name, nil
}

// Timeouts of connections. A handshake crosses the network three times; a silent peer is given up within keepAlive plus
// writeTimeout, about when membership gives it up.
const (
	handshakeTimeout = 3 * time.Second
	keepAlive        = 2 * time.Second
	writeTimeout     = 3 * time.Second
	dialPause        = 500 * time.Millisecond
)

func (x *mux) yamux() *yamux.Config {
	c := yamux.DefaultConfig()
	c.KeepAliveInterval = keepAlive
	c.ConnectionWriteTimeout = writeTimeout
	c.StreamOpenTimeout = 0
	c.StreamCloseTimeout = time.Minute
	c.AcceptBacklog = 256
	c.LogOutput = io.Discard
	return c
}

// run accepts and dials until the context ends, then closes every session and waits for its streams.
func (x *mux) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		<-ctx.Done()
		x.mu.Lock()
		sessions, services := slices.Collect(maps.Values(x.sessions)), slices.Collect(maps.Values(x.services))
		x.mu.Unlock()
		for _, sv := range services {
			sv.close()
		}
		var closing sync.WaitGroup
		for _, s := range sessions {
			closing.Go(func() { _ = s.mux.Close() }) // which may wait for a peer that does not answer
		}
		closing.Wait()
	})
	wg.Go(func() { x.dialPeers(ctx, &wg) })
	return x.listen(ctx, &wg)
}

// listen has a connection prove who it is from, and then be a session with that peer, or a side connection.
func (x *mux) listen(ctx context.Context, wg *sync.WaitGroup) error {
	var limit slots
	var noise noise
	refused := func(conn net.Conn, err error) {
		if others, say := noise.refused(time.Now()); say {
			x.agent.log.Warn("stream connection refused", "from", conn.RemoteAddr(), "err", err, "others since the last line", others)
		}
	}
	server := &wire.Server{
		Listener: x.listener, Log: x.agent.log,
		// A connection has a place while its handshake is under way.
		Admit: func(conn net.Conn) (func(), bool) {
			from, known := x.agent.source(conn.RemoteAddr())
			if !limit.take(from, known) {
				refused(conn, errTooMany)
				return nil, false
			}
			return func() { limit.release(from, known) }, true
		},
		Handle: func(_ context.Context, conn net.Conn) {
			tc := tls.Server(conn, x.tls(sideProtocol))
			name, err := x.shake(ctx, tc)
			if err != nil {
				refused(conn, err)
				_ = conn.Close()
				return
			}
			wg.Go(func() {
				if tc.ConnectionState().NegotiatedProtocol == sideProtocol {
					x.side(name, tc)
					return
				}
				x.serve(ctx, name, tc, false)
			})
		},
	}
	return server.Run(ctx)
}

func (x *mux) shake(ctx context.Context, tc *tls.Conn) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if err := tc.HandshakeContext(ctx); err != nil {
		return "", err
	}
	return x.agent.config.verify(tc.ConnectionState().PeerCertificates)
}

func (x *mux) wake() {
	select {
	case x.kick <- struct{}{}:
	default:
	}
}

// dialPeers connects to every live member that this node is to dial.
func (x *mux) dialPeers(ctx context.Context, wg *sync.WaitGroup) {
	dialling := map[string]bool{}
	done := make(chan string, 64)
	tick := time.NewTicker(dialPause)
	defer tick.Stop()
	for {
		for _, m := range x.agent.Members() {
			if m.Status != Alive || m.ID <= x.agent.config.ID || dialling[m.ID] || x.session(m.Name) != nil {
				continue
			}
			dialling[m.ID] = true
			wg.Go(func() {
				if err := x.dial(ctx, m); err != nil && ctx.Err() == nil {
					x.agent.log.Debug("dial stream", "peer", m.Name, "err", err)
				}
				select {
				case done <- m.ID:
				case <-ctx.Done():
				}
			})
		}
		select {
		case <-ctx.Done():
			return
		case id := <-done:
			delete(dialling, id)
			// Not at once: the peer may have refused.
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		case <-x.kick:
		case <-tick.C:
		}
	}
}

// dial connects to a member and serves the connection until it ends.
func (x *mux) dial(ctx context.Context, m Member) error {
	conn, err := x.agent.config.dial(ctx, netip.AddrPortFrom(m.Addr, m.StreamPort))
	if err != nil {
		return err
	}
	tc := tls.Client(conn, x.tls())
	name, err := x.shake(ctx, tc)
	if err == nil && name != m.Name {
		err = fmt.Errorf("%w: %s answers as %s", ErrNotMember, m.Name, name)
	}
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	x.serve(ctx, name, tc, true)
	return nil
}

// serve owns one connection: it is the session with the peer until it breaks.
func (x *mux) serve(ctx context.Context, name string, conn *tls.Conn, client bool) {
	open := yamux.Server
	if client {
		open = yamux.Client
	}
	ym, err := open(conn, x.yamux())
	if err != nil {
		_ = conn.Close()
		return
	}
	s := &session{
		name: name, mux: ym, packets: make(chan []byte, 1), done: make(chan struct{}), merging: make(chan struct{}, maxMerging), inflated: semaphore.NewWeighted(maxInflated),
		checking: make(chan struct{}, maxChecking), chain: conn.ConnectionState().PeerCertificates,
	}
	rtt := x.agent.rttOf(name)
	x.mu.Lock()
	old := x.sessions[name]
	x.sessions[name] = s
	x.agent.carrier.connect(s, rtt) // here, so that both have the same session, and Sync finds it in both
	close(x.changed)
	x.changed = make(chan struct{})
	x.mu.Unlock()
	if old != nil {
		// The peer has dialled anew, so the old connection is dead to it. To close it may wait for that connection, and nothing
		// waits for this but its own streams.
		s.streams.Go(func() { _ = old.mux.Close() })
	}
	if _, err := x.agent.config.verify(s.chain); err != nil {
		_ = ym.Close() // revoked between the handshake and here, where cut did not see it
	}
	x.agent.announce()
	x.agent.log.Info("connected", "peer", name, "address", conn.RemoteAddr())
	stop := context.AfterFunc(ctx, func() { _ = ym.Close() })
	s.streams.Go(func() { x.agent.carrier.send(s) })
	for {
		stream, err := ym.AcceptStream()
		if err != nil {
			break
		}
		s.streams.Go(func() { x.accept(ctx, s, stream) })
	}
	stop()
	_ = ym.Close()
	x.agent.carrier.disconnect(s)
	close(s.done)
	x.mu.Lock()
	if x.sessions[name] == s {
		delete(x.sessions, name)
		x.lost[name] = time.Now()
		close(x.changed)
		x.changed = make(chan struct{})
	}
	x.mu.Unlock()
	time.AfterFunc(streamless, x.agent.announce)
	s.streams.Wait()
	x.agent.log.Info("disconnected", "peer", name)
}

// maxService bounds the name of a service, sent with its length in front of each stream.
const maxService = 64

func (x *mux) accept(ctx context.Context, s *session, stream net.Conn) {
	_ = stream.SetReadDeadline(time.Now().Add(handshakeTimeout))
	var n [1]byte
	if _, err := io.ReadFull(stream, n[:]); err != nil || n[0] > maxService {
		_ = stream.Close()
		return
	}
	name := make([]byte, n[0])
	if _, err := io.ReadFull(stream, name); err != nil {
		_ = stream.Close()
		return
	}
	_ = stream.SetReadDeadline(time.Time{})
	switch string(name) {
	case serviceState, serviceBulk:
		x.agent.carrier.receive(ctx, s, stream)
		return
	}
	x.mu.Lock()
	sv := x.services[string(name)]
	x.mu.Unlock()
	if sv == nil || !sv.offer(&peerConn{Conn: stream, peer: s.name, chain: s.chain}) {
		_ = stream.Close()
	}
}

func (s *session) open(service string) (net.Conn, error) {
	stream, err := s.mux.OpenStream()
	if err != nil {
		return nil, fmt.Errorf("open stream to %s: %w", s.name, err)
	}
	if _, err := stream.Write(append([]byte{byte(len(service))}, service...)); err != nil {
		_ = stream.Close()
		return nil, fmt.Errorf("open stream to %s: %w", s.name, err)
	}
	return &peerConn{Conn: stream, peer: s.name, chain: s.chain}, nil
}

func (x *mux) session(name string) *session {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.sessions[name]
}

// connected tells whether there is a session with a node, and else when the last one ended.
func (x *mux) connected(name string) (bool, time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.sessions[name] != nil, x.lost[name]
}

// waitSession waits for a connection to a live member.
func (x *mux) waitSession(ctx context.Context, name string) (*session, error) {
	for {
		x.mu.Lock()
		s, changed := x.sessions[name], x.changed
		x.mu.Unlock()
		if s != nil {
			return s, nil
		}
		if _, alive := x.agent.member(name); !alive {
			return nil, fmt.Errorf("%w: %s", ErrUnreachable, name)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %s: %w", ErrUnreachable, name, ctx.Err())
		case <-changed:
		case <-time.After(dialPause):
		}
	}
}

// Dial opens a stream to a service on another node. The connection's RemoteAddr names the node.
func (a *Agent) Dial(ctx context.Context, node, service string) (net.Conn, error) {
	s, err := a.mux.waitSession(ctx, node)
	if err != nil {
		return nil, err
	}
	return s.open(service)
}

// Listen takes streams that other nodes dial to a service here. Only members can.
func (a *Agent) Listen(name string) net.Listener {
	sv := &service{name: name, conns: make(chan net.Conn, 64), done: make(chan struct{})}
	a.mux.mu.Lock()
	defer a.mux.mu.Unlock()
	a.mux.services[name] = sv
	return sv
}

// service is one name's listener.
type service struct {
	name  string
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func (s *service) offer(c net.Conn) bool {
	select {
	case s.conns <- c:
		return true
	case <-s.done:
		return false
	case <-time.After(time.Second):
		return false
	}
}

func (s *service) close() { s.once.Do(func() { close(s.done) }) }

func (s *service) Accept() (net.Conn, error) {
	select {
	case c := <-s.conns:
		return c, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

func (s *service) Close() error   { s.close(); return nil }
func (s *service) Addr() net.Addr { return PeerAddr(s.name) }

// PeerAddr is the address of a stream's other end: the name of the node, proven by its certificate.
type PeerAddr string

func (PeerAddr) Network() string  { return "murmur" }
func (a PeerAddr) String() string { return string(a) }

type peerConn struct {
	net.Conn
	peer  string
	chain []*x509.Certificate
}

// PeerCertificates is what the peer has proven itself with.
func (c *peerConn) PeerCertificates() []*x509.Certificate { return c.chain }

func (c *peerConn) RemoteAddr() net.Addr { return PeerAddr(c.peer) }

// CloseWrite ends what this side says. That is all that a multiplexed stream's Close does, too; one that the peer does not end
// within StreamCloseTimeout is reset.
func (c *peerConn) CloseWrite() error { return c.Conn.Close() }
