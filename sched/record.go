package sched

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"murmur/crdt/store"
	"murmur/rendezvous"
)

// The placement record of a pod, and the incarnation of a node, as annotations.
const (
	prefix = "placement.murmur.io/"
	// ArbiterAnnotation names the arbiter of record: "node/incarnation".
	ArbiterAnnotation = prefix + "arbiter"
	// EpochAnnotation counts the arbiters that the pod has had; the first is 1.
	EpochAnnotation = prefix + "epoch"
	// IncarnationAnnotation of a Node object is how often the node has started.
	IncarnationAnnotation = prefix + "incarnation"
	claimPrefix           = store.ClaimPrefix
)

// Identity is a node in one of its lives.
type Identity struct {
	Node        string `json:"node"`
	Incarnation uint64 `json:"incarnation"`
}

func (i Identity) String() string {
	if i.Node == "" {
		return ""
	}
	return i.Node + "/" + strconv.FormatUint(i.Incarnation, 10)
}

func parseIdentity(s string) Identity {
	node, n, ok := strings.Cut(s, "/")
	inc, err := strconv.ParseUint(n, 10, 64)
	if !ok || err != nil || node == "" {
		return Identity{}
	}
	return Identity{node, inc}
}

// Claim is a node's word that it runs a pod. Each node has its own key, so that the claims of two sides of a partition
// meet as two claims and neither is lost.
type Claim struct {
	Node string `json:"node"`
	// Pod is the UID: a claim copied into another pod's manifest says nothing.
	Pod         types.UID `json:"pod"`
	Incarnation uint64    `json:"incarnation"`
	Epoch       uint64    `json:"epoch"`
	At          time.Time `json:"at"`
	// Ready is kept only while more than one node claims the pod.
	Ready bool `json:"ready,omitempty"`
}

// claimKey is the annotation of a node's claim. Annotation names end at 63 characters; longer ones are hashed.
func claimKey(node string) string {
	if len(node) > 63-len("claim.") {
		sum := sha256.Sum256([]byte(node))
		return claimPrefix + hex.EncodeToString(sum[:16])
	}
	return claimPrefix + node
}

func (c Claim) annotate(pod *corev1.Pod) {
	b, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[claimKey(c.Node)] = string(b)
}

// Claims lists the claims of a pod by node name. Unreadable ones are left out.
func Claims(pod *corev1.Pod) []Claim {
	var out []Claim
	for k, v := range pod.Annotations {
		var c Claim
		if strings.HasPrefix(k, claimPrefix) && json.Unmarshal([]byte(v), &c) == nil && claimKey(c.Node) == k && c.Pod == pod.UID {
			out = append(out, c)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Node < out[j].Node })
	return out
}

// ClaimOf is a node's claim of a pod.
func ClaimOf(pod *corev1.Pod, node string) (Claim, bool) {
	v, ok := pod.Annotations[claimKey(node)]
	var c Claim
	return c, ok && json.Unmarshal([]byte(v), &c) == nil && c.Node == node && c.Pod == pod.UID
}

// Record is a pod's arbiter of record and its epoch; zero for a pod that has none.
func Record(pod *corev1.Pod) (Identity, uint64) {
	epoch, _ := strconv.ParseUint(pod.Annotations[EpochAnnotation], 10, 64)
	return parseIdentity(pod.Annotations[ArbiterAnnotation]), epoch
}

// annotations is the record of a pod under an arbiter.
func (i Identity) annotations(epoch uint64) map[string]string {
	return map[string]string{ArbiterAnnotation: i.String(), EpochAnnotation: strconv.FormatUint(epoch, 10)}
}

// incarnationOf is what a Node object says of its node's life; 0 if nothing.
func incarnationOf(node *corev1.Node) uint64 {
	n, _ := strconv.ParseUint(node.Annotations[IncarnationAnnotation], 10, 64)
	return n
}

// Winner is the node that keeps a pod which several claim: the ready one, then the one that claimed earlier, then by
// rendezvous hash. It looks at replicated fields only, so nodes with the same view name the same. Claims of nodes that
// are not alive count only if all are such; a nil alive takes all for alive. Of a pod without claims it is the node that it is bound to.
func Winner(pod *corev1.Pod, alive func(node string) bool) string {
	var best *Claim
	for _, c := range Claims(pod) {
		up := alive == nil || alive(c.Node)
		bestUp := best != nil && (alive == nil || alive(best.Node))
		if best == nil || up && !bestUp || up == bestUp && c.beats(*best, string(pod.UID)) {
			best = &c
		}
	}
	if best == nil {
		return pod.Spec.NodeName
	}
	return best.Node
}

func (c Claim) beats(o Claim, uid string) bool {
	switch {
	case c.Ready != o.Ready:
		return c.Ready
	case !c.At.Equal(o.At):
		return c.At.Before(o.At)
	}
	return rendezvous.Outranks(rendezvous.PodKey(uid), c.Node, o.Node)
}

// Holds tells whether a node is one of those that run the pod. While two nodes claim a pod both do, whatever
// spec.nodeName says after the merge, until the loser has given up its claim.
func Holds(pod *corev1.Pod, node string) bool {
	if _, ok := ClaimOf(pod, node); ok {
		return true
	}
	return pod.Spec.NodeName == node && len(Claims(pod)) == 0
}

// finished pods count for nothing.
func finished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// claimed tells whether some node has the pod.
func claimed(pod *corev1.Pod) bool { return pod.Spec.NodeName != "" || len(Claims(pod)) > 0 }

// wanted tells whether a pod is ours to place.
func wanted(pod *corev1.Pod) bool {
	return !claimed(pod) && !finished(pod) && pod.DeletionTimestamp == nil && len(pod.Spec.SchedulingGates) == 0 &&
		(pod.Spec.SchedulerName == "" || pod.Spec.SchedulerName == corev1.DefaultSchedulerName)
}

func podName(pod *corev1.Pod) string { return fmt.Sprintf("%s/%s", pod.Namespace, pod.Name) }
