package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	utilfeature "k8s.io/apiserver/pkg/util/feature"

	"murmur/httpapi/accepted"
	"murmur/httpapi/registry"
)

// TestEveryKindIsInTheTable: what is stored here has its fields in the table of httpapi/accepted.
func TestEveryKindIsInTheTable(t *testing.T) {
	have := map[string]bool{}
	for _, k := range accepted.Kinds() {
		have[k.Name] = true
	}
	n := newNode(t, nil)
	for _, k := range registry.Stored() {
		if gvk := n.registry.Kind(k.Resource).GVK; !have[gvk.Kind] {
			t.Errorf("%s is stored, and nobody says what becomes of its fields", gvk)
		} else {
			delete(have, gvk.Kind)
		}
	}
	for kind := range have {
		t.Errorf("%s is in the table and not stored", kind)
	}
}

// told collects the Events of a node.
type told struct {
	mu     sync.Mutex
	events []string
	about  []corev1.ObjectReference
}

func (w *told) write(about *corev1.ObjectReference, reason, message string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events, w.about = append(w.events, about.Name+" "+reason+" "+message), append(w.about, *about)
}

func (w *told) all() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.events)
}

const spreadPod = `{apiVersion: v1, kind: Pod, metadata: {name: %s}, spec: {containers: [{name: c, image: i}],
	topologySpreadConstraints: [{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {}}]}}`

// warnings asks and returns the Warning headers.
func (n *node) warnings(code int, method, path, contentType, body string) []string {
	n.t.Helper()
	got, out, h := n.send(method, path, contentType, body)
	if got != code {
		n.t.Fatalf("%s %s: %d, want %d: %v", method, path, got, code, out)
	}
	return h.Values("Warning")
}

// TestAcceptedFields: who sets a field that nothing acts on is told so, once.
func TestAcceptedFields(t *testing.T) {
	var events told
	n := newNode(t, func(c *Config) { c.Event = events.write })
	const core, apps = "/api/v1/namespaces/default/", "/apis/apps/v1/namespaces/default/"
	spread := `299 - "Pod spec.topologySpreadConstraints: not acted on here yet; the pod is placed without it"`

	if got := n.warnings(http.StatusCreated, "POST", core+"pods?dryRun=All", "", fmt.Sprintf(spreadPod, "dry")); !slices.Contains(got, spread) {
		t.Errorf("a dry run: %q", got)
	}
	if got := events.all(); len(got) > 0 {
		t.Errorf("a dry run wrote %q", got)
	}
	if got := n.warnings(http.StatusCreated, "POST", core+"pods", "", fmt.Sprintf(spreadPod, "p")); !slices.Contains(got, spread) {
		t.Errorf("a pod with a constraint: %q", got)
	}
	pod := n.expect(http.StatusOK, "GET", core+"pods/p", "", "null")
	if got := events.all(); len(got) != 1 || got[0] != "p FieldNotActedOn spec.topologySpreadConstraints: not acted on here yet; the pod is placed without it" ||
		string(events.about[0].UID) != at(pod, "metadata", "uid") {
		t.Errorf("its events: %q about %v", got, events.about)
	}
	// What was there before is not new.
	if got := n.warnings(http.StatusOK, "PATCH", core+"pods/p", mergePatch, `{"metadata":{"labels":{"a":"b"}}}`); len(got) > 0 {
		t.Errorf("a change of something else: %q", got)
	}
	if got := n.warnings(http.StatusCreated, "POST", core+"pods", "", `{apiVersion: v1, kind: Pod, metadata: {name: plain}, spec: {containers: [{name: c, image: i}]}}`); len(got) > 0 {
		t.Errorf("a plain pod: %q", got)
	}

	// Templates, and what a change adds to one.
	deployment := `{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}},
		spec: {containers: [{name: c, image: i, resources: {limits: {ephemeral-storage: 1Gi}}}, {name: e, image: i, resources: {limits: {ephemeral-storage: 2Gi}}}], volumes: [{name: v, emptyDir: {%s}}]}}}}`
	layer := `299 - "Deployment spec.template.spec.containers[0].resources.limits[ephemeral-storage]: counted where the pod is placed, and not enforced while it runs"`
	disk := `299 - "Deployment spec.template.spec.volumes[0].emptyDir.sizeLimit: not enforced here: the volume may fill the node's disk"`
	if got := n.warnings(http.StatusCreated, "POST", apps+"deployments", "", fmt.Sprintf(deployment, "")); !slices.Equal(got, []string{layer}) {
		t.Errorf("a Deployment: %q", got)
	}
	if got := n.warnings(http.StatusOK, "PUT", apps+"deployments/d", "", fmt.Sprintf(deployment, "sizeLimit: 1Mi")); !slices.Equal(got, []string{disk}) {
		t.Errorf("a Deployment that adds one: %q", got)
	}
	if got := n.warnings(http.StatusOK, "PUT", apps+"deployments/d", "", fmt.Sprintf(deployment, "sizeLimit: 1Mi, medium: Memory")); len(got) > 0 {
		t.Errorf("a limit of a volume in memory is kept: %q", got)
	}

	// What the API drops.
	dropped := `299 - "Pod spec.containers[0].volumeMounts[0].bindMountOptions: dropped: the feature VolumeBindMountOptions is off"`
	got := n.warnings(http.StatusCreated, "POST", core+"pods", "", `{apiVersion: v1, kind: Pod, metadata: {name: drop}, spec: {volumes: [{name: v, emptyDir: {}}],
		containers: [{name: c, image: i, volumeMounts: [{name: v, mountPath: /v, bindMountOptions: [noexec]}]}]}}`)
	if !slices.Contains(got, dropped) || strings.Contains(fmt.Sprint(at(n.expect(http.StatusOK, "GET", core+"pods/drop", "", "null"), "spec")), "noexec") {
		t.Errorf("what the API drops: %q", got)
	}

	// What no node here can keep of a pod's protection is refused; a template that asks for it is warned of.
	n.expect(http.StatusUnprocessableEntity, "POST", core+"pods", "", `{apiVersion: v1, kind: Pod, metadata: {name: labelled}, spec: {containers: [{name: c, image: i,
		securityContext: {seLinuxOptions: {type: container_t}}}]}}`, `Pod \"labelled\" is invalid: spec.containers[0].securityContext.seLinuxOptions.type: Forbidden: no node here sets SELinux labels`)
	for level, want := range map[string][]string{"s0": nil, "s0:c1": {`299 - "Pod spec.securityContext.seLinuxOptions.level: no node here sets SELinux labels: what only its level keeps apart is not kept apart"`}} {
		got := n.warnings(http.StatusCreated, "POST", core+"pods", "", `{apiVersion: v1, kind: Pod, metadata: {generateName: level-}, spec: {securityContext: {seLinuxOptions: {level: "`+level+`"}}, containers: [{name: c, image: i}]}}`)
		if !slices.Equal(got, want) {
			t.Errorf("level %s: %q", level, got)
		}
	}
	n.expect(http.StatusCreated, "POST", core+"pods", "", `{apiVersion: v1, kind: Pod, metadata: {name: alone}, spec: {securityContext: {seLinuxOptions: {type: spc_t}}, containers: [{name: c, image: i}]}}`)
	n.expect(http.StatusUnprocessableEntity, "POST", core+"pods", "", `{apiVersion: v1, kind: Pod, metadata: {name: win}, spec: {os: {name: windows}, securityContext: {windowsOptions: {runAsUserName: u}},
		containers: [{name: c, image: i}]}}`, "spec.securityContext.windowsOptions: Forbidden: all nodes here run Linux")
	got = n.warnings(http.StatusCreated, "POST", apps+"replicasets", "", `{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: r}, spec: {replicas: 0, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}},
		spec: {securityContext: {seLinuxOptions: {role: r}}, containers: [{name: c, image: i}]}}}}`)
	if want := `299 - "ReplicaSet spec.template.spec.securityContext.seLinuxOptions.role: no node here sets SELinux labels"`; !slices.Equal(got, []string{want}) {
		t.Errorf("a template that asks for labels: %q", got)
	}
	// What a node refuses is said beforehand.
	got = n.warnings(http.StatusCreated, "POST", core+"pods", "", `{apiVersion: v1, kind: Pod, metadata: {name: nfs}, spec: {volumes: [{name: v, nfs: {server: s, path: /}}], containers: [{name: c, image: i}]}}`)
	if want := `299 - "Pod spec.volumes[0].nfs: nothing here mounts volumes of this type; a pod with it never starts"`; !slices.Equal(got, []string{want}) {
		t.Errorf("a volume that no node mounts: %q", got)
	}

	// A value that asks for nothing, the API's own defaults among them, is nothing to speak of.
	for _, plain := range []string{
		`services {apiVersion: v1, kind: Service, metadata: {name: s}, spec: {type: NodePort, ports: [{port: 80}]}}`,
		`secrets {apiVersion: v1, kind: Secret, metadata: {name: s}}`,
		`configmaps {apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {a: b}}`,
	} {
		resource, body, _ := strings.Cut(plain, " ")
		if got := n.warnings(http.StatusCreated, "POST", core+resource, "", body); len(got) > 0 {
			t.Errorf("%s: %q", resource, got)
		}
	}
	claim := `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: c}, spec: {accessModes: [ReadWriteOnce], storageClassName: x, resources: {requests: {storage: 1Mi}}}}`
	got = n.warnings(http.StatusCreated, "POST", core+"persistentvolumeclaims", "", claim)
	if len(got) != 1 || !strings.Contains(got[0], "PersistentVolumeClaim spec.resources, spec.storageClassName: nothing here binds or provisions volumes") {
		t.Errorf("a claim: %q", got)
	}
	balancer := `{apiVersion: v1, kind: Service, metadata: {name: lb}, spec: {type: LoadBalancer, externalTrafficPolicy: Local, ports: [{port: 80}]}}`
	if got := n.warnings(http.StatusCreated, "POST", core+"services", "", balancer); len(got) != 1 || !strings.Contains(got[0], "Service spec.healthCheckNodePort: nobody answers at this port yet") {
		t.Errorf("a load balancer: %q", got)
	}
	legacy := `{apiVersion: v1, kind: Secret, metadata: {name: token, annotations: {kubernetes.io/service-account.name: default}}, type: kubernetes.io/service-account-token}`
	if got := n.warnings(http.StatusCreated, "POST", core+"secrets", "", legacy); len(got) > 0 {
		t.Errorf("a Secret for a token: %q", got)
	}
}

// TestEventsOncePerTemplate: of a controller's pods the first of each template has the Event.
func TestEventsOncePerTemplate(t *testing.T) {
	var events told
	n := newNode(t, func(c *Config) { c.Event = events.write })
	api := n.As("admin", "system:masters")
	isTrue := true
	pod := func(name, owner string, keys ...string) {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
		if owner != "" {
			p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: owner, UID: types.UID(owner), Controller: &isTrue}}
		}
		for _, k := range keys {
			p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints,
				corev1.TopologySpreadConstraint{MaxSkew: 1, TopologyKey: k, WhenUnsatisfiable: corev1.ScheduleAnyway, LabelSelector: &metav1.LabelSelector{}})
		}
		_, err := api.Create(context.Background(), p)
		check(t, err)
	}
	pod("a1", "a", "zone")
	pod("a2", "a", "zone")
	pod("b1", "b", "zone")
	pod("c1", "c")
	pod("n1", "", "zone")
	pod("n2", "", "zone")
	var got []string
	for _, e := range events.all() {
		name, _, _ := strings.Cut(e, " ")
		got = append(got, name)
	}
	if !slices.Equal(got, []string{"a1", "b1", "n1", "n2"}) {
		t.Errorf("events of %q", got)
	}
}

// TestDropped: what the table says that the API drops it drops, and says so; a gate that upstream opens fails here.
func TestDropped(t *testing.T) {
	off := map[string]bool{}
	for gate := range utilfeature.DefaultMutableFeatureGate.GetAll() {
		off[string(gate)] = !utilfeature.DefaultFeatureGate.Enabled(gate)
	}
	for _, r := range accepted.Rows() {
		if r.Dropped != "" && !off[r.Dropped] {
			t.Errorf("%s %v: is the feature %s on, or gone?", r.Kind, r.Paths, r.Dropped)
		}
	}
	n := newNode(t, nil)
	for path, body := range map[string]string{
		"/api/v1/namespaces/default/pods": `{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {
			schedulingGroup: {podGroupName: g}, evictionResponders: [{name: example.test/r, priority: 1}], os: {name: linux}, volumes: [
				{name: e, emptyDir: {mode: 448}}, {name: s, secret: {secretName: s, defaultUser: 1}}, {name: c, configMap: {name: c, defaultUser: 1}}, {name: d, downwardAPI: {defaultUser: 1}},
				{name: j, projected: {defaultUser: 1, sources: [{serviceAccountToken: {path: t, user: 1}}]}}],
			containers: [{name: c, image: i, volumeMounts: [{name: e, mountPath: /e, bindMountOptions: [noexec]}],
				livenessProbe: {httpGet: {port: 80, protocol: HTTP2}}, readinessProbe: {grpc: {port: 80, mode: TLS}}, lifecycle: {preStop: {httpGet: {port: 80, protocol: HTTP2}}, stopSignal: SIGUSR1}}]}}`,
		"/apis/batch/v1/namespaces/default/jobs": `{apiVersion: batch/v1, kind: Job, metadata: {name: j}, spec: {scheduling: {schedulingPolicy: {gang: {minCount: 1}}},
			template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}}`,
		"/apis/coordination.k8s.io/v1/namespaces/default/leases": `{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: l}, spec: {strategy: OldestEmulationVersion, preferredHolder: h}}`,
		"/api/v1/nodes": `{apiVersion: v1, kind: Node, metadata: {name: n9}, spec: {podPreemptionPolicy: {disableResizePreemption: [o]}}}`,
	} {
		code, out, h := n.send("POST", path, "", body)
		text := fmt.Sprint(at(out, "spec"))
		for _, gone := range []string{"schedulingGroup", "evictionResponders", "mode:", "User", "user:", "bindMount", "protocol", "stopSignal", "scheduling:", "strategy", "preferredHolder", "podPreemption"} {
			if strings.Contains(text, gone) {
				t.Errorf("%s: %s is still there: %s", path, gone, text)
			}
		}
		if code != http.StatusCreated || len(h.Values("Warning")) == 0 {
			t.Errorf("%s: %d, warned of %q: %v", path, code, h.Values("Warning"), out["message"])
		}
	}
}
