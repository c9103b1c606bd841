package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/rendezvous"
)

// row is one controller.
type row struct {
	// name is that of the ServiceAccount it writes as, and of the component in its events.
	name string
	// as is whom it writes as instead, if upstream's writes as somebody else.
	as string
	// owners are the resources that it decides about, watches what else it looks at.
	owners, watches []string
	// all means that it decides about all that is stored, watchesAll that it looks at all.
	all, watchesAll bool
	// among, if there is one, are those who may have anything to decide when all owners are to be decided; else all objects of owners are.
	among func(*world) iter.Seq[*store.Entry]
	// pace is how long a wake-up waits for more of its kind; 0 means gather. A controller with a pace waits longer the longer it looks: see
	// breath.
	pace time.Duration
	// prepare, if there is one, follows the world once a look, before anybody is asked whom a change concerns.
	prepare func(*world)
	// ask, if there is one, asks for what no snapshot has and these owners are decided from.
	ask func(context.Context, API, *world, []*store.Entry)
	// everywhere means that each node decides, for itself; else only the owner's controller of record does.
	everywhere bool
	// concerns says, by resource, which owners a change of an object of it concerns. A change of an owner concerns that one, and one of a
	// resource that is watched and not named here all owners.
	concerns map[string]concern
	// decide says what to write for one owner.
	decide func(*world, *store.Entry) plan
}

// user is who a controller is to the API.
func (r *row) user() string { return cmp.Or(r.as, "system:serviceaccount:kube-system:"+r.name) }

// plan is what a controller decided for one owner.
type plan struct {
	// writes happen in order, but for neighbours of the same verb among create and delete: they happen together.
	writes []write
	// events are recorded whatever becomes of the writes; while a plan waits because it changed nothing the last time, not again.
	events []event
	// wake is when time alone may change the decision; zero means never.
	wake time.Time
}

// at brings the wake-up forward.
func (p *plan) at(t time.Time) {
	if !t.IsZero() && (p.wake.IsZero() || t.Before(p.wake)) {
		p.wake = t
	}
}

type verb string

const (
	create   verb = "create"
	update   verb = "update"
	status   verb = "status"
	remove   verb = "delete"
	finalize verb = "finalize"
	// commit writes past the API: for fields that no user's permission covers, and where nothing is to be defaulted.
	commit verb = "commit"
	// claim and renumber are about the numbers of a Service: see Numbers.
	claim    verb = "claim"
	renumber verb = "renumber"
	// sign signs a certificate signing request, and writes its status.
	sign verb = "sign"
	// entoken puts a token of an account into a Secret.
	entoken verb = "entoken"
	// rescale sets the replicas of an HPA's target, and then the HPA's status.
	rescale verb = "rescale"
)

// write is one thing to do.
type write struct {
	verb verb
	// obj is the object wanted. Updates carry the resourceVersion they were decided from.
	obj runtime.Object
	// cover: what is created is a pod that stands in for one out of sight. Nothing in the object says so: what is in a
	// template anybody may have written.
	cover bool
	// key and opts say what to delete; key and base what to commit.
	key  crdt.Key
	opts metav1.DeleteOptions
	base *store.Entry
	// account is whose token it gets.
	account *corev1.ServiceAccount
	// numbers are what to claim or to renumber.
	numbers []crdt.Key
	// scale is what to scale to.
	scale *autoscalingv1.Scale
	// done and failed are events about the owner for either outcome.
	done, failed *event
}

// event is what is recorded. In message, "%s" stands for the object's name, or for the error.
type event struct {
	about                 runtime.Object
	kind, reason, message string
}

// failure is what went wrong last when an owner's children were created or deleted.
type failure struct {
	reason, message string
}

// world is what a decision is made from.
type world struct {
	snap   *store.Snapshot
	now    time.Time
	self   string
	alive  []string
	nodes  map[string]sight
	brake  Brake
	settle time.Duration
	kept   int
	// share says whose owners are.
	share *share
	// resources are all that are stored, those that are defined at this moment among them.
	resources []string
	// events are what became of what the controller watches, and of nodes and definitions, since its last look. If that is not complete,
	// anything may have.
	events   []store.Event
	complete bool
	// swayed: other nodes are in sight than at the last look, or the same ones since another time.
	swayed bool
	// everything: all owners are decided in this look.
	everything bool
	// failures are by owner.
	failures map[types.UID]failure
}

// controlled lists the objects of a resource in a namespace that are controlled by an object.
func controlled[T any](w *world, resource, namespace string, by types.UID) []*T {
	var out []*T
	for e := range w.snap.Owned(by, resource, namespace) {
		t, err := store.As[T](e)
		if err != nil {
			continue
		}
		if ref := controllerOf(t); ref != nil && ref.UID == by {
			out = append(out, t)
		}
	}
	return out
}

// orphans lists the objects of a resource in a namespace that a selector takes and nothing controls.
func orphans[T any](w *world, resource, namespace string, selector labels.Selector) []*T {
	return slices.DeleteFunc(store.Select[T](w.snap, resource, namespace, selector), func(t *T) bool { return controllerOf(t) != nil })
}

// controllerOf is an object's reference to its controller; nil if it has none.
func controllerOf(obj any) *metav1.OwnerReference {
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil
	}
	return metav1.GetControllerOfNoCopy(m)
}

// mine tells whether this node is the controller of record of an owner.
func (w *world) mine(uid types.UID) bool {
	if w.share != nil {
		return w.share.has(uid)
	}
	return rendezvous.First(rendezvous.OwnerKey(uid), w.alive) == w.self
}

// look takes the world as it is now, with a snapshot of the store and what has changed in it.
func (c *Controllers) look(o *outlook, snap *store.Snapshot, events []store.Event, complete bool) *world {
	now, alive := time.Now(), c.cfg.View.Alive()
	slices.Sort(alive)
	c.mu.Lock()
	defer c.mu.Unlock()
	for n := range c.since {
		if !slices.Contains(alive, n) {
			delete(c.since, n)
		}
	}
	for _, n := range alive {
		if _, ok := c.since[n]; !ok {
			c.since[n] = now
		}
	}
	if c.share == nil || !slices.Equal(c.share.alive, alive) {
		c.share = newShare(c.cfg.Node, alive)
	}
	w := &world{
		snap: snap, now: now, self: c.cfg.Node, alive: alive, brake: c.cfg.Brake, settle: c.cfg.Settle, kept: c.cfg.TerminatedPods,
		share: c.share, events: events, complete: complete,
	}
	o.survey(w, c.cfg.Resources, c.since)
	return w
}

// definitions is the key of CustomResourceDefinitions.
const definitions = "apiextensions.k8s.io/customresourcedefinitions"

// defined lists the resources that are defined. A definition is named after what it defines. What is in the store's own group are its
// documents, which belong to nobody.
func defined(snap *store.Snapshot) []string {
	var out []string
	for e := range snap.Range(definitions, "", "") {
		if plural, group, ok := strings.Cut(e.Key.Name, "."); ok && group != "murmur.io" {
			out = append(out, group+"/"+plural)
		}
	}
	return out
}

// Bounds of the pause after a failure, per owner.
const (
	minPause = 100 * time.Millisecond
	maxPause = time.Minute
	// maxBreath bounds how long a controller with a pace waits.
	maxBreath = 3 * time.Second
	// gather is the pace of a controller whose work is small or urgent.
	gather = 5 * time.Millisecond
	// maxWriting is how many writes of a controller are under way at once; those that are share one fsync.
	maxWriting = 32
)

// loop runs one controller: look, decide, write, wait.
func (c *Controllers) loop(ctx context.Context, r *row, view <-chan struct{}) {
	watched := append(slices.Clone(r.owners), r.watches...)
	told := append(slices.Clone(watched), "nodes", definitions)
	if r.all || r.watchesAll {
		watched, told = nil, nil
	}
	wake := c.cfg.Store.Subscribe(watched...)
	defer wake.Close()
	api := c.cfg.API(r.user())
	m, sees := newAgenda(offset(r.name, r.user(), c.cfg.Node)), &outlook{}
	// Bounded for each controller: one whose writes are slow must not hold up another, which it may be waiting for.
	writing := make(chan struct{}, maxWriting)
	outcomes := make(chan outcome, 1024)
	defer func() {
		for len(m.busy) > 0 {
			m.ended(<-outcomes, time.Now())
		}
	}()
	settle := func(o outcome) {
		if p := m.ended(o, time.Now()); o.err != nil && ctx.Err() == nil && !apierrors.IsConflict(o.err) && !errors.Is(o.err, store.ErrConflict) {
			c.cfg.Log.Warn("controller could not write", "controller", r.name, "owner", o.key, "again in", p.length, "err", o.err)
		}
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		snap, events, complete := c.cfg.Store.Changes(m.looked, told...)
		w := c.look(sees, snap, events, complete)
		w.failures = m.failures
		for _, d := range m.look(ctx, r, api, w) {
			for _, e := range d.events {
				c.cfg.Recorder.Event(e.about, e.kind, e.reason, e.message)
			}
			if len(d.writes) == 0 {
				continue
			}
			go func() {
				failed, err := c.apply(ctx, r.user(), api, d.writes, writing)
				outcomes <- outcome{key: d.owner.Key, uid: d.owner.UID, failed: failed, err: err}
			}()
		}
		looked := time.Since(w.now)
		timer.Reset(m.wait(time.Now()))
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			continue
		case o := <-outcomes:
			settle(o)
		case <-wake.C:
		case <-view:
			m.everything = true
			sees.forget()
		}
		select {
		case <-ctx.Done():
		case <-time.After(r.breath(looked)):
		}
		for more := true; more; {
			select {
			case o := <-outcomes:
				settle(o)
			default:
				more = false
			}
		}
	}
}

// breath is how long a wake-up waits for more of its kind after a look that took so long. While others write all the time, who may have much to
// look at takes a twentieth of a processor from them, however much there is, and looks every few seconds at the least.
func (r *row) breath(looked time.Duration) time.Duration {
	if r.pace == 0 {
		return gather
	}
	return max(r.pace, min(19*looked, maxBreath))
}

// apply does the writes of one plan. Writes that may happen together do so in groups of twice the size of the last:
// if one cannot be done, most likely none can, and few have tried.
func (c *Controllers) apply(ctx context.Context, user string, api API, writes []write, writing chan struct{}) (failed *failure, err error) {
	size := 1
	own := make(chan struct{}, maxWriting/2) // the rest is for other owners
	var last verb
	for len(writes) > 0 {
		if size *= 2; writes[0].verb != last {
			size = 1
		}
		last = writes[0].verb
		n := 1
		for n < len(writes) && n < size && writes[n].verb == last && (last == create || last == remove) {
			n++
		}
		group := writes[:n]
		writes = writes[n:]
		errs := make([]error, len(group))
		var wg sync.WaitGroup
		for i, w := range group {
			wg.Go(func() {
				for _, slots := range []chan struct{}{own, writing} {
					select {
					case slots <- struct{}{}:
						defer func() { <-slots }()
					case <-ctx.Done():
						errs[i] = ctx.Err()
						return
					}
				}
				errs[i] = c.write(ctx, user, api, w)
			})
		}
		wg.Wait()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		for i, w := range group {
			switch e := errs[i]; {
			case e == nil:
				c.record(w, w.done, "")
			case apierrors.HasStatusCause(e, corev1.NamespaceTerminatingCause):
				// The namespace controller takes it from here.
				err = e
			case apierrors.IsConflict(e) || errors.Is(e, store.ErrConflict) || apierrors.IsAlreadyExists(e) || errors.Is(e, store.ErrExists):
				err = e
			default:
				err = e
				if w.failed != nil {
					failed = &failure{w.failed.reason, e.Error()}
				}
				c.record(w, w.failed, e.Error())
			}
		}
		if err != nil {
			// What has been decided about the status holds; the rest was meant to follow what failed.
			writes = slices.DeleteFunc(slices.Clone(writes), func(w write) bool { return w.verb != status })
		}
	}
	return failed, err
}

func (c *Controllers) record(w write, e *event, err string) {
	if e == nil {
		return
	}
	message := e.message
	if strings.Contains(message, "%s") {
		what := err
		if what == "" {
			what = w.name()
		}
		message = fmt.Sprintf(message, what)
	}
	c.cfg.Recorder.Event(e.about, e.kind, e.reason, message)
}

// name is that of the object written.
func (w write) name() string {
	if w.obj == nil {
		return w.key.Name
	}
	m, err := meta.Accessor(w.obj)
	if err != nil {
		return ""
	}
	return m.GetName()
}

// write does one write. What is already so is no error.
func (c *Controllers) write(ctx context.Context, user string, api API, w write) error {
	var err error
	switch w.verb {
	case create:
		if w.cover {
			_, err = api.Cover(ctx, w.obj.(*corev1.Pod))
		} else {
			_, err = api.Create(ctx, w.obj)
		}
	case update:
		_, err = api.Update(ctx, w.obj)
	case status:
		_, err = api.UpdateStatus(ctx, w.obj)
	case finalize:
		_, err = api.Finalize(ctx, w.obj.(*corev1.Namespace))
	case remove:
		err = api.Delete(ctx, w.key, w.opts)
	case claim:
		err = c.cfg.Numbers.Claim(ctx, w.obj.(*corev1.Service), w.numbers)
	case renumber:
		svc := w.obj.(*corev1.Service)
		recorded, end := c.cfg.Record(ctx, user, "update", crdt.Key{Resource: "services", Namespace: svc.Namespace, Name: svc.Name}, svc.UID)
		err = c.cfg.Numbers.Renumber(recorded, svc, w.numbers)
		end(err)
	case sign:
		var out *certificatesv1.CertificateSigningRequest
		if out, err = signed(c.cfg.Signer, w.obj.(*certificatesv1.CertificateSigningRequest)); err == nil {
			_, err = api.UpdateStatus(ctx, out)
		}
	case entoken:
		var s *corev1.Secret
		if s, err = entokened(ctx, c.cfg.Tokens, w); err == nil {
			_, err = api.Update(ctx, s)
		}
	case rescale:
		err = scaleTo(ctx, api, w.obj.(*autoscalingv2.HorizontalPodAutoscaler), w.scale)
	case commit:
		verb, uid := "patch", types.UID("")
		if w.obj == nil {
			verb = "delete"
		}
		if w.base != nil {
			uid = w.base.UID
		}
		recorded, end := c.cfg.Record(ctx, user, verb, w.key, uid)
		_, err = c.cfg.Store.Commit(recorded, store.Write{Key: w.key, Object: w.obj, Base: w.base})
		end(err)
	}
	if w.verb != create && w.verb != rescale && (apierrors.IsNotFound(err) || errors.Is(err, store.ErrNotFound)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", w.verb, w.name(), err)
	}
	return nil
}

// deletion deletes exactly the object that was looked at.
func deletion(key crdt.Key, uid types.UID) write {
	return write{verb: remove, key: key, opts: metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}}
}
