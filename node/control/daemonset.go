package control

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	schedulinghelpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/kubernetes/pkg/controller"
	daemonutil "k8s.io/kubernetes/pkg/controller/daemon/util"

	"murmur/crdt"
	"murmur/crdt/store"
)

const daemonSets = "apps/daemonsets"

var daemonKind = appsv1.SchemeGroupVersion.WithKind("DaemonSet")

// daemons is what a decision about one DaemonSet is made from. Two decide: every node makes the pod that it is itself to
// run, so that a node needs nobody for it; the controller of record does what concerns several nodes, history, updates and
// status, and takes away pods. Neither touches a node out of sight: what is there stays as it is, and the side that has the
// node decides about it.
type daemons struct {
	set       *appsv1.DaemonSet
	pods      []*corev1.Pod // those that the set controls, and those that it is about to adopt
	revisions []*appsv1.ControllerRevision
	nodes     []*corev1.Node // by name
	sights    map[string]sight
	now       time.Time
	// taken says whether a pod's name is in use.
	taken func(name string) bool

	// hash names the template.
	hash string
	// fits are by node.
	fits map[string]fit
	// places are the pods by the node they are for.
	places map[string]*place
	// stray are pods that wait for a node that does not exist.
	stray []*corev1.Pod
}

// fit is whether a node is to be given a pod of the set, and whether it may keep the one it has.
type fit struct{ run, keep bool }

// place is the pods of a set for one node, the oldest of each kind first, those that are bound before those that are not.
type place struct {
	active, ended, terminating []*corev1.Pod
}

func newDaemons(w *world, set *appsv1.DaemonSet) *daemons {
	d := &daemons{
		set: set, sights: w.nodes, now: w.now, nodes: store.List[corev1.Node](w.snap, "nodes", ""),
		pods:      controlled[corev1.Pod](w, "pods", set.Namespace, set.UID),
		revisions: controlled[appsv1.ControllerRevision](w, controllerRevisions, set.Namespace, set.UID),
		taken: func(name string) bool {
			_, ok := w.snap.Get(crdt.Key{Resource: "pods", Namespace: set.Namespace, Name: name})
			return ok
		},
	}
	if selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector); err == nil && !selector.Empty() {
		for _, q := range orphans[corev1.Pod](w, "pods", set.Namespace, selector) {
			if controller.IsPodActive(q) {
				d.pods = append(d.pods, q)
			}
		}
	}
	return d
}

// daemonSet decides for one DaemonSet, on its controller of record.
func daemonSet(w *world, e *store.Entry) plan {
	set, err := store.As[appsv1.DaemonSet](e)
	if err != nil || set.DeletionTimestamp != nil {
		return plan{}
	}
	if p := adoptPods(w, set, daemonKind, set.Spec.Selector, controlled[corev1.Pod](w, "pods", set.Namespace, set.UID)); len(p.writes) > 0 {
		return p
	}
	p, st := newDaemons(w, set).decide()
	if !equality.Semantic.DeepEqual(st, set.Status) {
		next := set.DeepCopy()
		next.Status = st
		p.writes = append(p.writes, write{verb: status, obj: next})
	}
	return p
}

// daemon decides for one DaemonSet what this node makes for itself.
func daemon(w *world, e *store.Entry) plan {
	set, err := store.As[appsv1.DaemonSet](e)
	if err != nil || set.DeletionTimestamp != nil {
		return plan{}
	}
	return newDaemons(w, set).here(w.self)
}

// survey sorts nodes and pods.
func (d *daemons) survey() {
	d.hash = templateHash(templatePatch(d.set.Spec.Template))
	spec := d.set.Spec.Template.Spec.DeepCopy()
	daemonutil.AddOrUpdateDaemonPodTolerations(spec)
	affinity := nodeaffinity.NewRequiredNodeAffinity(spec.NodeSelector, spec.Affinity)
	untolerated := func(n *corev1.Node, effects ...corev1.TaintEffect) bool {
		_, found := schedulinghelpers.FindMatchingUntoleratedTaint(klog.Background(), n.Spec.Taints, spec.Tolerations,
			func(t *corev1.Taint) bool { return slices.Contains(effects, t.Effect) }, true)
		return found
	}
	d.fits, d.places, d.stray = map[string]fit{}, map[string]*place{}, nil
	slices.SortFunc(d.nodes, func(a, b *corev1.Node) int { return strings.Compare(a.Name, b.Name) })
	for _, n := range d.nodes {
		d.places[n.Name] = &place{}
		ok, _ := affinity.Match(n) // what cannot be parsed matches nothing, as upstream
		ok = ok && (spec.NodeName == "" || spec.NodeName == n.Name)
		d.fits[n.Name] = fit{
			run:  ok && !untolerated(n, corev1.TaintEffectNoExecute, corev1.TaintEffectNoSchedule),
			keep: ok && !untolerated(n, corev1.TaintEffectNoExecute),
		}
	}
	slices.SortFunc(d.pods, func(a, b *corev1.Pod) int {
		if bound := a.Spec.NodeName != ""; bound != (b.Spec.NodeName != "") {
			if bound {
				return -1
			}
			return 1
		}
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
	})
	for _, q := range d.pods {
		node, err := daemonutil.GetTargetNodeName(q)
		if err != nil {
			continue
		}
		at := d.places[node]
		switch ends := podutil.IsPodTerminal(q); {
		case at == nil:
			if q.Spec.NodeName == "" && q.DeletionTimestamp == nil {
				d.stray = append(d.stray, q)
			}
		case ends:
			at.ended = append(at.ended, q)
		case q.DeletionTimestamp != nil:
			at.terminating = append(at.terminating, q)
		default:
			at.active = append(at.active, q)
		}
	}
}

// updated tells whether a pod is of the present template.
func (d *daemons) updated(q *corev1.Pod) bool {
	return q.Labels[appsv1.ControllerRevisionHashLabelKey] == d.hash
}

// available tells whether a pod serves, as far as can be seen from here; until is when time alone may change that.
func (d *daemons) available(q *corev1.Pod) (ok bool, until time.Time) {
	if !d.ready(q) {
		return false, time.Time{}
	}
	if podutil.IsPodAvailable(q, d.set.Spec.MinReadySeconds, metav1.Time{Time: d.now}) {
		return true, time.Time{}
	}
	return false, podutil.GetPodReadyCondition(q.Status).LastTransitionTime.Add(time.Duration(d.set.Spec.MinReadySeconds)*time.Second + time.Second/10)
}

func (d *daemons) ready(q *corev1.Pod) bool {
	return q.DeletionTimestamp == nil && podutil.IsPodReady(q) && d.sights[q.Spec.NodeName].reachable
}

// maxReplace is the longest pause before a failed pod is replaced. A pod that lived longer is replaced at once.
const maxReplace = 15 * time.Minute

// here is what a node makes for itself: a pod, if it is to run one and has none. One that has ended stays until another
// is made, and tells it how many there were; one that goes is waited for, unless the set may surge.
func (d *daemons) here(self string) plan {
	d.survey()
	p := plan{}
	at := d.places[self]
	if at == nil || !d.fits[self].run || len(at.active) > 0 || len(at.terminating) > 0 && !daemonutil.AllowsSurge(d.set) {
		return p
	}
	for _, q := range at.ended {
		if n := annotated(q, AttemptAnnotation); d.updated(q) && n > 0 {
			end, pause := endedAt(q), min(time.Second<<min(n-1, 20), maxReplace)
			if next := end.Add(pause); end.Sub(q.CreationTimestamp.Time) < maxReplace && d.now.Before(next) {
				p.at(next)
				return p
			}
		}
	}
	d.create(&p, self)
	return p
}

// create makes the pod of a node. Its name is a function of set, node, template and attempt. It is bound to the node by
// affinity, as upstream's is, and placed there like any pod, so that the node's ledger decides when there is room.
func (d *daemons) create(p *plan, node string) {
	attempt := 0
	for _, q := range slices.Concat(d.places[node].active, d.places[node].ended, d.places[node].terminating) {
		if d.updated(q) {
			attempt = max(attempt, annotated(q, AttemptAnnotation)+1)
		}
	}
	name := func() string {
		return generated(d.set.Name, string(d.set.UID), "node", node, d.hash, strconv.Itoa(attempt))
	}
	for d.taken(name()) {
		attempt++
	}
	generation, err := daemonutil.GetTemplateGeneration(d.set)
	if err != nil {
		generation = nil // an annotation that only old clients read
	}
	template := daemonutil.CreatePodTemplate(d.set.Spec.Template, generation, d.hash)
	pod, err := controller.GetPodFromTemplate(&template, d.set, metav1.NewControllerRef(d.set, daemonKind))
	if err != nil {
		panic(err) // a DaemonSet has metadata
	}
	pod.GenerateName, pod.Name, pod.Namespace = "", name(), d.set.Namespace
	pod.Spec.Affinity = daemonutil.ReplaceDaemonSetPodNodeNameNodeAffinity(pod.Spec.Affinity, node)
	unplace(pod)
	annotate(pod, AttemptAnnotation, attempt)
	p.writes = append(p.writes, write{verb: create, obj: pod,
		done:   &event{d.set, corev1.EventTypeNormal, controller.SuccessfulCreatePodReason, "Created pod: %s"},
		failed: &event{d.set, corev1.EventTypeWarning, controller.FailedCreatePodReason, "Error creating: %s"}})
}

func (d *daemons) remove(p *plan, q *corev1.Pod) {
	w := deletion(crdt.Key{Resource: "pods", Namespace: q.Namespace, Name: q.Name}, q.UID)
	w.done = &event{d.set, corev1.EventTypeNormal, controller.SuccessfulDeletePodReason, "Deleted pod: %s"}
	w.failed = &event{d.set, corev1.EventTypeWarning, controller.FailedDeletePodReason, "Error deleting: %s"}
	p.writes = append(p.writes, w)
}

// decide is what the controller of record writes, and the status.
func (d *daemons) decide() (plan, appsv1.DaemonSetStatus) {
	d.survey()
	p := plan{}
	used := map[string]bool{}
	for _, q := range d.pods {
		used[q.Labels[appsv1.ControllerRevisionHashLabelKey]] = true
	}
	_, p.writes = history{owner: d.set, kind: daemonKind, template: d.set.Spec.Template, limit: d.set.Spec.RevisionHistoryLimit, have: d.revisions,
		used: func(r *appsv1.ControllerRevision) bool { return used[r.Labels[appsv1.ControllerRevisionHashLabelKey]] }}.record()
	for _, q := range d.stray {
		// Its node has left, or is registered later than its first pod is made.
		if at := q.CreationTimestamp.Add(unregistered); d.now.Before(at) {
			p.at(at)
		} else {
			d.remove(&p, q)
		}
	}
	var sound []string // the nodes in sight whose pods are as they should be, but for the template
	for _, n := range d.nodes {
		if d.sights[n.Name].reachable && d.tidy(&p, n.Name) {
			sound = append(sound, n.Name)
		}
	}
	if d.set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		d.update(&p, sound)
	}
	return p, d.status(&p)
}

// tidy takes away what is too much on a node. It reports whether the node's pods can be updated.
func (d *daemons) tidy(p *plan, node string) bool {
	at, fit := d.places[node], d.fits[node]
	var gone []*corev1.Pod
	for _, q := range at.ended {
		// One that is to be replaced stays until it is.
		if q.DeletionTimestamp == nil && (len(at.active) > 0 || !fit.run) {
			if q.Status.Phase == corev1.PodFailed {
				d.remove(p, q)
				p.writes[len(p.writes)-1].done = &event{d.set, corev1.EventTypeWarning, "FailedDaemonPod",
					fmt.Sprintf("Found failed daemon pod %s/%s on node %s, will try to kill it", q.Namespace, q.Name, node)}
			} else {
				d.remove(p, q)
			}
		}
	}
	switch {
	case !fit.keep:
		gone = at.active
	case !daemonutil.AllowsSurge(d.set):
		if len(at.active) > 1 {
			gone = at.active[1:]
		}
	default:
		var fresh, old *corev1.Pod
		for _, q := range at.active {
			switch {
			case d.updated(q) && fresh == nil:
				fresh = q
			case !d.updated(q) && old == nil:
				old = q
			default:
				gone = append(gone, q)
			}
		}
		if fresh != nil && old != nil {
			ok, until := d.available(fresh)
			p.at(until)
			if ok || !podutil.IsPodReady(old) {
				gone = append(gone, old)
			}
		}
	}
	for _, q := range gone {
		d.remove(p, q)
	}
	return fit.keep && len(gone) == 0
}

// update replaces old pods, as many at once as the strategy allows. Nodes out of sight are neither counted nor waited for:
// a rollout on one side of a partition can end.
func (d *daemons) update(p *plan, sound []string) {
	desired := 0
	for _, n := range d.nodes {
		if d.fits[n.Name].run && d.sights[n.Name].reachable {
			desired++
		}
	}
	unavailable, err := daemonutil.UnavailableCount(d.set, desired)
	if err != nil {
		return // validation lets no such value pass
	}
	surge, err := daemonutil.SurgeCount(d.set, desired)
	if err != nil {
		return
	}
	if unavailable == 0 && surge == 0 {
		unavailable = 1
	}
	var broken, candidates []string
	under, up := 0, 0 // nodes that do not serve, or that are in surge; nodes that serve
	for _, n := range d.nodes {
		at, fit := d.places[n.Name], d.fits[n.Name]
		if !d.sights[n.Name].reachable || !fit.run && len(at.active) == 0 {
			continue
		}
		if !slices.Contains(sound, n.Name) {
			under++
			continue
		}
		serves, double := false, len(at.active) > 1
		for _, q := range at.active {
			ok, until := d.available(q)
			p.at(until)
			serves = serves || ok
		}
		if serves {
			up++
		}
		old := len(at.active) == 1 && !d.updated(at.active[0])
		switch {
		case surge > 0 && double:
			under++
		case old && !serves:
			broken = append(broken, n.Name)
			if surge == 0 {
				under++
			}
		case old:
			candidates = append(candidates, n.Name)
		case !serves && surge == 0:
			under++
		}
	}
	if surge == 0 {
		// What does not serve is replaced at once: it costs nothing.
		for _, n := range slices.Concat(broken, first(candidates, unavailable-under)) {
			d.remove(p, d.places[n].active[0])
		}
		return
	}
	spare := up - desired
	var next []string
	for _, n := range candidates {
		if d.fits[n].run {
			next = append(next, n)
		} else if spare > 0 {
			// A node that may keep its pod but would get no other: it goes when all that should serve do without it.
			spare--
			d.remove(p, d.places[n].active[0])
		}
	}
	for _, n := range broken {
		if d.fits[n].run {
			d.create(p, n)
		} else {
			d.remove(p, d.places[n].active[0])
		}
	}
	for _, n := range first(next, surge-under) {
		d.create(p, n)
	}
}

// first is up to n of names.
func first(names []string, n int) []string { return names[:min(max(n, 0), len(names))] }

// status counts nodes. One out of sight has a taint that a DaemonSet does not tolerate for new pods, so it is not among
// the desired, as upstream.
func (d *daemons) status(p *plan) appsv1.DaemonSetStatus {
	st := *d.set.Status.DeepCopy()
	st.ObservedGeneration = d.set.Generation
	st.DesiredNumberScheduled, st.CurrentNumberScheduled, st.NumberMisscheduled = 0, 0, 0
	st.NumberReady, st.UpdatedNumberScheduled, st.NumberAvailable, st.NumberUnavailable = 0, 0, 0, 0
	for _, n := range d.nodes {
		at := d.places[n.Name]
		pods := slices.Concat(at.active, at.terminating, at.ended)
		switch {
		case !d.fits[n.Name].run:
			// A node out of sight keeps its pod by right.
			if len(pods) > 0 && d.sights[n.Name].reachable {
				st.NumberMisscheduled++
			}
			continue
		case len(pods) > 0:
			st.CurrentNumberScheduled++
			q := pods[0]
			if d.updated(q) {
				st.UpdatedNumberScheduled++
			}
			if d.ready(q) {
				st.NumberReady++
			}
			ok, until := d.available(q)
			if ok {
				st.NumberAvailable++
			}
			p.at(until)
		}
		st.DesiredNumberScheduled++
	}
	st.NumberUnavailable = st.DesiredNumberScheduled - st.NumberAvailable
	return st
}
