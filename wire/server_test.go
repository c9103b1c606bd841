package wire

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fake is a listener that gives what a test says.
type fake struct {
	next   chan any // a net.Conn or an error
	once   sync.Once
	closed chan struct{}
	// asked is when Accept was called.
	asked []time.Time
}

func newFake() *fake { return &fake{next: make(chan any), closed: make(chan struct{})} }

func (f *fake) Accept() (net.Conn, error) {
	f.asked = append(f.asked, time.Now())
	select {
	case v := <-f.next:
		if err, ok := v.(error); ok {
			return nil, err
		}
		return v.(net.Conn), nil
	case <-f.closed:
		return nil, net.ErrClosed
	}
}

func (f *fake) Close() error   { f.once.Do(func() { close(f.closed) }); return nil }
func (f *fake) Addr() net.Addr { return &net.UnixAddr{Name: "here"} }

// dial gives the server one end of a connection.
func (f *fake) dial() net.Conn {
	here, there := net.Pipe()
	f.next <- there
	return here
}

// echo is a handler that says what it hears.
func echo(_ context.Context, conn net.Conn) {
	defer conn.Close()
	_, _ = io.Copy(conn, conn)
}

// start runs a server, and gives what ends it and what Run returns then.
func start(t *testing.T, s *Server) (cancel func(), ended <-chan error) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	return cancel, done
}

func says(t *testing.T, conn net.Conn, word string) {
	t.Helper()
	if _, err := conn.Write([]byte(word)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, len(word))
	if _, err := io.ReadFull(conn, b); err != nil || string(b) != word {
		t.Fatalf("%q, %v, want %q", b, err, word)
	}
}

// TestRunEndsAllItStarted: connections that handlers are busy with are closed, handlers are waited for, and so is the
// release of their places; the listener is closed.
func TestRunEndsAllItStarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newFake()
		handlers, places := 0, 0
		s := &Server{Listener: l, Handle: func(ctx context.Context, conn net.Conn) {
			echo(ctx, conn)
			<-ctx.Done()
			time.Sleep(time.Minute) // has something to put away
			handlers++
		}, Admit: func(net.Conn) (func(), bool) { return func() { places++ }, true }}
		cancel, ended := start(t, s)
		one := l.dial()
		says(t, one, "hello")
		cancel()
		synctest.Wait()
		if _, err := one.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("the connection is not closed: %v", err)
		}
		select {
		case <-l.closed:
		default:
			t.Error("the listener is not closed")
		}
		select {
		case err := <-ended:
			t.Errorf("ended before its handler: %v", err)
		default:
		}
		if err := <-ended; err != nil || handlers != 1 || places != 1 {
			t.Errorf("ended: %v, %d handlers have, %d places are free again", err, handlers, places)
		}
	})
}

// TestAClosedListenerEndsIt: with an error, and with all that was under way.
func TestAClosedListenerEndsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newFake()
		_, ended := start(t, &Server{Listener: l, Handle: echo})
		one := l.dial()
		says(t, one, "hello")
		_ = l.Close()
		if err := <-ended; !errors.Is(err, net.ErrClosed) || !strings.Contains(err.Error(), "here") {
			t.Errorf("%v", err)
		}
		if _, err := one.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("the connection is not closed: %v", err)
		}
	})
}

// TestItWaitsLongerEachTime: errors that pass are waited for, up to a second, anew after each connection, and not past the
// context.
func TestItWaitsLongerEachTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newFake()
		var log strings.Builder
		cancel, ended := start(t, &Server{Listener: l, Handle: echo, Log: slog.New(slog.NewTextHandler(&log, nil))})
		for range 10 {
			l.next <- errors.New("too many open files")
		}
		says(t, l.dial(), "hello")
		l.next <- errors.New("too many open files")
		one := l.dial()
		says(t, one, "hello again")
		var pauses []time.Duration
		for i, at := range l.asked[1:] {
			pauses = append(pauses, at.Sub(l.asked[i])/time.Millisecond)
		}
		if want := []time.Duration{5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000, 0, 5, 0}; !slices.Equal(pauses, want) {
			t.Errorf("pauses of %v ms, want %v", pauses, want)
		}
		if got := log.String(); strings.Count(got, "\n") != 11 || !strings.Contains(got, `msg="accept a connection" at=here err="too many open files" "again in"=5ms`) {
			t.Errorf("log:\n%s", got)
		}

		for range 9 {
			l.next <- errors.New("too many open files")
		}
		synctest.Wait() // a second's pause begins
		before := time.Now()
		cancel()
		if err := <-ended; err != nil || time.Since(before) != 0 {
			t.Errorf("ended %v after its context: %v", time.Since(before), err)
		}
	})
}

// TestWhoIsNotAdmittedIsClosed, and costs nobody else a place.
func TestWhoIsNotAdmittedIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newFake()
		places := make(chan struct{}, 2)
		cancel, ended := start(t, &Server{Listener: l, Handle: echo, Admit: func(net.Conn) (func(), bool) {
			select {
			case places <- struct{}{}:
				return func() { <-places }, true
			default:
				return nil, false
			}
		}})
		one, two, three := l.dial(), l.dial(), l.dial()
		if _, err := three.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("a third of two: %v", err)
		}
		says(t, one, "hello")
		_ = one.Close()
		synctest.Wait()
		says(t, l.dial(), "hello")
		says(t, two, "hello")
		cancel()
		if err := <-ended; err != nil || len(places) != 0 {
			t.Errorf("%v, %d places taken", err, len(places))
		}
	})
}

// TestAHandlerMayHandOn: what a handler has handed on stays open when it returns, and is not the server's to close.
func TestAHandlerMayHandOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newFake()
		handed := make(chan net.Conn, 1)
		cancel, ended := start(t, &Server{Listener: l, Handle: func(_ context.Context, conn net.Conn) { handed <- conn }})
		one := l.dial()
		synctest.Wait()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		other := <-handed
		go echo(t.Context(), other)
		says(t, one, "hello")
		_ = one.Close()
	})
}

// late is a listener that accepts one more connection while it is closed.
type late struct {
	*fake
	conn net.Conn
}

func (l *late) Accept() (net.Conn, error) {
	<-l.closed
	return l.conn, nil
}

// TestWhoComesWhileItEndsIsClosed: no handler is started then.
func TestWhoComesWhileItEndsIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		cancel, ended := start(t, &Server{Listener: &late{newFake(), there}, Handle: func(context.Context, net.Conn) { t.Error("handled") }})
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if _, err := here.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("the connection is not closed: %v", err)
		}
	})
}
