package proxy

import (
	"fmt"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// many are 1000 services of three pods each in one namespace.
func many() (v View) {
	for i := range 1000 {
		name := fmt.Sprint("a", i)
		v.Services = append(v.Services, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
			Spec: corev1.ServiceSpec{ClusterIP: fmt.Sprintf("10.43.%d.%d", i/250+1, i%250), Selector: map[string]string{"app": name},
				Ports: []corev1.ServicePort{{Port: 80}}},
		})
		for j := range 3 {
			v.Pods = append(v.Pods, &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint(name, j), Labels: map[string]string{"app": name}},
				Status: corev1.PodStatus{PodIP: fmt.Sprintf("10.42.%d.%d", i/80+1, 3*(i%80)+j),
					Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
			})
		}
	}
	return v
}

// BenchmarkBuild makes the rules of all.
func BenchmarkBuild(b *testing.B) {
	v := many()
	for b.Loop() {
		Build(v, Config{Node: "n1", ClusterCIDR: netip.MustParsePrefix("10.42.0.0/16")})
	}
}

// BenchmarkUpdate makes the rules of all when one pod has become ready or no longer is.
func BenchmarkUpdate(b *testing.B) {
	v := many()
	k := NewKeeper(Config{Node: "n1", ClusterCIDR: netip.MustParsePrefix("10.42.0.0/16")})
	k.Begin(v)
	svc := v.Services[500]
	pods := v.Pods[1500:1503]
	for b.Loop() {
		was := pods[0]
		is := was.DeepCopy()
		is.Status.Conditions[0].Status = map[corev1.ConditionStatus]corev1.ConditionStatus{"True": "False", "False": "True"}[was.Status.Conditions[0].Status]
		pods[0] = is
		k.Update(Changes{Services: map[types.NamespacedName]*corev1.Service{{Namespace: "default", Name: svc.Name}: svc}, Pods: []PodChange{{was, is}},
			Backing: func(*corev1.Service) Backing { return Backing{Pods: pods} }})
	}
}
