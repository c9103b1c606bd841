package sched

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// representative is a pod reduced to what placement looks at. Pods with equal representatives are one class: they are
// offered, bid for and awarded together.
func representative(pod *corev1.Pod) *corev1.Pod {
	out := &corev1.Pod{}
	if o := metav1.GetControllerOf(pod); o != nil {
		out.OwnerReferences = []metav1.OwnerReference{*o}
	}
	containers := func(in []corev1.Container) (out []corev1.Container) {
		for _, c := range in {
			out = append(out, corev1.Container{Image: c.Image, Ports: c.Ports, Resources: c.Resources, RestartPolicy: c.RestartPolicy})
		}
		return out
	}
	s := &pod.Spec
	out.Spec = corev1.PodSpec{
		InitContainers: containers(s.InitContainers), Containers: containers(s.Containers),
		NodeSelector: s.NodeSelector, Affinity: s.Affinity, Tolerations: s.Tolerations,
		TopologySpreadConstraints: s.TopologySpreadConstraints, Overhead: s.Overhead, Resources: s.Resources,
		Priority: s.Priority, PriorityClassName: s.PriorityClassName, PreemptionPolicy: s.PreemptionPolicy, HostNetwork: s.HostNetwork,
	}
	return out
}

// classOf is the key of a representative.
func classOf(r *corev1.Pod) string {
	b, err := json.Marshal(r)
	if err != nil {
		panic(err) // a typed object always encodes
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}
