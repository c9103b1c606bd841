package pod

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestResolver(t *testing.T) {
	node := DNS{Servers: []string{"9.9.9.9"}, Searches: []string{"corp.example"}, Options: []string{"timeout:1"}}
	two := "2"
	for _, c := range []struct {
		name string
		spec corev1.PodSpec
		want string
	}{
		{"default", corev1.PodSpec{}, "[10.43.0.10] [ns.svc.cluster.local svc.cluster.local cluster.local corp.example] [ndots:5]"},
		{"host network", corev1.PodSpec{HostNetwork: true}, "[9.9.9.9] [corp.example] [timeout:1]"},
		{"host network, cluster first", corev1.PodSpec{HostNetwork: true, DNSPolicy: corev1.DNSClusterFirstWithHostNet}, "[10.43.0.10] [ns.svc.cluster.local svc.cluster.local cluster.local corp.example] [ndots:5]"},
		{"node's", corev1.PodSpec{DNSPolicy: corev1.DNSDefault}, "[9.9.9.9] [corp.example] [timeout:1]"},
		{"none", corev1.PodSpec{DNSPolicy: corev1.DNSNone, DNSConfig: &corev1.PodDNSConfig{Nameservers: []string{"1.1.1.1"}}}, "[1.1.1.1] [] []"},
		{"config", corev1.PodSpec{DNSConfig: &corev1.PodDNSConfig{Searches: []string{"a.b"}, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: &two}, {Name: "edns0"}}}},
			"[10.43.0.10] [ns.svc.cluster.local svc.cluster.local cluster.local corp.example a.b] [ndots:2 edns0]"},
	} {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}, Spec: c.spec}
		d := resolver(p, node, []string{"10.43.0.10"}, "cluster.local")
		if got := fmt.Sprint(d.Servers, d.Searches, d.Options); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestResources(t *testing.T) {
	list := func(cpu, memory string) corev1.ResourceList {
		l := corev1.ResourceList{}
		if cpu != "" {
			l[corev1.ResourceCPU] = resource.MustParse(cpu)
		}
		if memory != "" {
			l[corev1.ResourceMemory] = resource.MustParse(memory)
		}
		return l
	}
	for _, c := range []struct {
		requests, limits corev1.ResourceList
		want             Resources
	}{
		{nil, nil, Resources{CPUShares: 2, CPUPeriod: 100000, OOMScoreAdj: 1000}},
		{list("250m", "256Mi"), nil, Resources{CPUShares: 256, CPUPeriod: 100000, OOMScoreAdj: 750}},
		{list("500m", "1Gi"), list("500m", "1Gi"), Resources{CPUShares: 512, CPUQuota: 50000, CPUPeriod: 100000, Memory: 1 << 30, OOMScoreAdj: -997}},
		{list("1m", ""), list("5m", ""), Resources{CPUShares: 2, CPUQuota: 1000, CPUPeriod: 100000, OOMScoreAdj: 999}},
	} {
		p := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: c.requests, Limits: c.limits}}}}}
		if got := containerResources(p, &p.Spec.Containers[0], 1<<30); got != c.want {
			t.Errorf("%v %v: %+v, want %+v", c.requests, c.limits, got, c.want)
		}
	}
}

func TestImagesToRemove(t *testing.T) {
	now := time.Unix(10000, 0)
	images := []Image{{ID: "new", Size: 10}, {ID: "old", Size: 10}, {ID: "used", Size: 50}, {ID: "pinned", Size: 50, Pinned: true}, {ID: "just", Size: 10}}
	used := map[string]time.Time{"new": time.Unix(900, 0), "old": time.Unix(100, 0), "used": now, "pinned": time.Unix(1, 0), "just": now}
	for _, c := range []struct {
		free int64
		want string
	}{{20, "[]"}, {15, "[old]"}, {5, "[old new]"}, {0, "[old new]"}} {
		var got []string
		for _, i := range imagesToRemove(images, map[string]bool{"used": true}, used, disk{total: 100, free: c.free}, 85, 80, now) {
			got = append(got, i.ID)
		}
		if s := fmt.Sprint(got); s != c.want {
			t.Errorf("free %d: %s, want %s", c.free, s, c.want)
		}
	}
}

func TestNodeStatus(t *testing.T) {
	first := time.Unix(1000, 0)
	good := Reading{RuntimeVersion: "containerd://2", MemoryAvailable: 1 << 30, Disk: disk{100, 50, 50}, ImageDisk: disk{100, 50, 50}, PIDs: 100, MaxPIDs: 32768}
	st := nodeStatus(corev1.NodeStatus{}, facts{}, nil, good, first)
	again := nodeStatus(st, facts{}, nil, good, first.Add(time.Hour))
	if fmt.Sprint(again.Conditions) != fmt.Sprint(st.Conditions) {
		t.Errorf("an hour changes the conditions: %v", again.Conditions)
	}
	bad := Reading{NotReady: "container runtime is down", MemoryAvailable: 1 << 20, Disk: disk{100, 5, 50}, ImageDisk: disk{100, 50, 50}, PIDs: 32000, MaxPIDs: 32768}
	st = nodeStatus(st, facts{}, nil, bad, first.Add(time.Hour))
	want := map[corev1.NodeConditionType]corev1.ConditionStatus{corev1.NodeReady: "False", corev1.NodeMemoryPressure: "True", corev1.NodeDiskPressure: "True", corev1.NodePIDPressure: "True"}
	for _, c := range st.Conditions {
		if c.Status != want[c.Type] || !c.LastTransitionTime.Time.Equal(first.Add(time.Hour)) {
			t.Errorf("%+v", c)
		}
	}
	if st.NodeInfo.ContainerRuntimeVersion != "containerd://2" {
		t.Errorf("the runtime's version is forgotten while it is down")
	}
}

// TestExtendedResources: what somebody else says that a node has is kept; what the machine has, and what it has no more, the node says.
func TestExtendedResources(t *testing.T) {
	list := func(name string, n int64) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: *resource.NewQuantity(2, resource.DecimalSI), corev1.ResourceName(name): *resource.NewQuantity(n, resource.DecimalSI)}
	}
	f := facts{capacity: list("memory", 8), allocatable: list("memory", 7)}
	for _, c := range []struct {
		name                  string
		capacity, allocatable corev1.ResourceList
		want                  string // of capacity and allocatable
	}{
		{"written as capacity", list("example.com/foo", 5), nil, "5 5"},
		{"with less to give away", list("example.com/foo", 5), list("example.com/foo", 3), "5 3"},
		{"taken away", nil, nil, "0 0"},
		{"the machine's are its own to say", list("kubernetes.io/foo", 5), list("hugepages-2Mi", 5), "0 0"},
	} {
		st := nodeStatus(corev1.NodeStatus{Capacity: c.capacity, Allocatable: c.allocatable}, f, nil, Reading{}, time.Unix(1000, 0))
		foo, has := st.Capacity["example.com/foo"], st.Allocatable["example.com/foo"]
		if got := foo.String() + " " + has.String(); got != c.want || st.Capacity.Memory().Value() != 8 || st.Allocatable.Memory().Value() != 7 ||
			len(st.Capacity) > 3 || len(st.Allocatable) > 3 || c.want == "0 0" && len(st.Capacity)+len(st.Allocatable) != 4 {
			t.Errorf("%s: %s, capacity %v, allocatable %v", c.name, got, st.Capacity, st.Allocatable)
		}
	}
	if len(f.capacity) != 2 || len(f.allocatable) != 2 {
		t.Errorf("the facts were changed: %+v", f)
	}
}
