package control

import (
	"crypto/sha256"
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// What a pod says of its place among the pods of its owner, as annotations.
const (
	// SlotAnnotation is which of the owner's slots the pod was made for: 0 and up.
	SlotAnnotation = "murmur.io/slot"
	// AttemptAnnotation counts the pods that the slot had before this one.
	AttemptAnnotation = "murmur.io/attempt"
	// CoversAnnotation names the pod that this one was made to stand in for while its node could not be reached.
	CoversAnnotation = "murmur.io/covers"
)

// alphabet is that of upstream's generated names: no vowels, nothing to be misread.
const alphabet = "bcdfghjklmnpqrstvwxz2456789"

// suffix is five characters that are a function of parts.
func suffix(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	out := make([]byte, 5)
	for i := range out {
		out[i] = alphabet[int(sum[i])%len(alphabet)]
	}
	return string(out)
}

// maxPrefix is how much of the owner's name goes into a generated one, as upstream.
const maxPrefix = 63 - 5

func generated(owner string, parts ...string) string {
	prefix := owner + "-"
	if len(prefix) > maxPrefix {
		prefix = prefix[:maxPrefix]
	}
	return prefix + suffix(parts...)
}

// podName is the name of the pod of an owner's slot. side is empty while every registered node is in sight; during a
// partition it is the controller of record, so that what two sides make are two pods.
func podName(owner metav1.Object, slot, attempt int, side string) string {
	return generated(owner.GetName(), string(owner.GetUID()), strconv.Itoa(slot), strconv.Itoa(attempt), side)
}

// coverName is the name of a pod that stands in for another.
func coverName(owner metav1.Object, slot, attempt int, covers types.UID, side string) string {
	return generated(owner.GetName(), string(owner.GetUID()), strconv.Itoa(slot), strconv.Itoa(attempt), "cover", string(covers), side)
}

// annotated reads a count from a pod's annotations; -1 if it has none.
func annotated(p *corev1.Pod, key string) int {
	n, err := strconv.Atoi(p.Annotations[key])
	if err != nil || n < 0 {
		return -1
	}
	return n
}

// unplace takes from a new pod what its template says of a place: that is for the controller to say, which admission believes.
func unplace(p *corev1.Pod) {
	for _, key := range []string{SlotAnnotation, AttemptAnnotation, CoversAnnotation} {
		delete(p.Annotations, key)
	}
}

func annotate(p *corev1.Pod, key string, value any) {
	if p.Annotations == nil {
		p.Annotations = map[string]string{}
	}
	p.Annotations[key] = fmt.Sprint(value)
}
