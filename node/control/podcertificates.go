package control

import (
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"murmur/crdt/store"
)

const podCertificateRequests = "certificates.k8s.io/podcertificaterequests"

// podCertificateRequestLife is how long a request for a pod's certificate is there, answered or not: upstream's. Who has asked has the answer
// by then, or asks again.
const podCertificateRequestLife = 15 * time.Minute

// podCertificateRequest deletes requests for pods' certificates that are old.
func podCertificateRequest(w *world, e *store.Entry) plan {
	req, err := store.As[certificatesv1.PodCertificateRequest](e)
	if err != nil || req.DeletionTimestamp != nil {
		return plan{}
	}
	if at := req.CreationTimestamp.Add(podCertificateRequestLife); w.now.Before(at) {
		return plan{wake: at}
	}
	return plan{writes: []write{deletion(e.Key, e.UID)}}
}
