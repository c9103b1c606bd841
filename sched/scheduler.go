package sched

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"

	"murmur/crdt"
	"murmur/crdt/store"
)

// View is who is there, as this node sees it.
type View interface {
	// Alive are the names of the nodes reachable now, this one among them.
	Alive() []string
	// Changed is closed at the next change; ask again for the one after.
	Changed() <-chan struct{}
	// RTT estimates the round trip to a node; 0 if unknown.
	RTT(node string) time.Duration
}

// Service is the name of the streams between schedulers.
const Service = "sched"

// Config is what a scheduler is made with. Store, Node and View are required; Dial and Listener too unless the node is
// always alone.
type Config struct {
	Store *store.Store
	// Node is this node's name.
	Node string
	// Dir keeps the incarnation and the promises. Empty: no memory, for tests.
	Dir  string
	View View
	// Dial opens an authenticated stream to a member, Listener accepts them; RemoteAddr of an accepted one is the
	// peer's node name.
	Dial     func(ctx context.Context, node string) (net.Conn, error)
	Listener net.Listener
	// Events records Scheduled, FailedScheduling and Preempted; nil records nothing.
	Events record.EventRecorder
	// Delete deletes a pod gracefully, as a client of the API would; no error if it is gone already. Nil: nothing is preempted here.
	Delete func(ctx context.Context, pod *corev1.Pod) error
	// Ready tells whether a pod that this node holds is ready here. Nil means by the pod's status.
	Ready func(*corev1.Pod) bool
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	Log *slog.Logger
}

// Scheduler is the loop around one node's Exchange.
type Scheduler struct {
	config  Config
	self    Identity
	peers   *peers
	inbox   chan Message
	results chan func(now time.Time)
	commits chan struct{}

	// The loop's own.
	looked     store.Version
	freed      uint64
	publishing bool

	// mu guards what follows. It is held for a step of the machine, never over I/O.
	mu       sync.Mutex
	exchange *Exchange
}

// maxCommits bounds the commits that are under way.
const maxCommits = 256

// New begins a new life of the node's scheduler. It starts nothing: see Run.
func New(c Config) (*Scheduler, error) {
	if c.Store == nil || c.Node == "" || c.View == nil {
		return nil, errors.New("sched: Store, Node and View are required")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Ready == nil {
		c.Ready = readyByStatus
	}
	l, err := begin(c.Dir)
	if err != nil {
		return nil, err
	}
	s := &Scheduler{
		config: c, self: Identity{c.Node, l.Incarnation}, inbox: make(chan Message, 1024),
		results: make(chan func(time.Time), 1024), commits: make(chan struct{}, maxCommits),
	}
	s.exchange = NewExchange(s.self, l.Promises, c.Now())
	s.exchange.candidate.spares = c.Delete == nil
	s.peers = &peers{
		self: c.Node, dial: c.Dial, listener: c.Listener, inbox: s.inbox, log: c.Log,
		speakers: map[string]*speaker{}, heard: map[string]net.Conn{},
	}
	return s, nil
}

func readyByStatus(pod *corev1.Pod) bool {
	i := slices.IndexFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady })
	return i >= 0 && pod.Status.Conditions[i].Status == corev1.ConditionTrue
}

// Identity is this node in this life.
func (s *Scheduler) Identity() Identity { return s.self }

// ArbiterAnnotations is the record that pods created on this node get: this node places them.
func (s *Scheduler) ArbiterAnnotations() map[string]string { return s.self.annotations(1) }

// MayStart tells whether this node may start containers of a pod that it holds and that is not running. It may not while
// a claim of an earlier life waits for the peers' word; containers that run go on meanwhile.
func (s *Scheduler) MayStart(pod *corev1.Pod) bool { return MayStart(pod, s.self) }

// MayStart is the rule: the claim is of this life, or the pod was bound to the node by its creator.
func MayStart(pod *corev1.Pod, self Identity) bool {
	if claim, ok := ClaimOf(pod, self.Node); ok {
		return claim.Incarnation == self.Incarnation
	}
	return Holds(pod, self.Node)
}

// Explain is what is known here about how a pod was placed. Its arbiter has the bids; any other node tells from its store
// who the arbiter is, what came out, and what each node would say now.
func (s *Scheduler) Explain(namespace, name string) (Explanation, bool) {
	s.mu.Lock()
	e, ok := s.exchange.arbiter.log.byName[namespace+"/"+name]
	if ok {
		defer s.mu.Unlock()
		return e.copy(), true
	}
	s.mu.Unlock()
	w := s.world(s.config.Store.Snapshot())
	pod := w.Pod(namespace, name)
	if pod == nil {
		return Explanation{}, false
	}
	return explain(pod, w), true
}

// Waiting is how many pods this node is arbiter of and has not placed yet.
func (s *Scheduler) Waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.exchange.arbiter.pods)
}

// Explanations are those of the last pods that this node was arbiter of, oldest first.
func (s *Scheduler) Explanations() []Explanation {
	s.mu.Lock()
	defer s.mu.Unlock()
	j := &s.exchange.arbiter.log
	out := make([]Explanation, 0, len(j.order))
	for _, name := range j.order {
		out = append(out, j.byName[name].copy())
	}
	return out
}

// lookPause is the least time between two looks at the store: what changes meanwhile is seen by one look.
const lookPause = 2 * time.Millisecond

// Run places pods until the context ends. It returns when everything that it started has.
func (s *Scheduler) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	if s.config.Listener != nil {
		wg.Go(func() {
			if err := s.peers.run(ctx); err != nil {
				s.config.Log.Error("no more bids from peers: the listener ended", "err", err)
			}
		})
	}
	wake := s.config.Store.Subscribe("pods", "nodes")
	defer wake.Close()
	timer := time.NewTimer(0)
	defer timer.Stop()
	look, lookedAt := true, time.Time{}
	for ctx.Err() == nil {
		changed := s.config.View.Changed()
		now := s.config.Now()
		if look && now.Sub(lookedAt) >= lookPause {
			look, lookedAt = false, now
			s.look(ctx, &wg, now)
		} else {
			s.do(ctx, &wg, now, func(x *Exchange) { x.Tick(now) })
		}
		s.mu.Lock()
		next := s.exchange.Next(now)
		s.mu.Unlock()
		if pause := lookedAt.Add(lookPause); look && pause.Before(next) {
			next = pause
		}
		timer.Reset(max(0, next.Sub(s.config.Now())))
		select {
		case <-ctx.Done():
		case <-wake.C:
			look = true
		case <-changed:
			look = true
		case m := <-s.inbox:
			s.do(ctx, &wg, s.config.Now(), func(x *Exchange) {
				x.Step(s.config.Now(), m)
				for range len(s.inbox) {
					x.Step(s.config.Now(), <-s.inbox)
				}
			})
		case f := <-s.results:
			s.do(ctx, &wg, s.config.Now(), func(*Exchange) {
				f(s.config.Now())
				for range len(s.results) {
					(<-s.results)(s.config.Now())
				}
			})
		case <-timer.C:
		}
	}
	return nil
}

// look shows the machine the store and the view.
func (s *Scheduler) look(ctx context.Context, wg *sync.WaitGroup, now time.Time) {
	snap, events, complete := s.config.Store.Changes(s.looked, "pods")
	s.looked = snap.Version()
	w := s.world(snap)
	s.count(w, events, complete)
	s.peers.keep(w.alive)
	s.publish(ctx, wg, w)
	s.do(ctx, wg, now, func(x *Exchange) { x.Look(now, w) })
}

// nodes are all nodes: a candidate weighs images by how many have them, and an arbiter offers to any.
var nodes = store.NewMemo("nodes", func(all iter.Seq[*store.Entry]) (out []*corev1.Node) {
	for e := range all {
		if n, err := store.As[corev1.Node](e); err == nil {
			out = append(out, n)
		}
	}
	return out
})

// world reads a snapshot. It is safe for concurrent use.
func (s *Scheduler) world(snap *store.Snapshot) *World {
	w := &World{
		Nodes: nodes.Of(snap),
		Alive: s.config.View.Alive(),
		RTT:   s.config.View.RTT,
		Budgets: func(namespace string) []*policyv1.PodDisruptionBudget {
			return store.List[policyv1.PodDisruptionBudget](snap, "policy/poddisruptionbudgets", namespace)
		},
		Ready: s.config.Ready,
		Pod: func(namespace, name string) *corev1.Pod {
			pod, _ := store.Get[corev1.Pod](snap, podKey(namespace, name))
			return pod
		},
		On: func(node string) []*corev1.Pod { return store.Find[corev1.Pod](snap, store.ByNode, node, "pods", "") },
	}
	for _, pod := range store.Find[corev1.Pod](snap, store.ByNode, s.config.Node, "pods", "") {
		if !finished(pod) && Holds(pod, s.config.Node) {
			w.Mine = append(w.Mine, pod)
		}
	}
	for _, pod := range store.Find[corev1.Pod](snap, store.ByNode, "", "pods", "") {
		if wanted(pod) {
			w.Pending = append(w.Pending, pod)
		}
	}
	return w
}

// count notes in the world how many pods are gone that took room somewhere.
func (s *Scheduler) count(w *World, events []store.Event, complete bool) {
	if !complete {
		s.freed++ // what is forgotten may have freed any
	}
	for _, e := range events {
		if e.Old == nil || !takesRoom(e.Old) || e.Type != store.Deleted && takesRoom(e.Entry) {
			continue
		}
		s.freed++
	}
	w.Freed = s.freed
}

// takesRoom tells whether a pod takes room on some node.
func takesRoom(e *store.Entry) bool {
	switch corev1.PodPhase(e.Text("status", "phase")) {
	case corev1.PodSucceeded, corev1.PodFailed:
		return false
	}
	if e.Text("spec", "nodeName") != "" {
		return true
	}
	pod, err := store.As[corev1.Pod](e)
	return err == nil && claimed(pod)
}

// publish writes this life into the Node object.
func (s *Scheduler) publish(ctx context.Context, wg *sync.WaitGroup, w *World) {
	for _, n := range w.Nodes {
		if n.Name != s.config.Node || incarnationOf(n) == s.self.Incarnation || s.publishing {
			continue
		}
		s.publishing = true
		s.commit(ctx, wg, func() {
			err := edit(ctx, s.config.Store, crdt.Key{Resource: "nodes", Name: n.Name}, func(n *corev1.Node) error {
				n.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}
				metav1.SetMetaDataAnnotation(&n.ObjectMeta, IncarnationAnnotation, fmt.Sprint(s.self.Incarnation))
				return nil
			})
			if err != nil && ctx.Err() == nil {
				s.config.Log.Warn("publish this node's incarnation", "err", err)
			}
		}, func(time.Time) { s.publishing = false })
	}
}

// do steps the machine and carries out what it wants, until it wants nothing.
func (s *Scheduler) do(ctx context.Context, wg *sync.WaitGroup, now time.Time, step func(*Exchange)) {
	var local []Message
	for {
		s.mu.Lock()
		step(s.exchange)
		for _, m := range local {
			s.exchange.Step(now, m)
		}
		out := s.exchange.Ready()
		if out.Promises != nil {
			out.Promises = maps.Clone(out.Promises)
		}
		s.mu.Unlock()
		step, local = func(*Exchange) {}, nil
		if out.Promises != nil {
			if err := (life{s.self.Incarnation, out.Promises}).save(s.config.Dir); err != nil {
				s.config.Log.Error("a promise could not be saved; nothing is answered", "err", err)
				out.Send = nil
			}
		}
		for _, m := range out.Send {
			if m.To.Node == s.self.Node {
				local = append(local, m)
			} else if s.config.Dial != nil {
				s.peers.send(ctx, wg, m)
			}
		}
		for _, c := range out.Claims {
			var pod *corev1.Pod
			var err error
			s.commit(ctx, wg, func() { pod, err = s.claim(ctx, c) }, func(now time.Time) { s.exchange.Claimed(now, c, pod, err) })
		}
		for _, e := range out.Evictions {
			var err error
			s.commit(ctx, wg, func() { err = s.evict(ctx, e) }, func(time.Time) { s.exchange.Evicted(e, err) })
		}
		for _, t := range out.Takeovers {
			var err error
			s.commit(ctx, wg, func() { err = s.takeOver(ctx, t) }, func(time.Time) { s.exchange.TookOver(t, err) })
		}
		for _, v := range out.Verdicts {
			s.commit(ctx, wg, func() { s.verdict(ctx, v) }, nil)
		}
		if len(local) == 0 {
			return
		}
	}
}

// commit runs a write beside the loop, so that writes under way together share a sync of the disk. then runs in the
// loop, as a step of the machine.
func (s *Scheduler) commit(ctx context.Context, wg *sync.WaitGroup, write func(), then func(time.Time)) {
	wg.Go(func() {
		select {
		case s.commits <- struct{}{}:
		case <-ctx.Done():
			return
		}
		write()
		<-s.commits
		if then == nil {
			return
		}
		select {
		case s.results <- then:
		case <-ctx.Done():
		}
	})
}
