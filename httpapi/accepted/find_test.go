package accepted

import (
	"reflect"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/apis/apps"
	core "k8s.io/kubernetes/pkg/apis/core"
)

// plainPod is a pod as most are: two containers with all that containers have, and volumes, none of which is to be spoken of.
func plainPod() *core.Pod {
	c := core.Container{Name: "c", Image: "i", Env: make([]core.EnvVar, 4), VolumeMounts: make([]core.VolumeMount, 4),
		Resources:      core.ResourceRequirements{Limits: core.ResourceList{core.ResourceCPU: resource.MustParse("1"), core.ResourceMemory: resource.MustParse("1Gi")}},
		LivenessProbe:  &core.Probe{ProbeHandler: core.ProbeHandler{HTTPGet: &core.HTTPGetAction{Path: "/"}}},
		ReadinessProbe: &core.Probe{ProbeHandler: core.ProbeHandler{HTTPGet: &core.HTTPGetAction{Path: "/"}}},
		Lifecycle:      &core.Lifecycle{PreStop: &core.LifecycleHandler{Exec: &core.ExecAction{}}}, SecurityContext: &core.SecurityContext{}}
	return &core.Pod{Spec: core.PodSpec{Containers: []core.Container{c, c}, InitContainers: []core.Container{c}, SecurityContext: &core.PodSecurityContext{},
		Affinity: &core.Affinity{NodeAffinity: &core.NodeAffinity{}}, Volumes: []core.Volume{
			{Name: "a", VolumeSource: core.VolumeSource{EmptyDir: &core.EmptyDirVolumeSource{}}},
			{Name: "b", VolumeSource: core.VolumeSource{Secret: &core.SecretVolumeSource{SecretName: "s"}}},
			{Name: "c", VolumeSource: core.VolumeSource{Projected: &core.ProjectedVolumeSource{Sources: make([]core.VolumeProjection, 3)}}}}}}
}

// TestNothingIsAllocated: a write with nothing to speak of costs a walk.
func TestNothingIsAllocated(t *testing.T) {
	f, err := New()
	if err != nil {
		t.Fatal(err)
	}
	pod := plainPod()
	if hits := slices.Concat(find(f.late, pod), find(f.early, pod)); len(hits) > 0 {
		t.Fatalf("a plain pod: %q", sentences(hits))
	}
	if n := testing.AllocsPerRun(100, func() {
		find(f.early, pod)
		find(f.late, pod)
	}); n > 0 {
		t.Errorf("%v allocations for a plain pod", n)
	}
}

func BenchmarkPlainPod(b *testing.B) {
	f, err := New()
	if err != nil {
		b.Fatal(err)
	}
	pod := plainPod()
	b.ReportAllocs()
	for b.Loop() {
		find(f.early, pod)
		find(f.late, pod)
	}
}

// TestFind: what is set is found where it is, in lists, behind pointers, in maps and in templates; and what was there is not new.
func TestFind(t *testing.T) {
	f, err := New()
	if err != nil {
		t.Fatal(err)
	}
	limited := func(size string) core.Container {
		return core.Container{Name: "c", Resources: core.ResourceRequirements{Limits: core.ResourceList{core.ResourceEphemeralStorage: resource.MustParse(size)}}}
	}
	term := []core.PodAffinityTerm{{TopologyKey: "zone"}}
	set := func(containers ...core.Container) *apps.StatefulSet {
		return &apps.StatefulSet{Spec: apps.StatefulSetSpec{Template: core.PodTemplateSpec{Spec: core.PodSpec{InitContainers: containers,
			Affinity: &core.Affinity{PodAntiAffinity: &core.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: term}}}},
			PersistentVolumeClaimRetentionPolicy: &apps.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: "Retain", WhenScaled: "Delete"},
			VolumeClaimTemplates:                 []core.PersistentVolumeClaim{{Spec: core.PersistentVolumeClaimSpec{Selector: &metav1.LabelSelector{}}}}}}
	}
	paths := func(hits []hit) (out []string) {
		for _, h := range hits {
			out = append(out, h.path)
		}
		slices.Sort(out)
		return out
	}
	before := find(f.late, set(core.Container{}, limited("1Gi")))
	want := []string{
		"spec.persistentVolumeClaimRetentionPolicy.whenScaled",
		"spec.template.spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution",
		"spec.template.spec.initContainers[1].resources.limits[ephemeral-storage]",
		"spec.volumeClaimTemplates[0].spec.selector",
	}
	if got := paths(before); !reflect.DeepEqual(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
	pages := &core.Pod{Spec: core.PodSpec{Containers: []core.Container{{Name: "c", Resources: core.ResourceRequirements{
		Limits:   core.ResourceList{"hugepages-2Mi": resource.MustParse("4Mi"), "hugepages-1Gi": resource.MustParse("1Gi"), core.ResourceCPU: resource.MustParse("1")},
		Requests: core.ResourceList{"example.com/gpu": resource.MustParse("1")}}}}}}
	if got := paths(find(f.late, pages)); !reflect.DeepEqual(got, []string{"spec.containers[0].resources.limits[hugepages-1Gi]", "spec.containers[0].resources.limits[hugepages-2Mi]"}) {
		t.Errorf("huge pages: %q", got)
	}
	if got := fresh(find(f.late, set(limited("1024Mi"), core.Container{})), before); len(got) > 0 {
		t.Errorf("the same elsewhere is new: %q", paths(got))
	}
	if got := paths(fresh(find(f.late, set(limited("2Gi"), limited("1Gi"))), before)); !reflect.DeepEqual(got, []string{"spec.template.spec.initContainers[0].resources.limits[ephemeral-storage]"}) {
		t.Errorf("another value: %q", got)
	}
}
