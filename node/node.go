package node

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"

	"murmur/crdt"
	"murmur/crdt/primary"
	"murmur/crdt/store"
	"murmur/gossip"
	"murmur/httpapi"
	"murmur/httpapi/audit"
	"murmur/httpapi/issuers"
	"murmur/node/containerd"
	"murmur/node/control"
	"murmur/node/dns"
	"murmur/node/iptables"
	"murmur/node/member"
	"murmur/node/network"
	"murmur/node/pod"
	"murmur/node/proxy"
	"murmur/node/volume"
	"murmur/sched"
)

// The services on the streams between members: requests to the API that are relayed, placement, and writes that one node decides.
const (
	serviceAPI     = "api"
	serviceSched   = sched.Service
	servicePrimary = "homes" // as it is on the wire
)

// Node is one daemon.
type Node struct {
	cfg  Config
	log  *slog.Logger
	lock *os.File
	// id is what this node was when it started: of it only the names and the cluster's ID, which do not change, are gone by. self is what
	// it is now.
	id       *member.Identity
	self     *member.Self
	settings Settings
	// admin is the credentials in the kubeconfig, bundled the CAs there, signed the key of the pods' tokens.
	admin   atomic.Pointer[tls.Certificate]
	bundled held
	signed  atomic.Pointer[ecdsa.PrivateKey]
	sides   sides

	store    *store.Store
	vault    *vault // nil: nothing is encrypted
	agent    *gossip.Agent
	view     *view
	primary  *primary.Coordinator
	events   record.EventBroadcaster
	api      *httpapi.Server
	runtime  *containerd.Driver
	network  *network.Network
	rules    *iptables.Loop
	names    *dns.Server
	sched    *sched.Scheduler
	control  *control.Controllers
	kubelet  *pod.Kubelet
	register *registration
	basics   *bootstrap
	issuers  *issuers.Issuers // nil: there are none but the cluster
	audit    *audit.Recorder  // nil: nothing is recorded
	door     *member.Door
	volumes  *volume.Volumes
	leaving  chan struct{}
	moves    chan move
	// joining is who invited this node, while it has not reached the cluster's state.
	joining  atomic.Pointer[member.Inviter]
	settling atomic.Pointer[Settling]
	started  time.Time
}

// New makes a node from what is on its disk, joining or founding a cluster if nothing is. It starts nothing.
func New(ctx context.Context, cfg Config) (*Node, error) {
	named := cfg.NodeName
	cfg, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	if err := preflight(cfg); err != nil {
		return nil, err
	}
	n := &Node{cfg: cfg, log: cfg.Log, leaving: make(chan struct{}), moves: make(chan move), started: time.Now()}
	if n.lock, err = lock(cfg.DataDir); err != nil {
		return nil, err
	}
	if err := ports(cfg); err != nil {
		return nil, errors.Join(err, n.lock.Close())
	}
	if n.id, err = admitted(ctx, cfg, named); err != nil {
		return nil, errors.Join(err, n.lock.Close())
	}
	if err := n.assemble(); err != nil {
		return nil, errors.Join(err, n.lock.Close())
	}
	return n, nil
}

// admitted is this node's identity: the one on disk, or a new one in the cluster that is joined or founded. named is the
// node name that was asked for, if any was.
func admitted(ctx context.Context, cfg Config, named string) (*member.Identity, error) {
	id, err := member.Load(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	if id != nil {
		if cfg.Join != "" {
			mine, err := id.CAHash()
			if err != nil {
				return nil, err
			}
			if theirs, _, _ := member.ParseToken(cfg.Token); !id.Knows(theirs) {
				return nil, fmt.Errorf("%s holds the state of another cluster (CA %s…) than the one to join (CA %s…): remove it, or give another --data-dir; if it is the same and its CA was rotated, start without --join, then `murmur join --rejoin`", cfg.DataDir, mine[:12], theirs[:12])
			}
		}
		if named != "" && named != id.NodeName {
			return nil, fmt.Errorf("--node-name %s: %s is the disk of the node %s, and a node keeps its name: leave the flag out, or `murmur leave` first", named, cfg.DataDir, id.NodeName)
		}
		settings, err := settingsOf(id.Cluster)
		if err != nil {
			return nil, err
		}
		if err := cfg.Cluster.differs(settings); err != nil {
			return nil, err
		}
		if id.Opened && !exists(filepath.Join(cfg.DataDir, "store")) {
			return readmitted(ctx, cfg, id)
		}
		return id, nil
	}
	if exists(filepath.Join(cfg.DataDir, "store")) {
		return nil, member.Missing(cfg.DataDir)
	}
	if cfg.Join == "" {
		settings, err := cfg.Cluster.over(DefaultSettings()).encode()
		if err != nil {
			return nil, err
		}
		if id, err = member.Found(cfg.NodeName, settings, cfg.Token, time.Now()); err != nil {
			return nil, fmt.Errorf("found a cluster: %w", err)
		}
		return id, id.Save(cfg.DataDir)
	}
	if id, err = invited(ctx, cfg); err != nil {
		return nil, err
	}
	return id, id.Save(cfg.DataDir)
}

// readmitted is the identity of a node that has lost its store: it takes the state from another member before it acts.
func readmitted(ctx context.Context, cfg Config, id *member.Identity) (*member.Identity, error) {
	if len(id.Inviters) > 0 {
		return id, nil // it was about to
	}
	if cfg.Join == "" {
		return nil, fmt.Errorf("%s, the state of the cluster, is gone: start once with --join and --token to take it from another node; if there is none, remove %s and restore a backup",
			filepath.Join(cfg.DataDir, "store"), cfg.DataDir)
	}
	cfg.NodeName = id.NodeName
	id, err := invited(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return id, id.Save(cfg.DataDir)
}

// invited asks for admission to a cluster and is the identity of a new member of it.
func invited(ctx context.Context, cfg Config) (*member.Identity, error) {
	// What the certificate is asked for that only the cluster's settings tell, the node asks for once it has them.
	named := hosts(cfg, cfg.NodeName, cfg.Cluster.over(DefaultSettings()))
	req := member.Request{NodeID: uuid.NewString(), NodeName: cfg.NodeName, Addr: cfg.NodeIP}
	id, err := member.Join(ctx, cfg.joinAddress(), cfg.Token, req, named, nil, time.Now())
	if err != nil {
		return nil, err
	}
	settings, err := settingsOf(id.Cluster)
	if err != nil {
		return nil, err
	}
	return id, cfg.Cluster.differs(settings)
}

// assemble makes the parts, in the order in which they know of each other.
func (n *Node) assemble() error {
	cfg, cluster := n.cfg, n.id.Cluster
	var err error
	if n.settings, err = settingsOf(cluster); err != nil {
		return err
	}
	if n.self, err = member.Open(member.Config{
		Dir: cfg.DataDir, Hosts: hosts(cfg, n.id.NodeName, n.settings), Log: n.log.With("part", "member"),
	}, n.id); err != nil {
		return err
	}
	if n.vault, err = openVault(cfg); err != nil {
		return err
	}
	if n.store, err = store.Open(store.Config{
		Dir: filepath.Join(cfg.DataDir, "store"), Cluster: cluster.ID, Speaks: n.speaks, Sealer: n.vault.sealer(), Quota: *cfg.StoreQuota,
		Log: n.log.With("part", "crdt"),
	}); err != nil {
		return unlocked(err)
	}
	if err := n.vault.opened(cfg.DataDir); err != nil {
		return errors.Join(err, n.store.Close())
	}
	if err := n.self.Update(func(id *member.Identity) error {
		id.Opened = true
		if n.store.Behind() && len(id.Inviters) == 0 {
			id.Inviters = neighbours(n.store.Snapshot(), id.NodeName)
		}
		return nil
	}); err != nil {
		return errors.Join(err, n.store.Close())
	}
	if err := n.parts(cfg, n.settings); err != nil {
		return errors.Join(err, n.store.Close())
	}
	return nil
}

func (n *Node) parts(cfg Config, settings Settings) error {
	var err error
	name := n.id.NodeName
	if n.agent, err = gossip.New(gossip.Config{
		Name: name, ID: n.id.NodeID, Addr: cfg.NodeIP,
		SerfPort: cfg.GossipPort, StreamPort: cfg.StreamPort, APIPort: cfg.HTTPSPort,
		Key: n.self.Ring()[0], Others: n.self.Ring()[1:], Certificate: n.self.Certificate, Verify: n.verifyPeer, Refuse: n.refusePeer, State: n.store,
		Revoked: func(id string) bool { return n.self.Trust().Denied(id) },
		Known:   func() []netip.AddrPort { return registered.Of(n.store.Snapshot()).addresses() }, Lost: n.lost,
		Log: n.log.With("part", "gossip"),
	}); err != nil {
		return err
	}
	n.view = &view{self: name, store: n.store, agent: n.agent}
	n.events = record.NewBroadcaster()

	if n.primary, err = primary.New(primary.Config{
		Store: n.store, Node: name, View: n.view, Registry: []string{"nodes"}, Owner: n.view.Owner,
		Dial: func(ctx context.Context, node string) (net.Conn, error) {
			return n.agent.Dial(ctx, node, servicePrimary)
		},
		Listener: n.agent.Listen(servicePrimary), Log: n.log.With("part", "primary"),
	}); err != nil {
		return err
	}
	if n.sched, err = sched.New(sched.Config{
		Store: n.store, Node: name, Dir: filepath.Join(cfg.DataDir, "placement"), View: n.view,
		Dial:     func(ctx context.Context, node string) (net.Conn, error) { return n.agent.Dial(ctx, node, serviceSched) },
		Listener: n.agent.Listen(serviceSched), Events: n.recorder("default-scheduler"),
		Ready: func(p *corev1.Pod) bool { return n.kubelet.PodReady(p) }, Delete: n.preempt, Log: n.log.With("part", "sched"),
	}); err != nil {
		return err
	}
	dir := func(p ...string) string { return filepath.Join(append([]string{cfg.DataDir}, p...)...) }
	if n.runtime, err = containerd.New(containerd.Config{
		BinDir: cfg.BinDir, Root: dir("containerd"), State: filepath.Join(cfg.RunDir, "c"), CNIConfDir: dir("cni", "net.d"),
		Socket: cfg.Containerd, External: cfg.Containerd != "", CgroupRoot: cfg.CgroupRoot,
		RegistryDir: filepath.Join(cfg.ConfigDir, "certs.d"), ImagesDir: dir("images"),
		PodsDir: dir("pods"), SeccompDefault: cfg.SeccompDefault, Log: n.log.With("part", "containerd"),
	}); err != nil {
		return err
	}
	sysctls, err := pod.NewSysctls(cfg.AllowedUnsafeSysctls)
	if err != nil {
		return err
	}
	events := n.recorder("kubelet")
	n.volumes = volume.New(volume.Config{Dir: dir("pods"), Node: name, Tokens: n.podToken, Certificates: n.podCertificate,
		Warn: func(p *corev1.Pod, reason, message string) { events.Event(p, corev1.EventTypeWarning, reason, message) }})
	n.kubelet = pod.New(pod.Config{
		Store: n.store, Node: name, MayStart: n.sched.MayStart,
		Holds: func(p *corev1.Pod) bool { return sched.Holds(p, name) }, Admit: n.admit, Resize: n.resize, Sysctls: sysctls,
		Runtime: n.runtime, Volumes: n.volumes, Recorder: events,
		Record:  n.written,
		HostIPs: []string{cfg.NodeIP.String()}, ClusterDNS: []string{settings.ClusterDNS.String()},
		ClusterDomain: settings.ClusterDomain, LogDir: dir("logs"), DataDir: cfg.DataDir, Log: n.log.With("part", "pod"),
	})
	ports, err := settings.portRange()
	if err != nil {
		return err
	}
	serf := netip.AddrPortFrom(cfg.NodeIP, cfg.GossipPort)
	n.door = member.NewDoor(member.DoorConfig{
		Self: n.self, Inviter: member.Inviter{NodeName: name, Serf: serf}, Store: n.store,
		Taken: n.taken, Others: n.others, Spend: n.spend, Ask: n.askIssuer, Record: n.admission, Log: n.log.With("part", "join"),
	})
	if inviters := n.self.Identity().Inviters; len(inviters) > 0 {
		n.joining.Store(&inviters[0])
	}
	cfg.Audit.Log = n.log.With("part", "audit")
	if n.audit, err = audit.New(cfg.Audit); err != nil {
		return err
	}
	issuer := "https://kubernetes.default.svc." + settings.ClusterDomain
	if cfg.Authentication != "" {
		if n.issuers, err = issuers.New(issuers.Config{
			File: cfg.Authentication, Own: issuer, Audiences: []string{issuer}, Log: n.log.With("part", "authentication"),
		}); err != nil {
			return err
		}
	}
	n.basics = newBootstrap(n.ensureBasics, n.log.With("part", "bootstrap"))
	told := n.recorder("apiserver")
	if n.api, err = httpapi.New(httpapi.Config{
		Store: n.store, Primary: n.primary, Node: name, Address: net.JoinHostPort("", strconv.Itoa(int(cfg.HTTPSPort))),
		TLS: &tls.Config{
			MinVersion:     tls.VersionTLS12,
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return n.self.Certificate(), nil },
		},
		ClientCertificates: n.clientCertificates(), TokenKeys: n.tokenKeys(), Issuer: issuer, MaxTokenLife: cfg.MaxTokenLife, Issuers: n.issuers,
		ServiceCIDR: settings.ServiceCIDR, NodePorts: ports, Port: int32(cfg.HTTPSPort),
		Kubelet: n.kubelet, Usage: n.kubelet.Usage, Arbiter: n.sched.ArbiterAnnotations, Metrics: n.metricsHandler(),
		ExternalIPs: cfg.ExternalIPs,
		Event: func(about *corev1.ObjectReference, reason, message string) {
			told.Event(about, corev1.EventTypeWarning, reason, message)
		},
		Relay: func(ctx context.Context, node string) (net.Conn, error) { return n.agent.Dial(ctx, node, serviceAPI) },
		Join:  n.door,
		Ready: n.basics.missing,
		Audit: n.audit,
		Log:   n.log.With("part", "httpapi"),
	}); err != nil {
		return err
	}
	if n.control, err = control.New(control.Config{
		Store: n.store, Node: name, View: n.view, Recorder: n.recorder("controllermanager"),
		API:    func(account string) control.API { return n.api.As(account, groupsOf(account)...) },
		Record: n.controlled,
		CACert: func() []byte { return n.self.Trust().Bundle() }, Resources: n.api.Resources(), Usage: n.api.QuotaUsage, Numbers: n.api.Numbers(), Signer: signer{n}, Tokens: n.api, Log: n.log.With("part", "control"),
	}); err != nil {
		return err
	}
	if n.network, err = network.New(network.Config{
		Store: n.store, Node: name, NodeIP: cfg.NodeIP, ServiceCIDR: settings.ServiceCIDR,
		ConfDir: dir("cni", "net.d"), DataDir: dir("cni", "addresses"), Log: n.log.With("part", "network"),
	}); err != nil {
		return err
	}
	if n.rules, err = iptables.New(iptables.Config{
		Store: n.store, Log: n.log.With("part", "iptables"), Contested: contested(name, n.view.Alive, n.recorder("service-controller")),
		Proxy: proxy.Config{
			Node: name, NodeIP: cfg.NodeIP, APIPort: cfg.HTTPSPort, GossipPort: cfg.GossipPort, StreamPort: cfg.StreamPort,
			TunnelPort: network.TunnelPort, ClusterCIDR: settings.ClusterCIDR,
			ServiceCIDR: settings.ServiceCIDR, ClusterDNS: settings.ClusterDNS, Reachable: n.agent.Reachable,
			NoBridgeNetfilter: !network.BridgeNetfilter(),
		},
	}); err != nil {
		return err
	}
	if n.names, err = dns.New(dns.Config{
		Store: n.store, Zone: settings.ClusterDomain, Address: settings.ClusterDNS, ClusterCIDR: settings.ClusterCIDR,
		ServiceCIDR: settings.ServiceCIDR, Reachable: n.agent.Reachable, Log: n.log.With("part", "dns"),
	}); err != nil {
		return err
	}
	n.register = &registration{
		store: n.store, id: n.id.NodeID, serf: serf, ports: cfg.ownPorts(), settings: settings, labels: cfg.NodeLabels, taints: cfg.NodeTaints,
		fresh: n.kubelet.Node, log: n.log.With("part", "registration"),
	}
	return nil
}

func (n *Node) recorder(component string) record.EventRecorder {
	return n.events.NewRecorder(scheme.Scheme, corev1.EventSource{Component: component, Host: n.id.NodeName})
}

// taken refuses a joiner that would be taken for a member that is alive. A name whose owner is not is free: the machine
// was installed anew.
func (n *Node) taken(req member.Request) error {
	for _, m := range n.agent.Members() {
		if m.Status != gossip.Alive || m.ID == req.NodeID {
			continue
		}
		if m.Name == req.NodeName {
			return fmt.Errorf("the node name %s is that of a live member at %s: give another --node-name", m.Name, m.Addr)
		}
		if m.Addr == req.Addr {
			return fmt.Errorf("the address %s is that of the live member %s: give another --node-ip", m.Addr, m.Name)
		}
	}
	return nil
}

// maxInviters bounds how many members a joiner is told of.
const maxInviters = 16

// others lists live members that a joiner can turn to if this node is gone.
func (n *Node) others(joiner string) []member.Inviter {
	var out []member.Inviter
	for _, o := range registered.Of(n.store.Snapshot()).nodes {
		if o.serf.IsValid() && o.name != n.id.NodeName && o.name != joiner && n.agent.Reachable(o.name) && len(out) < maxInviters {
			out = append(out, member.Inviter{NodeName: o.name, Serf: o.serf})
		}
	}
	return out
}

// admit decides on a pod that was bound to this node past the exchange: by its creator, or by a binding.
func (n *Node) admit(p *corev1.Pod) (reason, message string) {
	name := n.id.NodeName
	if _, claimed := sched.ClaimOf(p, name); claimed {
		return "", ""
	}
	snap := n.store.Snapshot()
	self, ok := store.Get[corev1.Node](snap, nodeKey(name))
	if !ok {
		return "", ""
	}
	if r := sched.Admit(p, self, n.admitted(snap, p.UID, nil)); r != nil {
		return r.Reason, r.Message
	}
	return "", ""
}

// resize decides on a pod that runs here and asks for more than it has.
func (n *Node) resize(p *corev1.Pod, granted map[types.UID]*corev1.Pod) (reason, message string) {
	snap := n.store.Snapshot()
	self, ok := store.Get[corev1.Node](snap, nodeKey(n.id.NodeName))
	if !ok {
		return corev1.PodReasonDeferred, "this node is not registered"
	}
	if r := sched.Resize(p, self, n.admitted(snap, p.UID, granted)); r != nil {
		return r.Reason, r.Message
	}
	return "", ""
}

// admitted are the pods that this node has promised room, but for one: as large as it made them, or as it has granted since.
func (n *Node) admitted(snap *store.Snapshot, but types.UID, granted map[types.UID]*corev1.Pod) []*corev1.Pod {
	name := n.id.NodeName
	var admitted []*corev1.Pod
	for _, o := range store.Find[corev1.Pod](snap, store.ByNode, name, "pods", "") {
		ended := o.Status.Phase == corev1.PodSucceeded || o.Status.Phase == corev1.PodFailed
		_, claimed := sched.ClaimOf(o, name)
		if o.UID != but && !ended && sched.Holds(o, name) && (claimed || o.Status.StartTime != nil) {
			size := pod.Allocated(o)
			if g := granted[o.UID]; g != nil {
				size = g
			}
			admitted = append(admitted, size)
		}
	}
	return admitted
}

// preempt deletes a pod that makes room for one of higher priority, as the scheduler would.
func (n *Node) preempt(ctx context.Context, p *corev1.Pod) error {
	err := n.api.As(user.KubeScheduler).Delete(ctx, crdt.Key{Resource: "pods", Namespace: p.Namespace, Name: p.Name},
		metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &p.UID}})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // gone; a conflict is with another pod of the name
	}
	return err
}

// stage runs parts that start and stop together.
type stage struct {
	ctx    context.Context
	cancel context.CancelFunc
	group  *errgroup.Group
}

// newStage makes a stage that does not end with its parent: who made it ends it, in order. A part that fails
// calls failed.
func newStage(parent context.Context) *stage {
	ctx, cancel := context.WithCancel(context.WithoutCancel(parent))
	s := &stage{cancel: cancel}
	s.group, s.ctx = errgroup.WithContext(ctx)
	return s
}

func (s *stage) run(name string, part func(context.Context) error, failed context.CancelCauseFunc) {
	s.group.Go(func() error {
		err := part(s.ctx)
		if err != nil && s.ctx.Err() == nil {
			err = fmt.Errorf("%s: %w", name, err)
			failed(err)
		}
		return nil
	})
}

func (s *stage) stop() {
	s.cancel()
	_ = s.group.Wait()
}

// Run runs the node until the context ends, it is told to leave, or a part fails. After ErrAgain a new node is to be made
// of the same disk.
func (n *Node) Run(ctx context.Context) (err error) {
	ctx, failed := context.WithCancelCause(ctx)
	defer failed(nil)
	cause := func() error {
		if c := context.Cause(ctx); c != nil && !errors.Is(c, context.Canceled) {
			return c
		}
		return nil
	}
	defer n.lock.Close()
	disk := newStage(ctx)
	var left, again bool
	var next *member.Identity
	defer func() {
		disk.stop()
		err = errors.Join(err, n.runtime.Close(), n.store.Close())
		if left {
			err = errors.Join(err, n.discard())
		}
		if next != nil {
			err = errors.Join(err, next.Save(n.cfg.DataDir))
		}
		if again && err == nil {
			err = ErrAgain
		}
	}()
	disk.run("store", n.store.Run, failed)

	if err := n.register.unready(ctx); err != nil {
		return fmt.Errorf("write this node's state: %w", err)
	}
	if err := n.self.Look(ctx, n.hooks()); err != nil {
		return fmt.Errorf("look at the members: %w", err)
	}
	peers := newStage(ctx)
	defer peers.stop()
	if err := n.agent.Start(peers.ctx); err != nil {
		return err
	}
	peers.run("gossip", n.agent.Run, failed)
	peers.run("membership", n.follow, failed)
	peers.run("issuer", n.serveIssuer, failed)
	peers.run("ring", n.serveRing, failed)
	admin, err := n.listenAdmin()
	if err != nil {
		return err
	}
	peers.run("admin socket", func(ctx context.Context) error { return n.serveAdmin(ctx, admin) }, failed)

	if err := n.reachState(ctx); err != nil {
		if c := cause(); c != nil || errors.Is(err, context.Canceled) {
			return c
		}
		return err
	}
	if n.joining.Load() != nil {
		left = true
		return n.depart(disk.ctx)
	}
	n.events.StartRecordingToSink(eventSink{ctx: disk.ctx, store: n.store})
	defer n.events.Shutdown()
	if err := n.register.ensure(ctx); err != nil {
		return fmt.Errorf("register this node: %w", err)
	}
	if err := n.keepKubeconfig(); err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	n.self.Poke() // it says what it is from now on

	acting := newStage(ctx)
	defer acting.stop()
	serving := newStage(ctx)
	defer serving.stop()
	acting.run("view", n.view.Run, failed)
	acting.run("primary", n.primary.Run, failed)
	acting.run("registration", n.register.Run, failed)
	acting.run("settling", n.settle, failed)
	acting.run("store quota", n.watchQuota, failed)
	if n.vault != nil && n.vault.ring == nil {
		acting.run("encryption", n.followSecrets, failed)
	}
	acting.run("forgotten", n.giveUp, failed)
	acting.run("containerd", n.runtime.Run, failed)
	acting.run("network", n.network.Run, failed)
	acting.run("iptables", n.rules.Run, failed)
	acting.run("view to iptables", n.pokeRules, failed)
	if !slices.Contains(n.cfg.Disable, "dns") {
		acting.run("dns", n.names.Run, failed)
	}
	if n.issuers != nil {
		serving.run("issuers", n.issuers.Run, failed)
	}
	if n.audit != nil {
		serving.run("audit", n.audit.Run, failed)
	}
	serving.run("members", n.servePeers, failed)
	serving.run("api", n.api.Run, failed)
	serving.run("api of peers", func(ctx context.Context) error { return n.api.ServePeers(ctx, n.agent.Listen(serviceAPI)) }, failed)
	acting.run("bootstrap", n.basics.Run, failed)
	n.basics.wait(ctx)
	acting.run("sched", n.sched.Run, failed)
	acting.run("control", n.control.Run, failed)
	acting.run("kubelet", n.runPods, failed)
	n.log.Info("node is up", "name", n.id.NodeName, "address", n.cfg.NodeIP, "cluster", n.id.Cluster.ID)

	select {
	case <-ctx.Done():
	case <-n.leaving:
		serving.stop()
		acting.stop()
		left = true
		return n.depart(disk.ctx)
	case m := <-n.moves:
		serving.stop()
		acting.stop()
		again = true
		// Nobody can write any more; until now somebody could.
		var err error
		if !m.forgotten {
			err = n.blank()
		}
		m.answer <- err
		if err != nil {
			return nil
		}
		left, next = true, m.to
		return n.depart(disk.ctx)
	}
	return cause()
}

// runPods waits for what pods need, then runs them.
func (n *Node) runPods(ctx context.Context) error {
	for _, ready := range []<-chan struct{}{n.network.Ready(), n.runtime.Up()} {
		select {
		case <-ready:
		case <-ctx.Done():
			return nil
		}
	}
	return n.kubelet.Run(ctx)
}

// pokeRules lets the service rules follow this node's view.
func (n *Node) pokeRules(ctx context.Context) error {
	for {
		changed := n.agent.Changed()
		n.rules.Poke()
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// ensureBasics makes what every cluster has. Nodes that do it at the same time write the same.
func (n *Node) ensureBasics(ctx context.Context) error {
	if err := n.api.Bootstrap(ctx); err != nil {
		return fmt.Errorf("bootstrap the cluster's own objects: %w", err)
	}
	return n.ensureDNSService(ctx, n.api.System())
}
