package network

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/vishvananda/netns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/crdt"
	"murmur/crdt/store"
)

// TestPlan runs the goldens: nodes, one a line as "name address block [age]", become a plan.
func TestPlan(t *testing.T) {
	datadriven.RunTest(t, "testdata/plan", func(t *testing.T, d *datadriven.TestData) string {
		switch d.Cmd {
		case "plan", "conflist":
			cfg := Config{Node: "n1", NodeIP: netip.MustParseAddr("192.168.7.1"), Mode: Auto, Bridge: "cni0", DataDir: "/var/lib/cni/networks"}
			var mode string
			if d.MaybeScanArgs(t, "mode", &mode); mode != "" {
				cfg.Mode = Mode(mode)
			}
			p := Make(nodesOf(d.Input), cfg, Uplink{OnLink: []netip.Prefix{netip.MustParsePrefix("192.168.7.0/24")}, MTU: 1500})
			if d.Cmd == "conflist" {
				return string(conf(cfg, p))
			}
			var b strings.Builder
			fmt.Fprintf(&b, "block %v mtu %d\n", p.Block, p.MTU)
			for _, r := range p.Routes {
				fmt.Fprintf(&b, "route %s %v via %v tunnel=%v\n", r.Node, r.Dst, r.Via, r.Tunnel)
			}
			for _, n := range p.Neighbours {
				fmt.Fprintf(&b, "neighbour %s %v is %v at %v\n", n.Node, n.Addr, n.Hardware, n.Outer)
			}
			return b.String()
		case "choose":
			cluster := "10.42.0.0/16"
			d.MaybeScanArgs(t, "cluster", &cluster)
			taken := map[netip.Prefix]string{}
			var b strings.Builder
			for _, id := range strings.Fields(d.Input) {
				p := ChooseBlock(netip.MustParsePrefix(cluster), id, taken)
				if p.IsValid() {
					taken[p] = id
				}
				fmt.Fprintf(&b, "%s: %v, again: %v\n", id, p, ChooseBlock(netip.MustParsePrefix(cluster), id, taken))
			}
			return b.String()
		case "loser":
			n := nodesOf(d.Input)
			l, m := Loser(n[0], n[1]), Loser(n[1], n[0])
			if l != m {
				return "two opinions"
			}
			if l == nil {
				return "none"
			}
			return l.Name + fmt.Sprint(" ", Blocks(n))
		}
		t.Fatal(d.Cmd)
		return ""
	})
}

func nodesOf(text string) (nodes []*corev1.Node) {
	for line := range strings.Lines(text) {
		f := append(strings.Fields(line), "", "", "0h")
		age, _ := time.ParseDuration(f[3])
		for i := range f {
			f[i] = strings.ReplaceAll(f[i], "-", "")
		}
		nodes = append(nodes, node(f[0], f[1], f[2], metav1.NewTime(time.Unix(1e9, 0).Add(-age))))
	}
	return nodes
}

func node(name, ip, block string, created metav1.Time) *corev1.Node {
	n := &corev1.Node{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: created}}
	n.Spec.PodCIDR = block
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: ip}}
	return n
}

// lab: n1 and n2 on one wire, n3 behind a router.
//
//	n1 192.168.7.1, n2 192.168.7.2 - r 192.168.7.9 | 192.168.9.9 - n3 192.168.9.3
type lab struct {
	t  *testing.T
	id string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
	l := &lab{t, fmt.Sprintf("mn%d-", os.Getpid()%100000)}
	for _, ns := range []string{"r", "n1", "n2", "n3", "p1", "p2", "p3", "p4"} {
		l.host("ip", "netns", "add", l.id+ns)
		t.Cleanup(func() { exec.Command("ip", "netns", "del", l.id+ns).Run() })
		l.sh(ns, "ip link set lo up")
	}
	l.sh("r", "ip link add w type bridge; ip addr add 192.168.7.9/24 dev w; ip link set w up; echo 1 > /proc/sys/net/ipv4/ip_forward; echo 0 > /proc/sys/net/ipv4/conf/all/send_redirects; echo 0 > /proc/sys/net/ipv4/conf/w/send_redirects")
	for i := 1; i <= 3; i++ {
		n := fmt.Sprint("n", i)
		l.sh("r", fmt.Sprintf("ip link add %s type veth peer name eth0 netns %s%s; ip link set %s up", n, l.id, n, n))
		if i < 3 {
			l.sh("r", fmt.Sprintf("ip link set %s master w", n))
			l.sh(n, fmt.Sprintf("ip addr add 192.168.7.%d/24 dev eth0; ip link set eth0 up; ip route add default via 192.168.7.9", i))
		} else {
			l.sh("r", "ip addr add 192.168.9.9/24 dev n3")
			l.sh(n, "ip addr add 192.168.9.3/24 dev eth0; ip link set eth0 up; ip route add default via 192.168.9.9; echo 1 > /proc/sys/net/ipv4/conf/eth0/rp_filter")
		}
	}
	return l
}

func (l *lab) host(name string, args ...string) string {
	l.t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		l.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (l *lab) sh(ns, script string) string {
	l.t.Helper()
	return l.host("nsenter", "--net=/var/run/netns/"+l.id+ns, "sh", "-ec", script)
}

// in runs f with its thread in a namespace.
func (l *lab) in(ns string, f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		h, err := netns.GetFromName(l.id + ns)
		if err == nil {
			defer h.Close()
			err = netns.Set(h)
		}
		if err != nil {
			l.t.Error(err)
			return
		}
		f()
	}()
	<-done
}

// addPod gives a namespace a pod's interface with the real CNI plugins and the configuration that was written.
func (l *lab) addPod(node, pod, confDir string) string {
	l.t.Helper()
	bin, err := filepath.Abs("../../bin/cni")
	if err == nil {
		_, err = os.Stat(bin + "/bridge")
	}
	if err != nil {
		l.t.Skip("needs bin/cni: make build")
	}
	raw, err := os.ReadFile(confDir + "/" + confName)
	if err != nil {
		l.t.Fatal(err)
	}
	var list struct {
		Name, CNIVersion string
		Plugins          []map[string]any
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		l.t.Fatal(err)
	}
	list.Plugins[0]["name"], list.Plugins[0]["cniVersion"] = list.Name, list.CNIVersion
	in, _ := json.Marshal(list.Plugins[0])
	cmd := exec.Command("nsenter", "--net=/var/run/netns/"+l.id+node, bin+"/bridge")
	cmd.Env = append(os.Environ(), "CNI_COMMAND=ADD", "CNI_CONTAINERID="+l.id+pod, "CNI_NETNS=/var/run/netns/"+l.id+pod, "CNI_IFNAME=eth0", "CNI_PATH="+bin)
	cmd.Stdin = bytes.NewReader(in)
	out, err := cmd.CombinedOutput()
	if err != nil {
		l.t.Fatalf("bridge plugin: %v: %s", err, out)
	}
	var result struct{ IPs []struct{ Address string } }
	if err := json.Unmarshal(out, &result); err != nil || len(result.IPs) == 0 {
		l.t.Fatalf("bridge plugin: %v: %s", err, out)
	}
	return netip.MustParsePrefix(result.IPs[0].Address).Addr().String()
}

// serve sends everybody a megabyte after the address it sees.
func (l *lab) serve(ns string) {
	l.in(ns, func() {
		ln, err := net.Listen("tcp4", ":8080")
		if err != nil {
			l.t.Error(err)
			return
		}
		l.t.Cleanup(func() { ln.Close() })
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
				go func() { defer c.Close(); fmt.Fprintln(c, host); c.Write(make([]byte, 1<<20)) }()
			}
		}()
	})
}

func (l *lab) fetch(ns, ip string) (client string, err error) {
	l.in(ns, func() {
		var c net.Conn
		if c, err = net.DialTimeout("tcp4", ip+":8080", 2*time.Second); err != nil {
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(4 * time.Second))
		var all []byte
		if all, err = io.ReadAll(c); err == nil && len(all) < 1<<20 {
			err = fmt.Errorf("only %d bytes", len(all))
		}
		client, _, _ = strings.Cut(string(all), "\n")
	})
	return client, err
}

// TestNetwork starts the network of three nodes and sends a megabyte between pods everywhere.
func TestNetwork(t *testing.T) {
	for _, mode := range []Mode{Auto, VXLAN} {
		t.Run(string(mode), func(t *testing.T) { testNetwork(t, mode) })
	}
}

func testNetwork(t *testing.T, mode Mode) {
	l := newLab(t)
	now := metav1.Now()
	nodes := []*corev1.Node{
		node("n1", "192.168.7.1", "10.42.1.0/24", now), node("n2", "192.168.7.2", "10.42.2.0/24", now),
		node("n3", "192.168.9.3", "10.42.3.0/24", now), node("n4", "192.168.7.4", "", now),
	}
	networks, before := map[string]*Network{}, map[string]string{}
	look := "ip -4 addr show; ip -4 route; ip link | grep -o '^[0-9]*: [a-z0-9.]*'"
	l.sh("n1", "ip route add 172.30.0.0/16 via 192.168.7.2; ip route add 172.31.0.0/16 via 192.168.7.2 proto 42")
	for i, n := range []string{"n1", "n2", "n3"} {
		before[n] = l.sh(n, look)
		dir := t.TempDir()
		nw, err := New(Config{Node: n, NodeIP: netip.MustParseAddr(nodes[i].Status.Addresses[0].Address), Mode: mode,
			ServiceCIDR: netip.MustParsePrefix("10.43.0.0/16"), ConfDir: dir + "/net.d", DataDir: dir + "/ipam"})
		if err != nil {
			t.Fatal(err)
		}
		networks[n] = nw
		for range 2 { // the second time must be a no-op, and no error
			l.in(n, func() {
				if ok, err := nw.Apply(nodes); !ok || err != nil {
					t.Errorf("%s: %v, %v", n, ok, err)
				}
			})
		}
	}
	pods := map[string]string{}
	for p, n := range map[string]string{"p1": "n1", "p4": "n1", "p2": "n2", "p3": "n3"} {
		pods[p] = l.addPod(n, p, networks[n].cfg.ConfDir)
		l.serve(p)
	}
	for from := range pods {
		for to, ip := range pods {
			if client, err := l.fetch(from, ip); err != nil || client != pods[from] {
				t.Errorf("%s (%s) fetches from %s (%s), which saw %q: %v", from, pods[from], to, ip, client, err)
			}
		}
	}
	for _, n := range []string{"n1", "n2", "n3"} {
		for to, ip := range pods {
			if _, err := l.fetch(n, ip); err != nil {
				t.Errorf("%s fetches from %s (%s): %v", n, to, ip, err)
			}
		}
	}
	again := func(nodes []*corev1.Node) {
		t.Helper()
		l.in("n1", func() {
			if _, err := networks["n1"].Apply(nodes); err != nil {
				t.Error(err)
			}
		})
	}
	// Somebody removed a route; a block moved; nodes left, and came back.
	l.sh("n1", "ip route del 10.42.2.0/24")
	again(nodes)
	if r := l.sh("n1", "ip route show proto 109"); !strings.Contains(r, "10.42.2.0/24") || !strings.Contains(r, "10.42.3.0/24") {
		t.Errorf("after a route was removed:\n%s", r)
	}
	moved := node("n3", "192.168.9.3", "10.42.33.0/24", now)
	again([]*corev1.Node{nodes[0], nodes[1], moved})
	if r := l.sh("n1", "ip route show proto 109"); strings.Contains(r, "10.42.3.0/24") || !strings.Contains(r, "10.42.33.0/24") {
		t.Errorf("after a block moved:\n%s", r)
	}
	again(nodes[:1])
	if r := l.sh("n1", "ip route show proto 109; ip neigh show dev murmur.1 nud permanent 2>/dev/null || true"); strings.Contains(r, "10.42.") {
		t.Errorf("after the others left:\n%s", r)
	}
	if r := l.sh("n1", "ip route"); !strings.Contains(r, "172.30.") || !strings.Contains(r, "172.31.") {
		t.Errorf("foreign routes: \n%s", r)
	}
	again(nodes)
	if _, err := l.fetch("p1", pods["p3"]); err != nil {
		t.Errorf("after all came back: %v", err)
	}
	for n, nw := range networks {
		l.in(n, func() {
			if err := nw.Cleanup(); err != nil {
				t.Error(err)
			}
		})
		l.sh(n, "ip -o link | grep -o 'veth[0-9a-f]*' | sort -u | while read v; do ip link del $v; done")
		if after := l.sh(n, look); after != before[n] {
			t.Errorf("%s after Cleanup:\n%s\nwant\n%s", n, after, before[n])
		}
		if left, _ := os.ReadDir(nw.cfg.ConfDir); len(left) > 0 {
			t.Errorf("left in %s: %v", nw.cfg.ConfDir, left)
		}
	}
}

// TestRun proves the loop: a node that has no block yet waits for it, peers come by the store.
func TestRun(t *testing.T) {
	l := newLab(t)
	replica, err := store.Open(store.Config{Cluster: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	stored, ran := make(chan error, 1), make(chan struct{})
	go func() { stored <- replica.Run(ctx) }()
	nw, err := New(Config{Store: replica, Node: "n1", NodeIP: netip.MustParseAddr("192.168.7.1"), ConfDir: t.TempDir(), DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	go func() { defer close(ran); l.in("n1", func() { nw.Run(ctx) }) }()
	defer func() { cancel(); <-ran; <-stored; replica.Close() }()
	put := func(n *corev1.Node) {
		k := crdt.Key{Resource: "nodes", Name: n.Name}
		base, _ := replica.Snapshot().Get(k)
		if _, err := replica.Commit(ctx, store.Write{Key: k, Object: n, Base: base}); err != nil {
			t.Fatal(err)
		}
	}
	put(node("n1", "192.168.7.1", "", metav1.Now()))
	select {
	case <-nw.Ready():
		t.Fatal("ready without a block")
	case <-time.After(100 * time.Millisecond):
	}
	put(node("n2", "192.168.7.2", "10.42.2.0/24", metav1.Now()))
	put(node("n1", "192.168.7.1", "10.42.1.0/24", metav1.Now()))
	select {
	case <-nw.Ready():
	case <-time.After(3 * time.Second):
		t.Fatal("not ready")
	}
	if r := l.sh("n1", "ip route show proto 109"); !strings.Contains(r, "10.42.2.0/24 via 192.168.7.2") {
		t.Errorf("routes:\n%s", r)
	}
}

func TestNew(t *testing.T) {
	if _, err := New(Config{NodeIP: netip.MustParseAddr("192.168.7.1"), Mode: "ipip"}); err == nil {
		t.Error("a mode that does not exist was taken")
	}
	if _, err := New(Config{}); err == nil {
		t.Error("no address was taken")
	}
}
