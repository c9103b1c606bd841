package primary

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/wire"
)

// errNoAnswer says that a proposal was sent and no answer came: it may have been decided.
var errNoAnswer = errors.New("the primary did not answer")

// open opens a call to another node: directly, or, if the link to it is cut, through a node that reaches both.
func (h *Coordinator) open(ctx context.Context, node string) (*call, error) {
	if h.config.Dial == nil {
		return nil, errors.New("this node is made to be alone")
	}
	c, err := h.dial(ctx, node)
	if err == nil {
		return c, nil
	}
	h.mu.Lock()
	view := h.leases.view
	h.mu.Unlock()
	const ways = 3
	tried := 0
	for _, via := range view {
		if via == node || via == h.config.Node || tried == ways || ctx.Err() != nil {
			continue
		}
		tried++
		c, verr := h.dial(ctx, via)
		if verr != nil {
			continue
		}
		if verr = c.send((&request{verb: verbRelay, from: h.config.Node, to: node, within: exchangeTimeout}).encode()); verr == nil {
			var b []byte
			if b, verr = c.receive(); verr == nil {
				if s, derr := decodeResponse(b); derr == nil && s.Outcome == store.OutcomeKnown {
					return c, nil
				}
			}
		}
		h.hangUp(node, c)
	}
	return nil, err
}

// dial opens a stream that is cut when the node leaves the view.
func (h *Coordinator) dial(ctx context.Context, node string) (*call, error) {
	dctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := h.config.Dial(dctx, node)
	if err != nil {
		return nil, err
	}
	if at, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(at)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.calls[node] == nil {
		h.calls[node] = map[net.Conn]struct{}{}
	}
	h.calls[node][conn] = struct{}{}
	return newCall(conn), nil
}

func (h *Coordinator) hangUp(node string, c *call) {
	_ = c.conn.Close()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, conns := range h.calls {
		delete(conns, c.conn)
	}
	if len(h.calls[node]) == 0 {
		delete(h.calls, node)
	}
}

// propose proposes a write to its key's primary. An error other than errNoAnswer says that it was not proposed.
func (h *Coordinator) propose(ctx context.Context, p *store.Proposal, early func(*crdt.Document)) (store.Response, error) {
	primary := h.place(p.Key).primary
	switch primary {
	case "":
		return store.Response{}, errors.New("this node has not looked around yet")
	case h.config.Node:
		return h.decide(ctx, p, func(*crdt.Document) {}), nil
	}
	q := &request{verb: verbAsk, from: h.config.Node, write: *p}
	if p.Object != nil {
		var err error
		if q.value, err = crdt.Canonical(p.Object); err != nil {
			return store.Response{Outcome: store.OutcomeFailed, Reason: err.Error()}, nil
		}
	}
	c, err := h.open(ctx, primary)
	if err != nil {
		return store.Response{}, fmt.Errorf("reach %s: %w", primary, err)
	}
	defer h.hangUp(primary, c)
	defer context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(past) })()
	unanswered := func(err error) (store.Response, error) {
		return store.Response{}, fmt.Errorf("%w: %s: %w", errNoAnswer, primary, err)
	}
	at, _ := ctx.Deadline()
	q.within = at.Sub(h.config.Now())
	if err := c.send(q.encode()); err != nil {
		return unanswered(err)
	}
	var first *crdt.Document
	for {
		b, err := c.receive()
		if err != nil {
			return unanswered(err)
		}
		s, err := decodeResponse(b)
		if err != nil {
			return unanswered(err)
		}
		if s.Outcome != store.OutcomeDecided {
			if s.Document == nil {
				s.Document = first
			}
			if s.Document == nil && (s.Outcome == store.OutcomeDone || s.Outcome == store.OutcomeSame) {
				return unanswered(crdt.ErrCorrupt)
			}
			return *s, nil
		}
		if s.Document != nil && first == nil {
			first = s.Document
			early(first)
		}
	}
}

// acquire exchanges everything with another node and gets a lease from it.
func (h *Coordinator) acquire(ctx context.Context, node string) error {
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	c, err := h.open(ctx, node)
	if err != nil {
		return err
	}
	defer h.hangUp(node, c)
	defer context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(past) })()
	mine, err := store.DecodeVector(h.config.Store.Vector())
	if err != nil {
		return err
	}
	if err := c.send((&request{verb: verbLease, from: h.config.Node, vector: mine, within: exchangeTimeout}).encode()); err != nil {
		return err
	}
	g, err := c.receiveGrant()
	if err != nil {
		return err
	}
	if err := h.takeDeltas(ctx, c); err != nil {
		return fmt.Errorf("take what %s has: %w", node, err)
	}
	if err := h.sendDeltas(c, g.vector); err != nil {
		return fmt.Errorf("give %s what it lacks: %w", node, err)
	}
	asked := h.config.Now()
	if err := c.send(nil); err != nil {
		return err
	}
	last, err := c.receiveGrant()
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.leases.gained(node, g.id, last.until, asked) {
		return fmt.Errorf("%s has left the view", node)
	}
	h.wake()
	return nil
}

// receiveGrant reads a backup's word.
func (c *call) receiveGrant() (*grantReply, error) {
	b, err := c.receive()
	if err != nil {
		return nil, err
	}
	g, err := decodeGrantReply(b)
	if err == nil && g.id == 0 {
		err = store.ErrLeaseOver
	}
	return g, err
}

func (h *Coordinator) sendDeltas(c *call, since crdt.VersionVector) error {
	deltas, err := h.config.Store.Delta(store.EncodeVector(since))
	if err != nil {
		return err
	}
	for d := range deltas {
		if err := c.send(d); err != nil {
			return err
		}
	}
	return nil
}

// takeDeltas merges deltas until the empty frame.
func (h *Coordinator) takeDeltas(ctx context.Context, c *call) error {
	for {
		d, err := c.receive()
		if err != nil || len(d) == 0 {
			return err
		}
		if _, _, err := h.config.Store.Merge(ctx, d); err != nil {
			return err
		}
	}
}

// renew asks a backup whether a lease still stands.
func (h *Coordinator) renew(ctx context.Context, held *lease) error {
	return h.askBackup(ctx, held, &request{verb: verbRenew, lease: held.id})
}

// hold has a backup hold a decision.
func (h *Coordinator) hold(ctx context.Context, held *lease, d *crdt.Document) error {
	return h.askBackup(ctx, held, &request{verb: verbHold, lease: held.id, document: d})
}

// askBackup sends a request about a lease and notes the answer.
func (h *Coordinator) askBackup(ctx context.Context, held *lease, q *request) error {
	c, err := h.open(ctx, held.backup)
	if err != nil {
		return err
	}
	defer h.hangUp(held.backup, c)
	defer context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(past) })()
	asked := h.config.Now()
	q.from, q.within = h.config.Node, commitTimeout
	if err := c.send(q.encode()); err != nil {
		return err
	}
	g, err := c.receiveGrant()
	h.mu.Lock()
	defer h.mu.Unlock()
	if errors.Is(err, store.ErrLeaseOver) {
		h.leases.refused(held)
	}
	if err == nil {
		h.leases.renewed(held, g.until, asked)
	}
	return err
}

// resolve asks a node what one of its versions stood for.
func (h *Coordinator) resolve(ctx context.Context, node string, k crdt.Key, v store.Version) (*crdt.Document, error) {
	if node == h.config.Node {
		return h.config.Store.DocumentAt(k, v), nil
	}
	c, err := h.open(ctx, node)
	if err != nil {
		return nil, err
	}
	defer h.hangUp(node, c)
	defer context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(past) })()
	if err := c.send((&request{verb: verbResolve, from: h.config.Node, version: v, write: store.Proposal{Key: k}}).encode()); err != nil {
		return nil, err
	}
	b, err := c.receive()
	if err != nil {
		return nil, err
	}
	s, err := decodeResponse(b)
	if err != nil {
		return nil, err
	}
	return s.Document, nil
}

// accept serves calls until the context ends.
func (h *Coordinator) accept(ctx context.Context) {
	s := &wire.Server{Listener: h.config.Listener, Log: h.config.Log, Handle: func(ctx context.Context, conn net.Conn) {
		defer conn.Close()
		if err := h.serve(ctx, newCall(conn)); err != nil && ctx.Err() == nil {
			h.config.Log.Debug("call of a peer", "peer", conn.RemoteAddr(), "err", err)
		}
	}}
	if err := s.Run(ctx); err != nil {
		h.config.Log.Error("writes of other nodes are no longer decided here: the listener ended", "err", err)
	}
}

// serve answers one call.
func (h *Coordinator) serve(ctx context.Context, c *call) error {
	_ = c.conn.SetDeadline(time.Now().Add(exchangeTimeout))
	b, err := c.receive()
	if err != nil {
		return err
	}
	q, err := decodeRequest(b)
	if err != nil {
		return err
	}
	if q.from == "" || q.from == h.config.Node {
		return fmt.Errorf("a call of %q, by way of %s", q.from, c.conn.RemoteAddr())
	}
	switch q.verb {
	case verbAsk:
		return h.serveAsk(ctx, c, q)
	case verbLease:
		return h.serveLease(ctx, c, q)
	case verbRenew, verbHold:
		return h.serveBackup(ctx, c, q)
	case verbResolve:
		s := store.Response{Outcome: store.OutcomeUnknown}
		if d := h.config.Store.DocumentAt(q.write.Key, q.version); d != nil {
			s = store.Response{Outcome: store.OutcomeKnown, Document: d}
		}
		return c.send(encodeResponse(&s))
	default:
		return h.relay(ctx, c, q)
	}
}

func (h *Coordinator) serveAsk(ctx context.Context, c *call, q *request) error {
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	default:
		return c.send(encodeResponse(&store.Response{Outcome: store.OutcomeNotPrimary, Reason: h.config.Node + " has too much to decide"}))
	}
	ctx, cancel := context.WithTimeout(ctx, min(q.within, commitTimeout))
	defer cancel()
	var told *crdt.Document
	s := h.decide(ctx, &q.write, func(d *crdt.Document) {
		if told == nil && c.send(encodeResponse(&store.Response{Outcome: store.OutcomeDecided, Document: d})) == nil {
			told = d
		}
	})
	if s.Document == told {
		s.Document = nil
	}
	return c.send(encodeResponse(&s))
}

func (h *Coordinator) serveLease(ctx context.Context, c *call, q *request) error {
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	g := grantReply{id: grantID()}
	var ok bool
	h.mu.Lock()
	g.until, ok = h.leases.grant(h.config.Now(), q.from, g.id)
	h.mu.Unlock()
	if !ok {
		return c.send((&grantReply{}).encode())
	}
	// What this node decided before it gave the grant is on disk now, and in the vector.
	var err error
	if g.vector, err = h.config.Store.Flush(ctx); err != nil {
		return err
	}
	if err := c.send(g.encode()); err != nil {
		return err
	}
	if err := h.sendDeltas(c, q.vector); err != nil {
		return err
	}
	if err := c.send(nil); err != nil {
		return err
	}
	if err := h.takeDeltas(ctx, c); err != nil {
		return err
	}
	h.mu.Lock()
	g.until, ok = h.leases.renew(h.config.Now(), q.from, g.id)
	h.mu.Unlock()
	if !ok {
		return c.send((&grantReply{}).encode())
	}
	return c.send((&grantReply{id: g.id, until: g.until}).encode())
}

func (h *Coordinator) serveBackup(ctx context.Context, c *call, q *request) error {
	var until uint64
	var ok bool
	if q.verb == verbRenew {
		h.mu.Lock()
		until, ok = h.leases.renew(h.config.Now(), q.from, q.lease)
		h.mu.Unlock()
	} else {
		err := h.config.Store.Hold(ctx, q.document, func() bool {
			h.mu.Lock()
			defer h.mu.Unlock()
			until, ok = h.leases.holds(h.config.Now(), q.from, q.lease, q.document.Key)
			return ok
		})
		if err != nil && !errors.Is(err, store.ErrLeaseOver) {
			return err
		}
	}
	if !ok {
		return c.send((&grantReply{}).encode())
	}
	return c.send((&grantReply{id: q.lease, until: until}).encode())
}

// relay passes the rest of a call on to a node that its caller does not reach.
func (h *Coordinator) relay(ctx context.Context, c *call, q *request) error {
	dctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	on, err := h.config.Dial(dctx, q.to)
	if err != nil {
		return errors.Join(err, c.send(encodeResponse(&store.Response{Outcome: store.OutcomeUnknown})))
	}
	defer on.Close()
	defer context.AfterFunc(ctx, func() { _ = on.Close() })()
	_ = on.SetDeadline(time.Now().Add(exchangeTimeout))
	if err := c.send(encodeResponse(&store.Response{Outcome: store.OutcomeKnown})); err != nil {
		return err
	}
	back := make(chan struct{})
	go func() {
		defer close(back)
		_, _ = io.Copy(c.conn, on)
		_ = c.conn.Close()
	}()
	_, _ = io.Copy(on, c.r)
	_ = on.Close()
	<-back
	return nil
}
