package control

import (
	"fmt"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// TestRevisionsInUse: the limit is of the revisions that nobody uses. What a pod of a StatefulSet has, and its current
// revision, is neither counted nor deleted.
func TestRevisionsInUse(t *testing.T) {
	template := func(n int) corev1.PodTemplateSpec {
		return corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: fmt.Sprint("db:", n)}}}}
	}
	for _, c := range []struct {
		name    string
		limit   int32
		current string // the set's current revision
		pods    []string
		gone    []string
	}{
		{"within the limit", 3, "r4", []string{"r4"}, nil},
		{"the oldest goes", 2, "r4", []string{"r4"}, []string{"r1"}},
		{"the current one stays, and the newest that nobody uses", 1, "r1", []string{"r4"}, []string{"r2"}},
		{"so do those of pods", 1, "r1", []string{"r2", "r4"}, nil},
		{"no history", 0, "r2", []string{"r3", "r4"}, []string{"r1"}},
	} {
		set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db", Namespace: "default", UID: "set"},
			Spec:   appsv1.StatefulSetSpec{Template: template(4), RevisionHistoryLimit: &c.limit, Selector: &metav1.LabelSelector{}},
			Status: appsv1.StatefulSetStatus{CurrentRevision: c.current}}
		o := &ordered{set: set, pods: map[int]*corev1.Pod{}, nodes: map[string]sight{}, now: epoch, claimed: func(string) bool { return true }}
		for i := range 4 {
			o.revisions = append(o.revisions, &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("r", i+1), Namespace: "default"},
				Data: runtime.RawExtension{Raw: templatePatch(template(i + 1))}, Revision: int64(i + 1)})
		}
		for i, revision := range c.pods {
			o.pods[i] = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("db-", i), Namespace: "default",
				Labels: map[string]string{appsv1.ControllerRevisionHashLabelKey: revision}}}
		}
		p, _ := o.decide()
		var gone []string
		for _, w := range p.writes {
			if w.key.Resource == controllerRevisions {
				gone = append(gone, w.key.Name)
			}
		}
		if !slices.Equal(gone, c.gone) {
			t.Errorf("%s: %v go, want %v", c.name, gone, c.gone)
		}
	}
}
