package accepted

import (
	"container/list"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	core "k8s.io/kubernetes/pkg/apis/core"
)

// Reason of the Events that tell what is not acted on.
const Reason = "FieldNotActedOn"

// remembered is how many owners of pods a node remembers to have told. One that is forgotten is told again, which costs an Event.
const remembered = 1024

// Events tells in an Event what a new pod has that nothing here acts on. Pods of one owner with the same of it are one template, of which the
// first pod that is made here gets the Event: a thousand replicas are one word, not a thousand.
type Events struct {
	fields *Fields
	write  func(about *corev1.ObjectReference, reason, message string)

	mu    sync.Mutex
	told  map[template]*list.Element
	order *list.List // of template, the latest told in front
}

// template is what makes pods that have the same to be told.
type template struct {
	owner types.UID
	text  string
}

// Events are written by write, which must not wait.
func (f *Fields) Events(write func(about *corev1.ObjectReference, reason, message string)) *Events {
	return &Events{fields: f, write: write, told: map[template]*list.Element{}, order: list.New()}
}

// Created is called with a pod that has just been stored.
func (e *Events) Created(obj runtime.Object) {
	pod, ok := obj.(*core.Pod)
	if !ok {
		return
	}
	said := sentences(find(e.fields.late, pod))
	if len(said) == 0 {
		return
	}
	text := strings.Join(said, "\n")
	if owner := metav1.GetControllerOf(pod); owner != nil && !e.first(template{owner.UID, text}) {
		return
	}
	e.write(&corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID}, Reason, text)
}

// first tells whether nobody was told of a template, and remembers that now somebody is.
func (e *Events) first(t template) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if at, ok := e.told[t]; ok {
		e.order.MoveToFront(at)
		return false
	}
	e.told[t] = e.order.PushFront(t)
	if e.order.Len() > remembered {
		delete(e.told, e.order.Remove(e.order.Back()).(template))
	}
	return true
}
