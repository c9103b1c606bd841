package sched

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"murmur/wire"
)

// peers carries messages to other nodes and from them. Each direction of a pair has its own stream, dialled by who speaks,
// so that neither has to be agreed upon. What cannot be sent is dropped: the machines say it again.
type peers struct {
	self     string
	dial     func(ctx context.Context, node string) (net.Conn, error)
	listener net.Listener
	inbox    chan<- Message
	log      *slog.Logger

	// mu guards what follows.
	mu       sync.Mutex
	speakers map[string]*speaker
	heard    map[string]net.Conn
}

type speaker struct {
	queue chan Message
	stop  context.CancelFunc
}

const (
	peerQueue    = 512
	dialTimeout  = 3 * time.Second
	writeTimeout = 3 * time.Second
	dialPause    = 100 * time.Millisecond
)

// run accepts streams until the context ends, and returns when all are closed.
func (p *peers) run(ctx context.Context) error {
	s := &wire.Server{Listener: p.listener, Handle: p.listen, Log: p.log}
	return s.Run(ctx)
}

// listen reads one peer's stream. A newer stream of the same peer replaces it.
func (p *peers) listen(ctx context.Context, c net.Conn) {
	defer c.Close()
	node := c.RemoteAddr().String()
	p.mu.Lock()
	if old, ok := p.heard[node]; ok {
		_ = old.Close()
	}
	p.heard[node] = c
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.heard[node] == c {
			delete(p.heard, node)
		}
	}()
	for ctx.Err() == nil {
		m, err := readMessage(c)
		if err != nil {
			if errors.Is(err, ErrMessage) || errors.Is(err, wire.ErrTooLong) {
				p.log.Warn("stream closed", "peer", node, "err", err)
			}
			return
		}
		if m.From.Node != node {
			p.log.Warn("stream closed: the peer speaks for another node", "peer", node, "for", m.From.Node)
			return
		}
		select {
		case p.inbox <- m:
		case <-ctx.Done():
		}
	}
}

// send queues a message; a full queue drops it.
func (p *peers) send(ctx context.Context, wg *sync.WaitGroup, m Message) {
	p.mu.Lock()
	s, ok := p.speakers[m.To.Node]
	if !ok {
		sctx, stop := context.WithCancel(ctx)
		s = &speaker{queue: make(chan Message, peerQueue), stop: stop}
		p.speakers[m.To.Node] = s
		wg.Go(func() { p.speak(sctx, m.To.Node, s.queue) })
	}
	p.mu.Unlock()
	select {
	case s.queue <- m:
	default:
	}
}

// keep ends the streams to nodes that are not alive.
func (p *peers) keep(alive func(string) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for node, s := range p.speakers {
		if !alive(node) {
			s.stop()
			delete(p.speakers, node)
		}
	}
}

// speak writes one peer's messages in order.
func (p *peers) speak(ctx context.Context, node string, queue <-chan Message) {
	var conn net.Conn
	var wg sync.WaitGroup
	defer wg.Wait()
	hangUp := func() {
		if conn != nil {
			_ = conn.Close()
			conn = nil
		}
	}
	defer hangUp()
	for {
		var m Message
		select {
		case m = <-queue:
		case <-ctx.Done():
			return
		}
		for range 2 {
			if conn == nil {
				dctx, cancel := context.WithTimeout(ctx, dialTimeout)
				c, err := p.dial(dctx, node)
				cancel()
				if err != nil {
					p.log.Debug("dial", "peer", node, "err", err)
					select {
					case <-time.After(dialPause):
					case <-ctx.Done():
						return
					}
					break
				}
				conn = c
				// The peer says nothing on this stream: reading only notices that it is closed.
				wg.Go(func() { _, _ = io.Copy(io.Discard, c); _ = c.Close() })
			}
			_ = conn.SetWriteDeadline(time.Now().Add(writeTimeout))
			err := writeMessage(conn, m)
			if err == nil {
				break
			}
			if errors.Is(err, wire.ErrTooLong) {
				p.log.Error("message not sent", "peer", node, "err", err)
				break
			}
			hangUp()
		}
	}
}
