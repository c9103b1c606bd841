package pod

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/credentialprovider"
	"k8s.io/kubernetes/pkg/util/parsers"
)

// image makes a container's image present by its pull policy; false when it is not, and why is remembered.
func (t *turn) image(ctx context.Context, c *corev1.Container) (*Image, bool) {
	refuse := func(f Failure, again bool) (*Image, bool) {
		if ctx.Err() != nil {
			return nil, false
		}
		if f.Until.IsZero() {
			f.Until = time.Now().Add(retryConfig)
		}
		t.fail(c.Name, f)
		if !again {
			t.k.event(t.pod, c.Name, corev1.EventTypeWarning, "Failed", "Error: %s", f.Reason)
		}
		t.w.poke()
		return nil, false
	}
	if _, _, _, err := parsers.ParseImageName(c.Image); err != nil {
		message := fmt.Sprintf("Failed to apply default image tag %q: %v", c.Image, err)
		t.k.event(t.pod, c.Name, corev1.EventTypeWarning, "InspectFailed", "%s", message)
		return refuse(Failure{Reason: "InvalidImageName", Message: message}, false)
	}
	have, err := t.k.cfg.Runtime.Image(ctx, c.Image)
	if err != nil {
		message := fmt.Sprintf("Failed to inspect image %q: %v", c.Image, err)
		t.k.event(t.pod, c.Name, corev1.EventTypeWarning, "InspectFailed", "%s", message)
		return refuse(Failure{Reason: "ImageInspectError", Message: message}, false)
	}
	if have != nil && c.ImagePullPolicy != corev1.PullAlways {
		t.k.event(t.pod, c.Name, corev1.EventTypeNormal, "Pulled", "Container image %q already present on machine and can be accessed by the pod", c.Image)
		return have, true
	}
	if c.ImagePullPolicy == corev1.PullNever {
		message := fmt.Sprintf("Container image %q is not present with pull policy of Never", c.Image)
		t.k.event(t.pod, c.Name, corev1.EventTypeWarning, "ErrImageNeverPull", "%s", message)
		return refuse(Failure{Reason: "ErrImageNeverPull", Message: message}, false)
	}
	began := time.Now()
	select {
	case t.k.pulls <- struct{}{}:
		defer func() { <-t.k.pulls }()
	case <-ctx.Done():
		return nil, false
	}
	t.k.event(t.pod, c.Name, corev1.EventTypeNormal, "Pulling", "Pulling image %q", c.Image)
	pulling := time.Now()
	got, err := t.k.cfg.Runtime.Pull(ctx, c.Image, credentials(t.pod, c.Image, t.objects))
	if err != nil {
		if ctx.Err() != nil {
			return nil, false
		}
		message := err.Error()
		t.k.event(t.pod, c.Name, corev1.EventTypeWarning, "Failed", "Failed to pull image %q: %v", c.Image, message)
		t.k.event(t.pod, c.Name, corev1.EventTypeWarning, "Failed", "Error: ErrImagePull")
		last, _ := t.w.failed(c.Name)
		return refuse(pullFailure(last, c.Image, message, time.Now()), true)
	}
	t.k.event(t.pod, c.Name, corev1.EventTypeNormal, "Pulled", "Successfully pulled image %q in %v (%v including waiting). Image size: %v bytes.",
		c.Image, time.Since(pulling).Truncate(time.Millisecond), time.Since(began).Truncate(time.Millisecond), got.Size)
	return got, true
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
