package gossip

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
)

// TestCut: a session that stands ends when what its peer has shown does not stand any more, all of it and not its own certificate only; the streams in
// it end with it, it is not made again, and other sessions stay.
func TestCut(t *testing.T) {
	ca := newAuthority(t)
	middle := newAuthority(t) // sent along by n3
	var shut atomic.Bool
	begin := func(i int, others ...[]byte) *Agent {
		t.Helper()
		name := fmt.Sprint("n", i)
		certificate := ca.issue(t, NodeUser(name))
		certificate.Certificate = append(certificate.Certificate, others...)
		stands := func(chain []*x509.Certificate) error {
			if shut.Load() && len(chain) > 1 && chain[1].Equal(middle.cert) {
				return errors.New("shut out")
			}
			return nil
		}
		c := Config{
			Name: name, ID: fmt.Sprint("id", i), Addr: netip.MustParseAddr(fmt.Sprint("127.0.7.", i)), SerfPort: testSerfPort, StreamPort: testStreamPort, APIPort: 6443,
			Key: bytes.Repeat([]byte{7}, 32), Certificate: always(certificate), State: newWords(), Refuse: stands,
		}
		plain := &Config{Roots: ca.pool}
		c.Verify = func(chain []*x509.Certificate) (string, error) {
			if err := stands(chain); err != nil {
				return "", err
			}
			return plain.verify(chain[:1])
		}
		a, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		if err := a.Start(ctx); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- a.Run(ctx) }()
		t.Cleanup(sync.OnceFunc(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}))
		return a
	}
	one, two, three := begin(1), begin(2), begin(3, middle.cert.Raw)
	for _, a := range []*Agent{two, three} {
		if err := a.Join(serfAt(1)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all are connected", func() bool { return len(one.Peers())+len(two.Peers())+len(three.Peers()) == 6 })
	l := one.Listen("open")
	go func() {
		for {
			if _, err := l.Accept(); err != nil {
				return
			}
		}
	}()
	stands, err := two.Dial(t.Context(), "n1", "open")
	if err != nil {
		t.Fatal(err)
	}
	ends, err := three.Dial(t.Context(), "n1", "open")
	if err != nil {
		t.Fatal(err)
	}
	one.Cut() // nobody was
	before := one.mux.session("n2")
	shut.Store(true)
	one.Cut()
	two.Cut()
	_, _ = io.Copy(io.Discard, ends) // returns at all
	eventually(t, "the session is gone on both", func() bool { return one.mux.session("n3") == nil && two.mux.session("n3") == nil })
	if one.mux.session("n2") != before {
		t.Error("another session was cut")
	}
	if _, err := stands.Write([]byte("x")); err != nil {
		t.Errorf("a stream in it: %v", err)
	}
}
