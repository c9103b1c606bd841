package pod

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/credentialprovider"
	"k8s.io/kubernetes/pkg/util/parsers"
)

// image makes an image that a container needs present by its pull policy; false when it is not, and why is remembered for the container.
func (t *turn) image(ctx context.Context, container, image string, policy corev1.PullPolicy) (*Image, bool) {
	refuse := func(f Failure, again bool) (*Image, bool) {
		if ctx.Err() != nil {
			return nil, false
		}
		if f.Until.IsZero() {
			f.Until = time.Now().Add(retryConfig)
		}
		t.fail(container, f)
		if !again {
			t.k.event(t.pod, container, corev1.EventTypeWarning, "Failed", "Error: %s", f.Reason)
		}
		t.w.poke()
		return nil, false
	}
	if _, _, _, err := parsers.ParseImageName(image); err != nil {
		message := fmt.Sprintf("Failed to apply default image tag %q: %v", image, err)
		t.k.event(t.pod, container, corev1.EventTypeWarning, "InspectFailed", "%s", message)
		return refuse(Failure{Reason: "InvalidImageName", Message: message}, false)
	}
	have, err := t.k.cfg.Runtime.Image(ctx, image)
	if err != nil {
		message := fmt.Sprintf("Failed to inspect image %q: %v", image, err)
		t.k.event(t.pod, container, corev1.EventTypeWarning, "InspectFailed", "%s", message)
		return refuse(Failure{Reason: "ImageInspectError", Message: message}, false)
	}
	if have != nil && policy != corev1.PullAlways {
		t.k.event(t.pod, container, corev1.EventTypeNormal, "Pulled", "Container image %q already present on machine and can be accessed by the pod", image)
		return have, true
	}
	if policy == corev1.PullNever {
		message := fmt.Sprintf("Container image %q is not present with pull policy of Never", image)
		t.k.event(t.pod, container, corev1.EventTypeWarning, "ErrImageNeverPull", "%s", message)
		return refuse(Failure{Reason: "ErrImageNeverPull", Message: message}, false)
	}
	began := time.Now()
	select {
	case t.k.pulls <- struct{}{}:
		defer func() { <-t.k.pulls }()
	case <-ctx.Done():
		return nil, false
	}
	t.k.event(t.pod, container, corev1.EventTypeNormal, "Pulling", "Pulling image %q", image)
	pulling := time.Now()
	got, err := t.k.cfg.Runtime.Pull(ctx, image, credentials(t.pod, image, t.objects))
	if err != nil {
		if ctx.Err() != nil {
			return nil, false
		}
		message := err.Error()
		t.k.event(t.pod, container, corev1.EventTypeWarning, "Failed", "Failed to pull image %q: %v", image, message)
		t.k.event(t.pod, container, corev1.EventTypeWarning, "Failed", "Error: ErrImagePull")
		last, _ := t.w.failed(container)
		return refuse(pullFailure(last, image, message, time.Now()), true)
	}
	t.k.event(t.pod, container, corev1.EventTypeNormal, "Pulled", "Successfully pulled image %q in %v (%v including waiting). Image size: %v bytes.",
		image, time.Since(pulling).Truncate(time.Millisecond), time.Since(began).Truncate(time.Millisecond), got.Size)
	return got, true
}

// volumeImages makes the images that a container mounts present, by reference.
func (t *turn) volumeImages(ctx context.Context, c *corev1.Container) (map[string]*Image, bool) {
	images := map[string]*Image{}
	for i := range t.pod.Spec.Volumes {
		v := &t.pod.Spec.Volumes[i]
		if v.Image == nil || images[v.Image.Reference] != nil || !slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == v.Name }) {
			continue
		}
		got, ok := t.image(ctx, c.Name, v.Image.Reference, v.Image.PullPolicy)
		if !ok {
			return nil, false
		}
		images[v.Image.Reference] = got
	}
	return images, true
}

// errImagePullShown is how long a failed pull is shown as such before it is shown as a back-off.
const errImagePullShown = 2 * time.Second

// pullFailure is what is remembered of a pull that failed, after the failure before it.
func pullFailure(last Failure, image, message string, now time.Time) Failure {
	delay := backoffFirst
	if last.Again == "ImagePullBackOff" {
		delay = min(2*last.Delay, backoffMax)
	}
	return Failure{Reason: "ErrImagePull", Message: message, Until: now.Add(delay), Delay: delay,
		Again: "ImagePullBackOff", AgainAt: now.Add(errImagePullShown),
		AgainMessage: fmt.Sprintf("Back-off pulling image %q: ErrImagePull: %s", image, message)}
}

// credentials are what the pod's imagePullSecrets hold for the image's registry.
func credentials(p *corev1.Pod, image string, objects Objects) []Auth {
	var ring credentialprovider.BasicDockerKeyring
	for _, ref := range p.Spec.ImagePullSecrets {
		secret, ok := objects.Secret(p.Namespace, ref.Name)
		if !ok {
			continue // as upstream: the pull may work without
		}
		switch secret.Type {
		case corev1.SecretTypeDockerConfigJson:
			var config credentialprovider.DockerConfigJSON
			if json.Unmarshal(secret.Data[corev1.DockerConfigJsonKey], &config) == nil {
				ring.Add(nil, config.Auths)
			}
		case corev1.SecretTypeDockercfg:
			var config credentialprovider.DockerConfig
			if json.Unmarshal(secret.Data[corev1.DockerConfigKey], &config) == nil {
				ring.Add(nil, config)
			}
		}
	}
	repository, _, _, err := parsers.ParseImageName(image)
	if err != nil {
		return nil
	}
	found, _ := ring.Lookup(repository)
	var auths []Auth
	for _, a := range found {
		auths = append(auths, Auth{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken,
			RegistryToken: a.RegistryToken, Server: a.ServerAddress})
	}
	return auths
}
