package store

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/crdt"
)

// TestTerms: what objects of each resource are found by.
func TestTerms(t *testing.T) {
	for _, c := range []struct {
		resource, value string
		want            []string
	}{
		{"services", `{"spec":{"clusterIP":"10.0.0.1","clusterIPs":["10.0.0.1","fd00::1"],"healthCheckNodePort":30001,
			"ports":[{"nodePort":30000,"port":80},{"nodePort":0,"port":81},{"port":82}],"selector":{"app":"web","tier":"front"}}}`,
			[]string{"a10.0.0.1", "afd00::1", "p30000", "p30001", "sapp=web"}},
		{"services", `{"spec":{"clusterIP":"None"}}`, []string{"aNone"}},
		{"endpoints", `{"subsets":[{"addresses":[{"ip":"10.1.0.1"}],"notReadyAddresses":[{"ip":"10.1.0.2"}]},{"addresses":[{"ip":"10.1.0.1"}]}]}`,
			[]string{"a10.1.0.1", "a10.1.0.2"}},
		{"discovery.k8s.io/endpointslices", `{"endpoints":[{"addresses":["10.1.0.1"]},{"addresses":["10.1.0.2"]}]}`, []string{"a10.1.0.1", "a10.1.0.2"}},
		{"nodes", `{"status":{"addresses":[{"type":"InternalIP","address":"192.0.2.1"},{"type":"Hostname","address":"n1"}]}}`, []string{"a192.0.2.1", "an1"}},
		{"persistentvolumes", `{"spec":{"claimRef":{"namespace":"a","name":"b"}}}`, []string{"ca/b"}},
		{"persistentvolumes", `{"spec":{}}`, nil},
		{"persistentvolumes", `{"spec":{"volumeAttributesClassName":"gold"}}`, []string{"qgold"}},
		{"persistentvolumeclaims", `{"spec":{"volumeAttributesClassName":"gold","volumeName":"v"},"status":{"currentVolumeAttributesClassName":"tin","modifyVolumeStatus":{"status":"Pending","targetVolumeAttributesClassName":"gold"}}}`,
			[]string{"qgold", "qtin", "vv"}},
		{"persistentvolumeclaims", `{"spec":{"volumeAttributesClassName":""}}`, nil},
		{"rbac.authorization.k8s.io/clusterroles", `{"aggregationRule":{},"metadata":{"labels":{"a":"b"}}}`, []string{"la=b", "r"}},
		{"rbac.authorization.k8s.io/clusterroles", `{"rules":[]}`, nil},
		{"services", `{"spec":{"selector":{}}}`, nil},
		{"replicationcontrollers", `{"spec":{"selector":{"a":"b","c":"d"}}}`, []string{"sa=b"}},
		{"apps/replicasets", `{"spec":{"selector":{"matchExpressions":[],"matchLabels":{"a":"b","c":"d"}}}}`, []string{"sa=b"}},
		{"apps/replicasets", `{"spec":{"selector":{"matchExpressions":[{"key":"a","operator":"Exists"}]}}}`, []string{"s"}},
		{"policy/poddisruptionbudgets", `{"spec":{"selector":{}}}`, []string{"s"}},
		{"policy/poddisruptionbudgets", `{"spec":{}}`, nil},
		{"storage.k8s.io/volumeattachments", `{"spec":{"nodeName":"n1"}}`, []string{"nn1"}},
		{"certificates.k8s.io/podcertificaterequests", `{"spec":{"nodeName":"n1","podUID":"u1"}}`, []string{"nn1", "uu1"}},
		{"rbac.authorization.k8s.io/clusterrolebindings", `{"subjects":[{"kind":"User","name":"a","namespace":"not used"},{"kind":"Group","name":"g"},
			{"kind":"ServiceAccount","name":"s","namespace":"n"},{"kind":"ServiceAccount","name":"s"}]}`,
			[]string{"bGroup:g", "bServiceAccount:n/s", "bServiceAccount:s", "bUser:a"}},
		{"rbac.authorization.k8s.io/rolebindings", `{"metadata":{"namespace":"here"},"subjects":[{"kind":"ServiceAccount","name":"s"}]}`, []string{"bServiceAccount:here/s"}},
		{"events", `{"metadata":{"creationTimestamp":"2026-01-02T03:04:05Z"},"lastTimestamp":null}`, []string{"w2026-01-02T03:04:05"}},
		{"events", `{"metadata":{"creationTimestamp":"2026-01-02T03:04:05Z"},"lastTimestamp":"2026-01-02T03:04:09Z","eventTime":"2026-01-02T03:04:06.123456Z",
			"series":{"lastObservedTime":"2026-01-02T03:05:00.000001Z"}}`, []string{"w2026-01-02T03:05:00"}},
		{"events", `{}`, []string{"w"}},
	} {
		if have := termsOf(c.resource, []byte(c.value)); !slices.Equal(have, c.want) {
			t.Errorf("%s %s is found by %q, want %q", c.resource, c.value, have, c.want)
		}
	}
}

// TestUntil: what is found by a time is all that is not later, the eldest first.
func TestUntil(t *testing.T) {
	s := open(t, "")
	begin := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, i := range []int{3, 0, 2, 1, 4} {
		e := &corev1.Event{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Event"}, ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: fmt.Sprint("e", i)}}
		e.CreationTimestamp = metav1.NewTime(begin.Add(-time.Hour))
		e.LastTimestamp = metav1.NewTime(begin.Add(time.Duration(i) * time.Minute))
		if _, err := s.Commit(t.Context(), Write{Key: crdt.Key{Resource: "events", Namespace: "a", Name: e.Name}, Object: e}); err != nil {
			t.Fatal(err)
		}
	}
	p := randomPod(rand.New(rand.NewPCG(1, 2)), "p")
	if _, err := s.Commit(t.Context(), Write{Key: crdt.Key{Resource: "pods", Namespace: p.Namespace, Name: p.Name}, Object: p}); err != nil {
		t.Fatal(err)
	}
	for after, want := range map[time.Duration][]string{
		-time.Second: nil, 0: {"e0"}, time.Second: {"e0"}, 2 * time.Minute: {"e0", "e1", "e2"}, time.Hour: {"e0", "e1", "e2", "e3", "e4"},
	} {
		var have []string
		for e := range s.Snapshot().Until(ByTime, TimeTerm(begin.Add(after).In(time.FixedZone("elsewhere", 7200))), "events") {
			have = append(have, e.Key.Name)
		}
		if !slices.Equal(have, want) {
			t.Errorf("%v later there are %v, want %v", after, have, want)
		}
	}
}
