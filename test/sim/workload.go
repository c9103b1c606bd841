package sim

import (
	"fmt"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"murmur/crdt"
	"murmur/crdt/store"
)

const (
	configMaps  = "configmaps"
	deployments = "apps/deployments"
)

// resources are the kinds that are written and watched.
var resources = []string{configMaps, deployments}

// workload has users write, each to the node they happen to know.
func (w *world) workload(end time.Duration) {
	rate := w.between(20*time.Millisecond, 200*time.Millisecond)
	var next func()
	next = func() {
		if w.now >= end || w.err != nil {
			return
		}
		if n := w.nodes[w.random.IntN(len(w.nodes))]; n.up() {
			burst := 1
			if w.chance(0.05) {
				burst = 20
			}
			for range burst {
				if n.up() && w.err == nil {
					w.write(n)
				}
			}
		}
		w.after(w.between(0, 2*rate), next)
	}
	w.after(0, next)
}

// write changes one of a few objects: makes it, changes some of its fields, or deletes it.
func (w *world) write(n *node) {
	k := crdt.Key{Resource: resources[w.random.IntN(2)], Namespace: "default", Name: fmt.Sprintf("o%d", w.random.IntN(4))}
	base, exists := n.store.Snapshot().Get(k)
	wr := &write{node: n, key: k, before: n.store.Report().Vector, origin: n.store.Origin(), seq: n.seq() + 1, fields: map[string]string{}}
	in := store.Write{Key: k, Base: base}
	switch {
	case !exists:
		in.Base = nil
		wr.kind = created
		in.Object = w.fresh(wr)
	case w.chance(0.08):
		wr.kind, wr.uid = deleted, string(base.UID)
	default:
		wr.kind, wr.uid = updated, string(base.UID)
		in.Object = w.change(wr, base)
	}
	if in.Object == nil && wr.kind != deleted {
		return
	}
	w.history.attempt(wr)
	w.mix(uint64(n.index), wr.seq, uint64(wr.kind))
	e, ok := n.commit(in)
	if !ok {
		w.tell("%s did not acknowledge %v", n.name, wr)
		return
	}
	if e != nil && wr.kind == created {
		wr.uid = string(e.UID)
	}
	if n.seq() < wr.seq {
		wr.failed = true // it changed nothing, and its number goes to another
		return
	}
	w.history.commit(wr)
	w.tell("%s acknowledged %v", n.name, wr)
}

// value is one that nobody wrote before.
func (w *world) value() string {
	w.values++
	return fmt.Sprint("v", w.values)
}

func (w *world) fresh(wr *write) runtime.Object {
	meta := metav1.ObjectMeta{Name: wr.key.Name, Namespace: wr.key.Namespace}
	if wr.key.Resource == configMaps {
		cm := &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: meta, Data: map[string]string{}}
		w.setData(wr, cm)
		return cm
	}
	d := &appsv1.Deployment{TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}, ObjectMeta: meta}
	d.Generation = 1
	w.setContainers(wr, d)
	return d
}

func (w *world) change(wr *write, base *store.Entry) runtime.Object {
	if wr.key.Resource == configMaps {
		cm := &corev1.ConfigMap{}
		if err := base.Into(cm); err != nil {
			w.fail("%s: %v", wr.key, err)
			return nil
		}
		if cm.Data == nil {
			cm.Data = map[string]string{}
		}
		w.setData(wr, cm)
		return cm
	}
	d := &appsv1.Deployment{}
	if err := base.Into(d); err != nil {
		w.fail("%s: %v", wr.key, err)
		return nil
	}
	d.Generation++
	w.setContainers(wr, d)
	return d
}

// setData changes one or two entries, or takes one away.
func (w *world) setData(wr *write, cm *corev1.ConfigMap) {
	cm.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}
	for range 1 + w.random.IntN(2) {
		f := fmt.Sprintf("f%d", w.random.IntN(4))
		if _, there := cm.Data[f]; there && w.chance(0.15) {
			delete(cm.Data, f)
			wr.fields[f] = ""
			continue
		}
		cm.Data[f] = w.value()
		wr.fields[f] = cm.Data[f]
	}
}

// setContainers changes the image of a container, adds one, or takes one away. Its list is keyed by name.
func (w *world) setContainers(wr *write, d *appsv1.Deployment) {
	d.TypeMeta = metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}
	list := &d.Spec.Template.Spec.Containers
	name := fmt.Sprintf("c%d", w.random.IntN(4))
	i := slices.IndexFunc(*list, func(c corev1.Container) bool { return c.Name == name })
	switch {
	case i >= 0 && w.chance(0.2):
		*list = slices.Delete(*list, i, i+1)
		wr.fields[name] = ""
	case i >= 0:
		(*list)[i].Image = w.value()
		wr.fields[name] = (*list)[i].Image
	default:
		c := corev1.Container{Name: name, Image: w.value()}
		*list = slices.Insert(*list, w.random.IntN(len(*list)+1), c)
		wr.fields[name] = c.Image
	}
}

// fieldsOf reads an object as the workload wrote it.
func fieldsOf(e *store.Entry) (map[string]string, error) {
	if e.Key.Resource == configMaps {
		cm, err := store.As[corev1.ConfigMap](e)
		if err != nil {
			return nil, err
		}
		return maps.Clone(cm.Data), nil
	}
	d, err := store.As[appsv1.Deployment](e)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, c := range d.Spec.Template.Spec.Containers {
		if _, twice := out[c.Name]; twice {
			return nil, fmt.Errorf("%s has two containers %s", e.Key, c.Name)
		}
		out[c.Name] = c.Image
	}
	return out, nil
}
