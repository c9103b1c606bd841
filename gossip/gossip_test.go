package gossip

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"murmur/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// words is the simplest State: a set of words that only grows. Its vector is the list of them.
type words struct {
	mu    sync.Mutex
	have  map[string]bool
	fresh chan string
}

func newWords() *words { return &words{have: map[string]bool{}, fresh: make(chan string, 1024)} }

func (w *words) say(word string) {
	w.mu.Lock()
	w.have[word] = true
	w.mu.Unlock()
	w.fresh <- word
}

func (w *words) Vector() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return []byte(" " + strings.Join(slices.Sorted(maps.Keys(w.have)), " "))
}

func (w *words) Digest() [16]byte {
	sum := sha256.Sum256(w.Vector())
	return [16]byte(sum[:16])
}

func (w *words) Delta(since []byte) (iter.Seq[[]byte], error) {
	w.mu.Lock()
	have := slices.Sorted(maps.Keys(w.have))
	w.mu.Unlock()
	return func(yield func([]byte) bool) {
		for _, word := range have {
			if !slices.Contains(strings.Fields(string(since)), word) && !yield([]byte(word)) {
				return
			}
		}
	}, nil
}

func (w *words) Merge(_ context.Context, delta []byte) (int, bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.have[string(delta)] {
		return 0, false, nil
	}
	w.have[string(delta)] = true
	return 1, false, nil
}

func (w *words) News(ctx context.Context) ([]byte, error) {
	select {
	case word := <-w.fresh:
		return []byte(word), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// authority signs node certificates for tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &authority{cert, key, pool}
}

func (ca *authority) issue(t *testing.T, commonName string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: commonName}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func always(c tls.Certificate) func() *tls.Certificate { return func() *tls.Certificate { return &c } }

const testSerfPort, testStreamPort = 17946, 17947

// start runs the i-th node of a cluster on its own loopback address until stopped.
func start(t *testing.T, ca *authority, i int, state State) (*Agent, func()) {
	t.Helper()
	name := fmt.Sprint("n", i)
	a, err := New(Config{
		Name: name, ID: fmt.Sprint("id", i), Addr: netip.MustParseAddr(fmt.Sprint("127.0.7.", i)),
		SerfPort: testSerfPort, StreamPort: testStreamPort, APIPort: 6443, Key: bytes.Repeat([]byte{7}, 32),
		Certificate: always(ca.issue(t, NodeUser(name))), Roots: ca.pool, State: state,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := a.Start(ctx); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return a, stop
}

func serfAt(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprint("127.0.7.", i)), testSerfPort)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

func TestThreeNodesShareState(t *testing.T) {
	ca := newAuthority(t)
	states := []*words{newWords(), newWords(), newWords()}
	var agents []*Agent
	var stops []func()
	for i, s := range states {
		a, stop := start(t, ca, i+1, s)
		agents, stops = append(agents, a), append(stops, stop)
	}
	states[0].say("before")
	for _, a := range agents[1:] {
		if err := a.Join(serfAt(1)); err != nil {
			t.Fatal(err)
		}
	}
	all := func(word string, of ...*words) func() bool {
		return func() bool {
			for _, s := range of {
				if !strings.Contains(string(s.Vector()), " "+word) {
					return false
				}
			}
			return true
		}
	}
	eventually(t, "what was said before the join is known to all", all("before", states...))
	eventually(t, "all are connected", func() bool { return len(agents[0].Peers())+len(agents[1].Peers())+len(agents[2].Peers()) == 6 })
	states[2].say("pushed")
	eventually(t, "a push reaches all", all("pushed", states...))

	// A service is reached by name, and the listener knows who called. Who has said all is still answered.
	l := agents[0].Listen("echo")
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			said, err := io.ReadAll(c)
			fmt.Fprintf(c, "hello %s, you said %q, %v", c.RemoteAddr(), said, err)
			_ = c.Close()
		}
	}()
	c, err := agents[2].Dial(t.Context(), "n1", "echo")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(c, "all")
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Error(err)
	}
	if b, err := io.ReadAll(c); err != nil || string(b) != `hello n3, you said "all", <nil>` {
		t.Errorf("service answered %q, %v", b, err)
	}

	// A node that dies stays a member, failed; the others go on; it is found again when it is back.
	stops[1]()
	eventually(t, "the dead node is seen as failed", func() bool { return !agents[0].Reachable("n2") && !agents[2].Reachable("n2") })
	if got := len(agents[0].Members()); got != 3 {
		t.Errorf("%d members after a failure, want 3", got)
	}
	states[0].say("meanwhile")
	eventually(t, "the living go on", all("meanwhile", states[0], states[2]))
	if _, err := agents[0].Dial(t.Context(), "n2", "echo"); !errors.Is(err, ErrUnreachable) {
		t.Errorf("dial of a failed node: %v", err)
	}
	start(t, ca, 2, states[1])
	eventually(t, "the node that came back has caught up without joining by hand", all("meanwhile", states...))
}

func TestStrangersAreRefused(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	start(t, ca, 1, newWords())
	at := net.JoinHostPort("127.0.7.1", fmt.Sprint(testStreamPort))
	for what, certs := range map[string][]tls.Certificate{
		"no certificate":         nil,
		"another CA":             {other.issue(t, NodeUser("n2"))},
		"a user of this cluster": {ca.issue(t, "alice")},
	} {
		c, err := tls.Dial("tcp", at, &tls.Config{Certificates: certs, InsecureSkipVerify: true})
		if err == nil {
			// TLS 1.3 tells the client of a refusal only when it reads.
			_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
			_, err = c.Read(make([]byte, 1))
			_ = c.Close()
		}
		var timeout net.Error
		if err == nil || errors.As(err, &timeout) && timeout.Timeout() {
			t.Errorf("%s: not refused: %v", what, err)
		}
	}
	wrong, err := New(Config{
		Name: "x", ID: "idx", Addr: netip.MustParseAddr("127.0.7.9"), SerfPort: testSerfPort, StreamPort: testStreamPort,
		APIPort: 1, Key: bytes.Repeat([]byte{8}, 32), Certificate: always(other.issue(t, NodeUser("x"))), Roots: other.pool, State: newWords(),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := wrong.Start(ctx); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- wrong.Run(ctx) }()
	if err := wrong.Join(serfAt(1)); err == nil {
		t.Error("a wrong gossip key was let in")
	}
	cancel()
	<-done
}

// stalling is a State in which some words cannot be taken in: one fails, one never ends.
type stalling struct{ *words }

func (s stalling) Merge(ctx context.Context, delta []byte) (int, bool, error) {
	switch string(delta) {
	case "stall":
		<-ctx.Done()
		return 0, false, ctx.Err()
	case "fail":
		return 0, false, errors.New("cannot be applied")
	}
	return s.words.Merge(ctx, delta)
}

func TestOnePoisonedDeltaHoldsUpNothing(t *testing.T) {
	ca := newAuthority(t)
	from, to := newWords(), stalling{newWords()}
	a, _ := start(t, ca, 1, from)
	b, _ := start(t, ca, 2, to)
	if err := b.Join(serfAt(1)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "connected", func() bool { return len(a.Peers()) == 1 && len(b.Peers()) == 1 })
	has := func(word string) func() bool {
		return func() bool { return strings.Contains(string(to.Vector()), " "+word) }
	}
	from.say("before")
	eventually(t, "a push arrives", has("before"))
	began := time.Now()
	from.say("fail")
	from.say("stall")
	time.Sleep(20 * time.Millisecond) // so that what follows is in a packet of its own
	for i := range 100 {
		from.say(fmt.Sprint("after", i))
	}
	eventually(t, "what comes behind the poisoned ones arrives", has("after99"))
	if took := time.Since(began); took > mergeLimit/2 {
		t.Errorf("after %v: it waited for the one that stalls", took)
	}
}

func TestPortInUseIsAnError(t *testing.T) {
	ca := newAuthority(t)
	start(t, ca, 1, newWords())
	a, err := New(Config{
		Name: "n1", ID: "other", Addr: netip.MustParseAddr("127.0.7.1"), SerfPort: testSerfPort, StreamPort: testStreamPort,
		Key: bytes.Repeat([]byte{7}, 32), Certificate: always(ca.issue(t, NodeUser("n1"))), Roots: ca.pool, State: newWords(),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "17947") {
		t.Errorf("got %v, want an error that names the port", err)
	}
}

func TestPacketsAreFramed(t *testing.T) {
	var b bytes.Buffer
	if err := writePacket(sink{&b}, []byte("payload")); err != nil {
		t.Fatal(err)
	}
	whole := b.Bytes()
	if want := "\x00\x00\x00\x07payload"; string(whole) != want {
		t.Errorf("written as %q, want %q: other daemons read that", whole, want)
	}
	if err := writePacket(sink{&b}, make([]byte, maxFrame+1)); !errors.Is(err, wire.ErrTooLong) {
		t.Errorf("a huge packet: %v", err)
	}
	// A stream on which a longer one is announced is closed.
	here, there := net.Pipe()
	go func() { _, _ = there.Write([]byte("\x01\x00\x00\x01")) }()
	(&carrier{}).receive(t.Context(), nil, here)
	if _, err := there.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the stream goes on: %v", err)
	}
}

// sink is a connection that only takes in.
type sink struct{ *bytes.Buffer }

func (sink) Close() error                     { return nil }
func (sink) LocalAddr() net.Addr              { return PeerAddr("") }
func (sink) RemoteAddr() net.Addr             { return PeerAddr("") }
func (sink) SetDeadline(time.Time) error      { return nil }
func (sink) SetReadDeadline(time.Time) error  { return nil }
func (sink) SetWriteDeadline(time.Time) error { return nil }
