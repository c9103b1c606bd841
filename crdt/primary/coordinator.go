package primary

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"murmur/crdt"
	"murmur/crdt/store"
)

var (
	// ErrUnsettled is returned for a write of class H that no primary decided in time. Nothing was written: try again.
	ErrUnsettled = errors.New("nobody can decide on this object at the moment; nothing was written, try again")
	// ErrUnknown is returned for a write of class H of which it is not known whether it was, or will be, done.
	ErrUnknown = errors.New("the outcome is not known: the write may have been done; read the object before trying again")
)

// View is who is there, as this node sees it.
type View interface {
	// Alive are the registered nodes that are alive, this one among them.
	Alive() []string
	// Unheard tells whether there are registered nodes of which nothing is known yet, neither that they live nor that they failed.
	Unheard() bool
	// Changed is closed at the next change; ask again for the one after.
	Changed() <-chan struct{}
}

// Config is what a Coordinator is made with. Store, Node and View are required; Dial and Listener too unless the node is always
// alone.
type Config struct {
	Store *store.Store
	// Node is this node's name.
	Node string
	View View
	// Registry are the resources in the store from which the view follows too.
	Registry []string
	// Dial opens an authenticated stream to a member, Listener accepts them; RemoteAddr of an accepted one is the
	// peer's node name.
	Dial     func(ctx context.Context, node string) (net.Conn, error)
	Listener net.Listener
	// Owner names the node whose store makes versions like one; "" if that is not known. Nil: never known.
	Owner func(store.Version) string
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	Log *slog.Logger
}

// Coordinator decides writes of class H, or has their primaries decide them. See the package comment.
//
// Every write of class H is one compare-and-swap: on the version of the document that it was made from, by its causal context. What was asked
// twice, or comes late, therefore fails, and an asker that got no answer may ask the next primary.
//
// leases says who may decide what. A backup that is not reached leaves a decision unheld: it is on the primary's disk and
// nowhere else, the asker is told that the outcome is unknown, and if others decide the key meanwhile it comes back as a
// concurrent write with an older stamp.
type Coordinator struct {
	config Config
	slots  chan struct{}

	// mu guards what follows. It is never held over I/O.
	mu     sync.Mutex
	leases *leases
	// changed is closed and replaced when leases changes for the better.
	changed chan struct{}
	// calls are the open streams, by the node at their other end, to be cut when it leaves the view.
	calls map[string]map[net.Conn]struct{}
}

// Timings of writes of class H.
const (
	// commitTimeout is how long a write waits for a primary that decides: a crash is known to all within 4.5 s, and a node that is
	// cut off from all others finds out about them one after the other.
	commitTimeout = 15 * time.Second
	// retryWrite is the pause before a write is proposed again, if no change of the view comes first.
	retryWrite = 50 * time.Millisecond
	// retryLease is the pause before lease is asked for again.
	retryLease = 100 * time.Millisecond
	// exchangeTimeout bounds the exchange for a lease.
	exchangeTimeout = 30 * time.Second
	// dialTimeout bounds how long a stream may take to open before another way is tried.
	dialTimeout = time.Second
	// viewInterval is how often the view is taken anew without having been told to.
	viewInterval = time.Second
	// maxProposals bounds the proposals of others that are under way here.
	maxProposals = 4096
)

// past as a deadline ends what waits on a stream.
var past = time.Unix(1, 0)

// New makes what Run runs. It starts nothing.
func New(c Config) (*Coordinator, error) {
	if c.Store == nil || c.Node == "" || c.View == nil {
		return nil, errors.New("primary: Store, Node and View are required")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Coordinator{
		config: c, slots: make(chan struct{}, maxProposals), leases: newLeases(c.Node, c.Now()), changed: make(chan struct{}),
		calls: map[string]map[net.Conn]struct{}{},
	}, nil
}

// Run follows the view, keeps a lease from the other nodes and answers them, until the context ends.
func (h *Coordinator) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	h.mu.Lock()
	h.leases.started = h.config.Now()
	h.mu.Unlock()
	if h.config.Listener != nil {
		wg.Go(func() { h.accept(ctx) })
	}
	wake := &store.Wake{}
	if len(h.config.Registry) > 0 {
		wake = h.config.Store.Subscribe(h.config.Registry...)
		defer wake.Close()
	}
	tick := time.NewTicker(viewInterval)
	defer tick.Stop()
	keeping := map[string]context.CancelFunc{}
	for {
		changed := h.config.View.Changed()
		view := h.observe()
		for node, stop := range keeping {
			if !slices.Contains(view, node) {
				stop()
				delete(keeping, node)
			}
		}
		for _, node := range view {
			if node != h.config.Node && keeping[node] == nil && h.config.Dial != nil {
				kctx, stop := context.WithCancel(ctx)
				keeping[node] = stop
				wg.Go(func() { h.keepLease(kctx, node) })
			}
		}
		select {
		case <-ctx.Done():
			for _, stop := range keeping {
				stop()
			}
			return nil
		case <-changed:
		case <-wake.C:
		case <-tick.C:
		}
	}
}

// observe takes the view in.
func (h *Coordinator) observe() []string {
	alive, unheard := h.config.View.Alive(), h.config.View.Unheard()
	now := h.config.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.leases.observe(now, alive, unheard) {
		h.wake()
	}
	h.leases.forget(now)
	for node, conns := range h.calls {
		if h.leases.members[node] == nil {
			for c := range conns {
				// Closing may wait for a peer that is not there.
				_ = c.SetDeadline(past)
			}
			delete(h.calls, node)
		}
	}
	return h.leases.view
}

// wake lets those look again who wait for a change. mu is held.
func (h *Coordinator) wake() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// pause waits for a change that may help, for a while.
func (h *Coordinator) pause(ctx context.Context, d time.Duration) {
	h.mu.Lock()
	changed := h.changed
	h.mu.Unlock()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-changed:
	case <-t.C:
	case <-ctx.Done():
	}
}

// keepLease has a lease from another node as long as it is in the view.
func (h *Coordinator) keepLease(ctx context.Context, node string) {
	for ctx.Err() == nil {
		h.mu.Lock()
		var held *lease
		if m := h.leases.members[node]; m != nil {
			held = m.lease
		}
		h.mu.Unlock()
		if held != nil {
			select {
			case <-held.lost:
			case <-ctx.Done():
			}
			continue
		}
		err := h.acquire(ctx, node)
		if err == nil {
			continue
		}
		h.config.Log.Debug("ask for lease", "peer", node, "err", err)
		select {
		case <-time.After(retryLease):
		case <-ctx.Done():
		}
	}
}

// Commit makes one write of class H, like Store.Commit. Besides its errors there are ErrUnsettled and ErrUnknown.
func (h *Coordinator) Commit(ctx context.Context, w store.Write) (*store.Entry, error) {
	if err := w.Key.Validate(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	e, err := h.commit(ctx, w)
	if err != nil {
		return nil, fmt.Errorf("commit %s: %w", w.Key, err)
	}
	return e, nil
}

func (h *Coordinator) commit(ctx context.Context, w store.Write) (*store.Entry, error) {
	p, err := h.config.Store.Propose(w)
	if err == nil && p.Create {
		err = h.config.Store.CheckQuota() // the primary looks at its own
	}
	if err != nil {
		return nil, err
	}
	// maybe: a primary was asked and has not answered.
	maybe, why := false, ""
	for ctx.Err() == nil {
		// What is decided is taken in here while the backup takes it in.
		var taken chan struct{}
		var entry *store.Entry
		var missed error
		s, err := h.propose(ctx, p, func(d *crdt.Document) {
			taken = make(chan struct{})
			go func() {
				defer close(taken)
				entry, missed = h.config.Store.Adopt(ctx, d)
			}()
		})
		if taken != nil {
			<-taken
		} else if err == nil && s.Document != nil {
			entry, missed = h.config.Store.Adopt(ctx, s.Document)
		}
		switch {
		case errors.Is(err, errNoAnswer):
			maybe, why = true, err.Error()
		case err != nil:
			why = err.Error()
		case s.Outcome == store.OutcomeDone, s.Outcome == store.OutcomeSame:
			if missed != nil {
				// It is done, but not here yet: to answer would let the next read miss it.
				return nil, fmt.Errorf("%w (%w)", ErrUnknown, missed)
			}
			if w.Object == nil {
				return w.Base.WithVersion(entry.Version), nil
			}
			return entry, nil
		case s.Outcome == store.OutcomeOvertaken:
			if maybe {
				return nil, fmt.Errorf("%w (%s)", ErrUnknown, why)
			}
			if missed != nil {
				return nil, missed
			}
			switch d := s.Document; {
			case d == nil, !p.Create && d.Deleted():
				return nil, store.ErrNotFound
			case !p.Create:
				return nil, store.ErrConflict
			case !d.Deleted():
				return nil, store.ErrExists
			}
			// It is free, and what was seen of it was old.
			p.Seen, p.Document = s.Document.DocVersion(), nil
			continue
		case s.Outcome == store.OutcomeMissing:
			p.Document = h.config.Store.Document(p.Key)
			continue
		case s.Outcome == store.OutcomeUnheld:
			return nil, fmt.Errorf("%w (%s)", ErrUnknown, s.Reason)
		case s.Outcome == store.OutcomeFailed:
			if why, full := strings.CutPrefix(s.Reason, store.ErrQuota.Error()); full {
				return nil, fmt.Errorf("%w%s", store.ErrQuota, why)
			}
			return nil, errors.New(s.Reason)
		default:
			why = s.Reason
		}
		h.pause(ctx, retryWrite)
	}
	if maybe {
		return nil, fmt.Errorf("%w (%s)", ErrUnknown, why)
	}
	return nil, fmt.Errorf("%w (%s)", ErrUnsettled, why)
}

// place is who decides a key, in this node's view.
func (h *Coordinator) place(k crdt.Key) place {
	h.mu.Lock()
	defer h.mu.Unlock()
	return placeOf(k, h.leases.view)
}

// awaitLease waits until this node may decide a key, and returns under which lease.
func (h *Coordinator) awaitLease(ctx context.Context, k crdt.Key) (*lease, error) {
	for {
		h.mu.Lock()
		s, held, waits := h.leases.state(h.config.Now(), k)
		h.mu.Unlock()
		switch s {
		case holdsLease:
			return held, nil
		case notPrimary:
			return nil, fmt.Errorf("for %s the primary is %q", h.config.Node, waits)
		case stale:
			if h.renew(ctx, held) == nil {
				h.mu.Lock()
				s, held, _ = h.leases.state(h.config.Now(), k)
				h.mu.Unlock()
				if s == holdsLease {
					return held, nil
				}
			}
		}
		h.pause(ctx, retryWrite)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%s waits for %s", h.config.Node, waits)
		}
	}
}

// decide answers a proposal as its key's primary. early is told of a decision that is not held yet.
func (h *Coordinator) decide(ctx context.Context, p *store.Proposal, early func(*crdt.Document)) store.Response {
	var s store.Response
	for {
		held, err := h.awaitLease(ctx, p.Key)
		if err != nil {
			if s.Outcome == store.OutcomeDone {
				return store.Response{Outcome: store.OutcomeUnheld, Reason: err.Error()}
			}
			return store.Response{Outcome: store.OutcomeNotPrimary, Reason: err.Error()}
		}
		if s.Outcome != store.OutcomeDone {
			s, err = h.config.Store.Decide(ctx, p, func() (crdt.Bounds, bool) {
				h.mu.Lock()
				defer h.mu.Unlock()
				return h.leases.decides(p.Key, held)
			})
			switch {
			case errors.Is(err, store.ErrLeaseOver):
				s = store.Response{}
				continue
			case errors.Is(err, store.ErrLate):
				// Either its clock is behind the one that wrote last, or another is primary and its writes have come here already.
				s = store.Response{}
				if h.renew(ctx, held) == nil {
					h.pause(ctx, retryWrite)
				}
				continue
			case err != nil && ctx.Err() != nil, errors.Is(err, store.ErrClosed):
				return store.Response{Outcome: store.OutcomeUnheld, Reason: err.Error()}
			case err != nil:
				return store.Response{Outcome: store.OutcomeFailed, Reason: err.Error()}
			case s.Outcome == store.OutcomeMissing:
				return s
			case s.Outcome == store.OutcomeDone:
				early(s.Document)
			}
		} else if now := h.config.Store.Document(p.Key); !now.Follows(s.Document, h.config.Store.Origin()) {
			// Another primary has decided meanwhile.
			return store.Response{Outcome: store.OutcomeUnheld, Reason: "another node became its primary"}
		}
		if held == nil || s.Document == nil {
			return s
		}
		// Not even a refusal is answered from what only this node may know.
		err = h.hold(ctx, held, s.Document)
		if err == nil {
			return s
		}
		h.config.Log.Debug("hold", "key", p.Key, "backup", held.backup, "err", err)
		h.mu.Lock()
		h.leases.refused(held)
		h.mu.Unlock()
		if s.Outcome != store.OutcomeDone {
			s = store.Response{}
		}
	}
}

// TranslateVersion makes of a version of another node this node's version of the same document. It is false if that is not what this
// node has now, or nobody knows.
func (h *Coordinator) TranslateVersion(ctx context.Context, k crdt.Key, v store.Version) (store.Version, bool) {
	if h.config.Owner == nil {
		return 0, false
	}
	node := h.config.Owner(v)
	if node == "" {
		return 0, false
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	d, err := h.resolve(ctx, node, k, v)
	if err != nil || d == nil {
		return 0, false
	}
	e, err := h.config.Store.Adopt(ctx, d)
	if err != nil || !d.Equivalent(h.config.Store.Document(k)) {
		return 0, false
	}
	return e.Version, true
}

// grantID draws the name of a grant. It need only differ from those that were given to the same node before.
func grantID() uint64 { return rand.Uint64() | 1 }
