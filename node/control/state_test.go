package control

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
)

// epoch is second 0 of the goldens.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func second(n int) time.Time { return epoch.Add(time.Duration(n) * time.Second) }

func seconds(t time.Time) string { return strconv.Itoa(int(t.Sub(epoch) / time.Second)) }

func atoi(t testing.TB, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func testSet(want int) *appsv1.ReplicaSet {
	n := int32(want)
	l := map[string]string{"app": "web", appsv1.DefaultDeploymentUniqueLabelKey: "h"}
	return &appsv1.ReplicaSet{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "ReplicaSet"},
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "set", Labels: l},
		Spec: appsv1.ReplicaSetSpec{Replicas: &n, Selector: &metav1.LabelSelector{MatchLabels: l},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: l}}},
	}
}

func testPod(name string, slot int, node string) *corev1.Pod {
	wait := int64(15)
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID("uid-" + name), CreationTimestamp: metav1.Time{Time: epoch},
			Labels: map[string]string{"app": "web", appsv1.DefaultDeploymentUniqueLabelKey: "h"}},
		Spec: corev1.PodSpec{NodeName: node, Tolerations: []corev1.Toleration{{
			Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &wait}}},
		Status: corev1.PodStatus{Phase: corev1.PodPending},
	}
	if slot >= 0 {
		annotate(p, SlotAnnotation, slot)
		annotate(p, AttemptAnnotation, 0)
	}
	return p
}

func setReady(p *corev1.Pod, ready bool, at time.Time) {
	p.Status.Phase = corev1.PodRunning
	st := corev1.ConditionFalse
	if ready {
		st = corev1.ConditionTrue
	}
	if p.Status.StartTime == nil {
		p.Status.StartTime = &metav1.Time{Time: at}
	}
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: st, LastTransitionTime: metav1.Time{Time: at}}}
}

// say writes a plan as text: one line a write.
func say(p plan) string {
	var b strings.Builder
	for _, w := range p.writes {
		switch o := w.obj.(type) {
		case *corev1.Pod:
			fmt.Fprintf(&b, "%s pod slot=%s attempt=%s", w.verb, o.Annotations[SlotAnnotation], o.Annotations[AttemptAnnotation])
			if c := o.Annotations[CoversAnnotation]; c != "" {
				fmt.Fprintf(&b, " covers=%s", c)
			}
		case *appsv1.ReplicaSet:
			fmt.Fprintf(&b, "%s rs %s replicas=%d revision=%s", w.verb, o.Name, *o.Spec.Replicas, o.Annotations["deployment.kubernetes.io/revision"])
		default:
			fmt.Fprintf(&b, "%s %s", w.verb, w.key.Name)
		}
		b.WriteByte('\n')
	}
	if !p.wake.IsZero() {
		fmt.Fprintf(&b, "look again at %s\n", seconds(p.wake))
	}
	return b.String()
}

// TestReplicaSet: what a ReplicaSet does for what can be seen.
//
//	decide want=3 now=20 [brake=careful] [keep=best_score] [failed]
//	node n1 | node n2 out=5 | node n3 notready
//	pod a slot=0 n1 ready [started=3] [covers=b] [deleting] [failed] [cost=5] [replace-after=60] [replace=false] [forever]
func TestReplicaSet(t *testing.T) {
	datadriven.RunTest(t, "testdata/replicaset", func(t *testing.T, d *datadriven.TestData) string {
		neighbours := map[string]int{}
		r := &replicas{nodes: map[string]sight{}, brake: Available, settle: 2 * time.Second, self: "n1", neighbours: func() map[string]int { return neighbours },
			kind: appsv1.SchemeGroupVersion.WithKind("ReplicaSet"), now: epoch}
		for _, a := range d.CmdArgs {
			switch a.Key {
			case "want":
				r.set = testSet(atoi(t, a.Vals[0]))
			case "now":
				r.now = second(atoi(t, a.Vals[0]))
			case "brake":
				r.brake = Brake(a.Vals[0])
			case "failed":
				r.failed = &failure{"FailedCreate", "no"}
			case "keep":
				r.set.Annotations = map[string]string{ReconcileAnnotation: a.Vals[0]}
			}
		}
		names := map[string]bool{}
		for _, line := range strings.Split(d.Input, "\n") {
			f := strings.Fields(line)
			if len(f) < 2 {
				continue
			}
			opts := map[string]string{}
			for _, o := range f[2:] {
				k, v, _ := strings.Cut(o, "=")
				opts[k] = v
			}
			if f[0] == "node" {
				s := sight{reachable: true, ready: true, since: epoch.Add(-time.Hour)}
				if v, ok := opts["out"]; ok {
					s = sight{since: second(atoi(t, v)), ready: true}
				}
				if v, ok := opts["back"]; ok {
					s.since = second(atoi(t, v))
				}
				if _, ok := opts["notready"]; ok {
					s.ready = false
				}
				r.nodes[f[1]] = s
				continue
			}
			p := testPod(f[1], -1, "")
			names[p.Name] = true
			started := epoch
			for k, v := range opts {
				switch k {
				case "slot":
					annotate(p, SlotAnnotation, v)
					if p.Annotations[AttemptAnnotation] == "" {
						annotate(p, AttemptAnnotation, 0)
					}
				case "attempt":
					annotate(p, AttemptAnnotation, v)
				case "started":
					started = second(atoi(t, v))
				case "covers":
					annotate(p, CoversAnnotation, v)
				case "cost":
					annotate(p, corev1.PodDeletionCost, v)
				case "deleting":
					p.DeletionTimestamp = &metav1.Time{Time: epoch}
				case "replace-after", "replace":
					annotate(p, "partition.murmur.io/"+k, v)
				case "forever":
					p.Spec.Tolerations[0].TolerationSeconds = nil
				case "ready", "failed":
				default:
					if v == "" {
						p.Spec.NodeName = k
					}
				}
			}
			p.CreationTimestamp = metav1.Time{Time: started}
			if p.Spec.NodeName != "" {
				_, ready := opts["ready"]
				setReady(p, ready, started)
			}
			if _, ok := opts["failed"]; ok {
				p.Status.Phase = corev1.PodFailed
			} else if podutil.IsPodReady(p) {
				neighbours[p.Spec.NodeName]++
			}
			r.pods = append(r.pods, p)
		}
		r.taken = func(n string) bool { return names[n] }
		p, st := r.decide()
		out := say(p) + fmt.Sprintf("replicas=%d ready=%d available=%d", st.Replicas, st.ReadyReplicas, st.AvailableReplicas)
		for _, c := range st.Conditions {
			out += fmt.Sprintf(" %s=%s(%s)", c.Type, c.Status, c.Reason)
		}
		return out + "\n"
	})
}

// TestRollout: a Deployment, step by step, with ReplicaSets that do what they are told at once.
//
//	deployment replicas=3 [surge=1] [unavailable=25%] [recreate] [deadline=60] [history=2]
//	change image=2 | replicas=5 | pause | resume
//	run [steps=20] [stuck] [now=5]
func TestRollout(t *testing.T) {
	var dep *appsv1.Deployment
	sets := map[string]*appsv1.ReplicaSet{}
	now := epoch
	datadriven.RunTest(t, "testdata/rollout", func(t *testing.T, d *datadriven.TestData) string {
		switch d.Cmd {
		case "deployment":
			sets, now = map[string]*appsv1.ReplicaSet{}, epoch
			limit, deadline, one := int32(10), int32(600), int32(1)
			quarter := intstr.FromString("25%")
			surge, unavailable := quarter, quarter
			dep = &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "dep", Generation: 1},
				Spec: appsv1.DeploymentSpec{Replicas: &one, RevisionHistoryLimit: &limit, ProgressDeadlineSeconds: &deadline,
					Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
					Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType,
						RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &surge, MaxUnavailable: &unavailable}},
					Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
						Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "1"}}}}}}
			fallthrough
		case "change":
			dep.Generation++
			for _, a := range d.CmdArgs {
				v := ""
				if len(a.Vals) > 0 {
					v = a.Vals[0]
				}
				switch a.Key {
				case "replicas":
					n := int32(atoi(t, v))
					dep.Spec.Replicas = &n
				case "surge":
					x := intstr.Parse(v)
					dep.Spec.Strategy.RollingUpdate.MaxSurge = &x
				case "unavailable":
					x := intstr.Parse(v)
					dep.Spec.Strategy.RollingUpdate.MaxUnavailable = &x
				case "recreate":
					dep.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
				case "deadline":
					n := int32(atoi(t, v))
					dep.Spec.ProgressDeadlineSeconds = &n
				case "history":
					n := int32(atoi(t, v))
					dep.Spec.RevisionHistoryLimit = &n
				case "image":
					dep.Spec.Template.Spec.Containers[0].Image = v
				case "pause":
					dep.Spec.Paused = true
				case "resume":
					dep.Spec.Paused = false
				}
			}
			return ""
		case "run":
			steps, stuck := 30, d.HasArg("stuck")
			if d.HasArg("steps") {
				d.ScanArgs(t, "steps", &steps)
			}
			if d.HasArg("now") {
				var n int
				d.ScanArgs(t, "now", &n)
				now = second(n)
			}
			var b strings.Builder
			for range steps {
				r := &rolling{d: dep.DeepCopy(), now: now, taken: func(n string) bool { return sets[n] != nil }}
				for _, name := range slices.Sorted(maps.Keys(sets)) {
					r.sets = append(r.sets, sets[name].DeepCopy())
				}
				p := r.decide()
				p.wake = time.Time{}
				b.WriteString(say(p))
				changed := len(p.writes) > 0 || fmt.Sprint(dep.Status) != fmt.Sprint(r.d.Status)
				for _, w := range p.writes {
					if w.verb == remove {
						delete(sets, w.key.Name)
						continue
					}
					rs := w.obj.(*appsv1.ReplicaSet).DeepCopy()
					if w.verb == create {
						rs.UID, rs.CreationTimestamp = types.UID(rs.Name), metav1.Time{Time: epoch.Add(time.Duration(len(sets)) * time.Second)}
					}
					sets[rs.Name] = rs
				}
				dep.Status, dep.Annotations = r.d.Status, r.d.Annotations
				for _, rs := range sets {
					rs.Status.Replicas = *rs.Spec.Replicas
					if fresh := rs.Spec.Template.Spec.Containers[0].Image == dep.Spec.Template.Spec.Containers[0].Image; !stuck || !fresh {
						rs.Status.ReadyReplicas, rs.Status.AvailableReplicas = *rs.Spec.Replicas, *rs.Spec.Replicas
					}
				}
				if !changed {
					break
				}
			}
			st := dep.Status
			fmt.Fprintf(&b, "replicas=%d updated=%d ready=%d unavailable=%d revision=%s", st.Replicas, st.UpdatedReplicas, st.ReadyReplicas, st.UnavailableReplicas, dep.Annotations["deployment.kubernetes.io/revision"])
			slices.SortFunc(st.Conditions, func(a, b appsv1.DeploymentCondition) int { return strings.Compare(string(a.Type), string(b.Type)) })
			for _, c := range st.Conditions {
				fmt.Fprintf(&b, " %s=%s(%s)", c.Type, c.Status, c.Reason)
			}
			return b.String() + "\n"
		}
		t.Fatalf("unknown command %s", d.Cmd)
		return ""
	})
}
