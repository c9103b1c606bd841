package iptables

import (
	"context"
	"errors"
	"net/netip"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"murmur/crdt/store"
	"murmur/node/proxy"
)

func port(n int) intstr.IntOrString { return intstr.FromInt32(int32(n)) }

// TestServices proves what a service is on real kernels' rules: who answers, whom the pod sees, how fast no is said.
func TestServices(t *testing.T) {
	for _, command := range []string{"iptables-nft", "iptables-legacy"} {
		t.Run(command, func(t *testing.T) {
			if _, err := exec.LookPath(command); err != nil {
				t.Skip("not installed: " + command)
			}
			testServices(t, command)
		})
	}
}

func testServices(t *testing.T, command string) {
	l, w := newLab(t), newWorld(t)
	for _, p := range []string{"p1", "p2", "p3"} {
		l.serve(p, 8080)
	}
	l.serve("n2", 9090) // somebody outside the pods
	l.sh("n1", command+" -t nat -A POSTROUTING -d 203.0.113.1 -j RETURN; "+command+" -N FOREIGN; "+command+" -A INPUT -j FOREIGN")
	foreign := l.sh("n1", command+"-save | grep -v '^[#:]'")

	var n2Lost atomic.Bool
	start := func(node string) (*Loop, func()) {
		loop, err := New(Config{
			Store: w.store, Command: command, Verify: 300 * time.Millisecond,
			Proxy: proxy.Config{
				Node: node, NodeIP: netip.MustParseAddr("192.168.7." + node[1:]),
				ClusterCIDR: netip.MustParsePrefix("10.42.0.0/16"), ServiceCIDR: netip.MustParsePrefix("10.43.0.0/16"),
				APIPort: 8443, Reachable: func(n string) bool { return n != "n2" || !n2Lost.Load() },
			}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); l.in(node, func() { loop.Run(ctx) }) }()
		stop := func() { cancel(); <-done }
		t.Cleanup(stop)
		return loop, stop
	}
	loop, stop := start("n1")
	settle := func(v store.Version) {
		t.Helper()
		for end := time.Now().Add(5 * time.Second); loop.Applied() < v; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("version %v not applied, have %v", v, loop.Applied())
			}
		}
	}
	spread := func(from, network, addr string, n int) map[string]int {
		t.Helper()
		seen := map[string]int{}
		for range n {
			server, _, err := l.ask(from, network, addr)
			if err != nil {
				t.Fatalf("%s asks %s %s: %v", from, network, addr, err)
			}
			seen[server]++
		}
		return seen
	}

	w.pod("p1", "n1", "10.42.1.11")
	w.pod("p2", "n1", "10.42.1.12")
	w.pod("p3", "n2", "10.42.2.13")
	w.service("web", "10.43.0.80", func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeNodePort
		s.Spec.Ports[0].NodePort, s.Spec.Ports[1].NodePort = 30080, 30080
	})
	settle(w.service("only1", "10.43.0.81", func(s *corev1.Service) { s.Spec.Selector = map[string]string{"pod": "p1"} }))

	t.Run("all endpoints answer", func(t *testing.T) {
		for _, from := range []string{"p1", "p2", "n1"} {
			for _, network := range []string{"tcp4", "udp4"} {
				if seen := spread(from, network, "10.43.0.80:80", 40); len(seen) != 3 {
					t.Errorf("%s over %s met %v, want p1, p2 and p3", from, network, seen)
				}
			}
		}
	})
	t.Run("node port", func(t *testing.T) {
		for from, addr := range map[string]string{"n2": "192.168.7.1:30080", "n1": "127.0.0.1:30080", "p3": "192.168.7.1:30080"} {
			if seen := spread(from, "tcp4", addr, 40); len(seen) != 3 {
				t.Errorf("%s met %v, want p1, p2 and p3", from, seen)
			}
		}
		if seen := spread("n2", "udp4", "192.168.7.1:30080", 40); len(seen) != 3 {
			t.Errorf("udp met %v, want p1, p2 and p3", seen)
		}
	})
	t.Run("hairpin", func(t *testing.T) {
		server, client, err := l.ask("p1", "tcp4", "10.43.0.81:80")
		if err != nil || server != "p1" || client == "10.42.1.11" {
			t.Errorf("p1 to itself: %s saw %s, %v", server, client, err)
		}
	})
	t.Run("source addresses", func(t *testing.T) {
		for _, c := range []struct{ from, addr, server, client string }{
			{"p1", "10.42.2.13:8080", "p3", "10.42.1.11"},   // pods see each other
			{"p2", "10.43.0.81:80", "p1", "10.42.1.12"},     // through a service too
			{"p1", "192.168.7.2:9090", "n2", "192.168.7.1"}, // outside they are their node
		} {
			server, client, err := l.ask(c.from, "tcp4", c.addr)
			if err != nil || server != c.server || client != c.client {
				t.Errorf("%s asks %s: %s saw %s, %v; want %s to see %s", c.from, c.addr, server, client, err, c.server, c.client)
			}
		}
	})
	t.Run("without br_netfilter", func(t *testing.T) {
		l.sh("n1", "echo 0 > /proc/sys/net/bridge/bridge-nf-call-iptables")
		defer l.sh("n1", "echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables")
		if _, _, err := l.ask("p2", "tcp4", "10.43.0.81:80"); err == nil {
			t.Log("this kernel does not need it")
		}
		d, err := NewDriver(command)
		if err != nil {
			t.Fatal(err)
		}
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: corev1.NodeSpec{PodCIDR: "10.42.1.0/24"}}
		v := view(w.store.Snapshot())
		v.Nodes = []*corev1.Node{node}
		cfg := loop.cfg.Proxy
		cfg.NoBridgeNetfilter = true
		stop()
		l.in("n1", func() { _, err = d.Set(context.Background(), proxy.Build(v, cfg).Tables) })
		if err != nil {
			t.Fatal(err)
		}
		if server, _, err := l.ask("p2", "tcp4", "10.43.0.81:80"); err != nil || server != "p1" {
			t.Errorf("p2 to p1 on one bridge: %s, %v", server, err)
		}
	})
	loop, stop = start("n1")
	settle(w.store.Snapshot().Version())

	t.Run("affinity", func(t *testing.T) {
		seconds := int32(30)
		settle(w.service("sticky", "10.43.0.82", func(s *corev1.Service) {
			s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
			s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
		}))
		for _, from := range []string{"p1", "p2", "n1"} {
			if seen := spread(from, "tcp4", "10.43.0.82:80", 20); len(seen) != 1 {
				t.Errorf("%s met %v, want one", from, seen)
			}
		}
	})
	t.Run("refused at once", func(t *testing.T) {
		settle(w.service("none", "10.43.0.83", func(s *corev1.Service) {
			s.Spec.Selector = map[string]string{"app": "nobody"}
			s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30083
		}))
		for _, c := range [][2]string{{"p1", "10.43.0.83:80"}, {"n1", "10.43.0.83:80"}, {"p1", "10.43.99.99:1"}, {"n1", "10.43.99.99:1"},
			{"p1", "10.43.0.80:81"}, {"n2", "192.168.7.1:30083"}, {"n1", "127.0.0.1:30083"}} {
			for range 12 { // more than ICMP's rate limit would let through
				begin := time.Now()
				_, _, err := l.ask(c[0], "tcp4", c[1])
				if took := time.Since(begin); !errors.Is(err, syscall.ECONNREFUSED) || took > 200*time.Millisecond {
					t.Fatalf("%s asks %s: %v after %v, want refused", c[0], c[1], err, took)
				}
			}
			if strings.HasPrefix(c[1], "10.43.0.83") {
				_, _, err := l.ask(c[0], "udp4", c[1])
				if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.EPERM) { // EPERM: refused on the way out
					t.Errorf("%s asks %s by udp: %v, want refused", c[0], c[1], err)
				}
			}
		}
	})
	t.Run("the API is this node's own", func(t *testing.T) {
		l.serve("n1", 8443)
		settle(w.service("kubernetes", "10.43.0.1", func(s *corev1.Service) {
			s.Spec.Selector = nil
			s.Spec.Ports = []corev1.ServicePort{{Name: "https", Port: 443, Protocol: corev1.ProtocolTCP, TargetPort: port(8443)}}
		}))
		for _, from := range []string{"p1", "n1"} {
			if server, _, err := l.ask(from, "tcp4", "10.43.0.1:443"); err != nil || server != "n1" {
				t.Errorf("%s met %s, %v", from, server, err)
			}
		}
	})
	t.Run("every kind of rule is accepted", func(t *testing.T) {
		local := corev1.ServiceInternalTrafficPolicyLocal
		settle(w.service("all", "10.43.0.90", func(s *corev1.Service) {
			s.Spec.Type = corev1.ServiceTypeLoadBalancer
			s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
			s.Spec.InternalTrafficPolicy = &local
			s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
			s.Spec.ExternalIPs = []string{"203.0.113.9"}
			s.Spec.LoadBalancerSourceRanges = []string{"192.168.7.2/32"}
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "sctp", Port: 80, Protocol: corev1.ProtocolSCTP, NodePort: 30090})
			s.Spec.Ports[0].NodePort = 30091
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.20"}}
		}))
		l.sh("n2", "ip route replace 203.0.113.20 via 192.168.7.1")
		// Policy Local: only this node's pods, and they see the client.
		for range 20 {
			server, client, err := l.ask("n2", "tcp4", "203.0.113.20:80")
			if err != nil || server == "p3" || client != "192.168.7.2" {
				t.Fatalf("load balancer: %s saw %s, %v", server, client, err)
			}
		}
		if _, _, err := l.ask("p3", "tcp4", "203.0.113.20:80"); err == nil {
			t.Error("a source outside loadBalancerSourceRanges was served")
		}
		if seen := spread("p1", "tcp4", "10.43.0.90:80", 10); seen["p3"] > 0 {
			t.Errorf("internalTrafficPolicy Local met %v", seen)
		}
		settle(w.put("services", "default", "all", nil))
	})
	t.Run("what is the nodes' own stays theirs", func(t *testing.T) {
		for _, n := range []string{"n1", "n2"} {
			l.serve(n, 7946)
			l.serve(n, 7947)
			settle(w.put("nodes", "", n, &corev1.Node{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: metav1.ObjectMeta{Name: n},
				Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.168.7." + n[1:]}}}}))
		}
		// A service that would have them, and host ports as CNI makes them.
		settle(w.service("greedy", "10.43.0.91", func(s *corev1.Service) {
			s.Spec.ExternalIPs = []string{"192.168.7.1", "192.168.7.2", "10.43.0.1"}
			s.Spec.Ports = []corev1.ServicePort{{Name: "a", Port: 7947, Protocol: corev1.ProtocolTCP, TargetPort: port(8080)},
				{Name: "b", Port: 7946, Protocol: corev1.ProtocolUDP, TargetPort: port(8080)}, {Name: "c", Port: 443, Protocol: corev1.ProtocolTCP, TargetPort: port(8080)}}
		}))
		l.sh("n1", command+" -t nat -N HOSTPORTS; "+command+" -t nat -A HOSTPORTS -p tcp --dport 7947 -j DNAT --to-destination 10.42.1.12:8080; "+
			command+" -t nat -A HOSTPORTS -p tcp --dport 7999 -j DNAT --to-destination 10.42.1.12:8080; "+
			command+" -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j HOSTPORTS; "+command+" -t nat -A OUTPUT -m addrtype --dst-type LOCAL -j HOSTPORTS")
		defer l.sh("n1", command+" -t nat -D PREROUTING -m addrtype --dst-type LOCAL -j HOSTPORTS; "+
			command+" -t nat -D OUTPUT -m addrtype --dst-type LOCAL -j HOSTPORTS; "+command+" -t nat -F HOSTPORTS; "+command+" -t nat -X HOSTPORTS")
		if server, _, err := l.ask("n2", "tcp4", "192.168.7.1:7999"); err != nil || server != "p2" {
			t.Errorf("the host port that is nobody's: %s, %v", server, err) // or what follows shows nothing
		}
		for _, c := range [][4]string{{"n2", "tcp4", "192.168.7.1:7947", "n1"}, {"n1", "tcp4", "192.168.7.2:7947", "n2"}, {"n1", "tcp4", "192.168.7.1:7947", "n1"},
			{"n2", "udp4", "192.168.7.1:7946", "n1"}, {"n1", "udp4", "192.168.7.2:7946", "n2"}, {"p1", "tcp4", "10.43.0.1:443", "n1"}} {
			if server, _, err := l.ask(c[0], c[1], c[2]); err != nil || server != c[3] {
				t.Errorf("%s asks %s %s: %q, %v; want %s", c[0], c[1], c[2], server, err, c[3])
			}
		}
		// Pods have no business there, on their own node or on another; they have with the API.
		for _, c := range [][2]string{{"tcp4", "192.168.7.1:7946"}, {"tcp4", "192.168.7.1:7947"}, {"udp4", "192.168.7.1:7946"}, {"tcp4", "192.168.7.2:7947"}, {"udp4", "192.168.7.2:7946"}} {
			if server, _, err := l.ask("p1", c[0], c[1]); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("a pod asks %s %s: %q, %v; want refused", c[0], c[1], server, err)
			}
		}
		if server, _, err := l.ask("p1", "tcp4", "192.168.7.1:8443"); err != nil || server != "n1" {
			t.Errorf("a pod asks the API: %s, %v", server, err)
		}
		for _, n := range []string{"n1", "n2"} {
			settle(w.put("nodes", "", n, nil))
		}
		settle(w.put("services", "default", "greedy", nil))
	})
	t.Run("a terminating pod keeps its connections and gets no new ones", func(t *testing.T) {
		settle(w.service("only2", "10.43.0.84", func(s *corev1.Service) { s.Spec.Selector = map[string]string{"role": "two"} }))
		two := func(p *corev1.Pod) { p.Labels["role"] = "two" }
		settle(w.pod("p2", "n1", "10.42.1.12", two))
		c, err := l.dial("p1", "tcp4", "10.43.0.84:80")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if s, err := say(c); err != nil || !strings.HasPrefix(s, "p2 ") {
			t.Fatalf("%s, %v", s, err)
		}
		w.pod("p1", "n1", "10.42.1.11", two)
		settle(w.pod("p2", "n1", "10.42.1.12", two, func(p *corev1.Pod) {
			now := metav1.Now()
			p.DeletionTimestamp = &now
		}))
		if seen := spread("p1", "tcp4", "10.43.0.84:80", 20); seen["p1"] != 20 {
			t.Errorf("new connections went to %v", seen)
		}
		if s, err := say(c); err != nil || !strings.HasPrefix(s, "p2 ") {
			t.Errorf("the old connection: %s, %v", s, err)
		}
		settle(w.pod("p1", "n1", "10.42.1.11"))
		settle(w.put("pods", "default", "p2", nil))
		settle(w.pod("p2", "n1", "10.42.1.12"))
	})
	t.Run("udp follows", func(t *testing.T) {
		settle(w.service("dns", "10.43.0.85", func(s *corev1.Service) { s.Spec.Selector = map[string]string{"role": "dns"} }))
		settle(w.pod("p2", "n1", "10.42.1.12", func(p *corev1.Pod) { p.Labels["role"] = "dns" }))
		c, err := l.dial("p1", "udp4", "10.43.0.85:80")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if s, err := say(c); err != nil || !strings.HasPrefix(s, "p2 ") {
			t.Fatalf("%s, %v", s, err)
		}
		w.pod("p3", "n2", "10.42.2.13", func(p *corev1.Pod) { p.Labels["role"] = "dns" })
		settle(w.pod("p2", "n1", "10.42.1.12"))
		// Connections are forgotten after the rules are in force.
		for end := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			s, err := say(c)
			if err == nil && strings.HasPrefix(s, "p3 ") {
				break
			}
			if time.Now().After(end) {
				t.Errorf("the same socket after the pod left: %q, %v", s, err)
				break
			}
		}
		settle(w.pod("p3", "n2", "10.42.2.13"))
	})
	t.Run("a node is lost", func(t *testing.T) {
		c, err := l.dial("p1", "tcp4", "10.43.0.80:80")
		for err == nil {
			var s string
			if s, err = say(c); strings.HasPrefix(s, "p3 ") {
				break
			}
			c.Close()
			c, err = l.dial("p1", "tcp4", "10.43.0.80:80")
		}
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		l.sh("n2", "ip link set eth0 down")
		n2Lost.Store(true)
		loop.Poke()
		time.Sleep(300 * time.Millisecond)
		for _, from := range []string{"p1", "n1"} {
			if seen := spread(from, "tcp4", "10.43.0.80:80", 30); seen["p3"] > 0 || len(seen) != 2 {
				t.Errorf("%s met %v, want p1 and p2", from, seen)
			}
		}
		begin := time.Now()
		if _, err := say(c); err == nil || time.Since(begin) > time.Second {
			t.Errorf("the connection to the lost node: %v after %v, want a reset", err, time.Since(begin))
		}
		l.sh("n2", "ip link set eth0 up; ip route replace 10.42.1.0/24 via 192.168.7.1")
		n2Lost.Store(false)
		loop.Poke()
		time.Sleep(300 * time.Millisecond)
		if seen := spread("p1", "tcp4", "10.43.0.80:80", 40); len(seen) != 3 {
			t.Errorf("after it came back: %v", seen)
		}
	})
	t.Run("flushed rules come back", func(t *testing.T) {
		for _, harm := range []string{" -t nat -F PREROUTING", " -t nat -F MURMUR-SERVICES", " -F MURMUR-FORWARD", " -t nat -F; " + command + " -t nat -X"} {
			before := l.sh("n1", command+"-save | grep MURMUR | sort")
			l.sh("n1", command+harm)
			var after string
			for end := time.Now().Add(3 * time.Second); after != before && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
				after = l.sh("n1", command+"-save | grep MURMUR | sort")
			}
			if after != before {
				t.Errorf("after %s%s:\n%s\nwant\n%s", command, harm, after, before)
			}
		}
	})
	t.Run("nothing to do is nothing done", func(t *testing.T) {
		d := loop.driver
		stop()
		l.in("n1", func() {
			if changed, err := d.Set(context.Background(), proxy.Build(view(w.store.Snapshot()), loop.cfg.Proxy).Tables); changed || err != nil {
				t.Errorf("changed %v, %v", changed, err)
			}
		})
	})
	t.Run("cleanup", func(t *testing.T) {
		l.sh("n1", command+" -t nat -D POSTROUTING -d 203.0.113.1 -j RETURN 2>/dev/null || true; "+command+" -t nat -A POSTROUTING -d 203.0.113.1 -j RETURN")
		l.in("n1", func() {
			if err := loop.Cleanup(context.Background()); err != nil {
				t.Error(err)
			}
		})
		if left := l.sh("n1", command+"-save | grep -v '^[#:]'"); left != foreign {
			t.Errorf("left:\n%s\nwant\n%s", left, foreign)
		}
		if left := l.sh("n1", command+"-save | grep MURMUR || true"); left != "" {
			t.Error(left)
		}
	})
}

// TestTransactions shows what iptables-restore is given.
func TestTransactions(t *testing.T) {
	datadriven.RunTest(t, "testdata/transactions", func(t *testing.T, d *datadriven.TestData) string {
		have, want, _ := strings.Cut(d.Input, "--\n")
		switch d.Cmd {
		case "difference":
			return difference(wanted(have), wanted(want))
		case "whole":
			return whole(parse(have), wanted(want))
		case "differs":
			return parse(have).differs(parse(want))
		}
		t.Fatal(d.Cmd)
		return ""
	})
}

// wanted reads "NAME: rule; rule" and "FROM> arguments".
func wanted(text string) proxy.Table {
	t := proxy.Table{Name: "nat"}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if from, rule, ok := strings.Cut(line, "> "); ok {
			t.Jumps = append(t.Jumps, proxy.Jump{From: from, Rule: strings.Split(rule, ",")})
		} else if name, rules, ok := strings.Cut(line, ":"); ok {
			c := proxy.Chain{Name: name}
			if rules = strings.TrimSpace(rules); rules != "" {
				c.Rules = strings.Split(rules, "; ")
			}
			t.Chains = append(t.Chains, c)
		}
	}
	return t
}

func TestMissing(t *testing.T) {
	_, err := NewDriver("iptables-of-nobody")
	if !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "apt install iptables") {
		t.Error(err)
	}
}
