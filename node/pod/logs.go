package pod

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
)

// Log files are renamed at this size and this many are kept of a run, the one written to included.
const (
	maxLogSize  = 10 << 20
	maxLogFiles = 5
	rotateEvery = 10 * time.Second
)

// choose finds the container of a pod that a request means, and its newest runs. All errors are API statuses.
func (k *Kubelet) choose(ctx context.Context, namespace, name, container string) (*worker, *corev1.Pod, *corev1.Container, []Container, []Sandbox, error) {
	w, p := k.find(namespace, name)
	if p == nil {
		return nil, nil, nil, nil, nil, apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, name)
	}
	var names []string
	var chosen *corev1.Container
	for c, kind := range podutil.ContainerIter(&p.Spec, podutil.InitContainers|podutil.Containers|podutil.EphemeralContainers) {
		if kind == podutil.Containers {
			names = append(names, c.Name)
		}
		if c.Name == container {
			chosen = c
		}
	}
	switch {
	case container == "" && len(names) == 1:
		chosen = &p.Spec.Containers[0]
	case container == "":
		return nil, nil, nil, nil, nil, apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s, choose one of: %v", name, names))
	case chosen == nil:
		return nil, nil, nil, nil, nil, apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", container, name))
	}
	sandboxes, all, err := k.cfg.Runtime.List(ctx, p.UID)
	if err != nil {
		return nil, nil, nil, nil, nil, apierrors.NewInternalError(err)
	}
	runs := slices.DeleteFunc(all, func(c Container) bool { return c.Name != chosen.Name })
	return w, p, chosen, runs, sandboxes, nil
}

// Logs writes a container's log to out, following it if asked. Errors before the first byte are API statuses.
func (k *Kubelet) Logs(ctx context.Context, namespace, name string, opts *corev1.PodLogOptions, out io.Writer) error {
	_, p, c, runs, _, err := k.choose(ctx, namespace, name, opts.Container)
	if err != nil {
		return err
	}
	if opts.Previous {
		previous := previousRun(p, c.Name, runs)
		if previous == nil {
			return apierrors.NewBadRequest(fmt.Sprintf("previous terminated container %q in pod %q not found", c.Name, name))
		}
		runs = []Container{*previous}
	}
	// A run that was made but never started has written nothing; the one before it has.
	for len(runs) > 1 && runs[0].State == Created {
		runs = runs[1:]
	}
	if len(runs) == 0 || runs[0].State == Created {
		reason := "ContainerCreating"
		if st := statusOf(p, c.Name); st != nil && st.State.Waiting != nil && st.State.Waiting.Reason != "" {
			reason = st.State.Waiting.Reason
		}
		if reason == "ErrImagePull" || reason == "ImagePullBackOff" {
			return apierrors.NewBadRequest(fmt.Sprintf("container %q in pod %q is waiting to start: trying and failing to pull image", c.Name, name))
		}
		return apierrors.NewBadRequest(fmt.Sprintf("container %q in pod %q is waiting to start: %s", c.Name, name, reason))
	}
	if _, err := os.Stat(runs[0].LogPath); err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("log of container %q in pod %q is gone: %v", c.Name, name, err))
	}
	return k.cfg.Runtime.ReadLog(ctx, runs[0].LogPath, runs[0].ID, opts, out)
}

// previousRun is the run that the status calls the last state, or the one before the newest.
func previousRun(p *corev1.Pod, name string, runs []Container) *Container {
	if st := statusOf(p, name); st != nil && st.LastTerminationState.Terminated != nil {
		for i := range runs {
			if containerID(&runs[i]) == st.LastTerminationState.Terminated.ContainerID {
				return &runs[i]
			}
		}
	}
	if len(runs) > 1 {
		return &runs[1]
	}
	return nil
}

// Exec prepares a command in a container; the URL is of the runtime's streaming server on this node.
func (k *Kubelet) Exec(ctx context.Context, namespace, name string, opts *corev1.PodExecOptions) (*url.URL, error) {
	id, err := k.runningContainer(ctx, namespace, name, opts.Container)
	if err != nil {
		return nil, err
	}
	return k.cfg.Runtime.ExecURL(ctx, id, opts)
}

// Attach prepares to attach to a container's first process.
func (k *Kubelet) Attach(ctx context.Context, namespace, name string, opts *corev1.PodAttachOptions) (*url.URL, error) {
	id, err := k.runningContainer(ctx, namespace, name, opts.Container)
	if err != nil {
		return nil, err
	}
	return k.cfg.Runtime.AttachURL(ctx, id, opts)
}

// PortForward prepares to forward ports of a pod.
func (k *Kubelet) PortForward(ctx context.Context, namespace, name string, opts *corev1.PodPortForwardOptions) (*url.URL, error) {
	_, p := k.find(namespace, name)
	if p == nil {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, name)
	}
	sandboxes, _, err := k.cfg.Runtime.List(ctx, p.UID)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if len(sandboxes) == 0 || !sandboxes[0].Ready {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("pod %q has no running sandbox", name))
	}
	return k.cfg.Runtime.PortForwardURL(ctx, sandboxes[0].ID, opts.Ports)
}

func (k *Kubelet) runningContainer(ctx context.Context, namespace, name, container string) (string, error) {
	_, p, c, runs, _, err := k.choose(ctx, namespace, name, container)
	if err != nil {
		return "", err
	}
	if podutil.IsPodTerminal(p) {
		return "", apierrors.NewBadRequest(fmt.Sprintf("cannot exec into a container in a completed pod; current phase is %s", p.Status.Phase))
	}
	if len(runs) == 0 || runs[0].State != Running {
		return "", apierrors.NewBadRequest(fmt.Sprintf("container not found (%q)", c.Name))
	}
	return runs[0].ID, nil
}

// rotate keeps the logs of running containers small.
func (k *Kubelet) rotate(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(rotateEvery):
		}
		_, containers, err := k.cfg.Runtime.List(ctx, "")
		if err != nil {
			continue // said elsewhere
		}
		for _, c := range containers {
			if c.State != Running || c.LogPath == "" {
				continue
			}
			if err := k.rotateLog(ctx, c, maxLogSize, time.Now()); err != nil && ctx.Err() == nil {
				k.cfg.Log.Warn("cannot rotate a container's log", "pod", c.Pod, "container", c.Name, "err", err)
			}
		}
	}
}

func (k *Kubelet) rotateLog(ctx context.Context, c Container, limit int64, now time.Time) error {
	info, err := os.Stat(c.LogPath)
	if os.IsNotExist(err) {
		// Renamed, but the daemon ended before the runtime was told.
		return k.cfg.Runtime.ReopenLog(ctx, c.ID)
	}
	if err != nil || info.Size() < limit {
		return err
	}
	olds, err := filepath.Glob(c.LogPath + ".*")
	if err != nil {
		return err
	}
	slices.SortFunc(olds, func(a, b string) int { return strings.Compare(b, a) })
	for _, path := range olds[min(len(olds), maxLogFiles-2):] {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	if err := os.Rename(c.LogPath, c.LogPath+"."+now.UTC().Format("20060102-150405")); err != nil {
		return err
	}
	return k.cfg.Runtime.ReopenLog(ctx, c.ID)
}
