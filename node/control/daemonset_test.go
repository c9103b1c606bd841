package control

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	daemonutil "k8s.io/kubernetes/pkg/controller/daemon/util"
)

func testDaemons(image string) *appsv1.DaemonSet {
	limit, one, none := int32(1), intstr.FromInt32(1), intstr.FromInt32(0)
	l := map[string]string{"app": "agent"}
	return &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "agent", Namespace: "default", UID: "set", Generation: 2},
		Spec: appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: l}, RevisionHistoryLimit: &limit,
			UpdateStrategy: appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxUnavailable: &one, MaxSurge: &none}},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: l}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}}}},
	}
}

func hashOf(image string) string {
	return templateHash(templatePatch(testDaemons(image).Spec.Template))
}

// TestDaemons: what a DaemonSet whose image is 2 does for what can be seen: the controller of record, or (here) one node.
//
//	decide|here=n1 now=20 [unavailable=2] [surge=1] [ondelete] [minready=5] [selector=disk]
//	node n1 [label=disk] [taint=NoSchedule] [cordoned] [out]
//	pod a n1 image=1 [ready=3] [failed=9] [attempt=2] [deleting] [unbound] [made=0]
//	revision 1 image=1
func TestDaemons(t *testing.T) {
	datadriven.RunTest(t, "testdata/daemonset", func(t *testing.T, c *datadriven.TestData) string {
		d := &daemons{set: testDaemons("2"), sights: map[string]sight{}, now: epoch}
		self := ""
		rolling := d.set.Spec.UpdateStrategy.RollingUpdate
		for _, a := range c.CmdArgs {
			v := ""
			if len(a.Vals) > 0 {
				v = a.Vals[0]
			}
			switch n := intstr.Parse(v); a.Key {
			case "node":
				self = v
			case "now":
				d.now = second(atoi(t, v))
			case "unavailable":
				rolling.MaxUnavailable = &n
			case "surge":
				none := intstr.FromInt32(0)
				rolling.MaxSurge, rolling.MaxUnavailable = &n, &none
			case "ondelete":
				d.set.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType}
			case "minready":
				d.set.Spec.MinReadySeconds = n.IntVal
			default:
				t.Fatalf("what is %s?", a.Key)
			}
		}
		names, labelled := map[string]bool{}, false
		for _, line := range strings.Split(c.Input, "\n") {
			f := strings.Fields(line)
			if len(f) < 2 {
				continue
			}
			opts := map[string]string{}
			for _, o := range f[2:] {
				k, v, _ := strings.Cut(o, "=")
				opts[k] = v
			}
			has := func(k string) bool { _, ok := opts[k]; return ok }
			switch f[0] {
			case "selector":
				labelled = true
			case "node":
				n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: f[1], Labels: map[string]string{opts["label"]: "yes"}}}
				s := sight{reachable: true, ready: true, since: epoch.Add(-time.Hour)}
				if has("taint") {
					n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "own", Effect: corev1.TaintEffect(opts["taint"])})
				}
				if has("cordoned") {
					n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule})
				}
				if has("out") { // as node derives it
					s = sight{since: epoch}
					n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoSchedule},
						corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute})
				}
				d.nodes, d.sights[f[1]] = append(d.nodes, n), s
			case "revision":
				d.revisions = append(d.revisions, &appsv1.ControllerRevision{
					ObjectMeta: metav1.ObjectMeta{Name: "r" + f[1], Labels: map[string]string{appsv1.ControllerRevisionHashLabelKey: hashOf(opts["image"])}},
					Data:       runtime.RawExtension{Raw: templatePatch(testDaemons(opts["image"]).Spec.Template)}, Revision: int64(atoi(t, f[1]))})
			case "pod":
				at := strings.Split(f[2], "=")[0]
				p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: f[1], Namespace: "default", UID: types.UID("uid-" + f[1]), CreationTimestamp: metav1.Time{Time: epoch},
					Labels: map[string]string{"app": "agent", appsv1.ControllerRevisionHashLabelKey: hashOf(opts["image"])}}}
				if has("made") {
					p.CreationTimestamp.Time = second(atoi(t, opts["made"]))
				}
				p.Spec.Affinity = daemonutil.ReplaceDaemonSetPodNodeNameNodeAffinity(nil, at)
				if !has("unbound") {
					p.Spec.NodeName = at
				}
				if has("ready") {
					setReady(p, true, second(atoi(t, opts["ready"])))
				}
				if has("failed") {
					p.Status = corev1.PodStatus{Phase: corev1.PodFailed, ContainerStatuses: []corev1.ContainerStatus{{State: corev1.ContainerState{
						Terminated: &corev1.ContainerStateTerminated{FinishedAt: metav1.Time{Time: second(atoi(t, opts["failed"]))}}}}}}
				}
				if has("deleting") {
					p.DeletionTimestamp = &metav1.Time{Time: epoch}
				}
				annotate(p, AttemptAnnotation, 0)
				if has("attempt") {
					annotate(p, AttemptAnnotation, opts["attempt"])
				}
				d.pods, names[p.Name] = append(d.pods, p), true
			default:
				t.Fatalf("what is %s?", f[0])
			}
		}
		if labelled {
			d.set.Spec.Template.Spec.NodeSelector = map[string]string{"disk": "yes"}
			for _, p := range d.pods {
				if p.Labels[appsv1.ControllerRevisionHashLabelKey] == hashOf("2") {
					d.survey()
					p.Labels[appsv1.ControllerRevisionHashLabelKey] = d.hash
				}
			}
		}
		d.taken = func(n string) bool { return names[n] }
		var p plan
		var st appsv1.DaemonSetStatus
		if c.Cmd == "here" {
			p = d.here(self)
		} else {
			p, st = d.decide()
		}
		var b strings.Builder
		for _, w := range p.writes {
			switch o := w.obj.(type) {
			case *corev1.Pod:
				node, err := daemonutil.GetTargetNodeName(o)
				if err != nil || o.Labels[appsv1.ControllerRevisionHashLabelKey] != d.hash {
					t.Errorf("%s: for no node (%v), or of another template: %v", o.Name, err, o.Labels)
				}
				fmt.Fprintf(&b, "create pod for %s attempt=%s\n", node, o.Annotations[AttemptAnnotation])
			case *appsv1.ControllerRevision:
				fmt.Fprintf(&b, "%s revision %d\n", w.verb, o.Revision)
			default:
				fmt.Fprintf(&b, "%s %s\n", w.verb, w.key.Name)
			}
		}
		if !p.wake.IsZero() {
			fmt.Fprintf(&b, "look again at %s\n", seconds(p.wake))
		}
		if c.Cmd != "here" {
			fmt.Fprintf(&b, "desired=%d current=%d ready=%d updated=%d available=%d unavailable=%d misscheduled=%d\n", st.DesiredNumberScheduled, st.CurrentNumberScheduled,
				st.NumberReady, st.UpdatedNumberScheduled, st.NumberAvailable, st.NumberUnavailable, st.NumberMisscheduled)
		} else if b.Len() == 0 {
			b.WriteString("nothing\n")
		}
		return b.String()
	})
}

// TestDaemonNames: all who make the pod of a node give it one name, and no two nodes, templates or attempts share one.
func TestDaemonNames(t *testing.T) {
	name := func(image, node string, taken ...string) string {
		d := &daemons{set: testDaemons(image), now: epoch, nodes: []*corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: node}}},
			taken: func(n string) bool { return slices.Contains(taken, n) }}
		p := d.here(node)
		if len(p.writes) != 1 {
			t.Fatalf("%d writes", len(p.writes))
		}
		return p.writes[0].name()
	}
	a := name("1", "n1")
	if b := name("1", "n1"); a != b {
		t.Errorf("%s and %s for the same pod", a, b)
	}
	seen := map[string]bool{a: true}
	for _, n := range []string{name("1", "n2"), name("2", "n1"), name("1", "n1", a)} {
		if seen[n] {
			t.Errorf("%s twice", n)
		}
		seen[n] = true
	}
}
