package pod

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/kubernetes/pkg/apis/core/v1/helper/qos"
)

// Waiting reasons of containers that could not be started, as upstream names them.
const (
	reasonConfig = "CreateContainerConfigError"
	reasonCreate = "CreateContainerError"
	reasonRun    = "RunContainerError"
	reasonHook   = "PostStartHookError"
)

// Delays before something that failed is tried again, where nothing else says so.
const (
	retrySandbox = 2 * time.Second
	retryVolumes = 2 * time.Second
	retryConfig  = 10 * time.Second
	retryCreate  = 10 * time.Second
	shortestStop = 2 * time.Second // even a container that is killed has this long, as upstream
)

// turn carries out one list of actions.
type turn struct {
	w          *worker
	k          *Kubelet
	pod        *corev1.Pod // nil when it is gone
	objects    Objects
	sandboxes  []Sandbox
	containers []Container
	op         *operation
	refs       string // versions of what the pod refers to, as this turn sees it
}

// fail remembers why something could not be done. If what the pod refers to has changed since this turn looked, what
// was missing may be there by now, and the word of it has passed already: it is tried again at once.
func (t *turn) fail(name string, f Failure) {
	t.w.mu.Lock()
	defer t.w.mu.Unlock()
	if t.refs != t.w.refs && (f.Reason == reasonConfig || name == "") {
		f.Until = time.Now()
	}
	t.w.failures[name] = f
}

// do carries out one action; false stops the list: what follows depended on it.
func (t *turn) do(ctx context.Context, a Action) bool {
	switch a.Verb {
	case RunSandbox:
		return t.runSandbox(ctx, a)
	case StartContainer:
		return t.start(ctx, a)
	case StopContainer:
		i := slices.IndexFunc(t.containers, func(c Container) bool { return c.ID == a.ID })
		if i >= 0 {
			t.w.mu.Lock()
			t.w.restarts[a.ID] = a.Restart
			t.w.mu.Unlock()
			t.stop(ctx, t.containers[i], a.Grace, a.Message, a.Hook)
		}
		return true
	case StopPod:
		return t.stopPod(ctx, a)
	case Resize:
		return t.resize(ctx)
	case RemoveDead:
		var err error
		if a.Container == "" {
			err = t.k.cfg.Runtime.RemoveSandbox(ctx, a.ID)
		} else {
			err = t.removeContainer(ctx, a.ID)
		}
		t.warn(ctx, "remove what has ended", err)
		return true
	case Release:
		t.warn(ctx, "unmount volumes", t.k.cfg.Volumes.Cleanup(ctx, t.w.ref.UID, true))
		t.warn(ctx, "remove cgroup", t.k.cfg.Runtime.Forget(ctx, t.w.ref.UID))
		return true
	case refreshVolumes:
		again, err := t.k.cfg.Volumes.Prepare(ctx, t.withAddresses(), t.objects)
		if err != nil && ctx.Err() == nil {
			t.k.event(t.pod, "", corev1.EventTypeWarning, "FailedMount", "%v", err)
			again = time.Now().Add(retryConfig)
		}
		t.op.again = again
		return err == nil
	case Finish:
		return t.finish(ctx)
	}
	return true
}

func (t *turn) warn(ctx context.Context, what string, err error) {
	if err != nil && ctx.Err() == nil {
		t.k.cfg.Log.Warn("cannot "+what, "pod", t.w.ref, "err", err)
	}
}

// withAddresses is the pod with the addresses it has now: its volumes and variables may name them before the status does.
func (t *turn) withAddresses() *corev1.Pod {
	p := t.pod.DeepCopy()
	p.Status.HostIPs, p.Status.PodIPs = nil, nil
	for _, ip := range t.k.cfg.HostIPs {
		p.Status.HostIPs = append(p.Status.HostIPs, corev1.HostIP{IP: ip})
	}
	for _, ip := range t.addresses() {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: ip})
	}
	if len(p.Status.HostIPs) > 0 {
		p.Status.HostIP = p.Status.HostIPs[0].IP
	}
	if len(p.Status.PodIPs) > 0 {
		p.Status.PodIP = p.Status.PodIPs[0].IP
	}
	return p
}

func (t *turn) addresses() []string {
	if t.pod.Spec.HostNetwork {
		return t.k.cfg.HostIPs
	}
	if len(t.sandboxes) > 0 {
		return t.sandboxes[0].IPs
	}
	return nil
}

// runSandbox prepares the volumes and makes the pod's sandbox.
func (t *turn) runSandbox(ctx context.Context, a Action) bool {
	refuse := func(reason string, delay time.Duration, err error) bool {
		if ctx.Err() == nil {
			t.fail("", Failure{Reason: reason, Message: err.Error(), Until: time.Now().Add(delay)})
			t.k.event(t.pod, "", corev1.EventTypeWarning, reason, "%v", err)
		}
		return false
	}
	again, err := t.k.cfg.Volumes.Prepare(ctx, t.withAddresses(), t.objects)
	if err != nil {
		return refuse("FailedMount", retryVolumes, err)
	}
	t.op.again = again
	if err := t.k.cfg.Runtime.Ready(ctx); err != nil && !t.pod.Spec.HostNetwork {
		return refuse("NetworkNotReady", retrySandbox, fmt.Errorf("network is not ready: %w", err))
	}
	spec, err := t.sandboxSpec(a.Attempt)
	if err != nil {
		//lint:ignore ST1005 events say it in the kubelet's words
		return refuse("FailedCreatePodSandBox", retryConfig, fmt.Errorf("Failed to create pod sandbox: %w", err))
	}
	end := t.k.starts.take(ctx, false)
	if end == nil {
		return false
	}
	defer end()
	whole, done := lingering(ctx)
	defer done()
	if _, err := t.k.cfg.Runtime.RunSandbox(whole, spec); err != nil {
		//lint:ignore ST1005 events say it in the kubelet's words
		return refuse("FailedCreatePodSandBox", retrySandbox, fmt.Errorf("Failed to create pod sandbox: %w", err))
	}
	t.w.levelled(spec.Resources)
	t.w.succeed("")
	return true
}

func (t *turn) sandboxSpec(attempt uint32) (*SandboxSpec, error) {
	host := ""
	if !t.pod.Spec.HostNetwork {
		var err error
		if host, err = kernelHostname(t.pod, t.k.cfg.ClusterDomain); err != nil {
			return nil, err
		}
	}
	handler := ""
	if name := t.pod.Spec.RuntimeClassName; name != nil && *name != "" {
		class, ok := t.objects.RuntimeClass(*name)
		if !ok {
			return nil, fmt.Errorf("failed to get sandbox runtime: RuntimeClass %q not found", *name)
		}
		handler = class.Handler
	}
	return &SandboxSpec{Pod: t.pod, Attempt: attempt, Handler: handler, Hostname: host, LogDir: t.k.logDir(t.w.ref),
		DNS: resolver(t.pod, nodeResolver(t.k.cfg.ResolvConf), t.k.cfg.ClusterDNS, t.k.cfg.ClusterDomain),
		QOS: qos.GetPodQOS(t.pod), Resources: podResources(t.pod)}, nil
}

// container finds a container of any kind in the spec.
func (t *turn) container(name string) (c *corev1.Container, target string) {
	for c := range podutil.ContainerIter(&t.pod.Spec, podutil.InitContainers|podutil.Containers) {
		if c.Name == name {
			return c, ""
		}
	}
	for i := range t.pod.Spec.EphemeralContainers {
		if e := &t.pod.Spec.EphemeralContainers[i]; e.Name == name {
			c := corev1.Container(e.EphemeralContainerCommon)
			return &c, e.TargetContainerName
		}
	}
	return nil, ""
}

// start pulls, creates and starts one container, then runs its post-start hook. A failure is remembered, and the next container tried.
func (t *turn) start(ctx context.Context, a Action) bool {
	c, target := t.container(a.Container)
	if c == nil {
		return true
	}
	refuse := func(reason string, delay time.Duration, err error) bool {
		if ctx.Err() == nil {
			message := err.Error()
			t.fail(c.Name, Failure{Reason: reason, Message: message, Until: time.Now().Add(delay)})
			t.k.event(t.pod, c.Name, corev1.EventTypeWarning, "Failed", "Error: %s", message)
			t.w.poke()
		}
		return true
	}
	image, ok := t.image(ctx, c.Name, c.Image, c.ImagePullPolicy)
	if !ok {
		return true
	}
	volumes, ok := t.volumeImages(ctx, c)
	if !ok {
		return true
	}
	end := t.k.starts.take(ctx, true)
	if end == nil {
		return true
	}
	defer end()
	spec, done, err := t.containerSpec(ctx, c, target, image, volumes, a.Restarts)
	if done != nil {
		defer done()
	}
	if err != nil {
		return refuse(reasonConfig, retryConfig, err)
	}
	whole, ended := lingering(ctx)
	defer ended()
	id, err := t.k.cfg.Runtime.CreateContainer(whole, spec)
	if err != nil {
		return refuse(reasonCreate, retryCreate, err)
	}
	t.k.event(t.pod, c.Name, corev1.EventTypeNormal, "Created", "Container created")
	t.w.mu.Lock()
	if a.Backoff.Delay > 0 {
		t.w.backoff[c.Name] = a.Backoff
	}
	hook := c.Lifecycle != nil && c.Lifecycle.PostStart != nil
	if hook {
		t.w.hooks[id] = true
		defer func() {
			t.w.mu.Lock()
			delete(t.w.hooks, id)
			t.w.mu.Unlock()
			t.w.poke()
		}()
	}
	t.w.mu.Unlock()
	if err := t.k.cfg.Runtime.StartContainer(whole, id); err != nil {
		return refuse(reasonRun, retryCreate, err)
	}
	end() // a hook may take its time
	t.k.event(t.pod, c.Name, corev1.EventTypeNormal, "Started", "Container started")
	t.w.succeed(c.Name)
	t.w.poke()
	if hook {
		if err := t.hook(ctx, id, c, c.Lifecycle.PostStart); err != nil && ctx.Err() == nil {
			t.k.event(t.pod, c.Name, corev1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
			run := Container{ID: id, Name: c.Name}
			t.stop(ctx, run, t.podGrace(), "FailedPostStartHook", true)
			return refuse(reasonHook, 0, err)
		}
	}
	return true
}

// linger is how long the runtime has to finish what it has begun when that is no longer wanted.
const linger = 10 * time.Second

// lingering is a context that outlives another a little. A runtime that is told to stop in the middle of a start forgets
// what it has made so far: the process, and the shim above it, would be nobody's.
func lingering(ctx context.Context) (context.Context, context.CancelFunc) {
	whole, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(linger, cancel)
		context.AfterFunc(whole, func() { timer.Stop() })
	})
	return whole, func() { stop(); cancel() }
}

func (t *turn) podGrace() time.Duration {
	if g := t.pod.Spec.TerminationGracePeriodSeconds; g != nil {
		return time.Duration(*g) * time.Second
	}
	return 30 * time.Second
}

// containerSpec takes every decision that a container needs beside its images.
func (t *turn) containerSpec(ctx context.Context, c *corev1.Container, target string, image *Image, volumes map[string]*Image, restarts int32) (*ContainerSpec, func(), error) {
	if len(t.sandboxes) == 0 {
		return nil, nil, errors.New("pod has no sandbox")
	}
	p := t.withAddresses()
	hash := Hash(c)
	env, err := environment(p, c, t.objects, t.k.facts.allocatable)
	if err != nil {
		return nil, nil, err
	}
	command, args := commandLine(c, env)
	if c, err = expanded(c, env); err != nil {
		return nil, nil, err
	}
	if err := verifyNonRoot(p, c, image); err != nil {
		return nil, nil, err
	}
	features, err := t.k.cfg.Runtime.Features(ctx)
	if err != nil {
		return nil, nil, err
	}
	// One that was added to the pod as it ran was not there when the node admitted it.
	if _, message := unenforceable(p, c, features); message != "" {
		return nil, nil, errors.New(message)
	}
	sandbox, err := t.sandboxSpec(t.sandboxes[0].Attempt)
	if err != nil {
		return nil, nil, err
	}
	mounts, done, err := t.k.cfg.Volumes.Mounts(ctx, p, c, t.objects)
	if err != nil {
		return nil, done, err
	}
	for i := range mounts {
		if mounts[i].Recursive && !features.RecursiveReadOnly {
			if err := fallBack(c, mounts[i].Target); err != nil {
				return nil, done, err
			}
			mounts[i].Recursive = false
		}
		if got := volumes[mounts[i].Image]; got != nil {
			mounts[i].Image = got.ID
		}
	}
	own, err := t.ownMounts(p, c)
	if err != nil {
		return nil, done, err
	}
	spec := &ContainerSpec{Pod: p, Sandbox: sandbox, SandboxID: t.sandboxes[0].ID, Container: c, Restarts: restarts, Hash: hash,
		Image: c.Image, ImageID: image.ID, Command: command, Args: args, Env: env, Mounts: append(mounts, own...), User: image.UID, Username: image.User,
		LogPath: filepath.Join(c.Name, strconv.Itoa(int(restarts))+".log"), Resources: containerResources(p, c, t.k.facts.memory)}
	if err := os.MkdirAll(filepath.Join(sandbox.LogDir, c.Name), 0o755); err != nil {
		return nil, done, err
	}
	if target != "" {
		i := slices.IndexFunc(t.containers, func(run Container) bool { return run.Name == target && run.State == Running })
		if i < 0 {
			return nil, done, fmt.Errorf("unable to find target container %s", target)
		}
		spec.Target = t.containers[i].ID
	}
	return spec, done, nil
}

// fallBack tells whether a mount that cannot be read-only recursively may be so at its top only.
func fallBack(c *corev1.Container, target string) error {
	for _, m := range c.VolumeMounts {
		if filepath.Join("/", m.MountPath) == target && m.RecursiveReadOnly != nil && *m.RecursiveReadOnly == corev1.RecursiveReadOnlyEnabled {
			return fmt.Errorf("failed to resolve recursive read-only mode of volume %q: runtime does not support recursive read-only mounts", m.Name)
		}
	}
	return nil
}

// ownMounts are /etc/hosts and the termination message, files in the pod's directory.
func (t *turn) ownMounts(p *corev1.Pod, c *corev1.Container) ([]Mount, error) {
	dir := t.k.cfg.Volumes.Dir(p.UID)
	mounted := func(path string) bool {
		return slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return filepath.Clean(m.MountPath) == path })
	}
	var mounts []Mount
	if !mounted("/etc/hosts") {
		path := filepath.Join(dir, "etc-hosts")
		node, _ := os.ReadFile("/etc/hosts")
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return nil, err
		}
		if err := os.WriteFile(path, hostsFile(p, t.addresses(), node, t.k.cfg.ClusterDomain), 0o644); err != nil {
			return nil, err
		}
		mounts = append(mounts, Mount{Source: path, Target: "/etc/hosts"})
	}
	if c.TerminationMessagePath != "" && !mounted(filepath.Clean(c.TerminationMessagePath)) {
		logs := filepath.Join(dir, "containers", c.Name)
		if err := os.MkdirAll(logs, 0o750); err != nil {
			return nil, err
		}
		f, err := os.CreateTemp(logs, "message-*")
		if err != nil {
			return nil, err
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
		if err := os.Chmod(f.Name(), 0o666); err != nil { // whoever the container runs as
			return nil, err
		}
		mounts = append(mounts, Mount{Source: f.Name(), Target: c.TerminationMessagePath})
	}
	return mounts, nil
}

// verifyNonRoot refuses a container that would run as root although it must not.
func verifyNonRoot(p *corev1.Pod, c *corev1.Container, image *Image) error {
	var nonRoot *bool
	var user *int64
	if sc := p.Spec.SecurityContext; sc != nil {
		nonRoot, user = sc.RunAsNonRoot, sc.RunAsUser
	}
	if sc := c.SecurityContext; sc != nil {
		if sc.RunAsNonRoot != nil {
			nonRoot = sc.RunAsNonRoot
		}
		if sc.RunAsUser != nil {
			user = sc.RunAsUser
		}
	}
	where := fmt.Sprintf("(pod: %q, container: %s)", format(p), c.Name)
	switch {
	case nonRoot == nil || !*nonRoot:
	case user != nil && *user == 0:
		return fmt.Errorf("container's runAsUser breaks non-root policy %s", where)
	case user != nil:
	case image.UID != nil && *image.UID == 0, image.UID == nil && image.User == "":
		return fmt.Errorf("container has runAsNonRoot and image will run as root %s", where)
	case image.UID == nil:
		return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root %s", image.User, where)
	}
	return nil
}

// stop ends one container: the pre-stop hook first, both within the grace.
func (t *turn) stop(ctx context.Context, run Container, grace time.Duration, message string, hook bool) {
	if message == "" {
		message = "Stopping container " + run.Name
	}
	t.k.event(t.pod, run.Name, corev1.EventTypeNormal, "Killing", "%s", message)
	began := time.Now()
	if hook && grace > 0 && t.pod != nil {
		if c, _ := t.container(run.Name); c != nil && c.Lifecycle != nil && c.Lifecycle.PreStop != nil {
			limited, cancel := context.WithTimeout(ctx, grace)
			if err := t.hook(limited, run.ID, c, c.Lifecycle.PreStop); err != nil && ctx.Err() == nil {
				t.k.event(t.pod, run.Name, corev1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
			}
			cancel()
		}
	}
	left := max(grace-time.Since(began).Truncate(time.Second), shortestStop)
	if err := t.k.cfg.Runtime.StopContainer(ctx, run.ID, left); err != nil && ctx.Err() == nil {
		t.k.event(t.pod, "", corev1.EventTypeWarning, "FailedKillPod", "error killing pod: %v", err)
	}
}

// stopPod ends all containers at once, sidecars after all others and among themselves from the last to the first, then the sandboxes.
func (t *turn) stopPod(ctx context.Context, a Action) bool {
	began := time.Now()
	sidecars := map[string]int{}
	if t.pod != nil {
		for i := range t.pod.Spec.InitContainers {
			if c := &t.pod.Spec.InitContainers[i]; podutil.IsRestartableInitContainer(c) {
				sidecars[c.Name] = i + 1
			}
		}
	}
	var group sync.WaitGroup
	var last []Container
	for _, run := range t.containers {
		if run.State != Running && run.State != Unknown {
			continue
		}
		if sidecars[run.Name] > 0 {
			last = append(last, run)
			continue
		}
		group.Go(func() { t.stop(ctx, run, a.Grace, a.Message, a.Hook) })
	}
	group.Wait()
	slices.SortFunc(last, func(x, y Container) int { return sidecars[y.Name] - sidecars[x.Name] })
	for _, run := range last {
		t.stop(ctx, run, max(a.Grace-time.Since(began), 0), a.Message, a.Hook)
	}
	for _, b := range t.sandboxes {
		if err := t.k.cfg.Runtime.StopSandbox(ctx, b.ID); err != nil {
			if ctx.Err() == nil {
				t.k.event(t.pod, "", corev1.EventTypeWarning, "FailedKillPod", "error killing pod: %v", err)
				time.AfterFunc(time.Second, t.w.poke)
			}
			return false
		}
	}
	return true
}

// finish takes away what a pod that has ended left on the node.
func (t *turn) finish(ctx context.Context) bool {
	for _, b := range t.sandboxes {
		if err := t.k.cfg.Runtime.RemoveSandbox(ctx, b.ID); err != nil {
			t.later(ctx, "remove sandbox", err)
			return false
		}
	}
	for _, c := range t.containers {
		if err := t.k.cfg.Runtime.RemoveContainer(ctx, c.ID); err != nil {
			t.later(ctx, "remove container", err)
			return false
		}
	}
	if err := t.k.cfg.Volumes.Cleanup(ctx, t.w.ref.UID, false); err != nil {
		t.later(ctx, "clean up volumes", err)
		return false
	}
	if err := t.k.cfg.Runtime.Forget(ctx, t.w.ref.UID); err != nil {
		t.later(ctx, "remove cgroups", err)
		return false
	}
	if t.w.ref.Name != "" {
		if err := os.RemoveAll(t.k.logDir(t.w.ref)); err != nil {
			t.later(ctx, "remove logs", err)
			return false
		}
	}
	t.op.gone = true
	return true
}

func (t *turn) later(ctx context.Context, what string, err error) {
	t.warn(ctx, what, err)
	// The action is decided again at once; this keeps a failure from spinning.
	select {
	case <-ctx.Done():
	case <-time.After(time.Second):
	}
}

// removeContainer forgets one run and its log.
func (t *turn) removeContainer(ctx context.Context, id string) error {
	i := slices.IndexFunc(t.containers, func(c Container) bool { return c.ID == id })
	if err := t.k.cfg.Runtime.RemoveContainer(ctx, id); err != nil || i < 0 {
		return err
	}
	t.w.mu.Lock()
	delete(t.w.restarts, id)
	t.w.mu.Unlock()
	logs, err := filepath.Glob(t.containers[i].LogPath + "*")
	if err != nil || t.containers[i].LogPath == "" {
		return nil
	}
	for _, path := range logs {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// logDir is where a pod's logs are: the kubelet's layout.
func (k *Kubelet) logDir(r Ref) string {
	return filepath.Join(k.cfg.LogDir, r.Namespace+"_"+r.Name+"_"+string(r.UID))
}

// logDirs are the pods that have logs on this node.
func (k *Kubelet) logDirs() []Ref {
	var refs []Ref
	entries, _ := os.ReadDir(k.cfg.LogDir)
	for _, e := range entries {
		if parts := strings.Split(e.Name(), "_"); e.IsDir() && len(parts) == 3 {
			refs = append(refs, Ref{Namespace: parts[0], Name: parts[1], UID: types.UID(parts[2])})
		}
	}
	return refs
}
