package control

import (
	"cmp"
	"encoding/json"
	"reflect"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"murmur/crdt"
)

const controllerRevisions = "apps/controllerrevisions"

// history is the pod templates that a DaemonSet or a StatefulSet has had, each in a ControllerRevision whose name is a
// function of it, so that two nodes that note the same template write the same object.
type history struct {
	owner    metav1.Object
	kind     schema.GroupVersionKind
	template corev1.PodTemplateSpec
	limit    *int32
	have     []*appsv1.ControllerRevision
	// used tells whether a pod, or what is to come, still has a revision. Those are not counted against the limit, and stay.
	used func(*appsv1.ControllerRevision) bool
}

// record finds the revision of the template as it is now, and says what to write: it, if it is new; its number, if it is a
// template of before that was brought back; and the end of the oldest that nobody uses and that are beyond the limit.
func (h history) record() (*appsv1.ControllerRevision, []write) {
	var writes []write
	var now *appsv1.ControllerRevision
	var old []*appsv1.ControllerRevision
	data, highest := templatePatch(h.template), int64(0)
	for _, r := range h.have {
		if !sameJSON(r.Data.Raw, data) {
			old = append(old, r)
			highest = max(highest, r.Revision)
		} else if now == nil || r.Revision > now.Revision || r.Revision == now.Revision && r.Name < now.Name {
			now = r
		}
	}
	switch {
	case now == nil:
		hash := templateHash(data)
		labels := map[string]string{}
		for k, v := range h.template.Labels {
			labels[k] = v
		}
		labels[appsv1.ControllerRevisionHashLabelKey] = hash
		now = &appsv1.ControllerRevision{
			ObjectMeta: metav1.ObjectMeta{Name: h.owner.GetName() + "-" + hash, Namespace: h.owner.GetNamespace(), Labels: labels, Annotations: h.owner.GetAnnotations(),
				OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(h.owner, h.kind)}},
			Data: runtime.RawExtension{Raw: data}, Revision: highest + 1}
		writes = append(writes, write{verb: create, obj: now})
	case now.Revision <= highest: // a rollback
		now = now.DeepCopy()
		now.Revision = highest + 1
		writes = append(writes, write{verb: update, obj: now})
	}
	if h.limit == nil {
		return now, writes
	}
	old = slices.DeleteFunc(old, h.used)
	slices.SortFunc(old, func(a, b *appsv1.ControllerRevision) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), strings.Compare(a.Name, b.Name))
	})
	for _, r := range old[:max(0, len(old)-int(*h.limit))] {
		writes = append(writes, deletion(crdt.Key{Resource: controllerRevisions, Namespace: r.Namespace, Name: r.Name}, r.UID))
	}
	return now, writes
}

// templatePatch is what a revision holds, in upstream's form: the patch that brings the template back, which is also what
// `kubectl rollout undo` sends.
func templatePatch(template corev1.PodTemplateSpec) []byte {
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&template)
	if err != nil {
		panic(err) // it came as JSON
	}
	fields["$patch"] = "replace"
	data, err := json.Marshal(map[string]any{"spec": map[string]any{"template": fields}})
	if err != nil {
		panic(err)
	}
	return data
}

// templateOf is the template that a revision holds.
func templateOf(r *appsv1.ControllerRevision) (*corev1.PodTemplateSpec, error) {
	var patch struct {
		Spec struct {
			Template corev1.PodTemplateSpec `json:"template"`
		} `json:"spec"`
	}
	err := json.Unmarshal(r.Data.Raw, &patch)
	return &patch.Spec.Template, err
}

// templateHash names a template, given as a revision holds it.
func templateHash(patch []byte) string {
	return suffix(string(patch)) + suffix("revision", string(patch))
}

// sameJSON compares two documents whatever the order of their fields.
func sameJSON(a, b []byte) bool {
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}
