package sched

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"hash/fnv"

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

// rendezvous is the rank of a node for something: the same on every node, and unrelated to anything else.
func rendezvous(of, node string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(of))
	h.Write([]byte{0})
	h.Write([]byte(node))
	// FNV alone leaves neighbouring names near each other.
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, h.Sum64()))
	return binary.BigEndian.Uint64(sum[:8])
}

// highest is the node with the highest rank; "" among none.
func highest(of string, nodes []string) string {
	best := ""
	for _, n := range nodes {
		if best == "" || rendezvous(of, n) > rendezvous(of, best) || rendezvous(of, n) == rendezvous(of, best) && n < best {
			best = n
		}
	}
	return best
}
