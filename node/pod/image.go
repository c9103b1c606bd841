package pod

import (
	"context"
	"encoding/json"
	"errors"
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
	auths := credentials(t.pod, image, t.objects)
	allowed := have != nil
	if have != nil && policy != corev1.PullAlways {
		if allowed, err = t.k.pulled.may(have.ID, image, auths); err != nil {
			message := fmt.Sprintf("Failed to find out whose image %q is: %v", image, err)
			t.k.event(t.pod, container, corev1.EventTypeWarning, "InspectFailed", "%s", message)
			return refuse(Failure{Reason: "ImageInspectError", Message: message}, false)
		}
	}
	if allowed && policy != corev1.PullAlways {
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
	got, err := t.pull(ctx, image, auths)
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

// pull fetches an image with the first credentials that the registry takes, and remembers which those were.
func (t *turn) pull(ctx context.Context, image string, auths []Auth) (got *Image, err error) {
	if err := t.k.pulled.intend(image); err != nil {
		return nil, fmt.Errorf("note that the image is to be pulled: %w", err)
	}
	var with *Auth
	if len(auths) == 0 {
		got, err = t.k.cfg.Runtime.Pull(ctx, image, nil)
	}
	var errs []error
	for i := range auths {
		if got, err = t.k.cfg.Runtime.Pull(ctx, image, auths[i:i+1]); err == nil {
			with, errs = &auths[i], nil
			break
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	if len(errs) > 0 {
		err = errors.Join(errs...)
	}
	id := ""
	if err == nil {
		id = got.ID
	}
	if note := t.k.pulled.done(image, id, with); note != nil && err == nil {
		return nil, fmt.Errorf("note who pulled the image: %w", note)
	}
	return got, err
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
		source := &credentialprovider.CredentialSource{Secret: &credentialprovider.SecretCoordinates{UID: string(secret.UID), Namespace: p.Namespace, Name: ref.Name}}
		switch secret.Type {
		case corev1.SecretTypeDockerConfigJson:
			var config credentialprovider.DockerConfigJSON
			if json.Unmarshal(secret.Data[corev1.DockerConfigJsonKey], &config) == nil {
				ring.Add(source, config.Auths)
			}
		case corev1.SecretTypeDockercfg:
			var config credentialprovider.DockerConfig
			if json.Unmarshal(secret.Data[corev1.DockerConfigKey], &config) == nil {
				ring.Add(source, config)
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
		auth := Auth{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken, Server: a.ServerAddress}
		if a.Source != nil && a.Source.Secret != nil {
			auth.Secret = a.Source.Secret.Namespace + "/" + a.Source.Secret.Name + "/" + a.Source.Secret.UID
		}
		auths = append(auths, auth)
	}
	return auths
}
