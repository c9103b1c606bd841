package wire

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Between two tries to accept: the first pause, and the longest.
const (
	firstPause   = 5 * time.Millisecond
	longestPause = time.Second
)

// Server serves the connections of a listener.
type Server struct {
	// Listener is closed when Run returns.
	Listener net.Listener
	// Admit, if there is one, is asked about each connection before a handler is started for it, one after the other.
	// What it returns is called when the handler has returned. A connection that it does not admit is closed.
	Admit func(net.Conn) (release func(), ok bool)
	// Handle sees to one connection, and owns it. If the context ends while it does, the connection is closed.
	Handle func(ctx context.Context, conn net.Conn)
	// Log is told when accepting fails. Default: nobody is.
	Log *slog.Logger
}

// Run serves until the context ends, and returns when all handlers have. It returns an error, one that is net.ErrClosed,
// if somebody else closes the listener.
func (s *Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() {
		<-ctx.Done()
		_ = s.Listener.Close()
	})
	var pause time.Duration
	for {
		conn, err := s.Listener.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept at %s: %w", s.Listener.Addr(), err)
		case err != nil:
			pause = min(max(2*pause, firstPause), longestPause)
			if s.Log != nil {
				s.Log.Warn("accept a connection", "at", s.Listener.Addr(), "err", err, "again in", pause)
			}
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
			continue
		}
		pause = 0
		release := func() {}
		if s.Admit != nil {
			var ok bool
			if release, ok = s.Admit(conn); !ok {
				_ = conn.Close()
				continue
			}
		}
		running.Go(func() {
			defer release()
			s.handle(ctx, conn)
		})
	}
}

// handle has the handler see to a connection.
func (s *Server) handle(ctx context.Context, conn net.Conn) {
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		_ = conn.Close()
	})
	defer func() {
		if !stop() {
			<-closed
		}
	}()
	s.Handle(ctx, conn)
}
