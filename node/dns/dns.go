// Package dns is the cluster's DNS server, one on every node.
//
// # The law
//
// An answer about the cluster is a function of the question and of what this node holds: Answer. There is nothing to
// synchronise, no pod that could be on the node that was just lost, and no name that one side of a partition could not
// resolve. Where a service is node/proxy says (proxy.Addresses): on nodes reachable from here. Of that the ready addresses
// are told (proxy.Published); those that are ending are not, whatever the rules of packets do with them.
//
// # The loop
//
// Run gives the node the cluster DNS address (10.43.0.10/32 on lo, in host scope, so that it is never a
// source of other traffic), listens there on UDP and TCP, and answers. Pods send to that address by their
// default route, which ends at this node, where it is local; the node's own programs reach it the same way. No
// packet rule and no connection tracking is involved, so DNS works before the services do.
//
// # Names
//
// Records are those of the Kubernetes DNS specification 1.1.0 with a TTL of 5 seconds: services (A, SRV, CNAME for
// ExternalName), headless endpoints with their hostnames, pods by address, PTR for both, dns-version. A name that exists
// without records of the type asked for, AAAA above all, has an empty answer with the zone's SOA, any other name in the
// zone NXDOMAIN. What is not in the zone is asked of the resolvers in the host's resolv.conf, read again when it changes;
// ours is left out of them, equal questions in flight are asked once (which also ends loops), and
// answers are kept for at most 30 seconds. Without a resolver that answers: SERVFAIL, after at most 4 seconds.
//
// # Who may ask
//
// Pods and Services of the cluster, and this machine; anybody else is refused, and so is a client that asks more than a
// few hundred questions a second (clients.go).
//
// # What it does not do
//
// IPv6 records, zone transfers, DNSSEC for the cluster's zone, stub domains.
//
// To look inside: dig @10.43.0.10 dns-version.cluster.local TXT; the goldens in testdata show every kind of question.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"murmur/crdt/store"
)

// maxUDP is the largest answer sent in one packet: it fits every tunnel (DNS flag day 2020).
const maxUDP = 1232

// Config of the server. Zero values mean what the comments say.
type Config struct {
	Store       *store.Store
	Zone        string                 // "" is cluster.local
	Address     netip.Addr             // the cluster DNS address; invalid is 10.43.0.10
	Port        uint16                 // 0 is 53
	ClusterCIDR netip.Prefix           // addresses whose PTR is ours
	ServiceCIDR netip.Prefix           // likewise
	Reachable   func(node string) bool // this node's own view; nil means all
	ResolvConf  string                 // "" is /etc/resolv.conf
	InFlight    int                    // questions forwarded at a time; 0 is 256
	Log         *slog.Logger           // nil is slog.Default
}

// Server answers on one node.
type Server struct {
	cfg     Config
	forward *forwarder
	clients *clients
	ready   chan struct{}
}

// New checks the configuration. It starts nothing.
func New(cfg Config) (*Server, error) {
	if cfg.Zone == "" {
		cfg.Zone = "cluster.local"
	}
	cfg.Zone = strings.ToLower(dns.Fqdn(cfg.Zone))
	if _, ok := dns.IsDomainName(cfg.Zone); !ok || cfg.Zone == "." {
		return nil, fmt.Errorf("cluster domain %q is not a domain name", cfg.Zone)
	}
	if !cfg.Address.IsValid() {
		cfg.Address = netip.AddrFrom4([4]byte{10, 43, 0, 10})
	}
	if !cfg.Address.Is4() {
		return nil, fmt.Errorf("cluster DNS address %s is not IPv4", cfg.Address)
	}
	if cfg.Port == 0 {
		cfg.Port = 53
	}
	if cfg.ResolvConf == "" {
		cfg.ResolvConf = "/etc/resolv.conf"
	}
	if cfg.InFlight == 0 {
		cfg.InFlight = 256
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Server{cfg: cfg, forward: newForwarder(cfg), ready: make(chan struct{}),
		clients: &clients{cluster: []netip.Prefix{cfg.ClusterCIDR, cfg.ServiceCIDR}, self: cfg.Address, addresses: net.InterfaceAddrs}}, nil
}

// Ready is closed when the server listens for the first time.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Run answers until ctx ends. When the address cannot be had (another server has the port), it says so and tries again.
// The address stays on lo, so that a restart of the daemon refuses questions instead of losing them.
func (s *Server) Run(ctx context.Context) error {
	said := ""
	for ctx.Err() == nil {
		err := s.serve(ctx)
		if err != nil && ctx.Err() == nil {
			if said != err.Error() {
				said = err.Error()
				s.cfg.Log.Error("dns: not serving, trying again", "err", err)
			}
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		}
	}
	return nil
}

// serve listens and answers until ctx ends or a listener fails.
func (s *Server) serve(ctx context.Context) error {
	if err := s.ensureAddress(); err != nil {
		return err
	}
	at := netip.AddrPortFrom(s.cfg.Address, s.cfg.Port).String()
	udp, err := net.ListenPacket("udp4", at)
	if err != nil {
		return fmt.Errorf("listen for DNS: %w", err)
	}
	tcp, err := net.Listen("tcp4", at)
	if err != nil {
		_ = udp.Close()
		return fmt.Errorf("listen for DNS: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, req *dns.Msg) { s.handle(ctx, w, req) })
	servers := []*dns.Server{
		{PacketConn: udp, Handler: handler, UDPSize: 4096},
		{Listener: tcp, Handler: handler, MaxTCPQueries: 128},
	}
	ended := make(chan error, len(servers))
	var started, running sync.WaitGroup
	for _, srv := range servers {
		started.Add(1)
		srv.NotifyStartedFunc = started.Done
		running.Go(func() { ended <- srv.ActivateAndServe() })
	}
	started.Wait()
	select {
	case <-s.ready:
	default:
		close(s.ready)
	}
	s.cfg.Log.Info("dns: answering", "address", at, "zone", s.cfg.Zone)
	check := time.NewTicker(10 * time.Second)
	defer check.Stop()
	for err == nil {
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case err = <-ended:
			if err == nil {
				err = errors.New("listener closed")
			}
		case <-check.C:
			if e := s.ensureAddress(); e != nil {
				s.cfg.Log.Warn("dns: address not on lo", "err", e)
			}
		}
	}
	cancel() // answers in the making end
	for _, srv := range servers {
		_ = srv.Shutdown() // waits for its handlers
	}
	running.Wait()
	s.forward.asking.Wait()
	return err
}

// handle answers one question.
func (s *Server) handle(ctx context.Context, w dns.ResponseWriter, req *dns.Msg) {
	var resp *dns.Msg
	if allowed, tooMany := s.clients.may(addressOf(w.RemoteAddr()), time.Now()); allowed && !tooMany {
		resp = s.respond(ctx, req)
	} else {
		resp = new(dns.Msg).SetRcode(req, dns.RcodeRefused)
	}
	opt := req.IsEdns0()
	if opt != nil {
		resp.SetEdns0(maxUDP, opt.Do())
	}
	size := dns.MaxMsgSize
	if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
		size = dns.MinMsgSize
		if opt != nil {
			size = min(max(size, int(opt.UDPSize())), maxUDP)
		}
	}
	resp.Truncate(size)
	_ = w.WriteMsg(resp) // a client that left needs no answer
}

func (s *Server) respond(ctx context.Context, req *dns.Msg) *dns.Msg {
	resp := new(dns.Msg).SetReply(req)
	resp.RecursionAvailable = true
	if req.Opcode != dns.OpcodeQuery || len(req.Question) != 1 {
		return resp.SetRcode(req, dns.RcodeNotImplemented)
	}
	q := req.Question[0]
	if q.Qtype == dns.TypeAXFR || q.Qtype == dns.TypeIXFR || q.Qclass != dns.ClassINET {
		return resp.SetRcode(req, dns.RcodeRefused)
	}
	answer, ours := Answer(q, View{
		Snapshot: s.cfg.Store.Snapshot(), Zone: s.cfg.Zone, Address: s.cfg.Address,
		ClusterCIDR: s.cfg.ClusterCIDR, ServiceCIDR: s.cfg.ServiceCIDR, Reachable: s.cfg.Reachable,
	})
	if !ours {
		answer = s.forward.ask(ctx, q, req)
	} else if target := leadsOutside(q, answer); target != "" {
		// The client asked for addresses and does not follow names itself.
		outside := s.forward.ask(ctx, dns.Question{Name: target, Qtype: q.Qtype, Qclass: q.Qclass}, req)
		answer.Answer = append(answer.Answer, outside.Answer...)
		if answer.Ns = nil; outside.Rcode != dns.RcodeNameError {
			answer.Rcode = outside.Rcode
		}
	}
	resp.Rcode, resp.Authoritative, resp.AuthenticatedData = answer.Rcode, answer.Authoritative, answer.AuthenticatedData
	resp.Answer, resp.Ns, resp.Extra = shuffled(answer.Answer), answer.Ns, answer.Extra
	return resp
}

// leadsOutside returns the name an answer of ours ends at when its addresses are not in it.
func leadsOutside(q dns.Question, m *dns.Msg) string {
	if len(m.Answer) == 0 || q.Qtype == dns.TypeCNAME || m.Rcode != dns.RcodeSuccess {
		return ""
	}
	if c, ok := m.Answer[len(m.Answer)-1].(*dns.CNAME); ok && len(m.Ns) == 0 {
		return c.Target
	}
	return ""
}

// shuffled gives every endpoint of a headless service its turn to be first. CNAMEs stay in front.
func shuffled(rrs []dns.RR) []dns.RR {
	first := 0
	for first < len(rrs) && rrs[first].Header().Rrtype == dns.TypeCNAME {
		first++
	}
	out := append([]dns.RR{}, rrs...)
	tail := out[first:]
	for _, rr := range tail {
		if t := rr.Header().Rrtype; t != dns.TypeA && t != dns.TypeAAAA {
			return out
		}
	}
	rand.Shuffle(len(tail), func(i, j int) { tail[i], tail[j] = tail[j], tail[i] })
	return out
}

// ensureAddress makes the cluster DNS address local.
func (s *Server) ensureAddress() error {
	if s.cfg.Address.IsLoopback() {
		return nil
	}
	lo, addr, err := s.address()
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(lo, addr); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add the cluster DNS address %s to lo: %w", s.cfg.Address, err)
	}
	return nil
}

// Cleanup takes the address away. Not while Run runs.
func (s *Server) Cleanup() error {
	if s.cfg.Address.IsLoopback() {
		return nil
	}
	lo, addr, err := s.address()
	if err != nil {
		return err
	}
	if err := netlink.AddrDel(lo, addr); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("remove the cluster DNS address %s from lo: %w", s.cfg.Address, err)
	}
	return nil
}

func (s *Server) address() (netlink.Link, *netlink.Addr, error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, nil, fmt.Errorf("look for lo: %w", err)
	}
	b := s.cfg.Address.As4()
	return lo, &netlink.Addr{IPNet: &net.IPNet{IP: b[:], Mask: net.CIDRMask(32, 32)}, Scope: unix.RT_SCOPE_HOST}, nil
}
