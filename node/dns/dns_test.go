package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/miekg/dns"
	"github.com/vishvananda/netns"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"murmur/crdt"
	"murmur/crdt/store"
)

// newStore holds the objects of YAML documents.
func newStore(t testing.TB, docs string) *store.Store {
	t.Helper()
	replica, err := store.Open(store.Config{Cluster: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- replica.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done; replica.Close() })
	for _, doc := range strings.Split(docs, "\n---\n") {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(doc), &u.Object); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		resource := map[string]string{"Namespace": "namespaces", "Service": "services", "Pod": "pods", "Endpoints": "endpoints",
			"EndpointSlice": "discovery.k8s.io/endpointslices"}[u.GetKind()]
		if _, err := replica.Commit(ctx, store.Write{Key: crdt.Key{Resource: resource, Namespace: u.GetNamespace(), Name: u.GetName()}, Object: u}); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
	}
	return replica
}

// TestAnswer runs the goldens: "view" has the objects, "ask [down=NODE]" one question a line.
func TestAnswer(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var store *store.Store
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd == "view" {
				store = newStore(t, d.Input)
				return ""
			}
			var down []string
			for _, a := range d.CmdArgs {
				if a.Key == "down" {
					down = a.Vals
				}
			}
			v := View{Snapshot: store.Snapshot(), Zone: "cluster.local.", Address: netip.MustParseAddr("10.43.0.10"),
				ClusterCIDR: netip.MustParsePrefix("10.42.0.0/16"), ServiceCIDR: netip.MustParsePrefix("10.43.0.0/16"),
				Reachable: func(n string) bool { return !slices.Contains(down, n) }}
			var out strings.Builder
			for line := range strings.Lines(d.Input) {
				f := strings.Fields(line)
				q := dns.Question{Name: dns.Fqdn(f[0]), Qtype: dns.StringToType[f[1]], Qclass: dns.ClassINET}
				m, ours := Answer(q, v)
				fmt.Fprintf(&out, "%s %s:", f[0], f[1])
				switch {
				case !ours:
					out.WriteString(" not ours\n")
					continue
				case m.Rcode != 0:
					out.WriteString(" " + dns.RcodeToString[m.Rcode])
				case len(m.Answer) == 0:
					out.WriteString(" NODATA")
				}
				if len(m.Ns) > 0 {
					out.WriteString(" " + dns.TypeToString[m.Ns[0].Header().Rrtype])
				}
				out.WriteByte('\n')
				for _, rr := range m.Answer {
					fmt.Fprintf(&out, "  %s\n", strings.ReplaceAll(rr.String(), "\t", " "))
				}
				for _, rr := range m.Extra {
					fmt.Fprintf(&out, "  + %s\n", strings.ReplaceAll(rr.String(), "\t", " "))
				}
			}
			return out.String()
		})
	})
}

// start runs a server and ends it with the test.
func start(t *testing.T, cfg Config, in func(f func())) *Server {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); in(func() { s.Run(ctx) }) }()
	t.Cleanup(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Error("Run does not end")
		}
	})
	select {
	case <-s.Ready():
	case <-time.After(3 * time.Second):
		t.Fatal("does not listen")
	}
	return s
}

func here(f func()) { f() }

func freePort(t *testing.T) uint16 {
	t.Helper()
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return uint16(c.LocalAddr().(*net.UDPAddr).Port)
}

func ask(t *testing.T, network, server, name string, qtype uint16) *dns.Msg {
	t.Helper()
	c := dns.Client{Net: network, Timeout: 6 * time.Second}
	m, _, err := c.Exchange(new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype), server)
	if err != nil {
		t.Fatalf("%s %s by %s: %v", name, dns.TypeToString[qtype], network, err)
	}
	return m
}

// wire is the size a message had when it was sent.
func wire(m *dns.Msg) int {
	m.Compress = true
	return m.Len()
}

const small = `apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {clusterIP: 10.43.0.80, selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: out, namespace: default}
spec: {type: ExternalName, externalName: www.example.test}`

// TestForward asks for names outside, of a real resolver on the loopback.
func TestForward(t *testing.T) {
	var asked atomic.Int64
	// A port that is free for one of the two may be taken for the other.
	var pc net.PacketConn
	var ln net.Listener
	for range 100 {
		var err error
		if pc, err = net.ListenPacket("udp4", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if ln, err = net.Listen("tcp4", pc.LocalAddr().String()); err == nil {
			break
		}
		pc.Close()
	}
	if ln == nil {
		t.Fatal("no port is free for both")
	}
	h := dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		asked.Add(1)
		m := new(dns.Msg).SetReply(r)
		add := func(n int) {
			for i := range n {
				m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: r.Question[0].Name, Rrtype: dns.TypeA, Class: 1, Ttl: 60}, A: net.IPv4(192, 0, 2, byte(i))})
			}
		}
		switch r.Question[0].Name {
		case "www.example.test.":
			add(1)
		case "many.example.test.":
			add(200)
			if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
				m.Truncate(512)
			}
		case "slow.example.test.":
			time.Sleep(300 * time.Millisecond)
			add(1)
		default:
			m.Rcode = dns.RcodeNameError
		}
		w.WriteMsg(m)
	})
	for _, srv := range []*dns.Server{{PacketConn: pc, Handler: h}, {Listener: ln, Handler: h}} {
		go srv.ActivateAndServe()
		t.Cleanup(func() { srv.Shutdown() })
	}
	port := freePort(t)
	self := fmt.Sprintf("127.0.0.1:%d", port)
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	write := func(text string) {
		if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("nameserver " + self + "\nnameserver 10.43.9.9\nnameserver " + pc.LocalAddr().String() + "\n")
	s := start(t, Config{Store: newStore(t, small), Address: netip.MustParseAddr("127.0.0.1"), Port: port, ResolvConf: conf,
		ServiceCIDR: netip.MustParsePrefix("10.43.0.0/16")}, here)

	if m := ask(t, "udp", self, "www.example.test", dns.TypeA); len(m.Answer) != 1 || !m.RecursionAvailable || m.Authoritative {
		t.Errorf("outside: %v", m)
	}
	before := asked.Load()
	if m := ask(t, "tcp", self, "WWW.example.test", dns.TypeA); len(m.Answer) != 1 || asked.Load() != before {
		t.Errorf("the second time: asked again %v, %v", asked.Load() != before, m)
	}
	if m := ask(t, "udp", self, "out.default.svc.cluster.local", dns.TypeA); len(m.Answer) != 2 || m.Rcode != 0 {
		t.Errorf("an ExternalName comes with its addresses: %v", m)
	}
	if m := ask(t, "udp", self, "no.example.test", dns.TypeA); m.Rcode != dns.RcodeNameError {
		t.Errorf("a name that is not: %v", m)
	}
	if m := ask(t, "udp", self, "many.example.test", dns.TypeA); !m.Truncated || wire(m) > 512 {
		t.Errorf("too large without EDNS: truncated %v, %d bytes", m.Truncated, wire(m))
	}
	if m := ask(t, "tcp", self, "many.example.test", dns.TypeA); m.Truncated || len(m.Answer) != 200 {
		t.Errorf("by TCP: %d answers", len(m.Answer))
	}
	c := dns.Client{UDPSize: 4096}
	q := new(dns.Msg).SetQuestion("many.example.test.", dns.TypeA)
	q.SetEdns0(4096, false)
	if m, _, err := c.Exchange(q, self); err != nil || wire(m) > maxUDP || wire(m) < 600 || m.IsEdns0() == nil {
		t.Errorf("with EDNS: %v, %d bytes", err, wire(m))
	}
	before = asked.Load()
	got := make(chan int, 20)
	for range cap(got) {
		go func() {
			m, err := dns.Exchange(new(dns.Msg).SetQuestion("slow.example.test.", dns.TypeA), self)
			if err != nil {
				got <- 0
				return
			}
			got <- len(m.Answer)
		}()
	}
	for range cap(got) {
		if n := <-got; n != 1 {
			t.Errorf("%d answers", n)
		}
	}
	if n := asked.Load() - before; n != 1 {
		t.Errorf("20 equal questions were asked %d times", n)
	}
	// Nobody to ask, and then a file that is not there.
	write("nameserver " + self + "\n")
	s.forward.mu.Lock()
	s.forward.looked = time.Time{}
	s.forward.mu.Unlock()
	begin := time.Now()
	if m := ask(t, "udp", self, "other.example.test", dns.TypeA); m.Rcode != dns.RcodeServerFailure || time.Since(begin) > time.Second {
		t.Errorf("nobody to ask: %v after %v", dns.RcodeToString[m.Rcode], time.Since(begin))
	}
	// A resolver that asks us back: the question meets itself, and both end.
	loop, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	back := &dns.Server{PacketConn: loop, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		if m, err := dns.Exchange(new(dns.Msg).SetQuestion(r.Question[0].Name, r.Question[0].Qtype), self); err == nil {
			m.Id = r.Id
			w.WriteMsg(m)
		}
	})}
	go back.ActivateAndServe()
	t.Cleanup(func() { back.Shutdown() })
	write("# loop\nnameserver " + loop.LocalAddr().String() + "\n")
	s.forward.mu.Lock()
	s.forward.looked = time.Time{}
	s.forward.mu.Unlock()
	begin = time.Now()
	if m := ask(t, "udp", self, "circle.example.test", dns.TypeA); m.Rcode != dns.RcodeServerFailure || time.Since(begin) > 5*time.Second {
		t.Errorf("a loop: %v after %v", dns.RcodeToString[m.Rcode], time.Since(begin))
	}
	for _, q := range []struct {
		qtype uint16
		rcode int
	}{{dns.TypeAXFR, dns.RcodeRefused}} {
		m := new(dns.Msg).SetQuestion("cluster.local.", q.qtype)
		if r, err := dns.Exchange(m, self); err != nil || r.Rcode != q.rcode {
			t.Errorf("transfer: %v, %v", r, err)
		}
	}
}

// TestAddress asks from a pod and from the node itself, in network namespaces.
func TestAddress(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
	id := fmt.Sprintf("md%d-", os.Getpid()%100000)
	sh := func(ns, script string) string {
		t.Helper()
		out, err := exec.Command("nsenter", "--net=/var/run/netns/"+id+ns, "sh", "-ec", script).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", script, err, out)
		}
		return string(out)
	}
	for _, ns := range []string{"n", "p"} {
		if out, err := exec.Command("ip", "netns", "add", id+ns).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		t.Cleanup(func() { exec.Command("ip", "netns", "del", id+ns).Run() })
		sh(ns, "ip link set lo up")
	}
	before := sh("n", "ip -4 addr")
	sh("n", "ip link add cni0 type bridge; ip addr add 10.42.1.1/24 dev cni0; ip link set cni0 up; ip link add p type veth peer name eth0 netns "+id+"p; ip link set p master cni0 up")
	sh("p", "ip addr add 10.42.1.5/24 dev eth0; ip link set eth0 up; ip route add default via 10.42.1.1")
	in := func(ns string) func(func()) {
		return func(f func()) {
			done := make(chan struct{})
			go func() {
				defer close(done)
				runtime.LockOSThread()
				h, err := netns.GetFromName(id + ns)
				if err == nil {
					defer h.Close()
					err = netns.Set(h)
				}
				if err != nil {
					t.Error(err)
					return
				}
				f()
			}()
			<-done
		}
	}
	s := start(t, Config{Store: newStore(t, small), ClusterCIDR: netip.MustParsePrefix("10.42.0.0/16"), ServiceCIDR: netip.MustParsePrefix("10.43.0.0/16")}, in("n"))
	for _, ns := range []string{"p", "n"} {
		for _, network := range []string{"udp", "tcp"} {
			in(ns)(func() {
				conn, err := net.DialTimeout(network, "10.43.0.10:53", 2*time.Second)
				if err != nil {
					t.Errorf("%s by %s: %v", ns, network, err)
					return
				}
				defer conn.Close()
				c := dns.Conn{Conn: conn}
				c.SetDeadline(time.Now().Add(2 * time.Second))
				c.WriteMsg(new(dns.Msg).SetQuestion("web.default.svc.cluster.local.", dns.TypeA))
				m, err := c.ReadMsg()
				if err != nil || len(m.Answer) != 1 || !strings.Contains(m.Answer[0].String(), "10.43.0.80") {
					t.Errorf("%s by %s: %v, %v", ns, network, m, err)
				}
			})
		}
	}
	in("n")(func() {
		if err := s.Cleanup(); err != nil {
			t.Error(err)
		}
	})
	sh("n", "ip link del cni0; ip link del p")
	if after := sh("n", "ip -4 addr"); after != before {
		t.Errorf("after Cleanup:\n%s\nwant\n%s", after, before)
	}
}

func TestNew(t *testing.T) {
	for _, cfg := range []Config{{Zone: "a..b"}, {Address: netip.MustParseAddr("::1")}} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%+v was taken", cfg)
		}
	}
}
