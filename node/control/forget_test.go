package control

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"pgregory.net/rapid"

	"murmur/crdt"
	"murmur/crdt/store"
)

// A loop decides only for owners that a change concerns, whose time has come, or whose writes have ended. What is here shows that this is
// enough: in random worlds that change at random, an owner that is none of it has nothing to do. And that this can be seen: whichever concern
// is taken away, somebody is forgotten.

// draw is a number below n; what says what for.
type draw func(n int, what string) int

func pick[T any](d draw, what string, of ...T) T { return of[d(len(of), what)] }

// sample is how objects of a kind are made: what it is called, and what may happen to one, one thing at a time.
type sample struct {
	apiVersion, kind string
	cluster          bool
	names            []string
	owners           []string // resources that own it
	changes          []func(draw, map[string]any)
}

func set(o map[string]any, value any, path ...string) {
	if value == nil {
		unstructured.RemoveNestedField(o, path...)
		return
	}
	if err := unstructured.SetNestedField(o, value, path...); err != nil {
		panic(err)
	}
}

// one sets a field to one of some values; nil is none.
func one(path string, values ...any) func(draw, map[string]any) {
	return func(d draw, o map[string]any) {
		set(o, runtime.DeepCopyJSONValue(pick(d, path, values...)), strings.Split(path, ".")...)
	}
}

func list(of ...any) []any { return of }

type object = map[string]any

func matching(label string) object { return object{"matchLabels": object{"app": label}} }

var (
	selector = one("spec.selector", matching("w"), matching("v"), object{"matchExpressions": list(object{"key": "app", "operator": "Exists"})})
	template = one("spec.template", object{"metadata": object{"labels": object{"app": "w"}}, "spec": object{"containers": list(object{"name": "c", "image": "1"})}},
		object{"metadata": object{"labels": object{"app": "w"}}, "spec": object{"containers": list(object{"name": "c", "image": "2"})}})
	scale = one("spec.replicas", int64(0), int64(1), int64(2))
)

func condition(kind, status string) object {
	return object{"type": kind, "status": status, "lastTransitionTime": "2026-01-01T00:00:00Z"}
}

func cpu(n string) object { return object{"requests": object{"cpu": n}} }

// castOfHistories is what the worlds are made of, by resource.
func castOfHistories() map[string]sample {
	return map[string]sample{
		"pods": {apiVersion: "v1", kind: "Pod", names: []string{"x-0", "y", "x-1"},
			owners: []string{replicaSets, replicationControllers, statefulSets, daemonSets, jobs}, changes: []func(draw, map[string]any){
				one("spec.nodeName", nil, "n1", "n2", "n9"), one("status.phase", nil, "Running", "Failed", "Succeeded"),
				one("status.conditions", nil, list(condition("Ready", "True")), list(condition("Ready", "False"))),
				one("status.podIP", nil, "10.1.0.1"), one("status.startTime", nil, "2026-01-01T00:00:00Z"),
				one("spec.tolerations", nil, list(object{"operator": "Exists"}), list(object{"operator": "Exists", "tolerationSeconds": int64(7)})),
				one("spec.volumes", nil, list(object{"name": "v", "persistentVolumeClaim": object{"claimName": "x"}})),
				one("spec.containers", list(object{"name": "c", "image": "1"}), list(object{"name": "c", "image": "1", "resources": cpu("1")})),
				one("status.containerStatuses", nil, list(object{"name": "c", "image": "1", "imageID": "", "ready": true, "restartCount": int64(0), "resources": cpu("2")})),
				one("metadata.deletionGracePeriodSeconds", nil, int64(0), int64(4)), one("metadata.creationTimestamp", "2026-01-01T00:00:00Z", "2025-01-01T00:00:00Z"),
				one("metadata.annotations", nil, object{SlotAnnotation: "0", AttemptAnnotation: "0"}, object{store.ClaimPrefix + "n9": `{"node":"n9"}`}),
			}},
		"nodes": {apiVersion: "v1", kind: "Node", cluster: true, names: []string{"n1", "n2", "n3"}, changes: []func(draw, map[string]any){
			one("spec.taints", nil, list(object{"key": corev1.TaintNodeUnreachable, "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}),
				list(object{"key": "a", "effect": "NoExecute"}), list(object{"key": "a", "effect": "NoSchedule"})),
			one("status.conditions", list(condition("Ready", "True")), list(condition("Ready", "False")), nil),
			one("status.addresses", nil, list(object{"type": "InternalIP", "address": "10.9.0.1"}), list(object{"type": "InternalIP", "address": "10.9.0.2"})),
			one("metadata.labels", nil, object{corev1.LabelTopologyZone: "z1"}, object{corev1.LabelTopologyZone: "z2", "role": "db"}),
			one("status.capacity", object{"cpu": "1"}, object{"cpu": "2"}),
		}},
		replicaSets: {apiVersion: "apps/v1", kind: "ReplicaSet", names: []string{"x", "y"}, owners: []string{deployments},
			changes: []func(draw, map[string]any){selector, template, scale}},
		replicationControllers: {apiVersion: "v1", kind: "ReplicationController", names: []string{"x", "y"},
			changes: []func(draw, map[string]any){one("spec.selector", object{"app": "w"}, object{"app": "v"}), template, scale}},
		deployments: {apiVersion: "apps/v1", kind: "Deployment", names: []string{"x", "y"}, changes: []func(draw, map[string]any){selector, template, scale,
			one("spec.strategy", object{"type": "Recreate"}, object{"type": "RollingUpdate", "rollingUpdate": object{"maxSurge": int64(1), "maxUnavailable": int64(0)}})}},
		statefulSets: {apiVersion: "apps/v1", kind: "StatefulSet", names: []string{"x", "y"}, changes: []func(draw, map[string]any){selector, template, scale,
			one("spec.podManagementPolicy", "OrderedReady", "Parallel"), one("spec.updateStrategy", object{"type": "RollingUpdate"}, object{"type": "OnDelete"})}},
		daemonSets: {apiVersion: "apps/v1", kind: "DaemonSet", names: []string{"x", "y"}, changes: []func(draw, map[string]any){selector, template,
			one("spec.updateStrategy", object{"type": "RollingUpdate"}, object{"type": "OnDelete"})}},
		controllerRevisions: {apiVersion: "apps/v1", kind: "ControllerRevision", names: []string{"x-1", "y-1"}, owners: []string{statefulSets, daemonSets},
			changes: []func(draw, map[string]any){one("revision", int64(1), int64(2)), one("data", object{"a": "b"}, object{})}},
		jobs: {apiVersion: "batch/v1", kind: "Job", names: []string{"x", "y"}, owners: []string{cronJobs}, changes: []func(draw, map[string]any){selector, template,
			one("spec.parallelism", int64(1), int64(2)), one("spec.completions", int64(1), int64(2)),
			one("status.conditions", nil, list(condition("Complete", "True")), list(condition("Failed", "True")))}},
		cronJobs: {apiVersion: "batch/v1", kind: "CronJob", names: []string{"x", "y"}, changes: []func(draw, map[string]any){
			one("spec.schedule", "* * * * *", "0 0 1 1 *"), one("spec.suspend", true, false), one("spec.successfulJobsHistoryLimit", int64(0), int64(1))}},
		"services": {apiVersion: "v1", kind: "Service", names: []string{"x", "y", "kubernetes"}, changes: []func(draw, map[string]any){
			one("spec.selector", nil, object{"app": "w"}, object{"app": "v"}), one("spec.clusterIPs", nil, list("10.0.0.1"), list("10.0.0.2")),
			one("spec.ports", nil, list(object{"name": "p", "port": int64(80), "protocol": "TCP", "nodePort": int64(30001)}),
				list(object{"name": "p", "port": int64(80), "protocol": "TCP", "nodePort": int64(30002)})),
			one("metadata.creationTimestamp", "2026-01-01T00:00:00Z", "2025-01-01T00:00:00Z")}},
		"endpoints": {apiVersion: "v1", kind: "Endpoints", names: []string{"x", "y", "kubernetes"}, changes: []func(draw, map[string]any){
			one("subsets", nil, list(object{"addresses": list(object{"ip": "10.1.0.7"}), "ports": list(object{"port": int64(80)})})),
			one("metadata.labels", nil, object{managedBy: endpointsManager})}},
		endpointSlices: {apiVersion: "discovery.k8s.io/v1", kind: "EndpointSlice", names: []string{"x-a", "y-a"}, owners: []string{"services", "endpoints"},
			changes: []func(draw, map[string]any){one("metadata.labels", nil, object{"endpointslice.kubernetes.io/managed-by": sliceManager},
				object{"endpointslice.kubernetes.io/managed-by": mirrorManager}), one("endpoints", list(), list(object{"addresses": list("10.1.0.1")}))}},
		budgets: {apiVersion: "policy/v1", kind: "PodDisruptionBudget", names: []string{"x", "y"}, changes: []func(draw, map[string]any){
			one("spec.selector", matching("w"), object{}, nil), one("spec.minAvailable", nil, int64(1), "50%"), one("spec.maxUnavailable", nil, int64(1))}},
		claims: {apiVersion: "v1", kind: "PersistentVolumeClaim", names: []string{"x", "y"}, changes: []func(draw, map[string]any){
			one("spec.volumeName", nil, "x", "y"), one("spec.volumeAttributesClassName", nil, "x", "y"), one("status.currentVolumeAttributesClassName", nil, "x"),
			one("spec.resources", nil, object{"requests": object{"storage": "1Gi"}}), one("metadata.finalizers", nil, list(claimFinalizer)),
			one("status.modifyVolumeStatus", nil, object{"status": "Pending", "targetVolumeAttributesClassName": "y"})}},
		volumes: {apiVersion: "v1", kind: "PersistentVolume", cluster: true, names: []string{"x", "y"}, changes: []func(draw, map[string]any){
			one("spec.volumeAttributesClassName", nil, "x", "y"), one("metadata.finalizers", nil, list(volumeFinalizer))}},
		attributeClasses: {apiVersion: "storage.k8s.io/v1", kind: "VolumeAttributesClass", cluster: true, names: []string{"x", "y"},
			changes: []func(draw, map[string]any){one("metadata.finalizers", nil, list(attributesFinalizer))}},
		clusterRoles: {apiVersion: "rbac.authorization.k8s.io/v1", kind: "ClusterRole", cluster: true, names: []string{"x", "y", "z"}, changes: []func(draw, map[string]any){
			one("aggregationRule", nil, object{"clusterRoleSelectors": list(matching("w"))}), one("rules", list(), list(object{"verbs": list("get")}))}},
		"namespaces": {apiVersion: "v1", kind: "Namespace", cluster: true, names: []string{"a", "b", "default", "c"}, changes: []func(draw, map[string]any){
			one("status.phase", nil, "Terminating"), one("spec.finalizers", nil, list("kubernetes"))}},
		"configmaps": {apiVersion: "v1", kind: "ConfigMap", names: []string{"x", "y", rootCAName}, owners: []string{"configmaps", "configmaps", "secrets", "namespaces", "example.com/widgets"},
			changes: []func(draw, map[string]any){one("data", nil, object{"a": "b"})}},
		"secrets": {apiVersion: "v1", kind: "Secret", names: []string{"x", "y"}, owners: []string{"configmaps"}, changes: []func(draw, map[string]any){
			one("type", "Opaque", string(bootstrapToken), string(corev1.SecretTypeServiceAccountToken)), one("data", nil, object{"expiration": "MjAyNi0wMS0wMVQwMDowMDowM1o="}),
			one("metadata.annotations", nil, object{corev1.ServiceAccountNameKey: "x"}, object{corev1.ServiceAccountNameKey: "default"})}},
		accounts: {apiVersion: "v1", kind: "ServiceAccount", names: []string{"x", "default"},
			changes: []func(draw, map[string]any){one("secrets", nil, list(object{"name": "x"}), list(object{"name": "y"}))}},
		resourceQuotas: {apiVersion: "v1", kind: "ResourceQuota", names: []string{"x", "y"}, changes: []func(draw, map[string]any){
			one("spec.hard", object{"pods": "9"}, object{"requests.cpu": "9", "pods": "9"}, object{"services": "1", "configmaps": "3"}),
			one("status.used", nil, object{"pods": "7", "requests.cpu": "9"})}},
		requests: {apiVersion: "certificates.k8s.io/v1", kind: "CertificateSigningRequest", cluster: true, names: []string{"x", "y"}, changes: []func(draw, map[string]any){
			one("spec.signerName", certificatesv1.KubeAPIServerClientSignerName, "other/one"), one("status.conditions", nil, list(condition("Approved", "True"))),
			one("metadata.creationTimestamp", "2026-01-01T00:00:00Z", "2025-12-31T00:00:05Z")}},
		podCertificateRequests: {apiVersion: "certificates.k8s.io/v1beta1", kind: "PodCertificateRequest", names: []string{"x", "y"}, changes: []func(draw, map[string]any){
			one("metadata.creationTimestamp", "2026-01-01T00:00:00Z", "2025-12-31T23:45:05Z")}},
		addressClaims: {apiVersion: "networking.k8s.io/v1", kind: "IPAddress", cluster: true, names: []string{"10.0.0.1", "10.0.0.2"}, changes: []func(draw, map[string]any){
			one("spec.parentRef", nil, object{"resource": "services", "namespace": "a", "name": "x"}, object{"resource": "services", "namespace": "a", "name": "y"}),
			one("metadata.creationTimestamp", "2026-01-01T00:00:00Z", "2025-12-31T23:59:05Z")}},
		portClaims: {apiVersion: "murmur.io/v1", kind: "NodePort", cluster: true, names: []string{"30001", "30002"}, changes: []func(draw, map[string]any){
			one("service", nil, "a/x", "a/y"), one("metadata.creationTimestamp", "2026-01-01T00:00:00Z", "2025-12-31T23:59:05Z")}},
		definitions: {apiVersion: "apiextensions.k8s.io/v1", kind: "CustomResourceDefinition", cluster: true, names: []string{"widgets.example.com"}},
		"example.com/widgets": {apiVersion: "example.com/v1", kind: "Widget", names: []string{"x"}, owners: []string{"configmaps"},
			changes: []func(draw, map[string]any){one("spec", nil, object{"a": "b"})}},
		"murmur.io/authorities": {apiVersion: "murmur.io/v1", kind: "Authority", cluster: true, names: []string{"x"}, changes: []func(draw, map[string]any){one("spec", nil, object{"a": "b"})}},
		"murmur.io/members":     {apiVersion: "murmur.io/v1", kind: "Member", cluster: true, names: []string{"x"}, changes: []func(draw, map[string]any){one("spec", nil, object{"a": "b"})}},
	}
}

// theatre is a store in which one controller acts, and everything is done that it wants.
type theatre struct {
	draw
	ctx    context.Context
	store  *store.Store
	row    *row
	agenda *agenda
	sees   *outlook
	now    time.Time
	alive  []string
	since  map[string]time.Time
	kinds  map[string]sample
	log    []string
}

// roles are the resources that matter to a row.
func (h *theatre) roles() (out []string) {
	for r := range h.kinds {
		if r == "nodes" || r == definitions || h.row.sees(r) && (len(h.row.owners) > 0 || !strings.HasPrefix(r, "murmur.io/")) {
			out = append(out, r)
		}
	}
	slices.Sort(out)
	return out
}

// commit writes an object as it is, or deletes it.
func (h *theatre) commit(k crdt.Key, o object) error {
	base, there := h.store.Snapshot().Get(k)
	w := store.Write{Key: k, Base: base}
	switch {
	case o != nil:
		of := h.kinds[k.Resource]
		o["apiVersion"], o["kind"] = of.apiVersion, of.kind
		w.Object = &unstructured.Unstructured{Object: o}
	case !there:
		return nil
	}
	_, err := h.store.Commit(h.ctx, w)
	if err != nil {
		return fmt.Errorf("commit %s: %w", k, err)
	}
	return nil
}

// happen does one thing to an object.
func (h *theatre) happen(resource string) error {
	of := h.kinds[resource]
	k := crdt.Key{Resource: resource, Name: pick(h.draw, "name", of.names...)}
	if !of.cluster {
		if k.Namespace = pick(h.draw, "namespace", "a", "a", "a", "b", metav1.NamespaceSystem); k.Name == apiName {
			k.Namespace = "default"
		}
	}
	snap := h.store.Snapshot()
	e, there := snap.Get(k)
	if there && h.draw(5, "delete") == 0 {
		h.log = append(h.log, "delete "+k.String())
		return h.commit(k, nil)
	}
	o := object{"metadata": object{"name": k.Name}}
	if k.Namespace != "" {
		set(o, k.Namespace, "metadata", "namespace")
	}
	changes := append(slices.Clone(of.changes), h.changes(snap, k, of)...)
	if there {
		var err error
		if o, err = e.Map(); err != nil {
			return err
		}
		for _, derived := range []string{"uid", "resourceVersion", "generation"} {
			set(o, nil, "metadata", derived)
		}
		pick(h.draw, "change", changes...)(h.draw, o)
	} else {
		for _, c := range of.changes {
			c(h.draw, o)
		}
		for range 1 + h.draw(2, "metadata") {
			pick(h.draw, "change", changes...)(h.draw, o)
		}
	}
	h.log = append(h.log, fmt.Sprintf("put %s %v", k, o))
	return h.commit(k, o)
}

// changes are what may happen to the metadata of any object.
func (h *theatre) changes(snap *store.Snapshot, k crdt.Key, of sample) []func(draw, map[string]any) {
	labels := one("metadata.labels", nil, object{"app": "w"}, object{"app": "v"})
	out := []func(draw, map[string]any){
		one("metadata.deletionTimestamp", nil, "2026-01-01T00:00:02Z"),
		one("metadata.finalizers", nil, list(metav1.FinalizerDeleteDependents), list(metav1.FinalizerOrphanDependents), list("a/b")),
		one("metadata.annotations", nil, object{"a": "b"}),
	}
	if k.Resource != "nodes" && k.Resource != endpointSlices && k.Resource != "endpoints" {
		out = append(out, labels)
	}
	if len(of.owners) > 0 {
		out = append(out, func(d draw, o map[string]any) {
			var owners []crdt.Key
			for _, resource := range of.owners {
				for e := range snap.Range(resource, "", "") {
					if e.Key.Namespace == k.Namespace || e.Key.Namespace == "" || d(9, "elsewhere") == 0 {
						owners = append(owners, e.Key)
					}
				}
			}
			if len(owners) == 0 || d(9, "absent") == 0 {
				resource := pick(d, "owner", of.owners...)
				owners = []crdt.Key{{Resource: resource, Namespace: k.Namespace, Name: pick(d, "of", h.kinds[resource].names...)}}
				if h.kinds[resource].cluster {
					owners[0].Namespace = ""
				}
			}
			owner := pick(d, "owner", owners...)
			by := h.kinds[owner.Resource]
			uid := snap.NextUID(owner)
			if e, ok := snap.Get(owner); ok {
				uid = e.UID
			}
			ref := object{"apiVersion": by.apiVersion, "kind": by.kind, "name": owner.Name, "uid": string(uid)}
			switch d(8, "how") {
			case 0:
				set(o, nil, "metadata", "ownerReferences")
				return
			case 1:
				ref["uid"] = "00000000-0000-4000-8000-000000000000"
			case 2, 3:
				ref["controller"], ref["blockOwnerDeletion"] = true, true
			case 4:
				ref["blockOwnerDeletion"] = true
			default:
				ref["controller"] = true
			}
			refs := list(ref)
			if have, _, _ := unstructured.NestedSlice(o, "metadata", "ownerReferences"); len(have) == 1 && d(3, "two") == 0 && ref["controller"] == nil {
				refs = append(refs, have...)
			}
			set(o, refs, "metadata", "ownerReferences")
		})
	}
	return out
}

// world is what the controller sees now.
func (h *theatre) world() *world {
	told := append(append(slices.Clone(h.row.owners), h.row.watches...), "nodes", definitions)
	if h.row.all || h.row.watchesAll {
		told = nil
	}
	snap, events, complete := h.store.Changes(h.agenda.looked, told...)
	w := &world{snap: snap, now: h.now, self: "n1", alive: h.alive, brake: Available, settle: 2 * time.Second, kept: 1, share: newShare("n1", []string{"n1"}),
		events: events, complete: complete, failures: h.agenda.failures}
	var stored []string
	for r := range h.kinds {
		if !strings.HasPrefix(r, "example.com/") && !strings.HasPrefix(r, "murmur.io/") {
			stored = append(stored, r)
		}
	}
	slices.Sort(stored)
	h.sees.survey(w, stored, h.since)
	return w
}

// look has the controller look once, and does what it wants. It says who has been forgotten, and how many had something to do because of a
// change that concerns not all.
func (h *theatre) look() (acted int, err error) {
	w := h.world()
	due := len(w.events) > 0 && !w.everything
	decisions := h.agenda.look(h.ctx, h.row, nil, w)
	decided := map[crdt.Key]bool{}
	for _, d := range decisions {
		decided[d.owner.Key] = true
	}
	resources := h.row.owners
	if h.row.all {
		resources = w.resources
	}
	for _, resource := range resources {
		for e := range w.snap.Range(resource, "", "") {
			if _, awake := h.agenda.wakes[e.Key]; decided[e.Key] || awake || h.agenda.due[e.Key] || h.agenda.busy[e.Key] {
				continue
			}
			if p := h.row.decide(w, e); len(p.writes) > 0 || !p.wake.IsZero() {
				return acted, fmt.Errorf("%s is forgotten: %d writes, wake %v; everything: %v\n%s", e.Key, len(p.writes), p.wake, w.everything, strings.Join(h.log, "\n"))
			}
		}
	}
	for _, d := range decisions {
		if len(d.writes) == 0 {
			continue
		}
		if due {
			acted++
		}
		for _, wr := range d.writes {
			h.log = append(h.log, fmt.Sprintf("%s for %s: %s %v", wr.verb, d.owner.Key, wr.name(), wr.key))
			if err := h.do(wr); err != nil {
				return acted, err
			}
		}
		h.agenda.ended(outcome{key: d.owner.Key, uid: d.owner.UID}, h.now)
	}
	return acted, nil
}

// do does what a plan wants, much as the API does it.
func (h *theatre) do(w write) error {
	switch w.verb {
	case remove:
		e, ok := h.store.Snapshot().Get(w.key)
		if !ok || *w.opts.Preconditions.UID != e.UID {
			return nil
		}
		o, err := e.Map()
		if err != nil {
			return err
		}
		u := &unstructured.Unstructured{Object: o}
		if how := w.opts.PropagationPolicy; how != nil && *how == metav1.DeletePropagationForeground {
			u.SetFinalizers([]string{metav1.FinalizerDeleteDependents})
		}
		if len(u.GetFinalizers()) == 0 {
			return h.commit(w.key, nil)
		}
		u.SetDeletionTimestamp(&metav1.Time{Time: h.now})
		return h.put(w.key, u)
	case commit:
		if w.obj == nil {
			return h.commit(w.key, nil)
		}
		return h.put(w.key, w.obj)
	case claim:
		for _, k := range w.numbers {
			svc := w.obj.(*corev1.Service)
			o := object{"metadata": object{"name": k.Name, "creationTimestamp": "2026-01-01T00:00:00Z"}, "service": svc.Namespace + "/" + svc.Name}
			if k.Resource == addressClaims {
				delete(o, "service")
				set(o, object{"resource": "services", "namespace": svc.Namespace, "name": svc.Name}, "spec", "parentRef")
			}
			if err := h.commit(k, o); err != nil {
				return err
			}
		}
		return nil
	case renumber:
		svc := w.obj.(*corev1.Service).DeepCopy()
		svc.Spec.ClusterIPs, svc.Spec.Ports = nil, nil
		return h.put(crdt.Key{Resource: "services", Namespace: svc.Namespace, Name: svc.Name}, svc)
	case sign:
		r := w.obj.(*certificatesv1.CertificateSigningRequest).DeepCopy()
		r.Status.Certificate = []byte("signed")
		return h.put(crdt.Key{Resource: requests, Name: r.Name}, r)
	case entoken:
		s := w.obj.(*corev1.Secret).DeepCopy()
		s.Data[corev1.ServiceAccountTokenKey] = []byte("token")
		return h.put(crdt.Key{Resource: "secrets", Namespace: s.Namespace, Name: s.Name}, s)
	}
	gvks, _, err := scheme.Scheme.ObjectKinds(w.obj)
	if err != nil {
		return err
	}
	m, err := meta.Accessor(w.obj)
	if err != nil {
		return err
	}
	for resource, of := range h.kinds {
		if of.kind == gvks[0].Kind {
			k := crdt.Key{Resource: resource, Namespace: m.GetNamespace(), Name: m.GetName()}
			if e, there := h.store.Snapshot().Get(k); w.verb == create && there || w.verb != create && (!there || m.GetUID() != e.UID) {
				return nil // somebody was faster
			}
			if w.verb == finalize && len(w.obj.(*corev1.Namespace).Spec.Finalizers) == 0 {
				return h.commit(k, nil)
			}
			return h.put(k, w.obj)
		}
	}
	return fmt.Errorf("no such kind: %v", gvks)
}

func (h *theatre) put(k crdt.Key, obj runtime.Object) error {
	o, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
	if err != nil {
		return err
	}
	o = runtime.DeepCopyJSON(o)
	for _, derived := range []string{"uid", "resourceVersion", "generation"} {
		set(o, nil, "metadata", derived)
	}
	if created, _, _ := unstructured.NestedString(o, "metadata", "creationTimestamp"); created == "" {
		set(o, h.now.UTC().Format(time.RFC3339), "metadata", "creationTimestamp")
	}
	return h.commit(k, o)
}

// play is one history of a controller. It says who was forgotten.
func play(d draw, of func(Config) row, focus ...string) (acted int, err error) {
	replica, err := store.Open(store.Config{Cluster: "test"})
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = replica.Run(ctx) }()
	defer func() { cancel(); <-done; err = errors.Join(err, replica.Close()) }()
	h := &theatre{draw: d, ctx: ctx, store: replica, agenda: newAgenda(0), sees: &outlook{}, now: epoch.Add(time.Second), since: map[string]time.Time{}, kinds: castOfHistories()}
	r := of(Config{Store: replica, Node: "n1", Numbers: noNumbers{}, Signer: issuer{}, Tokens: proven(true), Usage: countUsage, CACert: func() []byte { return []byte("bundle") }})
	h.row, h.alive = &r, []string{"n1", "n2", "n3"}
	for _, n := range h.alive {
		h.since[n] = epoch.Add(-time.Hour)
	}
	roles := h.roles()
	if slices.Contains(roles, "namespaces") {
		for _, ns := range []string{"a", "b", "default"} {
			if err := h.commit(crdt.Key{Resource: "namespaces", Name: ns}, object{"metadata": object{"name": ns}}); err != nil {
				return 0, err
			}
		}
	}
	cast := slices.Concat(roles, h.row.owners, focus, focus)
	if h.row.sees("pods") && h.row.name != "resourcequota-controller" {
		cast = append(cast, "pods", "pods")
	}
	for range len(roles) / 6 { // among many, those that it decides about are seldom
		cast = append(cast, h.row.owners...)
	}
	for range d(20, "at first") {
		if err := h.happen(pick(d, "what", cast...)); err != nil {
			return acted, err
		}
	}
	for range 4 {
		if _, err := h.look(); err != nil {
			return acted, err
		}
	}
	for range 24 {
		switch d(8, "next") {
		case 0:
			h.now = h.now.Add(time.Duration(d(5, "seconds")) * time.Second)
			h.log = append(h.log, fmt.Sprint("now ", h.now))
		case 1: // what was decided is looked at again
		default:
			if err := h.happen(pick(d, "what", cast...)); err != nil {
				return acted, err
			}
		}
		n, err := h.look()
		if acted += n; err != nil {
			return acted, err
		}
	}
	return acted, nil
}

type noNumbers struct{}

func (noNumbers) Claim(context.Context, *corev1.Service, []crdt.Key) error    { return nil }
func (noNumbers) Renumber(context.Context, *corev1.Service, []crdt.Key) error { return nil }

type issuer struct{}

func (issuer) Sign([]byte, []certificatesv1.KeyUsage, time.Duration) ([]byte, error) {
	return []byte("signed"), nil
}
func (issuer) Issuers() []string { return []string{"n1"} }

// countUsage counts some of what the real one does.
func countUsage(snap *store.Snapshot, q *corev1.ResourceQuota) (corev1.ResourceList, error) {
	out := corev1.ResourceList{}
	for _, kind := range []string{"services", "configmaps"} {
		n := 0
		for range snap.Range(kind, q.Namespace, "") {
			n++
		}
		out[corev1.ResourceName(kind)] = *resource.NewQuantity(int64(n), resource.DecimalSI)
	}
	pods, cpus := int64(0), resource.Quantity{}
	for _, p := range store.List[corev1.Pod](snap, "pods", q.Namespace) {
		if p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded {
			continue
		}
		pods++
		for _, c := range p.Spec.Containers {
			cpus.Add(*c.Resources.Requests.Cpu())
		}
		for _, c := range p.Status.ContainerStatuses {
			if c.Resources != nil {
				cpus.Add(*c.Resources.Requests.Cpu())
			}
		}
	}
	out["pods"], out["requests.cpu"] = *resource.NewQuantity(pods, resource.DecimalSI), cpus
	return out, nil
}

// rowsOf are the names of the rows that are played, with how to make each.
func rowsOf(t testing.TB) (names []string, of map[string]func(Config) row) {
	replica, err := store.Open(store.Config{Cluster: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer replica.Close()
	of = map[string]func(Config) row{}
	for i, r := range table(Config{Store: replica, Numbers: noNumbers{}, Signer: issuer{}, Tokens: proven(true), Usage: countUsage}) {
		// It is decided every 15 s, by what is asked of other nodes: whatever changes, nothing is decided but by time and its own change.
		if r.name == "horizontal-pod-autoscaler" {
			if len(r.concerns)+len(r.watches) > 0 {
				t.Error("the autoscaler is decided by what changes, and not played here")
			}
			continue
		}
		name := fmt.Sprintf("%d-%s", i, r.name)
		names = append(names, name)
		of[name] = func(cfg Config) row { return table(cfg)[i] }
	}
	return names, of
}

// TestNobodyIsForgotten: whoever is not decided has nothing to do, whatever happens.
func TestNobodyIsForgotten(t *testing.T) {
	names, of := rowsOf(t)
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			acted := 0
			rapid.Check(t, func(t *rapid.T) {
				n, err := play(func(n int, what string) int { return rapid.IntRange(0, n-1).Draw(t, what) }, of[name])
				if err != nil {
					t.Fatal(err)
				}
				acted += n
			})
			t.Logf("changes had %d owners act", acted)
		})
	}
}

// rare are the concerns that random histories need too long to miss, or cannot. TestRareConcerns has the first.
var rare = map[string]string{
	"deployment-controller pods":           "a Deployment looks at pods only while it is recreated: its old ReplicaSet must have been scaled down, and have a pod still",
	"disruption-controller " + deployments: "takes a budget, a pod, its ReplicaSet and its Deployment that belong together, and another scale",
	"statefulset-controller nodes":         "takes pods that are ready, each in its turn, and then a node that goes",
	"certificate-controller nodes":         "a node that is registered may be an issuer, and who issues is not played",
}

// TestRareConcerns: whom those changes concern.
func TestRareConcerns(t *testing.T) {
	c := newAgendaCase(t)
	yes := true
	owned := func(kind, name string) []metav1.OwnerReference {
		return []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: kind, Name: name, UID: types.UID(name), Controller: &yes}}
	}
	key := func(resource, name string) crdt.Key {
		return crdt.Key{Resource: resource, Namespace: "default", Name: name}
	}
	entry := func(resource, kind, name string, replicas int64, refs []metav1.OwnerReference) *store.Entry {
		u := &unstructured.Unstructured{Object: object{"apiVersion": "apps/v1", "kind": kind, "metadata": object{"name": name, "namespace": "default"}, "spec": object{"replicas": replicas}}}
		u.SetOwnerReferences(refs)
		return c.put(key(resource, name), u)
	}
	entry(replicaSets, "ReplicaSet", "set", 1, owned("Deployment", "web"))
	budget := entry(budgets, "PodDisruptionBudget", "budget", 0, nil)
	pod := entry("pods", "Pod", "p", 0, owned("ReplicaSet", "set"))
	was := entry(deployments, "Deployment", "web", 1, nil)
	same := entry(deployments, "Deployment", "web", 1, owned("X", "x"))
	is := entry(deployments, "Deployment", "web", 2, owned("X", "x"))
	w := &world{snap: c.store.Snapshot()}
	if have := theDeployment(w, store.Event{Type: store.Added, Entry: pod}); !slices.Equal(have, []crdt.Key{key(deployments, "web")}) {
		t.Errorf("a pod concerns %v", have)
	}
	for _, c := range []struct {
		a, b *store.Entry
		want int
	}{{was, same, 1}, {same, is, 1}, {is, is, 0}} {
		have := theScaled(w, store.Event{Type: store.Modified, Entry: c.b, Old: c.a})
		if len(have) != c.want || c.want == 1 && have[0] != budget.Key {
			t.Errorf("another scale concerns %v", have)
		}
	}
	node := func(taint string) *store.Entry {
		n := &corev1.Node{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
		if taint != "" {
			n.Spec.Taints = []corev1.Taint{{Key: taint, Effect: corev1.TaintEffectNoExecute}}
		}
		return c.put(crdt.Key{Resource: "nodes", Name: "n1"}, n)
	}
	well, away, sick := node(""), node(corev1.TaintNodeUnreachable), node("sick")
	for _, c := range []struct {
		a, b *store.Entry
		want bool
	}{{well, away, true}, {away, well, true}, {well, sick, false}} {
		if have := everyOneIf(reach)(w, store.Event{Type: store.Modified, Entry: c.b, Old: c.a}); (len(have) > 0) != c.want {
			t.Errorf("a Node concerns %v, want all: %v", have, c.want)
		}
	}
}

// TestConcernsAreNeeded: without any one of its concerns a controller forgets somebody, and the test above sees it.
func TestConcernsAreNeeded(t *testing.T) {
	names, of := rowsOf(t)
	for _, name := range names {
		for resource := range of[name](Config{Store: &store.Store{}, Numbers: noNumbers{}, Signer: issuer{}, Tokens: proven(true), Usage: countUsage}).concerns {
			t.Run(name+"/"+strings.ReplaceAll(resource, "/", "."), func(t *testing.T) {
				if reason := rare[name[strings.Index(name, "-")+1:]+" "+resource]; reason != "" {
					t.Skip(reason)
				}
				for seed := range uint64(1500) {
					r := rand.New(rand.NewPCG(seed, 1))
					if _, err := play(func(n int, _ string) int { return r.IntN(n) }, func(cfg Config) row {
						row := of[name](cfg)
						row.concerns[resource] = func(*world, store.Event) []crdt.Key { return nil }
						return row
					}, strings.ReplaceAll(resource, anyResource, "namespaces")); err != nil {
						if !strings.Contains(err.Error(), "is forgotten") {
							t.Fatal(err)
						}
						t.Logf("after %d histories", seed+1)
						return
					}
				}
				t.Error("nobody is forgotten without it")
			})
		}
	}
}
