package podtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"murmur/node/pod"
)

// Fake is a Runtime made of memory. Its containers understand the commands true, false and sleep SECONDS (deaf to signals, as a
// first process is), and show their environment and their command line to who looks; it has one image, Image. Everything happens at once.
type Fake struct {
	// Can is what it has of what a machine may lack; NewFake's has nothing of it. It knows no AppArmor profile by name.
	Can pod.Features

	mu         sync.Mutex // guards everything below
	serial     int
	sandboxes  []pod.Sandbox
	containers []pod.Container
	cgroups    map[types.UID]pod.Resources
	ends       map[string]chan struct{} // by container id: closed when it has ended
	specs      map[string]*pod.ContainerSpec
	watchers   map[int]func(types.UID)
}

var _ pod.Runtime = (*Fake)(nil)

// NewFake makes an empty one.
func NewFake() *Fake {
	return &Fake{Can: pod.Features{UserNamespaces: pod.ErrNotSupported, AppArmor: pod.ErrNotSupported}, cgroups: map[types.UID]pod.Resources{}, ends: map[string]chan struct{}{}, specs: map[string]*pod.ContainerSpec{}, watchers: map[int]func(types.UID){}}
}

func (f *Fake) id(prefix string) string {
	f.serial++
	return prefix + strconv.Itoa(f.serial)
}

// changed tells the watchers; the caller does not hold the lock.
func (f *Fake) changed(uid types.UID) {
	f.mu.Lock()
	watchers := make([]func(types.UID), 0, len(f.watchers))
	for _, w := range f.watchers {
		watchers = append(watchers, w)
	}
	f.mu.Unlock()
	for _, w := range watchers {
		w(uid)
	}
}

func (f *Fake) Version(context.Context) (string, error) { return "fake://1", nil }

func (f *Fake) Ready(context.Context) error { return nil }

// Features are those of Can.
func (f *Fake) Features(context.Context) (pod.Features, error) { return f.Can, nil }

func (f *Fake) Watch(ctx context.Context, changed func(types.UID)) error {
	f.mu.Lock()
	f.serial++
	n := f.serial
	f.watchers[n] = changed
	f.mu.Unlock()
	<-ctx.Done()
	f.mu.Lock()
	delete(f.watchers, n)
	f.mu.Unlock()
	return ctx.Err()
}

func (f *Fake) List(_ context.Context, uid types.UID) ([]pod.Sandbox, []pod.Container, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	sandboxes := slices.DeleteFunc(slices.Clone(f.sandboxes), func(b pod.Sandbox) bool { return uid != "" && b.Pod.UID != uid })
	containers := slices.DeleteFunc(slices.Clone(f.containers), func(c pod.Container) bool { return uid != "" && c.Pod.UID != uid })
	slices.Reverse(sandboxes)
	slices.Reverse(containers)
	return sandboxes, containers, nil
}

func (f *Fake) RunSandbox(_ context.Context, spec *pod.SandboxSpec) (string, error) {
	f.mu.Lock()
	b := pod.Sandbox{ID: f.id("s"), Pod: pod.RefOf(spec.Pod), Attempt: spec.Attempt, Created: time.Now(), Ready: true, HostNetwork: spec.Pod.Spec.HostNetwork}
	if !b.HostNetwork {
		b.IPs = []string{fmt.Sprintf("10.42.0.%d", f.serial%250+2)}
	}
	f.sandboxes = append(f.sandboxes, b)
	f.cgroups[b.Pod.UID] = spec.Resources
	f.mu.Unlock()
	f.changed(b.Pod.UID)
	return b.ID, nil
}

func (f *Fake) StopSandbox(_ context.Context, id string) error {
	f.mu.Lock()
	for i := range f.containers {
		if f.containers[i].SandboxID == id {
			f.end(&f.containers[i], 137)
		}
	}
	var uid types.UID
	for i := range f.sandboxes {
		if f.sandboxes[i].ID == id {
			f.sandboxes[i].Ready, uid = false, f.sandboxes[i].Pod.UID
		}
	}
	f.mu.Unlock()
	f.changed(uid)
	return nil
}

func (f *Fake) RemoveSandbox(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sandboxes = slices.DeleteFunc(f.sandboxes, func(b pod.Sandbox) bool { return b.ID == id })
	f.containers = slices.DeleteFunc(f.containers, func(c pod.Container) bool { return c.SandboxID == id })
	return nil
}

// Cgroup is what a pod's own cgroup has.
func (f *Fake) Cgroup(_ *testing.T, p *corev1.Pod) pod.Resources {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cgroups[p.UID]
}

func (f *Fake) Resize(_ context.Context, spec *pod.SandboxSpec, containers map[string]pod.Resources) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cgroups[spec.Pod.UID] = spec.Resources
	for id, r := range containers {
		if c := f.find(id); c != nil {
			c.Resources = &r
		}
	}
	return nil
}

func (f *Fake) Forget(_ context.Context, uid types.UID) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.cgroups, uid)
	return nil
}

func (f *Fake) CreateContainer(_ context.Context, spec *pod.ContainerSpec) (string, error) {
	if sc := spec.Container.SecurityContext; sc != nil && sc.AppArmorProfile != nil && sc.AppArmorProfile.Type == corev1.AppArmorProfileTypeLocalhost {
		return "", fmt.Errorf("apparmor profile not found %s", *sc.AppArmorProfile.LocalhostProfile)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	c := pod.Container{ID: f.id("c"), SandboxID: spec.SandboxID, Pod: pod.RefOf(spec.Pod), Name: spec.Container.Name, Restarts: spec.Restarts, Hash: spec.Hash,
		State: pod.Created, Created: time.Now(), Image: spec.Image, ImageID: spec.ImageID, LogPath: filepath.Join(spec.Sandbox.LogDir, spec.LogPath),
		Message: strings.Join(commandLine(spec), " "), Resources: &spec.Resources, MemoryAsked: spec.Container.Resources.Requests.Memory().Value()}
	f.containers = append(f.containers, c)
	f.ends[c.ID] = make(chan struct{})
	f.specs[c.ID] = spec
	return c.ID, nil
}

// commandLine is what the container's process is started as.
func commandLine(spec *pod.ContainerSpec) (words []string) {
	for _, t := range slices.Concat(spec.Command, spec.Args) {
		words = append(words, t.Value)
	}
	return words
}

// Stored is all that a runtime would write down of its containers: their specs, without the texts that they mark as secret.
func (f *Fake) Stored() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var b strings.Builder
	for _, s := range f.specs {
		written := *s
		hide := func(t pod.Text) pod.Text {
			if t.Secret {
				t.Value = "sealed"
			}
			return t
		}
		written.Env, written.Command, written.Args = nil, nil, nil
		for _, e := range s.Env {
			written.Env = append(written.Env, pod.Variable{Name: e.Name, Text: hide(e.Text)})
		}
		for _, t := range slices.Concat(s.Command, s.Args) {
			written.Args = append(written.Args, hide(t))
		}
		fmt.Fprintf(&b, "%+v %+v %+v\n", written, s.Container, s.Pod)
	}
	return b.String()
}

// find returns the container; the caller holds the lock.
func (f *Fake) find(id string) *pod.Container {
	for i := range f.containers {
		if f.containers[i].ID == id {
			return &f.containers[i]
		}
	}
	return nil
}

// end ends a container that runs; the caller holds the lock.
func (f *Fake) end(c *pod.Container, code int32) {
	if c.State != pod.Running {
		return
	}
	c.State, c.ExitCode, c.Finished, c.Reason = pod.Exited, code, time.Now(), "Error"
	if code == 0 {
		c.Reason = "Completed"
	}
	close(f.ends[c.ID])
}

func (f *Fake) StartContainer(_ context.Context, id string) error {
	f.mu.Lock()
	c := f.find(id)
	if c == nil {
		f.mu.Unlock()
		return errors.New("no such container")
	}
	command := strings.Fields(c.Message)
	c.Message, c.State, c.Started = "", pod.Running, time.Now()
	uid := c.Pod.UID
	switch command[0] {
	case "true":
		f.end(c, 0)
	case "false":
		f.end(c, 1)
	case "sleep":
	default:
		f.mu.Unlock()
		return fmt.Errorf("exec: %q: executable file not found in $PATH", command[0])
	}
	f.mu.Unlock()
	f.changed(uid)
	return nil
}

func (f *Fake) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	f.mu.Lock()
	c := f.find(id)
	if c == nil || c.State != pod.Running {
		f.mu.Unlock()
		return nil
	}
	ended := f.ends[id]
	uid := c.Pod.UID
	f.mu.Unlock()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(min(grace, 50*time.Millisecond)):
	}
	f.mu.Lock()
	if c := f.find(id); c != nil {
		f.end(c, 137)
	}
	f.mu.Unlock()
	f.changed(uid)
	return nil
}

func (f *Fake) RemoveContainer(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.containers = slices.DeleteFunc(f.containers, func(c pod.Container) bool { return c.ID == id })
	return nil
}

func (f *Fake) Exec(_ context.Context, id string, cmd []string, _ time.Duration) ([]byte, int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.find(id); c == nil || c.State != pod.Running {
		return nil, 0, errors.New("container is not running")
	}
	var out strings.Builder
	switch strings.Join(cmd, " ") {
	case "false":
		return nil, 1, nil
	case "env":
		for _, e := range f.specs[id].Env {
			out.WriteString(e.Name + "=" + e.Value + "\n")
		}
	case "cat /proc/1/environ":
		for _, e := range f.specs[id].Env {
			out.WriteString(e.Name + "=" + e.Value + "\x00")
		}
	case "cat /proc/1/cmdline":
		for _, word := range commandLine(f.specs[id]) {
			out.WriteString(word + "\x00")
		}
	}
	return []byte(out.String()), 0, nil
}

func (f *Fake) Stats(context.Context) ([]pod.ContainerStats, error) { return nil, nil }

var errNoStreams = errors.New("the fake runtime has no streams")

func (f *Fake) ExecURL(context.Context, string, *corev1.PodExecOptions) (*url.URL, error) {
	return nil, errNoStreams
}

func (f *Fake) AttachURL(context.Context, string, *corev1.PodAttachOptions) (*url.URL, error) {
	return nil, errNoStreams
}

func (f *Fake) PortForwardURL(context.Context, string, []int32) (*url.URL, error) {
	return nil, errNoStreams
}

func (f *Fake) ReadLog(context.Context, string, string, *corev1.PodLogOptions, io.Writer) error {
	return nil
}

func (f *Fake) ReopenLog(context.Context, string) error { return nil }

var fakeImage = pod.Image{ID: "sha256:1", Tags: []string{Image}, Size: 1}

func (f *Fake) Image(_ context.Context, ref string) (*pod.Image, error) {
	if ref == Image || ref == fakeImage.ID {
		image := fakeImage
		return &image, nil
	}
	return nil, nil
}

func (f *Fake) Images(context.Context) ([]pod.Image, error) { return []pod.Image{fakeImage}, nil }

func (f *Fake) Pull(_ context.Context, ref string, _ []pod.Auth) (*pod.Image, error) {
	return nil, fmt.Errorf("failed to pull and unpack image %q: connection refused", ref)
}

func (f *Fake) RemoveImage(context.Context, string) error { return nil }

func (f *Fake) ImageFS() string { return os.TempDir() }

// Directories are Volumes that are directories only: for pods without volumes.
type Directories struct{ Root string }

var _ pod.Volumes = Directories{}

func (d Directories) Prepare(_ context.Context, p *corev1.Pod, _ pod.Objects) (time.Time, error) {
	return time.Time{}, os.MkdirAll(d.Dir(p.UID), 0o750)
}

func (d Directories) Mounts(context.Context, *corev1.Pod, *corev1.Container, pod.Objects) ([]pod.Mount, func(), error) {
	return nil, func() {}, nil
}

func (d Directories) Dir(uid types.UID) string { return filepath.Join(d.Root, string(uid)) }

func (d Directories) Cleanup(_ context.Context, uid types.UID, keep bool) error {
	if keep {
		return nil
	}
	return os.RemoveAll(d.Dir(uid))
}

func (d Directories) Pods() ([]types.UID, error) {
	entries, err := os.ReadDir(d.Root)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var uids []types.UID
	for _, e := range entries {
		uids = append(uids, types.UID(e.Name()))
	}
	return uids, err
}
