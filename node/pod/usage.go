package pod

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

// measureEvery is how often use is measured; a rate is over what lies between two measurements.
const measureEvery = 15 * time.Second

// reading is what the node, or a container, has used up to a moment, and the memory it holds then.
type reading struct {
	at     time.Time
	cpu    time.Duration // since it began
	memory int64         // working set, bytes
}

// measured is all that was measured at once.
type measured struct {
	node       reading
	containers map[string]ContainerStats // by id
}

// meter keeps the last two measurements.
type meter struct {
	mu         sync.Mutex // guards what follows
	last, prev *measured
}

// measure measures until ctx ends.
func (k *Kubelet) measure(ctx context.Context) error {
	for {
		stats, err := k.cfg.Runtime.Stats(ctx)
		if err != nil && ctx.Err() == nil {
			k.cfg.Log.Debug("cannot measure what containers use", "err", err)
		}
		if err == nil {
			k.meter.add(nodeReading(time.Now(), readFile("/proc/stat"), meminfo("MemTotal")-meminfo("MemFree")-meminfo("Inactive(file)")), stats)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(measureEvery):
		}
	}
}

func (m *meter) add(node reading, stats []ContainerStats) {
	next := &measured{node: node, containers: map[string]ContainerStats{}}
	for _, s := range stats {
		next.containers[s.ID] = s
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.prev, m.last = m.last, next
}

// Usage is what this node and its pods used between the last two measurements: nil and none before the second. Memory is the working set,
// as of the last. A pod is left out until all of its containers have been measured twice. Nothing else of the objects' metadata than names
// is set.
func (k *Kubelet) Usage() (*metricsv1beta1.NodeMetrics, []metricsv1beta1.PodMetrics) {
	k.meter.mu.Lock()
	prev, last := k.meter.prev, k.meter.last
	k.meter.mu.Unlock()
	if prev == nil {
		return nil, nil
	}
	node, pods := used(prev, last)
	if node != nil {
		node.Name = k.cfg.Node
	}
	return node, pods
}

// used is what was used between two measurements.
func used(prev, last *measured) (*metricsv1beta1.NodeMetrics, []metricsv1beta1.PodMetrics) {
	var node *metricsv1beta1.NodeMetrics
	if u, window, ok := rate(prev.node, last.node); ok {
		node = &metricsv1beta1.NodeMetrics{Timestamp: metav1.NewTime(last.node.at), Window: metav1.Duration{Duration: window}, Usage: u}
	}
	pods := map[Ref]*metricsv1beta1.PodMetrics{}
	partly := map[Ref]bool{}
	for _, id := range slices.Sorted(maps.Keys(last.containers)) {
		now := last.containers[id]
		u, window, ok := rate(prev.containers[id].reading(), now.reading())
		if !ok {
			partly[now.Pod] = true
			continue
		}
		p := pods[now.Pod]
		if p == nil {
			p = &metricsv1beta1.PodMetrics{ObjectMeta: metav1.ObjectMeta{Name: now.Pod.Name, Namespace: now.Pod.Namespace}}
			pods[now.Pod] = p
		}
		p.Containers = append(p.Containers, metricsv1beta1.ContainerMetrics{Name: now.Name, Usage: u})
		// The pod's moment is its oldest container's.
		if p.Timestamp.IsZero() || now.Time.Before(p.Timestamp.Time) {
			p.Timestamp, p.Window = metav1.NewTime(now.Time), metav1.Duration{Duration: window}
		}
	}
	var all []metricsv1beta1.PodMetrics
	for ref, p := range pods {
		if partly[ref] {
			continue
		}
		slices.SortFunc(p.Containers, func(a, b metricsv1beta1.ContainerMetrics) int { return strings.Compare(a.Name, b.Name) })
		all = append(all, *p)
	}
	slices.SortFunc(all, func(a, b metricsv1beta1.PodMetrics) int {
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})
	return node, all
}

func (s ContainerStats) reading() reading { return reading{s.Time, s.CPU, s.Memory} }

// rate is what was used between two readings of the same thing; false if they say nothing, as the second of a thing that began anew.
func rate(prev, last reading) (corev1.ResourceList, time.Duration, bool) {
	window := last.at.Sub(prev.at)
	if prev.at.IsZero() || window <= 0 || last.cpu < prev.cpu || last.memory < 0 {
		return nil, 0, false
	}
	// Nanoseconds of processor time in a second are billionths of a processor.
	nano := int64(float64(last.cpu-prev.cpu) / window.Seconds())
	return corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewScaledQuantity(nano, resource.Nano),
		corev1.ResourceMemory: *resource.NewQuantity(last.memory, resource.BinarySI),
	}, window, true
}

// ticksPerSecond is the unit of /proc/stat: USER_HZ, 100 wherever this runs.
const ticksPerSecond = 100

// nodeReading is the node's, from /proc/stat. What the first line counts is user, nice, system, idle, iowait, irq, softirq and
// steal; guests are in user already.
func nodeReading(now time.Time, stat string, memory int64) reading {
	line, _, _ := strings.Cut(stat, "\n")
	f := strings.Fields(line)
	if len(f) < 8 || f[0] != "cpu" {
		return reading{}
	}
	var ticks int64
	for _, i := range []int{1, 2, 3, 6, 7, 8} {
		if i < len(f) {
			n, _ := strconv.ParseInt(f[i], 10, 64)
			ticks += n
		}
	}
	return reading{at: now, cpu: time.Duration(ticks) * (time.Second / ticksPerSecond), memory: memory}
}
