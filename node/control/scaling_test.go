package control

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"murmur/crdt"
	"murmur/crdt/store"
)

// TestScaling: what becomes of an HPA. What is remembered goes from one decision of a file to the next, until "fresh".
//
//	decide now=20 replicas=2 max=5 [min=1] [fresh] [noscale] [nousage] [noselector] [rivals=a,b]
//	metric cpu 50% [container=c] | metric memory 100Mi | metric pods|object|external NAME
//	up|down [window=60] [select=Min] [pods=4/60] [percent=100/15] [tolerance=0.2]
//	pod a 100m/200m [unready] [since=5] [started=0] [pending] [failed] [deleting] [side=300m/100m]
//
// A pod's use is before the slash, "-" if it was not measured; its request, "-" for none, behind.
func TestScaling(t *testing.T) {
	datadriven.Walk(t, "testdata/scaling", func(t *testing.T, path string) {
		m := &memory{}
		status := autoscalingv2.HorizontalPodAutoscalerStatus{}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			s := &scaling{hpa: &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", Generation: 1}},
				scale: &autoscalingv1.Scale{Status: autoscalingv1.ScaleStatus{Selector: "app=web"}}}
			for _, a := range d.CmdArgs {
				switch a.Key {
				case "now":
					s.now = second(atoi(t, a.Vals[0]))
				case "replicas":
					s.scale.Spec.Replicas = int32(atoi(t, a.Vals[0]))
				case "max":
					s.hpa.Spec.MaxReplicas = int32(atoi(t, a.Vals[0]))
				case "min":
					n := int32(atoi(t, a.Vals[0]))
					s.hpa.Spec.MinReplicas = &n
				case "fresh":
					m, status = &memory{}, autoscalingv2.HorizontalPodAutoscalerStatus{}
				case "noscale":
					s.scale, s.scaleErr = nil, errors.New("no such thing")
				case "nousage":
					s.usageErr = errors.New("no answer")
				case "noselector":
					s.scale.Status.Selector = ""
				case "rivals":
					s.rivals = a.Vals
				}
			}
			s.hpa.Status = status
			for _, line := range strings.Split(d.Input, "\n") {
				f := strings.Fields(line)
				if len(f) == 0 {
					continue
				}
				opts := map[string]string{}
				for _, o := range f[1:] {
					k, v, _ := strings.Cut(o, "=")
					opts[k] = v
				}
				switch f[0] {
				case "metric":
					s.hpa.Spec.Metrics = append(s.hpa.Spec.Metrics, testMetric(t, f, opts))
				case "up", "down":
					if s.hpa.Spec.Behavior == nil {
						s.hpa.Spec.Behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{}
					}
					if f[0] == "up" {
						s.hpa.Spec.Behavior.ScaleUp = testRules(t, opts)
					} else {
						s.hpa.Spec.Behavior.ScaleDown = testRules(t, opts)
					}
				case "pod":
					p, u := scaledPod(t, f, opts, s.now)
					s.pods = append(s.pods, p)
					if u != nil {
						s.usage = append(s.usage, *u)
					}
				default:
					t.Fatalf("%s: %s?", d.Pos, f[0])
				}
			}
			out := s.decide(m)
			status = out.status
			return saidOfScaling(out)
		})
	})
}

func saidOfScaling(out scaled) string {
	var b strings.Builder
	if out.rescale {
		fmt.Fprintf(&b, "rescale to %d: %s\n", out.replicas, out.reason)
	}
	fmt.Fprintf(&b, "current %d desired %d\n", out.status.CurrentReplicas, out.status.DesiredReplicas)
	for _, m := range out.status.CurrentMetrics {
		var v autoscalingv2.MetricValueStatus
		switch {
		case m.Resource != nil:
			v = m.Resource.Current
			fmt.Fprintf(&b, "%s", m.Resource.Name)
		case m.ContainerResource != nil:
			v = m.ContainerResource.Current
			fmt.Fprintf(&b, "%s of %s", m.ContainerResource.Name, m.ContainerResource.Container)
		default:
			b.WriteString("not measured\n")
			continue
		}
		fmt.Fprintf(&b, " %s", v.AverageValue)
		if v.AverageUtilization != nil {
			fmt.Fprintf(&b, " %d%%", *v.AverageUtilization)
		}
		b.WriteByte('\n')
	}
	for _, c := range out.status.Conditions {
		fmt.Fprintf(&b, "%s=%s %s since %s: %s\n", c.Type, c.Status, c.Reason, seconds(c.LastTransitionTime.Time), c.Message)
	}
	for _, e := range out.events {
		fmt.Fprintf(&b, "event %s %s: %s\n", e.kind, e.reason, e.message)
	}
	return b.String()
}

func testMetric(t *testing.T, f []string, opts map[string]string) autoscalingv2.MetricSpec {
	var target autoscalingv2.MetricTarget
	if percent, ok := strings.CutSuffix(f[2], "%"); ok {
		n := int32(atoi(t, percent))
		target = autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &n}
	} else if q, err := resource.ParseQuantity(f[2]); err == nil {
		target = autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: &q}
	}
	of := corev1.ResourceName(f[1])
	switch named := (autoscalingv2.MetricIdentifier{Name: f[2]}); {
	case f[1] == "pods":
		return autoscalingv2.MetricSpec{Type: autoscalingv2.PodsMetricSourceType, Pods: &autoscalingv2.PodsMetricSource{Metric: named}}
	case f[1] == "object":
		return autoscalingv2.MetricSpec{Type: autoscalingv2.ObjectMetricSourceType, Object: &autoscalingv2.ObjectMetricSource{Metric: named}}
	case f[1] == "external":
		return autoscalingv2.MetricSpec{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{Metric: named}}
	case opts["container"] != "":
		return autoscalingv2.MetricSpec{Type: autoscalingv2.ContainerResourceMetricSourceType,
			ContainerResource: &autoscalingv2.ContainerResourceMetricSource{Name: of, Container: opts["container"], Target: target}}
	}
	return autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{Name: of, Target: target}}
}

func testRules(t *testing.T, opts map[string]string) *autoscalingv2.HPAScalingRules {
	r := &autoscalingv2.HPAScalingRules{}
	if v, ok := opts["window"]; ok {
		n := int32(atoi(t, v))
		r.StabilizationWindowSeconds = &n
	}
	if v, ok := opts["select"]; ok {
		p := autoscalingv2.ScalingPolicySelect(v)
		r.SelectPolicy = &p
	}
	if v, ok := opts["tolerance"]; ok {
		q := resource.MustParse(v)
		r.Tolerance = &q
	}
	for name, of := range map[string]autoscalingv2.HPAScalingPolicyType{"pods": autoscalingv2.PodsScalingPolicy, "percent": autoscalingv2.PercentScalingPolicy} {
		if v, ok := opts[name]; ok {
			value, period, _ := strings.Cut(v, "/")
			r.Policies = append(r.Policies, autoscalingv2.HPAScalingPolicy{Type: of, Value: int32(atoi(t, value)), PeriodSeconds: int32(atoi(t, period))})
		}
	}
	return r
}

// scaledPod is a pod that was ready from second 0 on, unless it says otherwise, and what it used in the last 15 s.
func scaledPod(t *testing.T, f []string, opts map[string]string, now time.Time) (*corev1.Pod, *metricsv1beta1.PodMetrics) {
	p := testPod(f[1], -1, "n1")
	u := &metricsv1beta1.PodMetrics{ObjectMeta: metav1.ObjectMeta{Name: f[1], Namespace: "default"}, Timestamp: metav1.NewTime(now), Window: metav1.Duration{Duration: 15 * time.Second}}
	container := func(name, text string) {
		used, requested, _ := strings.Cut(text, "/")
		c := corev1.Container{Name: name, Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{}}}
		if requested != "-" {
			q := resource.MustParse(requested)
			c.Resources.Requests[corev1.ResourceCPU], c.Resources.Requests[corev1.ResourceMemory] = q, q
		}
		p.Spec.Containers = append(p.Spec.Containers, c)
		if used != "-" && u != nil {
			q := resource.MustParse(used)
			u.Containers = append(u.Containers, metricsv1beta1.ContainerMetrics{Name: name, Usage: corev1.ResourceList{corev1.ResourceCPU: q, corev1.ResourceMemory: q}})
		} else {
			u = nil
		}
	}
	container("main", f[2])
	if side, ok := opts["side"]; ok {
		container("side", side)
	}
	at := func(key string, otherwise int) time.Time {
		if v, ok := opts[key]; ok {
			otherwise, _ = strconv.Atoi(v)
		}
		return second(otherwise)
	}
	_, unready := opts["unready"]
	p.Status.StartTime = &metav1.Time{Time: at("started", 0)}
	setReady(p, !unready, at("since", 0))
	if _, ok := opts["pending"]; ok {
		p.Status.Phase = corev1.PodPending
	}
	if _, ok := opts["failed"]; ok {
		p.Status.Phase = corev1.PodFailed
	}
	if _, ok := opts["deleting"]; ok {
		p.DeletionTimestamp = &metav1.Time{Time: now}
	}
	return p, u
}

// TestCovered: a pod on a node out of sight counts until it is lost to this side and another is made in its place.
func TestCovered(t *testing.T) {
	replica, err := store.Open(store.Config{Cluster: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- replica.Run(ctx) }()
	defer func() {
		cancel()
		<-ran
		replica.Close()
	}()
	set := testSet(1)
	set.Annotations = map[string]string{ReplaceAfterAnnotation: "60s"}
	if _, err := replica.Commit(ctx, store.Write{Key: crdt.Key{Resource: replicaSets, Namespace: "default", Name: "web"}, Object: set}); err != nil {
		t.Fatal(err)
	}
	w := &world{snap: replica.Snapshot(), nodes: map[string]sight{"here": {reachable: true}, "out": {since: second(100)}, "a": {reachable: true}, "b": {reachable: true}}}
	for _, c := range []struct {
		node, owner, name string
		now               int
		want              bool
	}{
		{"here", "ReplicaSet", "web", 1000, false},
		{"", "ReplicaSet", "web", 1000, false},
		{"out", "ReplicaSet", "web", 159, false}, // in doubt, for as long as its owner says
		{"out", "ReplicaSet", "web", 160, true},
		{"out", "ReplicationController", "gone", 114, false}, // for as long as it says itself
		{"out", "ReplicationController", "gone", 115, true},
		{"left", "ReplicaSet", "web", 101, true},
		{"out", "StatefulSet", "web", 1000, false}, // nobody covers it
		{"out", "Widget", "web", 1000, false},
		{"out", "", "", 1000, false},
	} {
		p := testPod("p", -1, c.node)
		if c.owner != "" {
			yes := true
			p.OwnerReferences = []metav1.OwnerReference{{Kind: c.owner, Name: c.name, Controller: &yes}}
		}
		w.now = second(c.now)
		if got := w.covered(p); got != c.want {
			t.Errorf("on %q of a %s at %d: %v", c.node, c.owner, c.now, got)
		}
	}
}
