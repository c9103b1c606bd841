package control

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/crdt/store"
)

// Bootstrap tokens as kubeadm's, which upstream's tools make too.
const (
	bootstrapToken  corev1.SecretType = "bootstrap.kubernetes.io/token"
	tokenExpiration string            = "expiration"
)

// token deletes bootstrap tokens that have expired. One whose expiry cannot be read counts as expired, as upstream has it.
func token(w *world, e *store.Entry) plan {
	if e.Key.Namespace != metav1.NamespaceSystem {
		return plan{}
	}
	s, err := store.As[corev1.Secret](e)
	if err != nil || s.Type != bootstrapToken || s.DeletionTimestamp != nil || len(s.Data[tokenExpiration]) == 0 {
		return plan{}
	}
	if at, err := time.Parse(time.RFC3339, string(s.Data[tokenExpiration])); err == nil && w.now.Before(at) {
		return plan{wake: at}
	}
	return plan{writes: []write{deletion(e.Key, e.UID)}}
}
