package crdt

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
)

var (
	// ErrUnsettled is returned for a write of class H that no home decided in time. Nothing was written: try again.
	ErrUnsettled = errors.New("nobody can decide on this object at the moment; nothing was written, try again")
	// ErrUnknown is returned for a write of class H of which it is not known whether it was, or will be, done.
	ErrUnknown = errors.New("the outcome is not known: the write may have been done; read the object before trying again")
)

// HomeView is who is there, as this node sees it.
type HomeView interface {
	// Alive are the registered nodes that are alive, this one among them.
	Alive() []string
	// Unheard tells whether there are registered nodes of which nothing is known yet, neither that they live nor that they failed.
	Unheard() bool
	// Changed is closed at the next change; ask again for the one after.
	Changed() <-chan struct{}
}

// HomeConfig is what Homes are made with. Store, Node and View are required; Dial and Listener too unless the node is always
// alone.
type HomeConfig struct {
	Store *Store
	// Node is this node's name.
	Node string
	View HomeView
	// Registry are the resources in the store from which the view follows too.
	Registry []string
	// Dial opens an authenticated stream to a member, Listener accepts them; RemoteAddr of an accepted one is the
	// peer's node name.
	Dial     func(ctx context.Context, node string) (net.Conn, error)
	Listener net.Listener
	// Owner names the node whose store makes versions like one; "" if that is not known. Nil: never known.
	Owner func(Version) string
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	Log *slog.Logger
}

// Homes makes the writes of class H: those that must not happen on two nodes at once. Each key has a home, the node that a
// rendezvous hash ranks first among those alive, and a backup, the one ranked second. Whichever node is asked hands the
// write to the home. That one compares it with its own document, commits it, has the backup hold it on disk, and answers with
// the document, which the asker takes in before it answers in turn: so who wrote reads what was written. Compare-and-swap
// is linearizable among nodes that see each other; sides that do not each have homes of their own, and what they decided
// merges like all else when they meet.
//
// Every write of class H is one compare-and-swap: on the version of the document that it was made from, by its causal context. What was asked
// twice, or comes late, therefore fails, and an asker that got no answer may ask the next home.
//
// tenures says who may decide what. A backup that is not reached leaves a decision unheld: it is on the home's disk and
// nowhere else, the asker is told that the outcome is unknown, and if others decide the key meanwhile it comes back as a
// concurrent write with an older stamp.
type Homes struct {
	config HomeConfig
	asks   chan struct{}

	// mu guards what follows. It is never held over I/O.
	mu      sync.Mutex
	tenures *tenures
	// changed is closed and replaced when tenures changes for the better.
	changed chan struct{}
	// calls are the open streams, by the node at their other end, to be cut when it leaves the view.
	calls map[string]map[net.Conn]struct{}
}

// Timings of writes of class H.
const (
	// settleWithin is how long a write waits for a home that decides: a crash is known to all within 4.5 s, and a node that is
	// cut off from all others finds out about them one after the other.
	settleWithin = 15 * time.Second
	// askAgain is the pause before a write is proposed again, if no change of the view comes first.
	askAgain = 50 * time.Millisecond
	// meetAgain is the pause before tenure is asked for again.
	meetAgain = 100 * time.Millisecond
	// exchangeWithin bounds the exchange for a tenure.
	exchangeWithin = 30 * time.Second
	// dialWithin bounds how long a stream may take to open before another way is tried.
	dialWithin = time.Second
	// lookEvery is how often the view is taken anew without having been told to.
	lookEvery = time.Second
	// maxAsks bounds the proposals of others that are under way here.
	maxAsks = 4096
)

// past as a deadline ends what waits on a stream.
var past = time.Unix(1, 0)

// NewHomes makes what Run runs. It starts nothing.
func NewHomes(c HomeConfig) (*Homes, error) {
	if c.Store == nil || c.Node == "" || c.View == nil {
		return nil, errors.New("homes: Store, Node and View are required")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Homes{
		config: c, asks: make(chan struct{}, maxAsks), tenures: newTenures(c.Node, c.Now()), changed: make(chan struct{}),
		calls: map[string]map[net.Conn]struct{}{},
	}, nil
}

// Run follows the view, keeps tenure of the other nodes and answers them, until the context ends.
func (h *Homes) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	h.mu.Lock()
	h.tenures.started = h.config.Now()
	h.mu.Unlock()
	if h.config.Listener != nil {
		wg.Go(func() { h.accept(ctx, &wg) })
	}
	wake := &Wake{}
	if len(h.config.Registry) > 0 {
		wake = h.config.Store.Subscribe(h.config.Registry...)
		defer wake.Close()
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	keeping := map[string]context.CancelFunc{}
	for {
		changed := h.config.View.Changed()
		view := h.look()
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
				wg.Go(func() { h.keep(kctx, node) })
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

// look takes the view in.
func (h *Homes) look() []string {
	alive, unheard := h.config.View.Alive(), h.config.View.Unheard()
	now := h.config.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.tenures.look(now, alive, unheard) {
		h.wake()
	}
	h.tenures.forget(now)
	for node, conns := range h.calls {
		if h.tenures.members[node] == nil {
			for c := range conns {
				// Closing may wait for a peer that is not there.
				_ = c.SetDeadline(past)
			}
			delete(h.calls, node)
		}
	}
	return h.tenures.view
}

// wake lets those look again who wait for a change. mu is held.
func (h *Homes) wake() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// pause waits for a change that may help, for a while.
func (h *Homes) pause(ctx context.Context, d time.Duration) {
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

// keep has tenure of another node as long as it is in the view.
func (h *Homes) keep(ctx context.Context, node string) {
	for ctx.Err() == nil {
		h.mu.Lock()
		var held *tenure
		if m := h.tenures.members[node]; m != nil {
			held = m.tenure
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
		h.config.Log.Debug("ask for tenure", "peer", node, "err", err)
		select {
		case <-time.After(meetAgain):
		case <-ctx.Done():
		}
	}
}

// Commit makes one write of class H, like Store.Commit. Besides its errors there are ErrUnsettled and ErrUnknown.
func (h *Homes) Commit(ctx context.Context, w Write) (*Entry, error) {
	if err := w.Key.check(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, settleWithin)
	defer cancel()
	e, err := h.commit(ctx, w)
	if err != nil {
		return nil, fmt.Errorf("commit %s: %w", w.Key, err)
	}
	return e, nil
}

func (h *Homes) commit(ctx context.Context, w Write) (*Entry, error) {
	p, err := h.config.Store.propose(w)
	if err == nil && p.create {
		err = h.config.Store.creates() // the home looks at its own
	}
	if err != nil {
		return nil, err
	}
	// maybe: a home was asked and has not answered.
	maybe, why := false, ""
	for ctx.Err() == nil {
		// What is decided is taken in here while the backup takes it in.
		var taken chan struct{}
		var entry *Entry
		var missed error
		s, err := h.ask(ctx, p, func(d *document) {
			taken = make(chan struct{})
			go func() {
				defer close(taken)
				entry, missed = h.config.Store.take(ctx, d)
			}()
		})
		if taken != nil {
			<-taken
		} else if err == nil && s.document != nil {
			entry, missed = h.config.Store.take(ctx, s.document)
		}
		switch {
		case errors.Is(err, errUnanswered):
			maybe, why = true, err.Error()
		case err != nil:
			why = err.Error()
		case s.outcome == done, s.outcome == same:
			if missed != nil {
				// It is done, but not here yet: to answer would let the next read miss it.
				return nil, fmt.Errorf("%w (%w)", ErrUnknown, missed)
			}
			if w.Object == nil {
				return w.Base.at(entry.Version), nil
			}
			return entry, nil
		case s.outcome == overtaken:
			if maybe {
				return nil, fmt.Errorf("%w (%s)", ErrUnknown, why)
			}
			if missed != nil {
				return nil, missed
			}
			switch d := s.document; {
			case d == nil, !p.create && d.dead():
				return nil, ErrNotFound
			case !p.create:
				return nil, ErrConflict
			case !d.dead():
				return nil, ErrExists
			}
			// It is free, and what was seen of it was old.
			p.seen, p.document = s.document.sight(), nil
			continue
		case s.outcome == behind:
			p.document = h.config.Store.document(p.key)
			continue
		case s.outcome == unheld:
			return nil, fmt.Errorf("%w (%s)", ErrUnknown, s.why)
		case s.outcome == failed:
			if why, full := strings.CutPrefix(s.why, ErrQuota.Error()); full {
				return nil, fmt.Errorf("%w%s", ErrQuota, why)
			}
			return nil, errors.New(s.why)
		default:
			why = s.why
		}
		h.pause(ctx, askAgain)
	}
	if maybe {
		return nil, fmt.Errorf("%w (%s)", ErrUnknown, why)
	}
	return nil, fmt.Errorf("%w (%s)", ErrUnsettled, why)
}

// place is who decides a key, in this node's view.
func (h *Homes) place(k Key) place {
	h.mu.Lock()
	defer h.mu.Unlock()
	return placeOf(k, h.tenures.view)
}

// office waits until this node may decide a key, and returns under which tenure.
func (h *Homes) office(ctx context.Context, k Key) (*tenure, error) {
	for {
		h.mu.Lock()
		s, ten, waits := h.tenures.standing(h.config.Now(), k)
		h.mu.Unlock()
		switch s {
		case sits:
			return ten, nil
		case elsewhere:
			return nil, fmt.Errorf("for %s the home is %q", h.config.Node, waits)
		case stale:
			if h.renew(ctx, ten) == nil {
				h.mu.Lock()
				s, ten, _ = h.tenures.standing(h.config.Now(), k)
				h.mu.Unlock()
				if s == sits {
					return ten, nil
				}
			}
		}
		h.pause(ctx, askAgain)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%s waits for %s", h.config.Node, waits)
		}
	}
}

// decide answers a proposal as its key's home. early is told of a decision that is not held yet.
func (h *Homes) decide(ctx context.Context, p *proposal, early func(*document)) said {
	var s said
	for {
		ten, err := h.office(ctx, p.key)
		if err != nil {
			if s.outcome == done {
				return said{outcome: unheld, why: err.Error()}
			}
			return said{outcome: nothere, why: err.Error()}
		}
		if s.outcome != done {
			s, err = h.config.Store.decide(ctx, p, func() (bounds, bool) {
				h.mu.Lock()
				defer h.mu.Unlock()
				return h.tenures.decides(p.key, ten)
			})
			switch {
			case errors.Is(err, errVoid):
				s = said{}
				continue
			case errors.Is(err, errLate):
				// Either its clock is behind the one that wrote last, or another is home and its writes have come here already.
				s = said{}
				if h.renew(ctx, ten) == nil {
					h.pause(ctx, askAgain)
				}
				continue
			case err != nil && ctx.Err() != nil, errors.Is(err, ErrClosed):
				return said{outcome: unheld, why: err.Error()}
			case err != nil:
				return said{outcome: failed, why: err.Error()}
			case s.outcome == behind:
				return s
			case s.outcome == done:
				early(s.document)
			}
		} else if now := h.config.Store.document(p.key); !now.follows(s.document, h.config.Store.Origin()) {
			// Another home has decided meanwhile.
			return said{outcome: unheld, why: "another node became its home"}
		}
		if ten == nil || s.document == nil {
			return s
		}
		// Not even a refusal is answered from what only this node may know.
		err = h.hold(ctx, ten, s.document)
		if err == nil {
			return s
		}
		h.config.Log.Debug("hold", "key", p.key, "backup", ten.backup, "err", err)
		h.mu.Lock()
		h.tenures.refused(ten)
		h.mu.Unlock()
		if s.outcome != done {
			s = said{}
		}
	}
}

// StoodFor makes of a version of another node this node's version of the same document. It is false if that is not what this
// node has now, or nobody knows.
func (h *Homes) StoodFor(ctx context.Context, k Key, v Version) (Version, bool) {
	if h.config.Owner == nil {
		return 0, false
	}
	node := h.config.Owner(v)
	if node == "" {
		return 0, false
	}
	ctx, cancel := context.WithTimeout(ctx, dialWithin)
	defer cancel()
	d, err := h.stood(ctx, node, k, v)
	if err != nil || d == nil {
		return 0, false
	}
	e, err := h.config.Store.take(ctx, d)
	if err != nil || !d.same(h.config.Store.document(k)) {
		return 0, false
	}
	return e.Version, true
}

// grantID draws the name of a grant. It need only differ from those that were given to the same node before.
func grantID() uint64 { return rand.Uint64() | 1 }
