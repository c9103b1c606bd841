package virtual

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/gossip"
	"murmur/sched"
	"murmur/test/memnet"
)

const serfPort, streamPort = 7946, 7947

// cluster is some nodes and the network between them.
type cluster struct {
	t       *testing.T
	network *memnet.Network
	ca      *authority
	dir     string
	nodes   []*node
	cut     map[[2]int]bool
}

// node is one daemon, less what needs a kernel: containers, rules, the API.
type node struct {
	cluster *cluster
	index   int
	name    string
	agent   *gossip.Agent
	store   *store.Store
	sched   *sched.Scheduler
	stop    func()
	// disk is what its store is on; nil is Badger, in the cluster's directory.
	disk store.Disk
}

func address(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}) }

// newCluster starts n nodes and waits until they are connected.
func newCluster(t *testing.T, n int) *cluster {
	c := &cluster{
		t: t, ca: newAuthority(t), dir: t.TempDir(), cut: map[[2]int]bool{},
		network: memnet.New(func(a, b netip.Addr) time.Duration { return 500 * time.Microsecond }),
	}
	for i := range n {
		c.nodes = append(c.nodes, &node{cluster: c, index: i + 1, name: fmt.Sprint("n", i+1)})
	}
	for _, n := range c.nodes {
		n.start()
		if n.index > 1 {
			if err := n.agent.Join(netip.AddrPortFrom(address(1), serfPort)); err != nil {
				t.Fatal(err)
			}
		}
	}
	c.within(5*time.Second, "all are connected", func() bool {
		for _, x := range c.nodes {
			if len(x.agent.Peers()) != n-1 {
				return false
			}
		}
		return true
	})
	return c
}

func (c *cluster) stop() {
	for _, n := range c.nodes {
		if n.stop != nil {
			n.stop()
		}
	}
	// Time stands still when the first goroutine has gone, and what waits for a last timeout would wait for ever.
	time.Sleep(10 * time.Second)
}

// start runs the daemon, from what is on its disk.
func (n *node) start() {
	t := n.cluster.t
	t.Helper()
	var err error
	if n.store, err = store.Open(n.storeConfig()); err != nil {
		t.Fatal(err)
	}
	cert := n.cluster.ca.issue(t, gossip.NodeUser(n.name))
	logger := slog.New(slog.DiscardHandler)
	if os.Getenv("MURMUR_TEST_LOG") != "" {
		logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", n.name)
	}
	if n.agent, err = gossip.New(gossip.Config{
		Name: n.name, ID: "id-" + n.name, Addr: address(n.index), SerfPort: serfPort, StreamPort: streamPort, APIPort: 6443,
		Key: bytes.Repeat([]byte{7}, 32), Certificate: func() *tls.Certificate { return cert }, Roots: n.cluster.ca.pool,
		State: n.store, Network: n.cluster.network, Known: n.cluster.known, Log: logger,
	}); err != nil {
		t.Fatal(err)
	}
	if n.sched, err = sched.New(sched.Config{
		Store: n.store, Node: n.name, Dir: filepath.Join(n.cluster.dir, n.name+"-placement"), View: view{n},
		Dial: func(ctx context.Context, node string) (net.Conn, error) {
			return n.agent.Dial(ctx, node, sched.Service)
		},
		Listener: n.agent.Listen(sched.Service), Events: &record.FakeRecorder{},
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if err := n.agent.Start(ctx); err != nil {
		t.Fatal(err)
	}
	parts := []func(context.Context) error{n.store.Run, n.agent.Run, n.sched.Run}
	done := make(chan error, len(parts))
	for _, run := range parts {
		go func() { done <- run(ctx) }()
	}
	n.stop = func() {
		n.stop = nil
		cancel()
		for range parts {
			if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", n.name, err)
			}
		}
		if err := n.store.Close(); err != nil {
			t.Errorf("%s: %v", n.name, err)
		}
	}
}

func (n *node) storeConfig() store.Config {
	if n.disk != nil {
		return store.Config{Disk: n.disk, Cluster: "test"}
	}
	return store.Config{Dir: filepath.Join(n.cluster.dir, n.name), Cluster: "test"}
}

// known are the nodes that should be members, as the registered ones are to the daemon.
func (c *cluster) known() []netip.AddrPort {
	var out []netip.AddrPort
	for _, n := range c.nodes {
		out = append(out, netip.AddrPortFrom(address(n.index), serfPort))
	}
	return out
}

// crash takes a machine away: nobody hears of it any more, and nothing of it is left but its disk.
func (n *node) crash() {
	n.cluster.isolate(n, true)
	n.stop()
}

// restart starts it again.
func (n *node) restart() {
	n.cluster.isolate(n, false)
	n.start()
}

func (c *cluster) isolate(n *node, cut bool) {
	for _, o := range c.nodes {
		if o != n {
			c.setCut(n.index, o.index, cut)
		}
	}
}

func (c *cluster) setCut(i, j int, cut bool) {
	for _, l := range [][2]int{{i, j}, {j, i}} {
		c.network.Cut(address(l[0]), address(l[1]), cut)
		c.cut[l] = cut
	}
}

// split cuts every link between two groups; the first is listed, the second are the others.
func (c *cluster) split(cut bool, first ...int) {
	for _, n := range c.nodes {
		if !slices.Contains(first, n.index) {
			for _, i := range first {
				c.setCut(i, n.index, cut)
			}
		}
	}
}

// within waits for something that must come about in time, and says how long it took.
func (c *cluster) within(limit time.Duration, what string, ok func() bool) time.Duration {
	c.t.Helper()
	for begun := time.Now(); ; time.Sleep(time.Millisecond) {
		if ok() {
			return time.Since(begun)
		}
		if time.Since(begun) > limit {
			c.t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// view is what a node sees of the others, as the daemon derives it from its agent.
type view struct{ n *node }

func (v view) Alive() []string {
	out := []string{v.n.name}
	for _, m := range v.n.agent.Members() {
		if m.Name != v.n.name && v.n.agent.Reachable(m.Name) {
			out = append(out, m.Name)
		}
	}
	return out
}
func (v view) Changed() <-chan struct{}      { return v.n.agent.Changed() }
func (v view) RTT(node string) time.Duration { return 0 }

func (n *node) put(name, key, value string) {
	t := n.cluster.t
	t.Helper()
	k := crdt.Key{Resource: "configmaps", Namespace: "default", Name: name}
	base, ok := n.store.Snapshot().Get(k)
	cm := &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}}
	if ok {
		if err := base.Into(cm); err != nil {
			t.Fatal(err)
		}
	} else {
		base = nil
	}
	if cm.Data == nil {
		cm.Data = map[string]string{}
	}
	cm.Data[key] = value
	if _, err := n.store.Commit(t.Context(), store.Write{Key: k, Object: cm, Base: base}); err != nil {
		t.Fatal(err)
	}
}

func (n *node) get(name, key string) string {
	cm, ok := store.Get[corev1.ConfigMap](n.store.Snapshot(), crdt.Key{Resource: "configmaps", Namespace: "default", Name: name})
	if !ok {
		return ""
	}
	return cm.Data[key]
}

// equal tells whether all running nodes hold the same.
func (c *cluster) equal() bool {
	var first *node
	for _, n := range c.nodes {
		if n.stop == nil {
			continue
		}
		if first == nil {
			first = n
		} else if n.store.Digest() != first.store.Digest() {
			return false
		}
	}
	return true
}

func (c *cluster) all(ok func(*node) bool) func() bool {
	return func() bool {
		for _, n := range c.nodes {
			if n.stop != nil && !ok(n) {
				return false
			}
		}
		return true
	}
}

func (n *node) sees(status gossip.Status, others ...string) bool {
	for _, m := range n.agent.Members() {
		if slices.Contains(others, m.Name) && m.Status != status {
			return false
		}
	}
	return true
}

// register makes the node known to schedulers.
func (n *node) register() {
	o := &corev1.Node{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
		ObjectMeta: metav1.ObjectMeta{Name: n.name, Labels: map[string]string{"kubernetes.io/hostname": n.name}},
		Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourcePods: resource.MustParse("110"),
		}},
	}
	if _, err := n.store.Commit(n.cluster.t.Context(), store.Write{Key: crdt.Key{Resource: "nodes", Name: n.name}, Object: o}); err != nil {
		n.cluster.t.Fatal(err)
	}
}

// createPod writes a pod as the API does on this node, which makes it the pod's arbiter.
func (n *node) createPod(name string) {
	p := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", Annotations: n.sched.ArbiterAnnotations()},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "example/app:1"}}},
	}
	if _, err := n.store.Commit(n.cluster.t.Context(), store.Write{Key: crdt.Key{Resource: "pods", Namespace: "default", Name: name}, Object: p}); err != nil {
		n.cluster.t.Fatal(err)
	}
}

func (n *node) pods() []*corev1.Pod {
	return store.List[corev1.Pod](n.store.Snapshot(), "pods", "default")
}

// authority signs certificates that are valid in virtual time.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
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

func (ca *authority) issue(t *testing.T, commonName string) *tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: commonName}, NotAfter: time.Now().Add(24 * time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
