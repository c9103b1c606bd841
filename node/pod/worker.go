package pod

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	"murmur/crdt"
	"murmur/crdt/store"
)

// worker is the loop of one pod.
type worker struct {
	k      *Kubelet
	ref    Ref
	wake   chan struct{}
	probes *probes

	// What the loop alone touches.
	op       *operation
	prepared bool // volumes are mounted
	admitted bool // the node agreed to run the pod
	cleaned  bool // nothing is left but, perhaps, the object
	again    time.Time
	shown    map[string]string // by container: the waiting reason of which an event was made

	mu       sync.Mutex // guards what follows
	version  store.Version
	refs     string
	refresh  bool       // what the volumes are made from changed
	cgroup   *Resources // what the pod's own cgroup was given last in this life
	uneven   bool       // the cgroup may be other than that: a resize failed, or was under way in an earlier life
	failures map[string]Failure
	backoff  map[string]Backoff
	restarts map[string]bool
	hooks    map[string]bool // by container id: its post-start hook has not ended
	spec     *corev1.PodSpec // as last looked at
	ready    bool            // by what was last seen here
	looked   bool            // the runtime was seen and the status written at least once
	doing    string
	since    time.Time
}

// operation is a list of actions under way.
type operation struct {
	cancel context.CancelFunc
	done   chan struct{}
	first  Action
	ends   bool // it stops the pod
	gone   bool // it was the last: nothing is left of the pod
	again  time.Time
}

func newWorker(k *Kubelet, ref Ref) *worker {
	w := &worker{k: k, ref: ref, wake: make(chan struct{}, 1), shown: map[string]string{}, refresh: true,
		failures: map[string]Failure{}, backoff: map[string]Backoff{}, restarts: map[string]bool{}, hooks: map[string]bool{}}
	w.probes = newProbes(w)
	if _, err := os.Stat(k.cfg.Volumes.Dir(ref.UID)); err == nil {
		w.prepared, w.uneven = true, true
	}
	return w
}

// poke makes the loop look again.
func (w *worker) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// notice pokes the worker if the pod or what it refers to is not what it was.
func (w *worker) notice(v store.Version, refs string) {
	w.mu.Lock()
	changed := v != w.version || refs != w.refs
	if refs != w.refs && v != 0 {
		w.refresh = true
		for name, f := range w.failures {
			if f.Reason == reasonConfig || name == "" {
				delete(w.failures, name) // what was missing may be there now
			}
		}
	}
	w.version, w.refs = v, refs
	w.mu.Unlock()
	if changed {
		w.poke()
	}
}

func (w *worker) activity() Activity {
	w.mu.Lock()
	defer w.mu.Unlock()
	name := w.ref.String()
	return Activity{Pod: name, UID: w.ref.UID, Doing: w.doing, Since: w.since, Failed: maps.Clone(w.failures)}
}

// current reads the pod from the store; nil when it is gone, is another pod of that name, or is no longer ours.
// A pod that is there and cannot be read is an error: it must not be taken for gone.
func (w *worker) current() (*store.Snapshot, *store.Entry, *corev1.Pod, error) {
	snap := w.k.cfg.Store.Snapshot()
	if w.ref.Name == "" {
		return snap, nil, nil, nil
	}
	e, ok := snap.Get(crdt.Key{Resource: "pods", Namespace: w.ref.Namespace, Name: w.ref.Name})
	if !ok || e.UID != w.ref.UID {
		return snap, nil, nil, nil
	}
	p, err := store.As[corev1.Pod](e)
	if err != nil {
		return snap, e, nil, err
	}
	if !w.k.cfg.Holds(p) {
		return snap, nil, nil, nil
	}
	return snap, e, p, nil
}

func (w *worker) run(ctx context.Context) {
	defer w.probes.stop()
	defer func() {
		if w.op != nil {
			w.op.cancel()
			<-w.op.done
		}
	}()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		next := w.turn(ctx)
		if w.cleaned && w.op == nil {
			if _, e, _, _ := w.current(); e == nil {
				return
			}
		}
		if ctx.Err() != nil {
			return
		}
		wait := time.Hour
		if !next.IsZero() {
			wait = max(time.Until(next), time.Millisecond)
		}
		timer.Reset(wait)
		var done chan struct{}
		if w.op != nil {
			done = w.op.done
		}
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		case <-timer.C:
		case <-done:
			if w.op.gone {
				w.cleaned = true
			}
			if !w.op.again.IsZero() || w.op.first.Verb == refreshVolumes {
				w.again = w.op.again
			}
			w.op.cancel()
			w.op = nil
			w.mu.Lock()
			w.doing = ""
			w.mu.Unlock()
		}
	}
}

// turn looks, decides, writes the status and starts to act. It returns when to look again.
func (w *worker) turn(ctx context.Context) time.Time {
	now := time.Now()
	snap, entry, p, err := w.current()
	if err != nil {
		w.k.cfg.Log.Error("a pod cannot be read, it is left as it is", "pod", w.ref, "err", err)
		return now.Add(relist)
	}
	if p != nil {
		w.mu.Lock()
		if w.spec != nil && !equality.Semantic.DeepEqual(*w.spec, p.Spec) {
			clear(w.failures) // what is tried next is something else
		}
		w.spec = &p.Spec
		w.mu.Unlock()
	}
	if w.cleaned {
		w.remove(ctx, entry, p)
		return now.Add(relist)
	}
	sandboxes, containers, err := w.k.cfg.Runtime.List(ctx, w.ref.UID)
	if err != nil {
		if ctx.Err() == nil {
			w.k.cfg.Log.Warn("cannot read the state of a pod", "pod", w.ref, "err", err)
		}
		return now.Add(time.Second)
	}
	// A container counts as running once its post-start hook has ended: not before is it probed, ready or followed by the next.
	view := slices.Clone(containers)
	w.mu.Lock()
	for i := range view {
		if w.hooks[view[i].ID] && view[i].State == Running {
			view[i].State = Created
		}
	}
	w.mu.Unlock()
	w.probes.sync(ctx, p, sandboxes, view)
	asked, granted := p, false
	var refused *Refusal
	if p != nil {
		if given := Allocated(p); given != p && grows(p, given) {
			if reason, message := w.k.grants.ask(p, w.k.cfg.Resize); reason != "" {
				p, refused = given, &Refusal{reason, message}
			} else {
				granted = true
				defer w.k.grants.settle(p.UID) // written down by then, or not granted
			}
		}
	}
	w.mu.Lock()
	seen := Seen{Sandboxes: sandboxes, Containers: view, Health: w.probes.health(), Prepared: w.prepared, HostIPs: w.k.cfg.HostIPs, Refused: refused,
		Cgroup: w.cgroup, Uneven: w.uneven, Failures: maps.Clone(w.failures), Backoff: maps.Clone(w.backoff), Restarting: maps.Clone(w.restarts)}
	refresh := w.refresh || !w.again.IsZero() && now.After(w.again)
	w.mu.Unlock()

	d := Step(p, seen, now)
	w.mu.Lock()
	w.ready = slices.ContainsFunc(d.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
	w.mu.Unlock()
	// One that ran before the machine started anew is asked too: this kernel may keep less of what it asks for. Whether it fits was decided.
	if p != nil && !w.admitted && len(sandboxes) == 0 && !podutil.IsPodTerminal(p) && !podutil.IsPodPhaseTerminal(d.Status.Phase) && p.DeletionTimestamp == nil {
		features, err := w.k.cfg.Runtime.Features(ctx)
		if err != nil {
			return now.Add(time.Second)
		}
		reason, message := Unenforceable(p, features, w.k.cfg.Sysctls)
		if reason == "" && p.Status.Phase != corev1.PodRunning {
			reason, message = w.k.cfg.Admit(p)
		}
		if reason != "" {
			w.refuse(ctx, entry, p, reason, message)
			return now.Add(relist)
		}
		w.admitted = true
	}
	if p != nil && p.Spec.NodeName == w.k.cfg.Node {
		if !w.publish(ctx, entry, asked, d.Status) && (granted || p.Status.StartTime == nil) {
			w.admitted = false // what this node gives it is not written down: it may ask for something else by now
			return d.Next
		}
		w.announce(asked, d.Status, refused)
	}
	w.mu.Lock()
	w.looked = true
	w.mu.Unlock()
	if w.op != nil {
		if w.overtaken(p, d) {
			w.op.cancel()
		}
		return d.Next
	}
	if len(d.Actions) == 0 && refresh && p != nil && w.prepared && len(sandboxes) > 0 && sandboxes[0].Ready {
		d.Actions = []Action{{Verb: refreshVolumes}}
	}
	if len(d.Actions) > 0 && d.Actions[0].Verb == RunSandbox && !w.k.cfg.MayStart(p) {
		return now.Add(mayStartAgain)
	}
	if len(d.Actions) > 0 {
		w.begin(ctx, p, snap, d.Actions, sandboxes, containers)
		return d.Next
	}
	if !w.again.IsZero() && (d.Next.IsZero() || w.again.Before(d.Next)) {
		return w.again
	}
	return d.Next
}

// mayStartAgain is how soon a pod that may not be started is asked for again.
const mayStartAgain = 100 * time.Millisecond

// refreshVolumes brings a running pod's volumes up to date. It is the worker's own: Step knows nothing of contents.
const refreshVolumes Verb = "refresh"

// overtaken reports whether what is under way must be given up for what is decided now.
func (w *worker) overtaken(p *corev1.Pod, d Decision) bool {
	if len(d.Actions) == 0 || d.Actions[0].Verb != StopPod {
		return false
	}
	if !w.op.ends {
		return true
	}
	return d.Actions[0].Grace < w.op.first.Grace && (p == nil || p.DeletionTimestamp != nil)
}

// begin runs actions beside the loop.
func (w *worker) begin(ctx context.Context, p *corev1.Pod, snap *store.Snapshot, actions []Action, sandboxes []Sandbox, containers []Container) {
	ctx, cancel := context.WithCancel(ctx)
	op := &operation{cancel: cancel, done: make(chan struct{}), first: actions[0], ends: actions[0].Verb == StopPod}
	w.op = op
	t := &turn{w: w, k: w.k, pod: p, objects: snapshot{snap}, sandboxes: sandboxes, containers: containers, op: op}
	if p != nil {
		t.refs = sources(snap, p)
	}
	w.mu.Lock()
	w.doing, w.since = actions[0].String(), time.Now()
	if actions[0].Verb == refreshVolumes || actions[0].Verb == RunSandbox {
		// What was noticed since this turn looked is for the next.
		w.refresh = t.refs != w.refs
	}
	w.mu.Unlock()
	if actions[0].Verb == RunSandbox {
		w.prepared = true
	}
	if actions[0].Verb == Release {
		w.prepared = false
	}
	go func() {
		defer close(op.done)
		for _, a := range actions {
			if ctx.Err() != nil {
				return
			}
			w.mu.Lock()
			w.doing, w.since = a.String(), time.Now()
			w.mu.Unlock()
			if !t.do(ctx, a) {
				return
			}
		}
	}()
}

func (w *worker) failed(name string) (Failure, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f, ok := w.failures[name]
	return f, ok
}

// level is what the pod's own cgroup was given last, which from now on may be anything. adopted tells that this daemon found it and has not
// changed it: nobody has asked for anything.
func (w *worker) level() (before *Resources, adopted bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, failed := w.failures[resizeFailure]
	before, adopted = w.cgroup, w.cgroup == nil && !failed
	w.uneven = true
	return before, adopted
}

// levelled notes what the pod's own cgroup was given.
func (w *worker) levelled(to Resources) {
	w.mu.Lock()
	w.cgroup, w.uneven = &to, false
	w.mu.Unlock()
}

func (w *worker) succeed(name string) {
	w.mu.Lock()
	delete(w.failures, name)
	w.mu.Unlock()
}

// publish writes the status if it is not what the store has. It tells whether the store now has it; if not, the worker will look again.
func (w *worker) publish(ctx context.Context, e *store.Entry, p *corev1.Pod, status corev1.PodStatus) bool {
	// Fields of others are kept as they are.
	status.Resize, status.ExtendedResourceClaimStatus = p.Status.Resize, p.Status.ExtendedResourceClaimStatus
	if equality.Semantic.DeepEqual(status, p.Status) {
		return true
	}
	changed := p.DeepCopy()
	changed.TypeMeta = metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}
	changed.Status = status
	_, err := w.k.cfg.Store.Commit(ctx, store.Write{Key: e.Key, Object: changed, Base: e})
	if errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound) {
		w.poke() // decide again from what is there now
	} else if err != nil && ctx.Err() == nil {
		w.k.cfg.Log.Error("cannot write the status of a pod", "pod", w.ref, "err", err)
		time.AfterFunc(time.Second, w.poke)
	}
	return err == nil
}

// refuse ends a pod that this node was given but cannot run.
func (w *worker) refuse(ctx context.Context, e *store.Entry, p *corev1.Pod, reason, message string) {
	w.k.event(p, "", corev1.EventTypeWarning, reason, "%s", message)
	status := *p.Status.DeepCopy()
	status.Phase, status.Reason, status.Message = corev1.PodFailed, reason, message
	w.publish(ctx, e, p, status)
}

// announce makes an event of each container that began to wait for its back-off, and of a resize that is refused.
func (w *worker) announce(p *corev1.Pod, status corev1.PodStatus, refused *Refusal) {
	key := ""
	if refused != nil {
		key = refused.Reason + refused.Message
	}
	if key != w.shown[resizeFailure] {
		w.shown[resizeFailure] = key
		if refused != nil {
			w.k.event(p, "", corev1.EventTypeWarning, "Resize"+refused.Reason, "%s", refused.Message)
		}
	}
	for _, list := range [][]corev1.ContainerStatus{status.InitContainerStatuses, status.ContainerStatuses} {
		for _, c := range list {
			key := ""
			if c.State.Waiting != nil {
				key = c.State.Waiting.Reason + c.State.Waiting.Message
			}
			if key == w.shown[c.Name] {
				continue
			}
			w.shown[c.Name] = key
			if c.State.Waiting == nil {
				continue
			}
			switch c.State.Waiting.Reason {
			case "CrashLoopBackOff":
				w.k.event(p, c.Name, corev1.EventTypeWarning, "BackOff", "Back-off restarting failed container %s in pod %s", c.Name, format(p))
			case "ImagePullBackOff":
				w.k.event(p, c.Name, corev1.EventTypeNormal, "BackOff", "Back-off pulling image %q", c.Image)
				w.k.event(p, c.Name, corev1.EventTypeWarning, "Failed", "Error: ImagePullBackOff")
			}
		}
	}
}

// remove deletes the object of a pod that has ended and waits for nothing else.
func (w *worker) remove(ctx context.Context, e *store.Entry, p *corev1.Pod) {
	if e == nil || p.DeletionTimestamp == nil || len(p.Finalizers) > 0 {
		return
	}
	recorded, end := w.k.cfg.Record(ctx, "delete", e.Key, e.UID)
	_, err := w.k.cfg.Store.Commit(recorded, store.Write{Key: e.Key, Base: e})
	end(err)
	switch {
	case err == nil, errors.Is(err, store.ErrNotFound):
	case errors.Is(err, store.ErrConflict):
		w.poke()
	case ctx.Err() == nil:
		w.k.cfg.Log.Error("cannot delete a pod that has ended", "pod", w.ref, "err", err)
		time.AfterFunc(time.Second, w.poke)
	}
}
