package crdt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// errUnanswered says that a proposal was sent and no answer came: it may have been decided.
var errUnanswered = errors.New("the home did not answer")

// open opens a call to another node: directly, or, if the link to it is cut, through a node that reaches both.
func (h *Homes) open(ctx context.Context, node string) (*call, error) {
	if h.config.Dial == nil {
		return nil, errors.New("this node is made to be alone")
	}
	c, err := h.dial(ctx, node)
	if err == nil {
		return c, nil
	}
	h.mu.Lock()
	view := h.tenures.view
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
		if verr = c.send((&request{verb: verbRelay, from: h.config.Node, to: node, within: exchangeWithin}).encode()); verr == nil {
			var b []byte
			if b, verr = c.receive(); verr == nil {
				if s, derr := decodeSaid(b); derr == nil && s.outcome == known {
					return c, nil
				}
			}
		}
		h.hangUp(node, c)
	}
	return nil, err
}

// dial opens a stream that is cut when the node leaves the view.
func (h *Homes) dial(ctx context.Context, node string) (*call, error) {
	dctx, cancel := context.WithTimeout(ctx, dialWithin)
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

func (h *Homes) hangUp(node string, c *call) {
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

// ask proposes a write to its key's home. An error other than errUnanswered says that it was not proposed.
func (h *Homes) ask(ctx context.Context, p *proposal, early func(*document)) (said, error) {
	home := h.place(p.key).home
	switch home {
	case "":
		return said{}, errors.New("this node has not looked around yet")
	case h.config.Node:
		return h.decide(ctx, p, func(*document) {}), nil
	}
	q := &request{verb: verbAsk, from: h.config.Node, write: *p}
	if p.object != nil {
		var err error
		if q.value, err = canonical(p.object); err != nil {
			return said{outcome: failed, why: err.Error()}, nil
		}
	}
	c, err := h.open(ctx, home)
	if err != nil {
		return said{}, fmt.Errorf("reach %s: %w", home, err)
	}
	defer h.hangUp(home, c)
	defer context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(past) })()
	unanswered := func(err error) (said, error) { return said{}, fmt.Errorf("%w: %s: %w", errUnanswered, home, err) }
	at, _ := ctx.Deadline()
	q.within = at.Sub(h.config.Now())
	if err := c.send(q.encode()); err != nil {
		return unanswered(err)
	}
	var first *document
	for {
		b, err := c.receive()
		if err != nil {
			return unanswered(err)
		}
		s, err := decodeSaid(b)
		if err != nil {
			return unanswered(err)
		}
		if s.outcome != decided {
			if s.document == nil {
				s.document = first
			}
			if s.document == nil && (s.outcome == done || s.outcome == same) {
				return unanswered(ErrCorrupt)
			}
			return *s, nil
		}
		if s.document != nil && first == nil {
			first = s.document
			early(first)
		}
	}
}

// acquire exchanges everything with another node and gets tenure of it.
func (h *Homes) acquire(ctx context.Context, node string) error {
	ctx, cancel := context.WithTimeout(ctx, exchangeWithin)
	defer cancel()
	c, err := h.open(ctx, node)
	if err != nil {
		return err
	}
	defer h.hangUp(node, c)
	defer context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(past) })()
	mine, err := decodeVector(h.config.Store.Vector())
	if err != nil {
		return err
	}
	if err := c.send((&request{verb: verbTenure, from: h.config.Node, vector: mine, within: exchangeWithin}).encode()); err != nil {
		return err
	}
	g, err := c.granted()
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
	last, err := c.granted()
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.tenures.gained(node, g.id, last.until, asked) {
		return fmt.Errorf("%s has left the view", node)
	}
	h.wake()
	return nil
}

// granted reads a backup's word.
func (c *call) granted() (*granted, error) {
	b, err := c.receive()
	if err != nil {
		return nil, err
	}
	g, err := decodeGranted(b)
	if err == nil && g.id == 0 {
		err = errVoid
	}
	return g, err
}

func (h *Homes) sendDeltas(c *call, since Vector) error {
	deltas, err := h.config.Store.Delta(encodeVector(since))
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
func (h *Homes) takeDeltas(ctx context.Context, c *call) error {
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

// renew asks a backup whether a tenure still stands.
func (h *Homes) renew(ctx context.Context, ten *tenure) error {
	return h.word(ctx, ten, &request{verb: verbRenew, tenure: ten.id})
}

// hold has a backup hold a decision.
func (h *Homes) hold(ctx context.Context, ten *tenure, d *document) error {
	return h.word(ctx, ten, &request{verb: verbHold, tenure: ten.id, document: d})
}

// word sends a request about a tenure and notes the answer.
func (h *Homes) word(ctx context.Context, ten *tenure, q *request) error {
	c, err := h.open(ctx, ten.backup)
	if err != nil {
		return err
	}
	defer h.hangUp(ten.backup, c)
	defer context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(past) })()
	asked := h.config.Now()
	q.from, q.within = h.config.Node, settleWithin
	if err := c.send(q.encode()); err != nil {
		return err
	}
	g, err := c.granted()
	h.mu.Lock()
	defer h.mu.Unlock()
	if errors.Is(err, errVoid) {
		h.tenures.refused(ten)
	}
	if err == nil {
		h.tenures.renewed(ten, g.until, asked)
	}
	return err
}

// stood asks a node what one of its versions stood for.
func (h *Homes) stood(ctx context.Context, node string, k Key, v Version) (*document, error) {
	if node == h.config.Node {
		return h.config.Store.stoodFor(k, v), nil
	}
	c, err := h.open(ctx, node)
	if err != nil {
		return nil, err
	}
	defer h.hangUp(node, c)
	defer context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(past) })()
	if err := c.send((&request{verb: verbStood, from: h.config.Node, version: v, write: proposal{key: k}}).encode()); err != nil {
		return nil, err
	}
	b, err := c.receive()
	if err != nil {
		return nil, err
	}
	s, err := decodeSaid(b)
	if err != nil {
		return nil, err
	}
	return s.document, nil
}

// accept serves calls until the context ends.
func (h *Homes) accept(ctx context.Context, wg *sync.WaitGroup) {
	defer context.AfterFunc(ctx, func() { _ = h.config.Listener.Close() })()
	for {
		conn, err := h.config.Listener.Accept()
		if ctx.Err() != nil {
			if conn != nil {
				_ = conn.Close()
			}
			return
		}
		if errors.Is(err, net.ErrClosed) {
			h.config.Log.Error("writes of other nodes are no longer decided here: the listener ended", "err", err)
			return
		}
		if err != nil {
			h.config.Log.Warn("accept a call", "err", err)
			time.Sleep(meetAgain)
			continue
		}
		wg.Go(func() {
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
			if err := h.serve(ctx, newCall(conn)); err != nil && ctx.Err() == nil {
				h.config.Log.Debug("call of a peer", "peer", conn.RemoteAddr(), "err", err)
			}
		})
	}
}

// serve answers one call.
func (h *Homes) serve(ctx context.Context, c *call) error {
	_ = c.conn.SetDeadline(time.Now().Add(exchangeWithin))
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
	case verbTenure:
		return h.serveTenure(ctx, c, q)
	case verbRenew, verbHold:
		return h.serveWord(ctx, c, q)
	case verbStood:
		s := said{outcome: unknown}
		if d := h.config.Store.stoodFor(q.write.key, q.version); d != nil {
			s = said{outcome: known, document: d}
		}
		return c.send(encodeSaid(&s))
	default:
		return h.relay(ctx, c, q)
	}
}

func (h *Homes) serveAsk(ctx context.Context, c *call, q *request) error {
	select {
	case h.asks <- struct{}{}:
		defer func() { <-h.asks }()
	default:
		return c.send(encodeSaid(&said{outcome: nothere, why: h.config.Node + " has too much to decide"}))
	}
	ctx, cancel := context.WithTimeout(ctx, min(q.within, settleWithin))
	defer cancel()
	var told *document
	s := h.decide(ctx, &q.write, func(d *document) {
		if told == nil && c.send(encodeSaid(&said{outcome: decided, document: d})) == nil {
			told = d
		}
	})
	if s.document == told {
		s.document = nil
	}
	return c.send(encodeSaid(&s))
}

func (h *Homes) serveTenure(ctx context.Context, c *call, q *request) error {
	ctx, cancel := context.WithTimeout(ctx, exchangeWithin)
	defer cancel()
	g := granted{id: grantID()}
	var ok bool
	h.mu.Lock()
	g.until, ok = h.tenures.grant(h.config.Now(), q.from, g.id)
	h.mu.Unlock()
	if !ok {
		return c.send((&granted{}).encode())
	}
	// What this node decided before it gave the grant is on disk now, and in the vector.
	var err error
	if g.vector, err = h.config.Store.flush(ctx); err != nil {
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
	g.until, ok = h.tenures.renew(h.config.Now(), q.from, g.id)
	h.mu.Unlock()
	if !ok {
		return c.send((&granted{}).encode())
	}
	return c.send((&granted{id: g.id, until: g.until}).encode())
}

func (h *Homes) serveWord(ctx context.Context, c *call, q *request) error {
	var until uint64
	var ok bool
	if q.verb == verbRenew {
		h.mu.Lock()
		until, ok = h.tenures.renew(h.config.Now(), q.from, q.tenure)
		h.mu.Unlock()
	} else {
		err := h.config.Store.hold(ctx, q.document, func() bool {
			h.mu.Lock()
			defer h.mu.Unlock()
			until, ok = h.tenures.holds(h.config.Now(), q.from, q.tenure, q.document.key)
			return ok
		})
		if err != nil && !errors.Is(err, errVoid) {
			return err
		}
	}
	if !ok {
		return c.send((&granted{}).encode())
	}
	return c.send((&granted{id: q.tenure, until: until}).encode())
}

// relay passes the rest of a call on to a node that its caller does not reach.
func (h *Homes) relay(ctx context.Context, c *call, q *request) error {
	dctx, cancel := context.WithTimeout(ctx, dialWithin)
	defer cancel()
	on, err := h.config.Dial(dctx, q.to)
	if err != nil {
		return errors.Join(err, c.send(encodeSaid(&said{outcome: unknown})))
	}
	defer on.Close()
	defer context.AfterFunc(ctx, func() { _ = on.Close() })()
	_ = on.SetDeadline(time.Now().Add(exchangeWithin))
	if err := c.send(encodeSaid(&said{outcome: known})); err != nil {
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
