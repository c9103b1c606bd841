package primary

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"murmur/crdt/store"
)

// world is a few real stores with their Coordinator, over pipes that can be cut, in virtual time.
type world struct {
	t     *testing.T
	rand  *rand.Rand
	nodes []*testNode

	// mutant breaks the protocol on its way: it may answer a call itself. Nil: nothing does.
	mutant func(w *world, to *testNode, q *request, c *call) (answered bool)

	mu   sync.Mutex
	loss float64 // of each message, by breaking its stream
	cut  map[[2]string]bool
}

// testNode is one machine. Its store is its disk: it outlives the process, which is what crashes.
type testNode struct {
	world *world
	name  string
	store *store.Store
	skew  time.Duration
	stop  func()

	mu          sync.Mutex
	coordinator *Coordinator // nil while down
	view        *testView
	conns       map[net.Conn]bool
	inbox       chan net.Conn
	process     context.CancelFunc
	ended       chan struct{}
}

// testView is what a node sees of the others, set by the test.
type testView struct {
	mu      sync.Mutex
	self    string
	alive   map[string]bool
	unheard bool
	of      int // how many nodes there are
	changed chan struct{}
	// at numbers what was last learnt of each node, so that news that come late change nothing.
	at map[string]int
}

func (v *testView) Alive() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	out := []string{v.self}
	for n, alive := range v.alive {
		if alive && n != v.self {
			out = append(out, n)
		}
	}
	return out
}

func (v *testView) Unheard() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.unheard
}

func (v *testView) Changed() <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.changed
}

func (v *testView) learn(node string, alive bool, at int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if at < v.at[node] {
		return
	}
	v.at[node] = at
	v.alive[node] = alive
	v.unheard = v.unheard && len(v.at) < v.of-1
	close(v.changed)
	v.changed = make(chan struct{})
}

func newWorld(t *testing.T, seed uint64, n int) *world {
	w := &world{t: t, rand: rand.New(rand.NewPCG(seed, 1)), cut: map[[2]string]bool{}}
	for i := range n {
		nd := &testNode{world: w, name: fmt.Sprint("n", i+1)}
		nd.skew = time.Duration(w.rand.Int64N(int64(600*time.Millisecond))) - 300*time.Millisecond
		s, err := store.Open(store.Config{Cluster: "test", Now: nd.now})
		if err != nil {
			t.Fatal(err)
		}
		nd.store = s
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); _ = s.Run(ctx) }()
		nd.stop = func() {
			cancel()
			<-done
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
		w.nodes = append(w.nodes, nd)
	}
	return w
}

func (w *world) close() {
	for _, n := range w.nodes {
		n.crash()
	}
	for _, n := range w.nodes {
		n.stop()
	}
}

func (w *world) node(name string) *testNode {
	return w.nodes[slices.IndexFunc(w.nodes, func(n *testNode) bool { return n.name == name })]
}

// chance, and the other draws, are for many goroutines: virtual time makes the order of their draws the seed's.
func (w *world) chance(p float64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rand.Float64() < p
}

func (w *world) between(least, most time.Duration) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return least + time.Duration(w.rand.Int64N(int64(most-least)+1))
}

func (w *world) pick(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rand.IntN(n)
}

func (n *testNode) now() time.Time { return time.Now().Add(n.skew) }

// start starts the process with what it knows of the others.
func (n *testNode) start(view *testView) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.view, n.conns, n.inbox, n.ended = view, map[net.Conn]bool{}, make(chan net.Conn, 64), make(chan struct{})
	h, err := New(Config{
		Store: n.store, Node: n.name, View: view, Now: n.now,
		Dial:     func(ctx context.Context, to string) (net.Conn, error) { return n.world.dial(ctx, n, to) },
		Listener: &testListener{inbox: n.inbox, done: make(chan struct{})},
	})
	if err != nil {
		n.world.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.coordinator, n.process = h, cancel
	ended := n.ended
	go func() { defer close(ended); _ = h.Run(ctx) }()
}

// crash ends the process: its streams break, and it forgets all but its store.
func (n *testNode) crash() {
	n.mu.Lock()
	if n.coordinator == nil {
		n.mu.Unlock()
		return
	}
	n.coordinator = nil
	n.process()
	for c := range n.conns {
		_ = c.Close()
	}
	ended := n.ended
	n.mu.Unlock()
	<-ended
}

func (n *testNode) running() *Coordinator {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.coordinator
}

type testListener struct {
	inbox chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func (l *testListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.inbox:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *testListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *testListener) Addr() net.Addr { return testAddr("") }

type testAddr string

func (testAddr) Network() string  { return "test" }
func (a testAddr) String() string { return string(a) }

func (w *world) dial(ctx context.Context, from *testNode, to string) (net.Conn, error) {
	n := w.node(to)
	w.mu.Lock()
	cut := w.cut[[2]string{from.name, to}] || w.cut[[2]string{to, from.name}]
	w.mu.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.coordinator == nil || cut {
		return nil, errors.New("unreachable")
	}
	a, b := net.Pipe()
	near, far := &testConn{Conn: a, world: w, peer: to}, net.Conn(&testConn{Conn: b, world: w, peer: from.name})
	n.conns[far] = true
	if w.mutant != nil {
		go w.intercept(n, far)
		return near, nil
	}
	select {
	case n.inbox <- far:
		return near, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// intercept reads the request of a call, and passes the call on unless the mutant answers it.
func (w *world) intercept(to *testNode, conn net.Conn) {
	c := newCall(conn)
	b, err := c.receive()
	if err != nil {
		_ = conn.Close()
		return
	}
	q, err := decodeRequest(b)
	if err != nil {
		w.t.Error(err)
		return
	}
	if w.mutant(w, to, q, c) {
		_ = conn.Close()
		return
	}
	size := binary.BigEndian.AppendUint32(nil, uint32(len(b)))
	to.mu.Lock()
	defer to.mu.Unlock()
	if to.coordinator == nil {
		_ = conn.Close()
		return
	}
	select {
	case to.inbox <- &readAgain{conn, io.MultiReader(bytes.NewReader(append(size, b...)), c.r)}:
	default:
		_ = conn.Close()
	}
}

type readAgain struct {
	net.Conn
	from io.Reader
}

func (r *readAgain) Read(b []byte) (int, error) { return r.from.Read(b) }

// testConn delays what is written, and now and then breaks before or after it has arrived.
type testConn struct {
	net.Conn
	world *world
	peer  string
}

func (c *testConn) RemoteAddr() net.Addr { return testAddr(c.peer) }

func (c *testConn) Write(b []byte) (int, error) {
	time.Sleep(c.world.between(0, 4*time.Millisecond))
	if c.world.chance(c.world.loss / 2) {
		_ = c.Conn.Close()
		return 0, errors.New("lost")
	}
	n, err := c.Conn.Write(b)
	if c.world.chance(c.world.loss / 2) {
		_ = c.Conn.Close()
	}
	return n, err
}

// gossip has a node exchange with another now and then, as the streams of the daemon do.
func (w *world) gossip(ctx context.Context) {
	for ctx.Err() == nil {
		time.Sleep(w.between(0, 100*time.Millisecond))
		from, to := w.nodes[w.pick(len(w.nodes))], w.nodes[w.pick(len(w.nodes))]
		if from == to || from.running() == nil || to.running() == nil {
			continue
		}
		w.repair(from, to)
	}
}

func (w *world) repair(from, to *testNode) {
	deltas, err := from.store.Delta(to.store.Vector())
	if err != nil {
		w.t.Error(err)
		return
	}
	for d := range deltas {
		if _, _, err := to.store.Merge(context.Background(), d); err != nil && !errors.Is(err, store.ErrClosed) {
			w.t.Error(err)
		}
	}
}

// viewOfAll is the view of a node for which all are there.
func (w *world) viewOfAll(self string) *testView {
	v := &testView{self: self, alive: map[string]bool{}, at: map[string]int{}, changed: make(chan struct{})}
	for _, n := range w.nodes {
		v.alive[n.name] = true
	}
	return v
}

func (w *world) startAll() {
	for _, n := range w.nodes {
		n.start(w.viewOfAll(n.name))
	}
}

// tell lets the others learn of a node within some time.
func (w *world) tell(wg *sync.WaitGroup, about string, alive bool, at int, least, most time.Duration) {
	for _, n := range w.nodes {
		if n.name == about {
			continue
		}
		after := w.between(least, most)
		wg.Go(func() {
			time.Sleep(after)
			n.mu.Lock()
			v := n.view
			n.mu.Unlock()
			v.learn(about, alive, at)
		})
	}
}
