package main

import (
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// What a cluster is filled with. A pod looks like one that a Deployment of a web program has made: the labels of such
// (but no owner), an annotation, two variables, ports, requests and limits, probes, a volume of a ConfigMap; 1.1 kB as
// it is sent, to which come its defaults. A gate keeps it from being placed. growPerApp pods that follow each other are
// of one program, whose name is their label app, and programs go round among growNamespaces namespaces. ConfigMaps of
// 1 kB, two for each pod, go round among them, too.
//
// What is changed is apart from these, in the namespace growHome: growFronts gated pods that have an address and are selected
// by the Service growFront, and Deployments of one gated pod. growReal pods are of
// growNode, so that a list by node has something to list. They run if they can: a node whose disk is nearly full fails them,
// and then they are there as well.
const (
	growNamespaces = 36
	growPerApp     = 10
	growHome       = "grow-home"
	growFront      = "front"
	growFronts     = 4
	growReal       = 6
	growNode       = "n1"
	growPort       = 8080
	// growDeployed marks the pods of Deployments that are measured.
	growDeployed = "bench-grow-deployed"
)

func growNamespace(i int) string { return fmt.Sprintf("grow-%02d", i%growNamespaces) }
func growApp(i int) string       { return fmt.Sprintf("app-%05d", i/growPerApp) }
func frontAddress(i int) string  { return fmt.Sprintf("10.42.250.%d", i+1) }

// gatedSpec is that of a web program, which is not to be placed.
func gatedSpec(app string) corev1.PodSpec {
	probe := func(path string, period int32) *corev1.Probe {
		return &corev1.Probe{PeriodSeconds: period, ProbeHandler: corev1.ProbeHandler{
			HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromString("http")}}}
	}
	return corev1.PodSpec{
		SchedulingGates: []corev1.PodSchedulingGate{{Name: "bench.murmur.io/never"}},
		Containers: []corev1.Container{{
			Name: "web", Image: "registry.example.org/team/" + app + ":1.14.2",
			Args:  []string{"--listen=:8080", "--log-level=info"},
			Env:   []corev1.EnvVar{{Name: "DATABASE_URL", Value: "postgres://" + app + "-db:5432/main"}, {Name: "LOG_FORMAT", Value: "json"}},
			Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: growPort, Protocol: corev1.ProtocolTCP}},
			Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("50m"), corev1.ResourceMemory: resource.MustParse("64Mi")},
				Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("256Mi")},
			},
			ReadinessProbe: probe("/ready", 5), LivenessProbe: probe("/live", 10),
			VolumeMounts: []corev1.VolumeMount{{Name: "config", MountPath: "/etc/" + app, ReadOnly: true}},
		}},
		Volumes: []corev1.Volume{{Name: "config", VolumeSource: corev1.VolumeSource{
			ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: app}}}}},
	}
}

func growPod(i int) *corev1.Pod {
	app := growApp(i)
	hash := fmt.Sprintf("%010x", 0x9e3779b9*uint64(i/growPerApp+1)&0xffffffffff)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("%s-%s-%05d", app, hash, i), Namespace: growNamespace(i / growPerApp),
			Labels: map[string]string{"app": app, "pod-template-hash": hash, "app.kubernetes.io/part-of": fmt.Sprintf("shop-%d", i/growPerApp%7),
				"app.kubernetes.io/version": "1.14.2", "tier": []string{"web", "api", "job"}[i/growPerApp%3]},
			Annotations: map[string]string{"checksum/config": strings.Repeat(hash, 6)},
		},
		Spec: gatedSpec(app),
	}
}

func growConfigMap(i int) *corev1.ConfigMap {
	m := configMap(fmt.Sprintf("settings-%06d", i))
	m.Namespace = growNamespace(i)
	m.Labels = map[string]string{"app": growApp(i / 2)}
	return m
}

func frontPod(i int) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", growFront, i), Namespace: growHome, Labels: map[string]string{"app": growFront}},
		Spec: gatedSpec(growFront)}
}

func frontService() *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: growFront, Namespace: growHome}, Spec: corev1.ServiceSpec{
		Selector: map[string]string{"app": growFront}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromString("http")}}}}
}

// frontStatus is a patch of a front pod's status: what a kubelet would write of one that runs.
func frontStatus(i int, ready bool) []byte {
	status := map[bool]string{true: "True", false: "False"}[ready]
	return fmt.Appendf(nil, `{"status":{"phase":"Running","podIP":%q,"podIPs":[{"ip":%q}],"conditions":[{"type":"Ready","status":%q}]}}`,
		frontAddress(i), frontAddress(i), status)
}

// growDeployment makes one gated pod.
func growDeployment(name string) *appsv1.Deployment {
	replicas, labels := int32(1), map[string]string{"app": name, growDeployed: "yes"}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: growHome, Labels: labels},
		Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: gatedSpec(name)}},
	}
}

// realPod is placed already.
func realPod(i int) *corev1.Pod {
	p := burstPod(i)
	p.Name, p.Namespace, p.Labels, p.Spec.NodeName = fmt.Sprintf("real-%d", i), growHome, map[string]string{"app": "real"}, growNode
	return p
}

// growList is a form of asking for pods.
type growList struct {
	name, query string
	// count is how many there are in the answer at least.
	count func(size int) int
}

func growLists() []growList {
	return []growList{
		{"limit=500", "?limit=500", func(size int) int { return min(size+growFronts+growReal, 500) }},
		{"all", "", func(size int) int { return size + growFronts + growReal }},
		{"by label, 10 of them", "?labelSelector=app%3D" + growApp(0), func(size int) int { return min(size, growPerApp) }},
		{"by spec.nodeName, 6 of them", "?fieldSelector=spec.nodeName%3D" + growNode, func(int) int { return growReal }},
	}
}
