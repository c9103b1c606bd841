package pod

import (
	"context"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"murmur/crdt"
	"murmur/crdt/store"
)

// TestLingering: what is begun has some time when it is no longer wanted, and none that is not needed.
func TestLingering(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		whole, done := lingering(ctx)
		cancel()
		time.Sleep(linger - time.Millisecond)
		synctest.Wait()
		if whole.Err() != nil {
			t.Error("ended at once")
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		if whole.Err() == nil {
			t.Error("does not end")
		}
		done()

		ctx, cancel = context.WithCancel(t.Context())
		whole, done = lingering(ctx)
		cancel()
		synctest.Wait()
		done()
		if whole.Err() == nil {
			t.Error("outlives what it was for")
		}
	})
}

// library is a runtime with one container and any image.
type library struct{ Runtime }

func (library) List(context.Context, types.UID) ([]Sandbox, []Container, error) {
	return nil, []Container{{ImageID: "run"}}, nil
}

func (library) Image(_ context.Context, ref string) (*Image, error) {
	return &Image{ID: "id of " + ref}, nil
}

func TestImagesInUse(t *testing.T) {
	replica, err := store.Open(store.Config{Cluster: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer replica.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { _ = replica.Run(ctx) }()
	for _, node := range []string{"n1", "n2"} {
		p := &corev1.Pod{TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Name: "on-" + node, Namespace: "default"}}
		p.Spec.NodeName = node
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "of-" + node}}}, {Name: "w"}}
		if _, err := replica.Commit(ctx, store.Write{Key: crdt.Key{Resource: "pods", Namespace: "default", Name: p.Name}, Object: p}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := New(Config{Store: replica, Node: "n1", Runtime: library{}}).imagesInUse(ctx)
	if want := map[string]bool{"run": true, "id of of-n1": true}; err != nil || !maps.Equal(got, want) {
		t.Errorf("in use are %v, %v; want %v", got, err, want)
	}
}
