package pod

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/kubernetes/pkg/apis/core/v1/helper/qos"
)

// The cgroup formulas of the kubelet.
const (
	cpuPeriod = 100000 // microseconds
	minShares = 2
	minQuota  = 1000
)

func cpuShares(milli int64) uint64 { return uint64(min(max(milli*1024/1000, minShares), 262144)) }

func cpuQuota(milli int64) int64 {
	if milli == 0 {
		return 0
	}
	return max(milli*cpuPeriod/1000, minQuota)
}

func resourcesFrom(requests, limits corev1.ResourceList) Resources {
	r := Resources{CPUPeriod: cpuPeriod, CPUQuota: cpuQuota(limits.Cpu().MilliValue()), Memory: limits.Memory().Value()}
	request, asked := requests[corev1.ResourceCPU]
	if !asked {
		request = limits[corev1.ResourceCPU]
	}
	r.CPUShares = cpuShares(request.MilliValue())
	return r
}

// containerResources are the cgroup settings of one container; memory is the node's, bytes.
func containerResources(p *corev1.Pod, c *corev1.Container, memory int64) Resources {
	r := resourcesFrom(c.Resources.Requests, c.Resources.Limits)
	switch qos.GetPodQOS(p) {
	case corev1.PodQOSGuaranteed:
		r.OOMScoreAdj = -997
	case corev1.PodQOSBestEffort:
		r.OOMScoreAdj = 1000
	default:
		// The more of the node's memory it asked for, the later it is chosen.
		r.OOMScoreAdj = 1000
		if memory > 0 {
			r.OOMScoreAdj = min(max(1000-1000*c.Resources.Requests.Memory().Value()/memory, 3), 999)
		}
	}
	return r
}

// podResources are the settings of the pod's own cgroup: its weight, and a limit where every container has one.
func podResources(p *corev1.Pod) Resources {
	r := resourcesFrom(resource.PodRequests(p, resource.PodResourcesOptions{}), resource.PodLimits(p, resource.PodResourcesOptions{}))
	everyCPU, everyMemory := true, true
	for c := range podutil.ContainerIter(&p.Spec, podutil.InitContainers|podutil.Containers) {
		everyCPU = everyCPU && !c.Resources.Limits.Cpu().IsZero()
		everyMemory = everyMemory && !c.Resources.Limits.Memory().IsZero()
	}
	if whole := p.Spec.Resources; whole != nil {
		everyCPU = everyCPU || !whole.Limits.Cpu().IsZero()
		everyMemory = everyMemory || !whole.Limits.Memory().IsZero()
	}
	if !everyCPU {
		r.CPUQuota = 0
	}
	if !everyMemory {
		r.Memory = 0
	}
	return r
}
