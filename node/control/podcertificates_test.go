package control

import (
	"context"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/crdt"
	"murmur/crdt/store"
)

// TestPodCertificateRequestsAreCleaned: one goes a quarter of an hour after it was made, whatever came of it, and not before.
func TestPodCertificateRequestsAreCleaned(t *testing.T) {
	replica, err := store.Open(store.Config{Cluster: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- replica.Run(ctx) }()
	defer func() {
		cancel()
		<-ended
		replica.Close()
	}()
	for name, condition := range map[string]string{"waits": "", "issued": "Issued", "denied": "Denied"} {
		req := &certificatesv1.PodCertificateRequest{TypeMeta: metav1.TypeMeta{APIVersion: "certificates.k8s.io/v1", Kind: "PodCertificateRequest"},
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, CreationTimestamp: metav1.NewTime(epoch)}}
		if condition != "" {
			req.Status.Conditions = []metav1.Condition{{Type: condition, Status: metav1.ConditionTrue}}
		}
		e, err := replica.Commit(ctx, store.Write{Key: crdt.Key{Resource: podCertificateRequests, Namespace: "default", Name: name}, Object: req})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			age  time.Duration
			goes bool
		}{{0, false}, {15*time.Minute - time.Second, false}, {15 * time.Minute, true}, {time.Hour, true}} {
			got := podCertificateRequest(&world{now: epoch.Add(c.age)}, e)
			switch {
			case c.goes && (len(got.writes) != 1 || got.writes[0].verb != remove || got.writes[0].key != e.Key || *got.writes[0].opts.Preconditions.UID != e.UID):
				t.Errorf("%s after %v: %+v", name, c.age, got)
			case !c.goes && (len(got.writes) > 0 || !got.wake.Equal(epoch.Add(15*time.Minute))):
				t.Errorf("%s after %v: %+v", name, c.age, got)
			}
		}
	}
}
