package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"murmur/node/containerd/seal"
	"murmur/node/pod"
)

// unsealer is the program that containerd starts in place of runc.
const unsealer = "murmur-runc"

// seals is what it opens: the value of annotationUnseals.
const seals = "v1"

// runcRoot is where runc keeps what it knows of containers.
func (c Config) runcRoot() string { return filepath.Join(c.State, "runc") }

// sealDir is where the key is. runc is told the directory of containerd's namespace below its root.
func (c Config) sealDir() string { return seal.DirBeside(filepath.Join(c.runcRoot(), Namespace)) }

// keepKey has the key of this boot in a tmpfs of its own, where the unsealer finds it: that which is there already, since containers are sealed
// under it, or a new one.
func (d *Driver) keepKey() error {
	dir := d.cfg.sealDir()
	if err := inMemory(dir); err != nil {
		return fmt.Errorf("make a directory in memory for the key of this boot: %w", err)
	}
	key, err := seal.Load(dir)
	if errors.Is(err, seal.ErrNoKey) {
		key, err = seal.Create(dir)
	}
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.key = key
	d.mu.Unlock()
	return nil
}

// inMemory has a tmpfs mounted on a directory, which may be there already. It is not swapped out where the kernel can promise that.
func inMemory(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var own, above unix.Stat_t
	var fs unix.Statfs_t
	if err := errors.Join(unix.Stat(dir, &own), unix.Stat(filepath.Dir(dir), &above), unix.Statfs(dir, &fs)); err != nil {
		return err
	}
	if own.Dev != above.Dev && fs.Type == unix.TMPFS_MAGIC {
		return nil
	}
	const flags, options = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "mode=0700,size=64k"
	err := unix.Mount("tmpfs", dir, "tmpfs", flags, options+",noswap")
	if errors.Is(err, unix.EINVAL) { // before Linux 6.4
		err = unix.Mount("tmpfs", dir, "tmpfs", flags, options)
	}
	return err
}

// texts is how the texts of a container are written down: sealed, if they have a Secret's bytes or look as if they were sealed; all as they are
// where nobody opens them.
func (d *Driver) texts(ctx context.Context, s *pod.ContainerSpec) (func(pod.Text) string, error) {
	asTheyAre := func(t pod.Text) string { return t.Value }
	wanted := false
	for _, t := range everyText(s) {
		wanted = wanted || t.Secret || seal.Is(t.Value)
	}
	if !wanted || d.cfg.External {
		return asTheyAre, nil
	}
	opened, err := d.opened(ctx, s.SandboxID)
	if err != nil {
		return nil, err
	}
	if !opened {
		d.cfg.Log.Warn("the pod was started by an older murmur: what its containers take from Secrets is on the disk until it is made anew",
			"pod", pod.RefOf(s.Pod).String(), "container", s.Container.Name)
		return asTheyAre, nil
	}
	key, err := d.keptKey()
	if err != nil {
		return nil, err
	}
	owner := seal.Owner(string(s.Pod.UID), s.Container.Name)
	return func(t pod.Text) string {
		if t.Secret || seal.Is(t.Value) {
			return key.Seal(t.Value, owner)
		}
		return t.Value
	}, nil
}

// opened tells whether sealed texts of the containers of a sandbox are opened: a container is started as its sandbox was, whatever the
// configuration says by then.
func (d *Driver) opened(ctx context.Context, sandboxID string) (bool, error) {
	d.mu.Lock()
	known, ok := d.unseals[sandboxID]
	d.mu.Unlock()
	if ok {
		return known, nil
	}
	r, err := d.runtime.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: sandboxID})
	if err != nil {
		return false, fmt.Errorf("ask whether sandbox %s opens sealed texts: %w", sandboxID, plain(err))
	}
	is := opens(r.GetStatus().GetAnnotations())
	d.mu.Lock()
	d.unseals[sandboxID] = is
	d.mu.Unlock()
	return is, nil
}

// opens reads what a sandbox says of itself.
func opens(annotations map[string]string) bool { return annotations[annotationUnseals] == seals }

// keptKey is the key, which is where the unsealer looks for it even if somebody took it away.
func (d *Driver) keptKey() (*seal.Key, error) {
	d.mu.Lock()
	key := d.key
	d.mu.Unlock()
	if key == nil {
		return nil, errors.New("containerd was not started yet")
	}
	dir := d.cfg.sealDir()
	if key.Kept(dir) {
		return key, nil
	}
	if err := inMemory(dir); err != nil {
		return nil, fmt.Errorf("make a directory in memory for the key of this boot: %w", err)
	}
	return key, key.Keep(dir)
}

func everyText(s *pod.ContainerSpec) []pod.Text {
	texts := append(append([]pod.Text{}, s.Command...), s.Args...)
	for _, e := range s.Env {
		texts = append(texts, e.Text)
	}
	return texts
}
