package httpapi

import (
	"context"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	"murmur/crdt"
	"murmur/httpapi/storage"
)

// samples are one valid object of each kind that no other test writes.
const samples = `
{"apiVersion":"v1","kind":"ReplicationController","spec":{"replicas":1,"selector":{"a":"b"},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}
{"apiVersion":"v1","kind":"PodTemplate","template":{"spec":{"containers":[{"name":"c","image":"i"}]}}}
{"apiVersion":"v1","kind":"ResourceQuota","spec":{"hard":{"pods":"5"}}}
{"apiVersion":"v1","kind":"LimitRange","spec":{"limits":[{"type":"Container","default":{"cpu":"1"}}]}}
{"apiVersion":"v1","kind":"PersistentVolume","spec":{"capacity":{"storage":"1Gi"},"accessModes":["ReadWriteOnce"],"hostPath":{"path":"/tmp/x"}}}
{"apiVersion":"v1","kind":"PersistentVolumeClaim","spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}}}}
{"apiVersion":"apps/v1","kind":"StatefulSet","spec":{"serviceName":"s","selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}
{"apiVersion":"apps/v1","kind":"DaemonSet","spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}
{"apiVersion":"apps/v1","kind":"ControllerRevision","revision":1,"data":{"a":"b"}}
{"apiVersion":"batch/v1","kind":"Job","spec":{"template":{"spec":{"restartPolicy":"Never","containers":[{"name":"c","image":"i"}]}}}}
{"apiVersion":"batch/v1","kind":"CronJob","spec":{"schedule":"* * * * *","jobTemplate":{"spec":{"template":{"spec":{"restartPolicy":"Never","containers":[{"name":"c","image":"i"}]}}}}}}
{"apiVersion":"autoscaling/v2","kind":"HorizontalPodAutoscaler","spec":{"maxReplicas":3,"scaleTargetRef":{"apiVersion":"apps/v1","kind":"Deployment","name":"d"}}}
{"apiVersion":"policy/v1","kind":"PodDisruptionBudget","spec":{"minAvailable":1,"selector":{"matchLabels":{"a":"b"}}}}
{"apiVersion":"scheduling.k8s.io/v1","kind":"PriorityClass","value":7}
{"apiVersion":"node.k8s.io/v1","kind":"RuntimeClass","handler":"runc"}
{"apiVersion":"networking.k8s.io/v1","kind":"Ingress","spec":{"defaultBackend":{"service":{"name":"s","port":{"number":80}}}}}
{"apiVersion":"networking.k8s.io/v1","kind":"IngressClass","spec":{"controller":"example.com/c"}}
{"apiVersion":"networking.k8s.io/v1","kind":"ServiceCIDR","spec":{"cidrs":["10.99.0.0/24"]}}
{"apiVersion":"storage.k8s.io/v1","kind":"StorageClass","provisioner":"example.com/p"}
{"apiVersion":"storage.k8s.io/v1","kind":"VolumeAttributesClass","driverName":"example.com","parameters":{"a":"b"}}
{"apiVersion":"storage.k8s.io/v1","kind":"VolumeAttachment","spec":{"attacher":"a","nodeName":"n","source":{"persistentVolumeName":"v"}}}
{"apiVersion":"storage.k8s.io/v1","kind":"CSIDriver"}
{"apiVersion":"storage.k8s.io/v1","kind":"CSINode","spec":{"drivers":[]}}
{"apiVersion":"storage.k8s.io/v1","kind":"CSIStorageCapacity","storageClassName":"s"}
{"apiVersion":"flowcontrol.apiserver.k8s.io/v1","kind":"PriorityLevelConfiguration","spec":{"type":"Limited","limited":{"nominalConcurrencyShares":5,"limitResponse":{"type":"Reject"}}}}
{"apiVersion":"flowcontrol.apiserver.k8s.io/v1","kind":"FlowSchema","spec":{"priorityLevelConfiguration":{"name":"x"}}}
`

// TestKinds: one object of each goes in, comes back from the store as itself, has its status written where it has one, and
// goes away.
func TestKinds(t *testing.T) {
	n := newNode(t, nil)
	ctx := context.Background()
	admin := n.As("admin", "system:masters")
	for line := range strings.Lines(strings.TrimSpace(samples)) {
		obj, gvk, err := legacyscheme.Codecs.UniversalDeserializer().Decode([]byte(line), nil, nil)
		check(t, err)
		t.Run(gvk.Kind, func(t *testing.T) {
			var k *storage.Kind
			for have := range n.registry.Kinds() {
				if have.GVK == *gvk {
					k = have
				}
			}
			if k == nil {
				t.Fatalf("no row for %s", gvk)
			}
			m, err := meta.Accessor(obj)
			check(t, err)
			m.SetName("sample")
			if k.Namespaced {
				m.SetNamespace("default")
			}
			made, err := admin.Create(ctx, obj)
			check(t, err)
			key := crdt.Key{Resource: k.Key(), Namespace: m.GetNamespace(), Name: "sample"}
			e, ok := n.cfg.Store.Snapshot().Get(key)
			if !ok {
				t.Fatalf("%s is not in the store", key)
			}
			if back, err := k.Decode(e); err != nil || back.GetObjectKind().GroupVersionKind() != *gvk {
				t.Errorf("stored as %v, %v", back, err)
			}
			if n.registry.Storage(k, k.Resource.Resource+"/status") != nil {
				_, err := admin.UpdateStatus(ctx, made)
				for apierrors.IsConflict(err) { // priority and fairness reports on what it acts on
					now, _ := n.cfg.Store.Snapshot().Get(key)
					if made, err = k.Decode(now); err == nil {
						_, err = admin.UpdateStatus(ctx, made)
					}
				}
				if err != nil {
					t.Errorf("status: %v", err)
				}
			}
			check(t, admin.Delete(ctx, key, metav1.DeleteOptions{}))
		})
	}
}
