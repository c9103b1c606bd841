package dns

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/singleflight"
)

const (
	askOnce  = 1500 * time.Millisecond // one try at one resolver
	askTotal = 4 * time.Second         // all tries; a client gives up after 5 s
	keepMost = 30                      // seconds an answer is kept at most
	keepMax  = 2000                    // answers kept
)

// forwarder asks the host's resolvers.
type forwarder struct {
	cfg    Config
	places chan struct{}
	flight singleflight.Group
	asking sync.WaitGroup

	mu        sync.Mutex
	resolvers []string
	read      os.FileInfo // what resolvers were read from
	looked    time.Time
	kept      map[string]kept
}

type kept struct {
	msg   *dns.Msg
	until time.Time
}

func newForwarder(cfg Config) *forwarder {
	return &forwarder{cfg: cfg, places: make(chan struct{}, cfg.InFlight), kept: map[string]kept{}}
}

// ask returns the resolvers' answer, or SERVFAIL. The message is the caller's.
func (f *forwarder) ask(ctx context.Context, q dns.Question, req *dns.Msg) *dns.Msg {
	failed := &dns.Msg{MsgHdr: dns.MsgHdr{Rcode: dns.RcodeServerFailure}}
	opt := req.IsEdns0()
	do := opt != nil && opt.Do()
	key := fmt.Sprint(strings.ToLower(q.Name), " ", q.Qtype, do, req.CheckingDisabled)
	if m := f.recall(key, time.Now()); m != nil {
		return m
	}
	// Equal questions wait for one answer. A resolver that asks us back waits for itself, and fails in time.
	result := f.flight.DoChan(key, func() (any, error) {
		f.asking.Add(1)
		defer f.asking.Done()
		select {
		case f.places <- struct{}{}:
			defer func() { <-f.places }()
		default:
			return failed, nil // more are waiting than we can serve
		}
		ctx, cancel := context.WithTimeout(ctx, askTotal)
		defer cancel()
		out := new(dns.Msg).SetQuestion(q.Name, q.Qtype)
		out.CheckingDisabled = req.CheckingDisabled
		out.SetEdns0(maxUDP, do)
		for _, resolver := range f.current(time.Now()) {
			m, err := exchange(ctx, out, resolver)
			if err != nil || m.Rcode == dns.RcodeServerFailure || m.Rcode == dns.RcodeRefused {
				continue
			}
			m.Extra = nil // OPT is between neighbours; we add our own
			f.keep(key, m, time.Now())
			return m, nil
		}
		return failed, nil
	})
	select {
	case r := <-result:
		return r.Val.(*dns.Msg).Copy()
	case <-time.After(askTotal + time.Second):
	case <-ctx.Done():
	}
	return failed
}

// exchange asks one resolver, by TCP if its answer does not fit a packet.
func exchange(ctx context.Context, q *dns.Msg, resolver string) (*dns.Msg, error) {
	client := dns.Client{Net: "udp", Timeout: askOnce, UDPSize: maxUDP}
	m, _, err := client.ExchangeContext(ctx, q, resolver)
	if err == nil && m.Truncated {
		client.Net = "tcp"
		if full, _, e := client.ExchangeContext(ctx, q, resolver); e == nil {
			return full, nil
		}
	}
	return m, err
}

// current is the list of resolvers, read again when the file changed. We are never in it, nor is any service.
func (f *forwarder) current(now time.Time) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now.Sub(f.looked) < 2*time.Second {
		return f.resolvers
	}
	f.looked = now
	info, err := os.Stat(f.cfg.ResolvConf)
	if err == nil && f.read != nil && os.SameFile(info, f.read) && info.ModTime().Equal(f.read.ModTime()) && info.Size() == f.read.Size() {
		return f.resolvers
	}
	f.read, f.resolvers = info, nil
	conf, err := dns.ClientConfigFromFile(f.cfg.ResolvConf)
	if err != nil {
		f.cfg.Log.Warn("dns: no resolvers for names outside the cluster", "err", err)
		return nil
	}
	for _, s := range conf.Servers {
		server, port := s, uint16(53)
		if ap, err := netip.ParseAddrPort(s); err == nil { // not in the manual; harmless, and tests use it
			server, port = ap.Addr().String(), ap.Port()
		}
		addr, err := netip.ParseAddr(server)
		if err != nil || addr == f.cfg.Address && port == f.cfg.Port || f.cfg.ServiceCIDR.Contains(addr) {
			continue
		}
		f.resolvers = append(f.resolvers, netip.AddrPortFrom(addr, port).String())
	}
	return f.resolvers
}

// recall returns a kept answer with what is left of its TTLs.
func (f *forwarder) recall(key string, now time.Time) *dns.Msg {
	f.mu.Lock()
	defer f.mu.Unlock()
	k, ok := f.kept[key]
	if !ok || !now.Before(k.until) {
		delete(f.kept, key)
		return nil
	}
	m := k.msg.Copy()
	left := uint32(k.until.Sub(now)/time.Second) + 1
	for _, rrs := range [][]dns.RR{m.Answer, m.Ns} {
		for _, rr := range rrs {
			rr.Header().Ttl = min(rr.Header().Ttl, left)
		}
	}
	return m
}

// keep remembers an answer as long as its shortest TTL, and not longer than 30 seconds.
func (f *forwarder) keep(key string, m *dns.Msg, now time.Time) {
	seconds := uint32(keepMost)
	for _, rrs := range [][]dns.RR{m.Answer, m.Ns} {
		for _, rr := range rrs {
			seconds = min(seconds, rr.Header().Ttl)
			if soa, ok := rr.(*dns.SOA); ok && len(m.Answer) == 0 {
				seconds = min(seconds, soa.Minttl)
			}
		}
	}
	if seconds == 0 || m.Truncated || len(m.Answer)+len(m.Ns) == 0 || m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for k, v := range f.kept {
		if len(f.kept) < keepMax && now.Before(v.until) {
			break // the map begins anywhere: old answers go a few at a time
		}
		delete(f.kept, k)
	}
	f.kept[key] = kept{m.Copy(), now.Add(time.Duration(seconds) * time.Second)}
}
