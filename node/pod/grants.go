package pod

import (
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// grants are the running pods that were granted more than they had, until that is in the store. So two that ask at the same
// time are not granted the same room, and neither waits for the other's write.
type grants struct {
	mu   sync.Mutex
	pods map[types.UID]*corev1.Pod
}

// ask has decide say whether a pod may have what it asks for beside what others were granted. Unless there is a reason
// against it, the pod is one of them until settle.
func (g *grants) ask(p *corev1.Pod, decide func(*corev1.Pod, map[types.UID]*corev1.Pod) (reason, message string)) (reason, message string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if reason, message := decide(p, g.pods); reason != "" {
		return reason, message
	}
	if g.pods == nil {
		g.pods = map[types.UID]*corev1.Pod{}
	}
	g.pods[p.UID] = p
	return "", ""
}

// settle ends the grant of a pod: it is in the store, or was not written.
func (g *grants) settle(uid types.UID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.pods, uid)
}
