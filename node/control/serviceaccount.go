package control

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/crdt"
	"murmur/crdt/store"
)

// active is the namespace of an entry, unless it is on its way out.
func active(e *store.Entry) bool {
	ns, err := store.As[corev1.Namespace](e)
	return err == nil && ns.DeletionTimestamp == nil && ns.Status.Phase != corev1.NamespaceTerminating
}

// serviceAccount gives every namespace the account that pods have if they name none.
func serviceAccount(w *world, e *store.Entry) plan {
	key := crdt.Key{Resource: "serviceaccounts", Namespace: e.Key.Name, Name: "default"}
	if _, ok := w.snap.Get(key); ok || !active(e) {
		return plan{}
	}
	return plan{writes: []write{{verb: create, obj: &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: key.Name, Namespace: key.Namespace}}}}}
}

const (
	rootCAName = "kube-root-ca.crt"
	rootCAFile = "ca.crt"
	// rootCANote is upstream's explanation in the object.
	rootCANoteKey = "kubernetes.io/description"
	rootCANote    = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. " +
		"No other usage is guaranteed across distributions of Kubernetes clusters."
)

// rootCA gives every namespace the bundle that its pods verify the API with.
func rootCA(now func() []byte) func(*world, *store.Entry) plan {
	return func(w *world, e *store.Entry) plan {
		var bundle []byte
		if now != nil {
			bundle = now()
		}
		if !active(e) || len(bundle) == 0 {
			return plan{}
		}
		have, ok := store.Get[corev1.ConfigMap](w.snap, crdt.Key{Resource: "configmaps", Namespace: e.Key.Name, Name: rootCAName})
		switch {
		case !ok:
			return plan{writes: []write{{verb: create, obj: &corev1.ConfigMap{
				ObjectMeta: metav1.ObjectMeta{Name: rootCAName, Namespace: e.Key.Name, Annotations: map[string]string{rootCANoteKey: rootCANote}},
				Data:       map[string]string{rootCAFile: string(bundle)},
			}}}}
		case len(have.Data) == 1 && have.Data[rootCAFile] == string(bundle) && len(have.Annotations[rootCANoteKey]) > 0:
			return plan{}
		}
		next := have.DeepCopy()
		next.Data, next.BinaryData = map[string]string{rootCAFile: string(bundle)}, nil
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, rootCANoteKey, rootCANote)
		return plan{writes: []write{{verb: update, obj: next}}}
	}
}
