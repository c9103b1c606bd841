package gossip

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"
	"golang.org/x/sync/errgroup"
)

// Config is what an agent is made of.
type Config struct {
	// Name is the Kubernetes node name, ID a unique name that is never used for another data directory.
	Name, ID string
	// Addr is the address to listen on and to be known by.
	Addr netip.Addr
	// SerfPort (UDP and TCP) and StreamPort (TCP) are listened on; APIPort is only told to others.
	SerfPort, StreamPort, APIPort uint16
	// Key encrypts membership traffic: 16, 24 or 32 bytes, the same on all members. Others are only read. See SetKeys.
	Key    []byte
	Others [][]byte
	// Certificate is asked at every handshake for what identifies this node as CN system:node:NAME.
	Certificate func() *tls.Certificate
	// Verify checks the certificates of a peer, at every handshake, and tells its node name. Nil: those are peers whom one of
	// Roots has signed. Refuse tells of a peer that was verified whether it was shut out since; nil: none is. See Cut.
	Verify func(chain []*x509.Certificate) (name string, err error)
	Refuse func(chain []*x509.Certificate) error
	// Revoked tells whether the member with an ID was shut out: it is none, whatever membership says. Nil: none was.
	Revoked func(id string) bool
	Roots   *x509.CertPool
	// State is the replicated store.
	State State
	// Known lists "address:port" (Serf's) of the nodes that should be members, to dial again those that are not alive.
	Known func() []netip.AddrPort
	// Lost is told the address of a member that did not answer a dial, and may block for a moment. Nil: nobody is.
	Lost func(context.Context, netip.Addr)
	// Network is nil for that of the machine.
	Network Network
	// Log may be nil.
	Log *slog.Logger
}

// Agent is this node among the others.
type Agent struct {
	config Config
	log    *slog.Logger
	serf   *serf.Serf
	events chan serf.Event
	mux    *mux
	ring   *memberlist.Keyring
	// carrier carries state over the streams.
	carrier *carrier

	// joining is held by the one who is in Serf's Join.
	joining chan struct{}

	// mu guards the member list.
	mu      sync.Mutex
	members map[string]Member
	changed chan struct{} // closed and replaced when members changes
}

// Timings, measured to let a crash be known to all of 100 nodes in 4 s.
const (
	probeInterval  = 500 * time.Millisecond
	probeTimeout   = 200 * time.Millisecond
	suspicionMult  = 3
	gossipInterval = 100 * time.Millisecond
	// forgetAfter is how long Serf remembers a failed member. Our own redialling does not depend on it.
	forgetAfter = 30 * 24 * time.Hour
	// redial is how often a member that is not alive is dialled again.
	redial = 1500 * time.Millisecond
)

// New prepares an agent. It opens nothing: see Run.
func New(c Config) (*Agent, error) {
	if !c.Addr.IsValid() || c.Addr.IsUnspecified() {
		return nil, fmt.Errorf("gossip: %v is no address that others can reach", c.Addr)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	a := &Agent{config: c, log: c.Log, events: make(chan serf.Event, 256), members: map[string]Member{}, changed: make(chan struct{}), joining: make(chan struct{}, 1)}
	if len(c.Key) > 0 {
		var err error
		if a.ring, err = memberlist.NewKeyring(c.Others, c.Key); err != nil {
			return nil, fmt.Errorf("gossip: keys: %w", err)
		}
	}
	a.mux = newMux(a)
	a.carrier = newCarrier(a, rand.Uint64())
	return a, nil
}

func (a *Agent) serfConfig() *serf.Config {
	c := a.config
	m := memberlist.DefaultLANConfig()
	m.Name = c.ID
	m.BindAddr, m.BindPort = c.Addr.String(), int(c.SerfPort)
	m.AdvertiseAddr, m.AdvertisePort = m.BindAddr, m.BindPort
	m.ProbeInterval, m.ProbeTimeout = probeInterval, probeTimeout
	m.SuspicionMult, m.SuspicionMaxTimeoutMult = suspicionMult, 2
	m.GossipInterval = gossipInterval
	m.PushPullInterval = 10 * time.Second
	m.TCPTimeout = time.Second
	m.Keyring = a.ring
	m.UDPBufferSize = 1232 // fits every path: IPv6's least MTU less headers
	m.Logger = log.New(levelled{a.log}, "", 0)
	s := serf.DefaultConfig()
	s.NodeName = c.ID
	s.MemberlistConfig = m
	s.Logger = m.Logger
	s.EventCh = a.events
	s.Tags = map[string]string{
		tagName:   c.Name,
		tagStream: strconv.Itoa(int(c.StreamPort)),
		tagAPI:    strconv.Itoa(int(c.APIPort)),
	}
	s.ReconnectInterval = 10 * time.Second
	s.ReconnectTimeout, s.TombstoneTimeout = forgetAfter, forgetAfter
	s.EnableNameConflictResolution = false
	s.LeavePropagateDelay = 500 * time.Millisecond
	s.Init()
	return s
}

// Start opens the ports, so that a port in use is known before anything else runs.
func (a *Agent) Start(ctx context.Context) error {
	at := netip.AddrPortFrom(a.config.Addr, a.config.StreamPort)
	var err error
	if a.mux.listener, err = a.config.listen(ctx, at); err != nil {
		return fmt.Errorf("gossip: listen for streams on %s: %w", at, err)
	}
	if err := a.startSerf(ctx); err != nil {
		return fmt.Errorf("gossip: open membership port %d on %s: %w", a.config.SerfPort, a.config.Addr, errors.Join(err, a.mux.listener.Close()))
	}
	return nil
}

func (a *Agent) startSerf(ctx context.Context) (err error) {
	sc := a.serfConfig()
	if a.config.Network != nil {
		t, err := openTransport(ctx, a.config.Network, netip.AddrPortFrom(a.config.Addr, a.config.SerfPort))
		if err != nil {
			return err
		}
		sc.MemberlistConfig.Transport = t
		defer func() {
			if a.serf == nil {
				_ = t.Shutdown()
			}
		}()
	}
	a.serf, err = serf.Create(sc)
	return err
}

// Run keeps the membership and the streams until the context ends. Start comes before it.
func (a *Agent) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.mux.run(ctx) })
	g.Go(func() error { a.follow(ctx); return nil })
	g.Go(func() error { a.dialAgain(ctx); return nil })
	g.Go(func() error { return a.carrier.publish(ctx) })
	g.Go(func() error { a.carrier.keepTime(ctx); return nil })
	g.Go(func() error { a.carrier.measure(ctx); return nil })
	err := g.Wait()
	if serr := a.serf.Shutdown(); serr != nil {
		err = errors.Join(err, fmt.Errorf("gossip: shut down membership: %w", serr))
	}
	<-a.serf.ShutdownCh()
	return err
}

// Join meets the cluster at one of some "address:port"s of Serf.
func (a *Agent) Join(addrs ...netip.AddrPort) error {
	existing := make([]string, len(addrs))
	for i, ap := range addrs {
		existing[i] = ap.String()
	}
	a.joining <- struct{}{}
	defer func() { <-a.joining }()
	if n, err := a.serf.Join(existing, true); n == 0 {
		return fmt.Errorf("gossip: no answer from %s: %w", strings.Join(existing, ", "), err)
	}
	return nil
}

// SetKeys replaces the keys of membership traffic while it flows: the first is written with, all are read.
func (a *Agent) SetKeys(keys [][]byte) error {
	for _, k := range keys {
		if err := a.ring.AddKey(k); err != nil {
			return fmt.Errorf("gossip: keys: %w", err)
		}
	}
	if err := a.ring.UseKey(keys[0]); err != nil {
		return fmt.Errorf("gossip: keys: %w", err)
	}
	for _, k := range a.ring.GetKeys() {
		if !slices.ContainsFunc(keys, func(w []byte) bool { return slices.Equal(k, w) }) {
			if err := a.ring.RemoveKey(k); err != nil {
				return fmt.Errorf("gossip: keys: %w", err)
			}
		}
	}
	return nil
}

// Leave tells the others that this node is leaving for good.
func (a *Agent) Leave() error { return a.serf.Leave() }

// Forget tells the others that a failed member is not coming back.
func (a *Agent) Forget(id string) error { return a.serf.RemoveFailedNode(id) }

// follow keeps the member list from Serf's events.
func (a *Agent) follow(ctx context.Context) {
	a.refresh()
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.events:
		case <-tick.C:
		}
		for len(a.events) > 0 {
			<-a.events
		}
		a.refresh()
	}
}

// refresh takes the member list anew. The list is the truth; events only say when to look.
func (a *Agent) refresh() {
	for _, id := range a.take() {
		// It does not answer any more: nobody dials it again.
		if err := a.serf.RemoveFailedNode(id); err != nil {
			a.log.Debug("forget a revoked member", "id", id, "err", err)
		}
	}
}

// take is refresh under the lock. It returns the revoked members that membership still waits for.
func (a *Agent) take() (gone []string) {
	now := time.Now()
	changed := false
	a.mu.Lock()
	defer a.mu.Unlock()
	next := make(map[string]Member, len(a.members))
	for _, sm := range a.serf.Members() {
		m, err := memberOf(sm)
		if err != nil {
			a.log.Warn("ignored", "err", err)
			continue
		}
		if a.config.Revoked != nil && a.config.Revoked(m.ID) {
			if m.Status == Failed {
				gone = append(gone, m.ID)
			}
			continue
		}
		old, known := a.members[m.ID]
		m.Since = now
		if known && old.Status == m.Status {
			m.Since = old.Since
		}
		if !known || old.Status != m.Status || old.Addr != m.Addr || old.StreamPort != m.StreamPort {
			changed = true
			a.log.Info("member", "name", m.Name, "id", m.ID, "address", m.Addr, "status", m.Status)
		}
		next[m.ID] = m
	}
	changed = changed || len(next) != len(a.members)
	a.members = next
	if !changed {
		return gone
	}
	a.mux.wake()
	close(a.changed)
	a.changed = make(chan struct{})
	// A member to which no stream comes about is not reachable after a while: look again then.
	time.AfterFunc(streamless, a.announce)
	return gone
}

// Members lists all members by name, this node included.
func (a *Agent) Members() []Member {
	a.mu.Lock()
	out := slices.Collect(maps.Values(a.members))
	a.mu.Unlock()
	for i := range out {
		out[i].RTT = a.rtt(out[i].ID)
	}
	slices.SortFunc(out, func(x, y Member) int { return cmp.Or(cmp.Compare(x.Name, y.Name), cmp.Compare(x.ID, y.ID)) })
	return out
}

func (a *Agent) rtt(id string) time.Duration {
	if id == a.config.ID {
		return 0
	}
	mine, err := a.serf.GetCoordinate()
	theirs, ok := a.serf.GetCachedCoordinate(id)
	if err != nil || !ok {
		return 0
	}
	return mine.DistanceTo(theirs)
}

// rttOf is the round trip to a live member by node name; 0 if not known.
func (a *Agent) rttOf(name string) time.Duration {
	m, ok := a.member(name)
	if !ok {
		return 0
	}
	return a.rtt(m.ID)
}

// member finds a live member by node name.
func (a *Agent) member(name string) (Member, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, m := range a.members {
		if m.Name == name && m.Status == Alive {
			return m, true
		}
	}
	return Member{}, false
}

// streamless is how long a member may be without a stream to it and still count as reachable.
const streamless = 3 * time.Second

// Reachable tells whether packets of this node reach another: it is alive, and there is a stream to it or was a moment
// ago. A member whose direct link is cut stays alive as long as others vouch for it, but its pods cannot be reached from here.
func (a *Agent) Reachable(name string) bool {
	if name == a.config.Name {
		return true
	}
	m, ok := a.member(name)
	if !ok {
		return false
	}
	connected, lost := a.mux.connected(name)
	since := m.Since
	if lost.After(since) {
		since = lost
	}
	return connected || time.Since(since) < streamless
}

// announce wakes those who wait for a change.
func (a *Agent) announce() {
	a.mu.Lock()
	defer a.mu.Unlock()
	close(a.changed)
	a.changed = make(chan struct{})
}

// Changed is closed at the next change of the member list or of what is reachable; ask again for the one after.
func (a *Agent) Changed() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.changed
}

// dialAgain brings back members that are known but not alive, directly: waiting for gossip after a heal takes many
// times longer.
func (a *Agent) dialAgain(ctx context.Context) {
	tick := time.NewTicker(redial)
	defer tick.Stop()
	for {
		// One after the other: Serf does not join two at once. One that answers brings all that it sees.
		for _, ap := range a.lost() {
			if ctx.Err() != nil {
				return
			}
			if err := a.Join(ap); err != nil {
				a.log.Debug("still out of reach", "err", err)
				if a.config.Lost != nil {
					a.config.Lost(ctx, ap.Addr())
				}
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (a *Agent) lost() []netip.AddrPort {
	a.mu.Lock()
	defer a.mu.Unlock()
	alive := map[netip.Addr]bool{a.config.Addr: true}
	lost := map[netip.AddrPort]bool{}
	for _, m := range a.members {
		if m.Status == Alive {
			alive[m.Addr] = true
		}
	}
	for _, m := range a.members {
		if m.Status == Failed && !alive[m.Addr] {
			lost[netip.AddrPortFrom(m.Addr, a.config.SerfPort)] = true
		}
	}
	if a.config.Known != nil {
		for _, ap := range a.config.Known() {
			if !alive[ap.Addr()] {
				lost[ap] = true
			}
		}
	}
	out := slices.Collect(maps.Keys(lost))
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// levelled passes the log lines of Serf and memberlist on, by the level they are marked with.
type levelled struct{ log *slog.Logger }

var _ io.Writer = levelled{}

func (l levelled) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	switch {
	case strings.Contains(text, "[ERR]"), strings.Contains(text, "[WARN]"):
		// A peer out of reach is an everyday thing here; the member list says what matters.
		l.log.Debug(text)
	}
	return len(line), nil
}
