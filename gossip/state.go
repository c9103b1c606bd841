package gossip

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
)

// State is the replicated store, as far as the network is concerned. Everything it says is bytes to us.
type State interface {
	// Digest fingerprints what is held: equal digests, nothing to exchange.
	Digest() [16]byte
	// Vector says what is held, for a peer's Delta.
	Vector() []byte
	// Delta is what a peer with that vector lacks.
	Delta(since []byte) (iter.Seq[[]byte], error)
	// Merge takes a delta in, durably. gap says that something before it is missing.
	Merge(ctx context.Context, delta []byte) (changed int, gap bool, err error)
	// News waits for commits made here and returns them as a delta.
	News(ctx context.Context) ([]byte, error)
}

const (
	servicePush   = "push"
	serviceRepair = "repair"
)

// Bounds of what a peer may send and of what waits for it.
const (
	maxFrame    = 16 << 20
	maxInflated = 64 << 20
	maxPush     = 1024
	maxPushSize = 8 << 20
	// repairEvery is how often two nodes compare digests, repairPause how soon after a gap.
	repairEvery   = 3 * time.Second
	repairPause   = 50 * time.Millisecond
	repairTimeout = 30 * time.Second
)

var (
	encoder, _ = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(128<<10), zstd.WithLowerEncoderMem(true))
	decoder, _ = zstd.NewReader(nil, zstd.WithDecoderConcurrency(2), zstd.WithDecoderMaxMemory(maxInflated), zstd.WithDecoderLowmem(true))
)

// errFrame is returned for a frame that is too large or does not decompress.
var errFrame = errors.New("bad frame")

// writeFrame sends one compressed payload behind its length (4 bytes).
func writeFrame(w io.Writer, payload []byte) error {
	b := encoder.EncodeAll(payload, make([]byte, 4, 4+len(payload)/2+64))
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	_, err := w.Write(b)
	return err
}

func readFrame(r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxFrame {
		return nil, fmt.Errorf("%w: %d bytes", errFrame, n)
	}
	// Grow with what arrives, not with what is announced.
	var b bytes.Buffer
	if _, err := io.CopyN(&b, r, int64(n)); err != nil {
		return nil, err
	}
	payload, err := decoder.DecodeAll(b.Bytes(), nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errFrame, err)
	}
	return payload, nil
}

// pushQueue holds the deltas on their way to one peer. When it is full the oldest is dropped; repair brings it.
type pushQueue struct {
	mu      sync.Mutex
	waiting [][]byte
	size    int
	dropped uint64
	filled  chan struct{}
	done    chan struct{}
	once    sync.Once
	// gap asks the repair loop of this peer to look now.
	gap chan struct{}
	// synced is when the last exchange with this peer was complete.
	synced time.Time
}

func newPushQueue() *pushQueue {
	return &pushQueue{filled: make(chan struct{}, 1), done: make(chan struct{}), gap: make(chan struct{}, 1)}
}

func (q *pushQueue) close() { q.once.Do(func() { close(q.done) }) }

func (q *pushQueue) add(delta []byte) {
	q.mu.Lock()
	q.waiting = append(q.waiting, delta)
	q.size += len(delta)
	for len(q.waiting) > maxPush || q.size > maxPushSize && len(q.waiting) > 1 {
		q.size -= len(q.waiting[0])
		q.waiting = q.waiting[1:]
		q.dropped++
	}
	q.mu.Unlock()
	select {
	case q.filled <- struct{}{}:
	default:
	}
}

func (q *pushQueue) take() ([]byte, bool) {
	for {
		q.mu.Lock()
		if len(q.waiting) > 0 {
			d := q.waiting[0]
			q.waiting = q.waiting[1:]
			q.size -= len(d)
			q.mu.Unlock()
			return d, true
		}
		q.mu.Unlock()
		select {
		case <-q.filled:
		case <-q.done:
			return nil, false
		}
	}
}

// pushNews hands what is committed here to every connected peer.
func (a *Agent) pushNews(ctx context.Context) error {
	for {
		delta, err := a.config.State.News(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("gossip: take news from the store: %w", err)
		}
		for _, s := range a.mux.all() {
			s.push.add(delta)
		}
	}
}

func (x *mux) all() []*session {
	x.mu.Lock()
	defer x.mu.Unlock()
	out := make([]*session, 0, len(x.sessions))
	for _, s := range x.sessions {
		out = append(out, s)
	}
	return out
}

// pushTo sends what is queued for a peer until its session ends.
func (a *Agent) pushTo(s *session) {
	stream, err := s.open(servicePush)
	if err != nil {
		_ = s.mux.Close()
		return
	}
	defer stream.Close()
	for {
		delta, ok := s.push.take()
		if !ok {
			return
		}
		_ = stream.SetWriteDeadline(time.Now().Add(repairTimeout))
		if err := writeFrame(stream, delta); err != nil {
			a.log.Debug("push", "peer", s.name, "err", err)
			_ = s.mux.Close()
			return
		}
	}
}

// receivePush takes in what a peer pushes.
func (a *Agent) receivePush(ctx context.Context, s *session, stream net.Conn) {
	defer stream.Close()
	r := bufio.NewReader(stream)
	for {
		delta, err := readFrame(r)
		if err != nil {
			return
		}
		_, gap, err := a.config.State.Merge(ctx, delta)
		if err != nil {
			a.log.Error("delta refused", "peer", s.name, "err", err)
			gap = true
		}
		if gap {
			select {
			case s.push.gap <- struct{}{}:
			default:
			}
		}
	}
}

// repairWith compares with one peer when the connection is new and whenever its pushes show a gap.
func (a *Agent) repairWith(ctx context.Context, s *session) {
	for {
		if err := a.exchange(ctx, s); err != nil {
			a.log.Debug("repair", "peer", s.name, "err", err)
		}
		select {
		case <-s.push.done:
			return
		case <-time.After(repairPause):
		}
		select {
		case <-s.push.done:
			return
		case <-s.push.gap:
		}
	}
}

// repair compares with the peer least recently met, every few seconds.
func (a *Agent) repair(ctx context.Context) {
	tick := time.NewTicker(repairEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var next *session
		for _, s := range a.mux.all() {
			if next == nil || s.lastSync().Before(next.lastSync()) {
				next = s
			}
		}
		if next == nil {
			continue
		}
		if err := a.exchange(ctx, next); err != nil {
			a.log.Debug("repair", "peer", next.name, "err", err)
		}
	}
}

func (s *session) lastSync() time.Time {
	s.push.mu.Lock()
	defer s.push.mu.Unlock()
	return s.push.synced
}

// Sync exchanges everything with one node. When it returns without error, this store has all that the other had.
func (a *Agent) Sync(ctx context.Context, node string) error {
	s, err := a.mux.waitSession(ctx, node)
	if err != nil {
		return err
	}
	return a.exchange(ctx, s)
}

// An exchange, asked by one side and answered by the other, in frames; an empty frame ends a list of deltas:
//
//	asker:    digest
//	answerer: vector, or an empty frame if the digests are equal
//	asker:    vector
//	answerer: deltas, end
//	asker:    deltas, end
//	answerer: an empty frame when all is merged
func (a *Agent) exchange(ctx context.Context, s *session) error {
	stream, err := s.open(serviceRepair)
	if err != nil {
		return err
	}
	defer stream.Close()
	stop := context.AfterFunc(ctx, func() { _ = stream.Close() })
	defer stop()
	c := &exchangeConn{stream: stream, r: bufio.NewReader(stream)}
	digest := a.config.State.Digest()
	if err := c.send(digest[:]); err != nil {
		return err
	}
	theirs, err := c.receive()
	if err != nil {
		return err
	}
	if len(theirs) > 0 {
		if err := c.send(a.config.State.Vector()); err != nil {
			return err
		}
		if err := a.mergeAll(ctx, c); err != nil {
			return err
		}
		if err := a.sendAll(c, theirs); err != nil {
			return err
		}
		if _, err := c.receive(); err != nil {
			return err
		}
	}
	s.push.mu.Lock()
	s.push.synced = time.Now()
	s.push.mu.Unlock()
	return nil
}

func (a *Agent) answerRepair(ctx context.Context, stream net.Conn) {
	defer stream.Close()
	c := &exchangeConn{stream: stream, r: bufio.NewReader(stream)}
	err := func() error {
		digest, err := c.receive()
		if err != nil {
			return err
		}
		if mine := a.config.State.Digest(); bytes.Equal(digest, mine[:]) {
			return c.send(nil)
		}
		if err := c.send(a.config.State.Vector()); err != nil {
			return err
		}
		theirs, err := c.receive()
		if err != nil {
			return err
		}
		if err := a.sendAll(c, theirs); err != nil {
			return err
		}
		if err := a.mergeAll(ctx, c); err != nil {
			return err
		}
		return c.send(nil)
	}()
	if err != nil {
		a.log.Debug("answer repair", "err", err)
	}
}

// exchangeConn is a stream on which every frame must come in time.
type exchangeConn struct {
	stream net.Conn
	r      *bufio.Reader
}

func (c *exchangeConn) send(payload []byte) error {
	_ = c.stream.SetWriteDeadline(time.Now().Add(repairTimeout))
	return writeFrame(c.stream, payload)
}

func (c *exchangeConn) receive() ([]byte, error) {
	_ = c.stream.SetReadDeadline(time.Now().Add(repairTimeout))
	return readFrame(c.r)
}

func (a *Agent) sendAll(c *exchangeConn, since []byte) error {
	deltas, err := a.config.State.Delta(since)
	if err != nil {
		return err
	}
	for d := range deltas {
		if err := c.send(d); err != nil {
			return err
		}
	}
	return c.send(nil)
}

func (a *Agent) mergeAll(ctx context.Context, c *exchangeConn) error {
	for {
		d, err := c.receive()
		if err != nil || len(d) == 0 {
			return err
		}
		if _, _, err := a.config.State.Merge(ctx, d); err != nil {
			return err
		}
	}
}

// Peer is what this node knows of its connection to another.
type Peer struct {
	Name string
	// Synced is when the last exchange was complete; zero if never.
	Synced time.Time
	// Queued counts deltas that wait to be pushed, Dropped those that a full queue lost to repair.
	Queued  int
	Dropped uint64
}

// Peers lists the connected peers.
func (a *Agent) Peers() []Peer {
	var out []Peer
	for _, s := range a.mux.all() {
		s.push.mu.Lock()
		out = append(out, Peer{Name: s.name, Synced: s.push.synced, Queued: len(s.push.waiting), Dropped: s.push.dropped})
		s.push.mu.Unlock()
	}
	return out
}
