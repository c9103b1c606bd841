package pod

import (
	"fmt"
	"iter"
	"maps"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	"murmur/crdt"
	"murmur/crdt/store"
)

// Objects are the API objects that pods refer to, at one moment. Read only.
type Objects interface {
	ConfigMap(namespace, name string) (*corev1.ConfigMap, bool)
	Secret(namespace, name string) (*corev1.Secret, bool)
	PersistentVolumeClaim(namespace, name string) (*corev1.PersistentVolumeClaim, bool)
	PersistentVolume(name string) (*corev1.PersistentVolume, bool)
	Node(name string) (*corev1.Node, bool)
	RuntimeClass(name string) (*nodev1.RuntimeClass, bool)
	Services(namespace string) []*corev1.Service
	ServiceAccount(namespace, name string) (*corev1.ServiceAccount, bool)
	ClusterTrustBundles() []*certificatesv1.ClusterTrustBundle
	PodCertificateRequest(namespace, name string) (*certificatesv1.PodCertificateRequest, bool)
}

const (
	trustBundles        = "certificates.k8s.io/clustertrustbundles"
	certificateRequests = "certificates.k8s.io/podcertificaterequests"
)

// snapshot reads Objects from the store.
type snapshot struct{ *store.Snapshot }

func (s snapshot) ConfigMap(namespace, name string) (*corev1.ConfigMap, bool) {
	return store.Get[corev1.ConfigMap](s.Snapshot, crdt.Key{Resource: "configmaps", Namespace: namespace, Name: name})
}

func (s snapshot) Secret(namespace, name string) (*corev1.Secret, bool) {
	return store.Get[corev1.Secret](s.Snapshot, crdt.Key{Resource: "secrets", Namespace: namespace, Name: name})
}

func (s snapshot) PersistentVolumeClaim(namespace, name string) (*corev1.PersistentVolumeClaim, bool) {
	return store.Get[corev1.PersistentVolumeClaim](s.Snapshot, crdt.Key{Resource: "persistentvolumeclaims", Namespace: namespace, Name: name})
}

func (s snapshot) PersistentVolume(name string) (*corev1.PersistentVolume, bool) {
	return store.Get[corev1.PersistentVolume](s.Snapshot, crdt.Key{Resource: "persistentvolumes", Name: name})
}

func (s snapshot) Node(name string) (*corev1.Node, bool) {
	return store.Get[corev1.Node](s.Snapshot, crdt.Key{Resource: "nodes", Name: name})
}

func (s snapshot) RuntimeClass(name string) (*nodev1.RuntimeClass, bool) {
	return store.Get[nodev1.RuntimeClass](s.Snapshot, crdt.Key{Resource: "node.k8s.io/runtimeclasses", Name: name})
}

func (s snapshot) Services(namespace string) []*corev1.Service {
	return store.List[corev1.Service](s.Snapshot, "services", namespace)
}

func (s snapshot) ClusterTrustBundles() []*certificatesv1.ClusterTrustBundle {
	return bundles.Of(s.Snapshot)
}

func (s snapshot) ServiceAccount(namespace, name string) (*corev1.ServiceAccount, bool) {
	return store.Get[corev1.ServiceAccount](s.Snapshot, crdt.Key{Resource: "serviceaccounts", Namespace: namespace, Name: name})
}

func (s snapshot) PodCertificateRequest(namespace, name string) (*certificatesv1.PodCertificateRequest, bool) {
	return store.Get[certificatesv1.PodCertificateRequest](s.Snapshot, crdt.Key{Resource: certificateRequests, Namespace: namespace, Name: name})
}

// bundles are the ClusterTrustBundles, of which a volume takes those that it selects.
var bundles = store.NewMemo(trustBundles, func(all iter.Seq[*store.Entry]) (out []*certificatesv1.ClusterTrustBundle) {
	for e := range all {
		if b, err := store.As[certificatesv1.ClusterTrustBundle](e); err == nil {
			out = append(out, b)
		}
	}
	return out
})

// references are the keys of what a pod's volumes and environment are made from.
func references(p *corev1.Pod) []crdt.Key {
	var keys []crdt.Key
	podutil.VisitPodConfigmapNames(p, func(name string) bool {
		keys = append(keys, crdt.Key{Resource: "configmaps", Namespace: p.Namespace, Name: name})
		return true
	})
	podutil.VisitPodSecretNames(p, func(name string) bool {
		keys = append(keys, crdt.Key{Resource: "secrets", Namespace: p.Namespace, Name: name})
		return true
	})
	for _, v := range p.Spec.Volumes {
		if v.PersistentVolumeClaim != nil {
			keys = append(keys, crdt.Key{Resource: "persistentvolumeclaims", Namespace: p.Namespace, Name: v.PersistentVolumeClaim.ClaimName})
		}
	}
	return keys
}

// sources tells one state of what a pod's volumes and environment are made from, from another: the objects that it refers
// to, what was said of the certificates that it asks for and, if a volume shows the pod's own metadata, that.
func sources(s *store.Snapshot, p *corev1.Pod) string {
	keys := references(p)
	text := make([]byte, 0, 16*len(keys))
	for _, k := range keys {
		if e, ok := s.Get(k); ok {
			text = append(text, e.Version.String()...)
		}
		text = append(text, ' ')
	}
	if projects(p, func(s corev1.VolumeProjection) bool { return s.ClusterTrustBundle != nil }) {
		text = append(append(text, s.Changed(trustBundles).String()...), ' ')
	}
	if projects(p, func(s corev1.VolumeProjection) bool { return s.PodCertificate != nil }) {
		for e := range s.Indexed(store.ByPod, string(p.UID), certificateRequests, "", "") {
			text = append(append(text, e.Version.String()...), ' ')
		}
	}
	if showsItself(p) {
		for _, m := range []map[string]string{p.Labels, p.Annotations} {
			for _, k := range slices.Sorted(maps.Keys(m)) {
				text = fmt.Appendf(text, "%q=%q ", k, m[k])
			}
			text = append(text, ';')
		}
	}
	return string(text)
}

// showsItself reports whether a volume has fields of the pod in it.
func showsItself(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool { return v.DownwardAPI != nil }) ||
		projects(p, func(s corev1.VolumeProjection) bool { return s.DownwardAPI != nil })
}

// projects reports whether a projected volume has a source of some kind.
func projects(p *corev1.Pod, kind func(corev1.VolumeProjection) bool) bool {
	return slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool {
		return v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, kind)
	})
}
