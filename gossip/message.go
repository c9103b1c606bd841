package gossip

import (
	"crypto/sha256"
	"encoding/binary"
	"time"
)

// message is one delta on its way to everybody. It is immutable, and the same in all queues of a node.
type message struct {
	// id names the message: a hash of what is sent, so that a copy is known without being unpacked.
	id       uint64
	encoding byte
	packed   []byte
	// direct: its origin pushes to all peers it has, so it is passed on only to those the origin does not reach.
	direct bool
	// hops counts the nodes it passed on the way here.
	hops byte
}

const (
	flagDirect byte = 1 << 4
	// maxHops ends what went astray; no tree is so deep.
	maxHops = 64
)

func hash64[T string | []byte](v T) uint64 {
	sum := sha256.Sum256([]byte(v))
	return binary.BigEndian.Uint64(sum[:8])
}

func newMessage(delta []byte, direct bool) *message {
	m := &message{direct: direct}
	m.encoding, m.packed = pack(delta)
	m.id = hash64(m.packed)
	return m
}

// size is about what the message takes on the wire.
func (m *message) size() int { return len(m.packed) + 8 }

// append encodes a message: flags and encoding, hops, payload. The id is computed anew by the receiver.
func (m *message) append(b []byte) []byte {
	flags := m.encoding
	if m.direct {
		flags |= flagDirect
	}
	b = append(b, flags, m.hops)
	b = binary.AppendUvarint(b, uint64(len(m.packed)))
	return append(b, m.packed...)
}

func (r *frameReader) message() *message {
	flags := r.byte()
	m := &message{encoding: flags & encodingMask, direct: flags&flagDirect != 0, hops: r.byte()}
	m.packed = r.bytes()
	if r.err != nil {
		return nil
	}
	m.id = hash64(m.packed)
	return m
}

// seen remembers the ids of the latest messages: at least generation of them, at most twice as many.
type seen struct{ young, old map[uint64]struct{} }

// generation is more than what crosses a large and busy cluster while messages are cached, so that none goes round twice.
const generation = 1 << 16

func (s *seen) has(id uint64) bool {
	if _, ok := s.young[id]; ok {
		return true
	}
	_, ok := s.old[id]
	return ok
}

func (s *seen) add(id uint64) {
	if s.young == nil || len(s.young) >= generation {
		s.young, s.old = map[uint64]struct{}{}, s.young
	}
	s.young[id] = struct{}{}
}

func (s *seen) remove(id uint64) {
	delete(s.young, id)
	delete(s.old, id)
}

// cache keeps the latest messages for neighbours that ask for them.
type cache struct {
	byID  map[uint64]*message
	order []cached
	size  int
}

type cached struct {
	message *message
	at      time.Duration
}

const (
	maxCached     = 8192
	maxCachedSize = 8 << 20
	cacheFor      = 20 * time.Second
)

func (c *cache) add(now time.Duration, m *message) {
	if c.byID == nil {
		c.byID = map[uint64]*message{}
	}
	c.byID[m.id] = m
	c.order = append(c.order, cached{m, now})
	c.size += m.size()
	drop := 0
	for drop < len(c.order) {
		o := c.order[drop]
		if len(c.order)-drop <= maxCached && c.size <= maxCachedSize && now-o.at < cacheFor {
			break
		}
		c.size -= o.message.size()
		delete(c.byID, o.message.id)
		c.order[drop] = cached{}
		drop++
	}
	c.order = c.order[drop:]
}

// outbox holds what waits to be sent to one peer. When it is full the oldest news is dropped; repair brings it.
type outbox struct {
	control []byte // whole frames
	news    []*message
	size    int
	have    []uint64
}

// Bounds of what waits for one peer, and of one packet.
const (
	maxQueued     = 4096
	maxQueuedSize = 4 << 20
	maxHave       = 4096
	maxControl    = 1 << 20
	maxPacketNews = 256 << 10
)

// push queues a message and returns how many were dropped for it.
func (o *outbox) push(m *message) (dropped uint64) {
	o.news = append(o.news, m)
	o.size += m.size()
	for len(o.news) > maxQueued || o.size > maxQueuedSize && len(o.news) > 1 {
		o.size -= o.news[0].size()
		o.news[0] = nil
		o.news = o.news[1:]
		dropped++
	}
	return dropped
}

// announce queues an id for a lazy neighbour.
func (o *outbox) announce(id uint64) (dropped uint64) {
	if len(o.have) >= maxHave {
		o.have = o.have[1:]
		dropped = 1
	}
	o.have = append(o.have, id)
	return dropped
}

// packet takes as much as one packet holds.
func (o *outbox) packet(announce bool) []byte {
	b := append(beginPacket(), o.control...)
	o.control = nil
	if announce && len(o.have) > 0 {
		b = appendFrame(b, frameHave, appendUint64s(nil, o.have))
		o.have = nil
	}
	if len(o.news) > 0 {
		n, size := 0, 0
		for n < len(o.news) && (n == 0 || size+o.news[n].size() <= maxPacketNews) {
			size += o.news[n].size()
			n++
		}
		body := make([]byte, 0, size+4*n)
		for i, m := range o.news[:n] {
			body = m.append(body)
			o.news[i] = nil
		}
		o.news = o.news[n:]
		o.size -= size
		b = appendFrame(b, frameNews, body)
	}
	return b
}

func (o *outbox) empty() bool { return len(o.control) == 0 && len(o.news) == 0 && len(o.have) == 0 }
