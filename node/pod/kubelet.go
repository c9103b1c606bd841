// Package pod is the kubelet of a murmur node: it makes the pods bound to this node run, and says in their status how they do.
//
// # What it is
//
// Step is the whole of its mind: a function of one pod as the store has it, of what the runtime says runs, and of the time, to
// a list of actions and a status (step.go, status.go). Around it stands one loop for each pod (worker.go): look, decide, write
// the status, act, wait for a reason to look again. The reasons are a change in the store, an event of the runtime, an answer of a probe,
// the end of an action, or a time that Step asked for. Kubelet (this file) keeps one worker for each pod that is bound to the
// node, or that was and has left something behind. Workers know nothing of each other; they meet where few things may happen at once:
// pulls, and starts (starts.go), where a pod that has begun goes before one that has not.
//
// # Its one law
//
// The runtime and the store are the truth, memory is a cache. A worker that starts anew finds its containers by their labels and goes
// on with them; restarting the daemon restarts no container. Nothing is done before Config.Ready is closed: an
// empty world is never a reason to kill.
//
// # What it refuses
//
// A pod that asks for a protection which this node cannot give ends before it begins (admit.go): with less than it asks for it
// never runs. Nor does it run from a private image that it could not have pulled (pulled.go). What each security field comes to is in a table that a test holds against the API's types (security_test.go).
//
// # What it does not do
//
// It does not look for room (sched has, before it bound a pod), reach the network of pods (node/network), or know CRI
// (node/containerd) or mounts (node/volume). It writes no heartbeat: a Node's status is written when it changed (nodestatus.go).
//
// # How to look inside
//
// Kubelet.Pods tells what each worker is at and since when. The events and the status of a pod say the rest, in the words of upstream's kubelet.
package pod

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

	"murmur/crdt"
	"murmur/crdt/store"
)

// Volumes prepares what containers mount. The driver in production is node/volume.
type Volumes interface {
	// Prepare makes the pod's volumes present and up to date; it may be called at any time, again and again. It returns when it
	// has to be called again though nothing changed (tokens expire), or zero. Its errors are for the user: they become events.
	Prepare(ctx context.Context, pod *corev1.Pod, objects Objects) (time.Time, error)
	// Mounts are the volume mounts of one container. done releases what was needed only until the container runs.
	Mounts(ctx context.Context, pod *corev1.Pod, container *corev1.Container, objects Objects) (mounts []Mount, done func(), err error)
	// Dir is the pod's own directory. Whoever asks may put files there that go when the pod does.
	Dir(uid types.UID) string
	// Cleanup unmounts and removes everything of a pod, its directory included. keep leaves the directory's files.
	Cleanup(ctx context.Context, uid types.UID, keep bool) error
	// Pods are the UIDs that still have a directory.
	Pods() ([]types.UID, error)
}

// Config of a Kubelet.
type Config struct {
	Store    *store.Store
	Node     string // name of this node
	Runtime  Runtime
	Volumes  Volumes
	Recorder record.EventRecorder // default: events go nowhere
	// Record records in the audit log what this node is about to write to an object; the function that it returns is called with the outcome.
	// By default nothing is recorded.
	Record func(ctx context.Context, verb string, key crdt.Key, uid types.UID) (context.Context, func(error))

	// Holds tells whether this node runs a pod: by default, whether the pod is bound to it. While two sides of a healed
	// partition both claim a pod, both hold it; only the one that it is bound to writes its status.
	Holds func(*corev1.Pod) bool
	// MayStart is asked before a pod that does not run is started; by default it may. It is asked again soon.
	MayStart func(*corev1.Pod) bool

	// Admit is asked before a pod is started for the first time; a reason refuses it, and the pod fails with it. By
	// default every pod that is bound here is admitted.
	Admit func(*corev1.Pod) (reason, message string)
	// Sysctls are the kernel parameters that pods may set; by default none.
	Sysctls Sysctls
	// Resize is asked before a pod that runs is given more than it has; a reason refuses it for now. By default there is
	// room. It is told what other pods have been granted that is not in the store yet, must not keep that, and must not wait.
	Resize func(p *corev1.Pod, granted map[types.UID]*corev1.Pod) (reason, message string)

	Ready         <-chan struct{} // nothing is done before it is closed; nil: at once
	HostIPs       []string        // this node's addresses, the first one primary
	ClusterDNS    []string
	ClusterDomain string // default cluster.local
	LogDir        string // pods' logs; default /var/log/pods
	ResolvConf    string // the node's; default /etc/resolv.conf
	Pulls         int    // images pulled at once, default 3
	Starts        int    // sandboxes and containers started at once, default twice the processors
	MaxPods       int    // reported as capacity, default 110
	DataDir       string // whose disk is reported and watched; default: the parent of LogDir
	// SystemReserved and the thresholds of the node's pressure conditions; zero values mean 100 MiB of memory, 10 % of disk, 5 % of pids.
	SystemReserved corev1.ResourceList
	ImageGCHigh    int // percent of the image disk at which unused images go, default 85
	ImageGCLow     int // percent at which that stops, default 80

	Log *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.Holds == nil {
		c.Holds = func(p *corev1.Pod) bool { return p.Spec.NodeName == c.Node }
	}
	if c.Admit == nil {
		c.Admit = func(*corev1.Pod) (string, string) { return "", "" }
	}
	if c.Resize == nil {
		c.Resize = func(*corev1.Pod, map[types.UID]*corev1.Pod) (string, string) { return "", "" }
	}
	if c.MayStart == nil {
		c.MayStart = func(*corev1.Pod) bool { return true }
	}
	if c.Recorder == nil {
		c.Recorder = &record.FakeRecorder{}
	}
	if c.ClusterDomain == "" {
		c.ClusterDomain = "cluster.local"
	}
	if c.LogDir == "" {
		c.LogDir = "/var/log/pods"
	}
	if c.DataDir == "" {
		c.DataDir = filepath.Dir(c.LogDir)
	}
	if c.ResolvConf == "" {
		c.ResolvConf = "/etc/resolv.conf"
	}
	if c.Pulls == 0 {
		c.Pulls = 3
	}
	if c.Starts == 0 {
		c.Starts = 2 * runtime.NumCPU() // a start now and then waits for the disk
	}
	if c.Record == nil {
		c.Record = func(ctx context.Context, _ string, _ crdt.Key, _ types.UID) (context.Context, func(error)) {
			return ctx, func(error) {}
		}
	}
	if c.MaxPods == 0 {
		c.MaxPods = 110
	}
	if c.ImageGCHigh == 0 {
		c.ImageGCHigh = 85
	}
	if c.ImageGCLow == 0 {
		c.ImageGCLow = 80
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}

// Kubelet runs the pods of one node.
type Kubelet struct {
	cfg    Config
	pulls  chan struct{}
	starts starts
	pulled pulled
	facts  facts
	meter  meter
	grants grants

	mu       sync.Mutex // guards what follows
	workers  map[types.UID]*worker
	assigned bool // every pod bound here when this process began has its worker
	ended    chan types.UID
}

// New prepares a Kubelet; Run starts it.
func New(cfg Config) *Kubelet {
	cfg = cfg.withDefaults()
	return &Kubelet{cfg: cfg, pulls: make(chan struct{}, cfg.Pulls), starts: starts{free: cfg.Starts, held: startHeld},
		workers: map[types.UID]*worker{}, ended: make(chan types.UID, 64), facts: readFacts(cfg),
		pulled: pulled{dir: filepath.Join(cfg.DataDir, "pulled")}}
}

// relist is how often the runtime is asked for everything, in case an event was lost and for what nobody knows.
const relist = 10 * time.Second

// Run runs pods until ctx ends. The containers stay.
func (k *Kubelet) Run(ctx context.Context) error {
	if k.cfg.Ready != nil {
		select {
		case <-k.cfg.Ready:
		case <-ctx.Done():
			return nil
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return k.follow(ctx) })
	group.Go(func() error { return k.rotate(ctx) })
	group.Go(func() error { return k.collect(ctx) })
	group.Go(func() error { return k.reportNode(ctx) })
	group.Go(func() error { return k.measure(ctx) })
	group.Go(func() error { return k.manage(ctx, group) })
	return group.Wait()
}

// manage keeps one worker for each pod of this node and for each pod that is only in the runtime or on the disk.
func (k *Kubelet) manage(ctx context.Context, group *errgroup.Group) error {
	wake := k.cfg.Store.Subscribe("pods", "configmaps", "secrets", "persistentvolumeclaims", trustBundles, certificateRequests)
	defer wake.Close()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case uid := <-k.ended:
			k.mu.Lock()
			delete(k.workers, uid)
			k.mu.Unlock()
		case <-wake.C:
			k.assign(ctx, group)
		case <-timer.C:
			bound := k.assign(ctx, group)
			if err := k.adopt(ctx, group, bound); err != nil {
				k.cfg.Log.Warn("cannot list what runs here", "err", err)
				timer.Reset(time.Second)
				continue
			}
			timer.Reset(relist)
		}
	}
}

// assign gives every bound pod a worker and wakes those whose world changed.
func (k *Kubelet) assign(ctx context.Context, group *errgroup.Group) map[types.UID]bool {
	snap := k.cfg.Store.Snapshot()
	bound := map[types.UID]bool{}
	for e := range snap.Indexed(store.ByNode, k.cfg.Node, "pods", "", "") {
		p, err := store.As[corev1.Pod](e)
		if err != nil {
			k.cfg.Log.Error("unreadable pod", "pod", e.Key, "err", err)
			continue
		}
		if !k.cfg.Holds(p) {
			continue
		}
		bound[p.UID] = true
		w := k.worker(ctx, group, RefOf(p))
		w.notice(e.Version, sources(snap, p))
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.assigned = true
	for uid, w := range k.workers {
		if !bound[uid] {
			w.notice(0, "")
		}
	}
	return bound
}

// adopt gives workers to what is found in the runtime or on the disk and belongs to no bound pod, and wakes the others.
func (k *Kubelet) adopt(ctx context.Context, group *errgroup.Group, bound map[types.UID]bool) error {
	ctxList, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	sandboxes, containers, err := k.cfg.Runtime.List(ctxList, "")
	if err != nil {
		return err
	}
	found := map[types.UID]Ref{}
	for _, c := range containers {
		found[c.Pod.UID] = c.Pod
	}
	for _, s := range sandboxes {
		found[s.Pod.UID] = s.Pod
	}
	dirs, err := k.cfg.Volumes.Pods()
	if err != nil {
		return err
	}
	for _, uid := range dirs {
		if _, ok := found[uid]; !ok && !bound[uid] {
			found[uid] = Ref{UID: uid}
		}
	}
	for _, ref := range k.logDirs() {
		if _, ok := found[ref.UID]; !ok && !bound[ref.UID] {
			found[ref.UID] = ref
		}
	}
	for _, ref := range found {
		k.worker(ctx, group, ref).poke()
	}
	return nil
}

// worker returns the pod's worker, started if it is new.
func (k *Kubelet) worker(ctx context.Context, group *errgroup.Group, ref Ref) *worker {
	k.mu.Lock()
	defer k.mu.Unlock()
	if w, ok := k.workers[ref.UID]; ok {
		return w
	}
	w := newWorker(k, ref)
	k.workers[ref.UID] = w
	group.Go(func() error {
		w.run(ctx)
		select {
		case k.ended <- ref.UID:
		case <-ctx.Done():
		}
		return nil
	})
	return w
}

// find returns the worker of a pod by its name.
func (k *Kubelet) find(namespace, name string) (*worker, *corev1.Pod) {
	p, ok := store.Get[corev1.Pod](k.cfg.Store.Snapshot(), crdt.Key{Resource: "pods", Namespace: namespace, Name: name})
	if !ok || !k.cfg.Holds(p) {
		return nil, nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.workers[p.UID], p
}

// follow wakes workers by the runtime's events.
func (k *Kubelet) follow(ctx context.Context) error {
	for ctx.Err() == nil {
		err := k.cfg.Runtime.Watch(ctx, func(uid types.UID) {
			k.mu.Lock()
			w := k.workers[uid]
			k.mu.Unlock()
			if w != nil {
				w.poke()
			}
		})
		if err != nil && ctx.Err() == nil && !errors.Is(err, context.Canceled) {
			k.cfg.Log.Debug("runtime events ended, watching again", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
		k.mu.Lock()
		for _, w := range k.workers {
			w.poke()
		}
		k.mu.Unlock()
	}
	return nil
}

// Activity is what one worker is at, for debugging.
type Activity struct {
	Pod    string
	UID    types.UID
	Doing  string // the action under way, empty when idle
	Since  time.Time
	Failed map[string]Failure
}

// Pods tells what every worker is at.
func (k *Kubelet) Pods() []Activity {
	k.mu.Lock()
	workers := make([]*worker, 0, len(k.workers))
	for _, w := range k.workers {
		workers = append(workers, w)
	}
	k.mu.Unlock()
	var all []Activity
	for _, w := range workers {
		all = append(all, w.activity())
	}
	slices.SortFunc(all, func(a, b Activity) int {
		if a.Pod < b.Pod {
			return -1
		}
		return 1
	})
	return all
}

// event records something that happened to a pod, or to one of its containers.
func (k *Kubelet) event(p *corev1.Pod, container, kind, reason, format string, args ...any) {
	if p == nil {
		return
	}
	ref := &corev1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion}
	if container != "" {
		list := "containers"
		if slices.ContainsFunc(p.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == container }) {
			list = "initContainers"
		} else if slices.ContainsFunc(p.Spec.EphemeralContainers, func(c corev1.EphemeralContainer) bool { return c.Name == container }) {
			list = "ephemeralContainers"
		}
		ref.FieldPath = "spec." + list + "{" + container + "}"
	}
	k.cfg.Recorder.Eventf(ref, kind, reason, format, args...)
}

// looked tells whether every pod of this node was looked at since the start. Before, what the store says of them may be
// from before a crash, and the node does not vouch for it.
func (k *Kubelet) looked() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, w := range k.workers {
		w.mu.Lock()
		looked := w.looked
		w.mu.Unlock()
		if !looked {
			return false
		}
	}
	return k.assigned
}

// PodReady tells whether a pod's containers are ready here, whatever its status in the store says: after a partition that
// may be the word of another node.
func (k *Kubelet) PodReady(p *corev1.Pod) bool {
	k.mu.Lock()
	w := k.workers[p.UID]
	k.mu.Unlock()
	if w == nil {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ready
}
