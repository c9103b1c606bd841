package pod_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/node/pod"
	"murmur/node/pod/podtest"
)

const private = "registry.test/team/app:1"

// registry is a runtime with a registry that has one image, for those who show the password.
type registry struct {
	*podtest.Fake
	pulls, down atomic.Int32
	here        atomic.Bool
}

func (r *registry) Image(ctx context.Context, ref string) (*pod.Image, error) {
	if ref == private && r.here.Load() {
		return &pod.Image{ID: "sha256:2", Tags: []string{private}}, nil
	}
	return r.Fake.Image(ctx, ref)
}

func (r *registry) Images(ctx context.Context) ([]pod.Image, error) {
	images, err := r.Fake.Images(ctx)
	return append(images, pod.Image{ID: "sha256:2", Tags: []string{private}}), err
}

func (r *registry) Pull(ctx context.Context, ref string, auths []pod.Auth) (*pod.Image, error) {
	r.pulls.Add(1)
	if r.down.Load() != 0 {
		return nil, errors.New("connection refused")
	}
	for _, a := range auths {
		if a.Password == "right" {
			r.here.Store(true)
			return r.Image(ctx, ref)
		}
	}
	return nil, errors.New("pull access denied")
}

func pullSecret(name, password string) *corev1.Secret {
	auth := base64.StdEncoding.EncodeToString([]byte("user:" + password))
	return &corev1.Secret{TypeMeta: metav1.TypeMeta{Kind: "Secret", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{corev1.DockerConfigJsonKey: fmt.Appendf(nil, `{"auths":{"registry.test":{"auth":%q}}}`, auth)}}
}

// TestImageOfAnotherTenant: a private image that one pod pulled is not there for a pod without credentials, whatever its policy;
// for the first one it is, with no registry in reach.
func TestImageOfAnotherTenant(t *testing.T) {
	dir := t.TempDir()
	r := &registry{Fake: podtest.NewFake()}
	w := podtest.New(t, r, podtest.Directories{Root: dir + "/pods"}, dir)
	create := func(name string, policy corev1.PullPolicy, secrets ...string) {
		p := podtest.Pod(name, "sleep", "1000")
		p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = private, policy
		for _, s := range secrets {
			p.Spec.ImagePullSecrets = append(p.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: s})
		}
		w.Create("pods", p)
	}
	w.Create("secrets", pullSecret("right", "right"))
	w.Create("secrets", pullSecret("wrong", "wrong"))
	create("owner", corev1.PullIfNotPresent, "wrong", "right")
	w.Until("owner", "ready", podtest.Ready)
	create("other", corev1.PullIfNotPresent, "wrong")
	w.Until("other", "ErrImagePull", podtest.Waiting("ErrImagePull"))
	create("never", corev1.PullNever)
	w.Until("never", "ErrImageNeverPull", podtest.Waiting("ErrImageNeverPull"))
	r.down.Store(1)
	pulls := r.pulls.Load()
	create("again", corev1.PullIfNotPresent, "right")
	w.Until("again", "ready", podtest.Ready)
	create("kept", corev1.PullNever, "right")
	w.Until("kept", "ready", podtest.Ready)
	w.Stop()
	w.Start()
	create("after", corev1.PullIfNotPresent, "right")
	w.Until("after", "ready", podtest.Ready)
	create("preloaded", corev1.PullIfNotPresent)
	podtest.Change(w, "pods", "preloaded", func(p *corev1.Pod) { p.Spec.Containers[0].Image = podtest.Image })
	w.Until("preloaded", "ready", podtest.Ready)
	if p := w.Get("other"); p.Status.ContainerStatuses[0].State.Running != nil {
		t.Error("the other pod runs")
	}
	if pulls == 0 {
		t.Error("nothing was pulled")
	}
}
