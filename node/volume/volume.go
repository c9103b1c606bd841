// Package volume prepares what containers mount and takes it away again.
//
// # What it is
//
// Volumes is node/pod's driver for the file system: emptyDir, configMap, secret, downwardAPI, projected, hostPath, claims
// that are bound to a hostPath or local volume, and images, which the runtime mounts itself. Everything of a pod is below one directory, DIR/UID, in the kubelet's layout:
//
//	volumes/kubernetes.io~TYPE/NAME   the volumes
//	volume-subpaths/NAME/CONTAINER/N  bind mounts of sub-paths, safe from links that change under them
//
// # Its one law
//
// Nothing is removed below a mount, and no mount outlives its pod. Cleanup unmounts what the kernel says is mounted below the
// pod's directory, not what it remembers, looks again, and only then deletes.
//
// # Whose volume it is
//
// A pod's author writes the names of claims, a claim's author that of a volume, and neither is asked whether the volume is his: the
// volume says so, by the claim's UID, which nobody but the cluster's administrators and binders write (claim.go).
//
// # Certificates
//
// A podCertificate source has its key made here, and its certificate by whoever signs for the signer that it names: Prepare asks, by a
// PodCertificateRequest, and fails until the answer is there, which the pod's worker is woken by. No lock is held and no other pod waits.
// Keys are in memory and in the volumes, which are tmpfs; a daemon that is started again finds them there (certificate.go, KEP-4317).
//
// # The loop
//
// There is none. Prepare is called by the pod's worker before the sandbox is made, whenever a ConfigMap or Secret the pod names has
// changed, when its certificate is issued or refused, and when a token or a certificate is due; it writes contents by an atomic exchange of a link, and nothing at all if they are the same.
//
// # What it does not do
//
// It does not provision or bind claims, enforce the size of an emptyDir on disk, or know CSI.
//
// # How to look inside
//
// The directory is the whole state; `findmnt -R` shows the mounts.
package volume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/volume/util/hostutil"
	"k8s.io/kubernetes/pkg/volume/util/subpath"
	"k8s.io/mount-utils"

	"murmur/node/pod"
)

// Tokens makes tokens for service accounts, bound to the pod. It is asked again in time before a token expires.
type Tokens func(ctx context.Context, namespace, serviceAccount, audience string, seconds int64, pod *corev1.Pod) (token string, expires time.Time, err error)

// Certificates creates a request for a pod's certificate, as this node, and returns it as stored.
type Certificates func(ctx context.Context, req *certificatesv1.PodCertificateRequest) (*certificatesv1.PodCertificateRequest, error)

// Config of Volumes.
type Config struct {
	Dir    string // the pods' directories, e.g. /var/lib/murmur/pods
	Node   string // this node's name, whose labels say which volumes can be reached from here
	Tokens Tokens // nil: pods with serviceAccountToken volumes wait
	// Certificates asks for a pod's certificate; nil: pods with podCertificate volumes wait.
	Certificates Certificates
	// Warn makes an event of what happened to a pod's volumes while it runs; nil: none are made.
	Warn func(p *corev1.Pod, reason, message string)
}

// Volumes prepares volumes. It satisfies pod.Volumes.
type Volumes struct {
	cfg      Config
	mounter  mount.Interface
	subpaths subpath.Interface
	host     *hostutil.HostUtil
	making   chan struct{} // held while a private key is made

	mu     sync.Mutex // guards what follows
	tokens map[tokenKey]token
	// certificates are what is had and asked for, with the private keys: they are nowhere else but in the volumes.
	certificates map[certificateKey]certificate
	sole         map[types.UID]types.UID // by claim that only one pod may use: that pod
	// grouped are the local volumes that were given to their pod's fsGroup, as UID/NAME.
	grouped map[string]bool
}

var _ pod.Volumes = (*Volumes)(nil)

// New prepares nothing yet.
func New(cfg Config) *Volumes {
	m := mount.New("")
	if cfg.Warn == nil {
		cfg.Warn = func(*corev1.Pod, string, string) {}
	}
	return &Volumes{cfg: cfg, mounter: m, subpaths: subpath.New(m), host: hostutil.NewHostUtil(), making: make(chan struct{}, 1), tokens: map[tokenKey]token{},
		certificates: map[certificateKey]certificate{}, sole: map[types.UID]types.UID{}, grouped: map[string]bool{}}
}

// Dir is the pod's directory.
func (v *Volumes) Dir(uid types.UID) string {
	return filepath.Join(v.cfg.Dir, filepath.Base("/"+string(uid)))
}

// Pods are the UIDs that have a directory.
func (v *Volumes) Pods() ([]types.UID, error) {
	entries, err := os.ReadDir(v.cfg.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list pod directories: %w", err)
	}
	var uids []types.UID
	for _, e := range entries {
		if e.IsDir() {
			uids = append(uids, types.UID(e.Name()))
		}
	}
	return uids, nil
}

// path is where a volume's content is, for the types that have one below the pod's directory.
func (v *Volumes) path(uid types.UID, plugin, name string) string {
	return filepath.Join(v.Dir(uid), "volumes", "kubernetes.io~"+plugin, name)
}

// Prepare makes all volumes of a pod present and up to date. One that cannot be keeps none of the others from it: a pod whose certificate
// is not renewed has its tokens renewed.
func (v *Volumes) Prepare(ctx context.Context, p *corev1.Pod, objects pod.Objects) (again time.Time, err error) {
	if err := os.MkdirAll(v.Dir(p.UID), 0o750); err != nil {
		return time.Time{}, fmt.Errorf("make the pod's directory: %w", err)
	}
	var failed error
	for i := range p.Spec.Volumes {
		vol := &p.Spec.Volumes[i]
		next, err := v.prepare(ctx, p, vol, objects)
		if ctx.Err() != nil {
			return time.Time{}, ctx.Err()
		}
		if err != nil {
			failed = both(failed, fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", vol.Name, err))
		}
		if !next.IsZero() && (again.IsZero() || next.Before(again)) {
			again = next
		}
	}
	if failed != nil {
		return time.Time{}, failed
	}
	return again, nil
}

// both is two errors in one line.
func both(a, b error) error {
	if a == nil || b == nil {
		return cmp.Or(a, b)
	}
	return fmt.Errorf("%w; %w", a, b)
}

func (v *Volumes) prepare(ctx context.Context, p *corev1.Pod, vol *corev1.Volume, objects pod.Objects) (time.Time, error) {
	switch {
	case vol.EmptyDir != nil:
		return time.Time{}, v.prepareEmptyDir(p, vol)
	case vol.HostPath != nil:
		return time.Time{}, v.checkHostPath(vol.HostPath)
	case vol.PersistentVolumeClaim != nil:
		c, err := v.claimed(p, vol, objects)
		if err == nil && c.local && !c.readOnly {
			err = v.setLocalGroup(p, vol.Name, c.path)
		}
		return time.Time{}, err
	case vol.ConfigMap != nil, vol.Secret != nil, vol.DownwardAPI != nil, vol.Projected != nil:
		return v.prepareFiles(ctx, p, vol, objects)
	case vol.Image != nil:
		return time.Time{}, nil // the runtime mounts it, once the container's worker has pulled it
	}
	return time.Time{}, fmt.Errorf("no volume plugin matched: volumes of this type are not supported")
}

// source is the path of a volume on this machine.
func (v *Volumes) source(p *corev1.Pod, vol *corev1.Volume, objects pod.Objects) (path string, readOnly bool, err error) {
	switch {
	case vol.EmptyDir != nil:
		return v.path(p.UID, "empty-dir", vol.Name), false, nil
	case vol.HostPath != nil:
		return vol.HostPath.Path, false, nil
	case vol.PersistentVolumeClaim != nil:
		c, err := v.claimed(p, vol, objects)
		return c.path, c.readOnly, err
	}
	if plugin := filesPlugin(vol); plugin != "" {
		return v.path(p.UID, plugin, vol.Name), true, nil
	}
	return "", false, fmt.Errorf("volume %q has a type that is not supported", vol.Name)
}

// prepareEmptyDir makes the directory, a tmpfs if it is to be memory.
func (v *Volumes) prepareEmptyDir(p *corev1.Pod, vol *corev1.Volume) error {
	dir := v.path(p.UID, "empty-dir", vol.Name)
	_, err := os.Stat(dir)
	fresh := errors.Is(err, fs.ErrNotExist)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	switch vol.EmptyDir.Medium {
	case corev1.StorageMediumDefault:
	case corev1.StorageMediumMemory:
		var options []string
		if limit := vol.EmptyDir.SizeLimit; limit != nil && limit.Value() > 0 {
			options = append(options, fmt.Sprintf("size=%d", limit.Value()))
		}
		mounted, err := v.tmpfs(dir, options...)
		if err != nil {
			return err
		}
		fresh = fresh || mounted
	default:
		return fmt.Errorf("emptyDir medium %q is not supported", vol.EmptyDir.Medium)
	}
	if !fresh {
		return nil
	}
	if err := os.Chmod(dir, 0o777); err != nil { // whoever the containers run as
		return err
	}
	return setGroup(dir, fsGroup(p), false)
}

// tmpfs mounts one unless it is there; it reports whether it did.
func (v *Volumes) tmpfs(dir string, options ...string) (bool, error) {
	not, err := v.mounter.IsLikelyNotMountPoint(dir)
	if err != nil || !not {
		return false, err
	}
	if err := v.mounter.Mount("tmpfs", dir, "tmpfs", options); err != nil {
		return false, fmt.Errorf("mount a tmpfs: %w", err)
	}
	return true, nil
}

func fsGroup(p *corev1.Pod) *int64 {
	if p.Spec.SecurityContext == nil {
		return nil
	}
	return p.Spec.SecurityContext.FSGroup
}

// setGroup gives a tree to the pod's fsGroup, as the kubelet does: group owner, group access, and directories that pass it on.
func setGroup(dir string, group *int64, readOnly bool) error {
	if group == nil {
		return nil
	}
	mask := fs.FileMode(0o660)
	if readOnly {
		mask = 0o440
	}
	// Whoever has the volume already may exchange a file for a link while this goes on: nothing outside is reached through it.
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := root.Lchown(path, -1, int(*group)); err != nil {
			return err
		}
		if e.Type()&fs.ModeSymlink != 0 {
			return nil
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		mode := info.Mode() | mask
		if e.IsDir() {
			mode |= fs.ModeSetgid | 0o110
		}
		return root.Chmod(path, mode)
	})
}

// checkHostPath is upstream's check of a hostPath's type, creating what it says may be created.
func (v *Volumes) checkHostPath(h *corev1.HostPathVolumeSource) error {
	kind := corev1.HostPathUnset
	if h.Type != nil {
		kind = *h.Type
	}
	info, err := os.Stat(h.Path)
	exists := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	is := func(want string, ok bool) error {
		switch {
		case !exists:
			return fmt.Errorf("hostPath type check failed: %s is not a %s", h.Path, want)
		case !ok:
			return fmt.Errorf("hostPath type check failed: %s is not a %s", h.Path, want)
		}
		return nil
	}
	mode := fs.FileMode(0)
	if exists {
		mode = info.Mode()
	}
	switch kind {
	case corev1.HostPathUnset:
		if !exists { // what the runtime would do, but with our error
			return os.MkdirAll(h.Path, 0o755)
		}
		return nil
	case corev1.HostPathDirectoryOrCreate:
		if !exists {
			return os.MkdirAll(h.Path, 0o755)
		}
		return is("directory", mode.IsDir())
	case corev1.HostPathDirectory:
		return is("directory", mode.IsDir())
	case corev1.HostPathFileOrCreate:
		if !exists {
			f, err := os.OpenFile(h.Path, os.O_CREATE|os.O_RDONLY, 0o644)
			if err != nil {
				return err
			}
			return f.Close()
		}
		return is("file", !mode.IsDir())
	case corev1.HostPathFile:
		return is("file", !mode.IsDir())
	case corev1.HostPathSocket:
		return is("socket", mode&fs.ModeSocket != 0)
	case corev1.HostPathCharDev:
		return is("character device", mode&fs.ModeCharDevice != 0)
	case corev1.HostPathBlockDev:
		return is("block device", mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0)
	}
	return fmt.Errorf("%q is an invalid hostPath type", kind)
}

// Mounts are the mounts of one container. done must be called when the container runs, or will not.
func (v *Volumes) Mounts(_ context.Context, p *corev1.Pod, c *corev1.Container, objects pod.Objects) ([]pod.Mount, func(), error) {
	var mounts []pod.Mount
	var cleanups []func()
	done := func() {
		for _, f := range cleanups {
			f()
		}
	}
	if len(c.VolumeDevices) > 0 {
		return nil, done, fmt.Errorf("volume %q is to be a device of container %q: volumeDevices are not supported", c.VolumeDevices[0].Name, c.Name)
	}
	for i, m := range c.VolumeMounts {
		var vol *corev1.Volume
		for j := range p.Spec.Volumes {
			if p.Spec.Volumes[j].Name == m.Name {
				vol = &p.Spec.Volumes[j]
			}
		}
		if vol == nil {
			return nil, done, fmt.Errorf("cannot find volume %q to mount into container %q", m.Name, c.Name)
		}
		if err := checkSubPath(m.SubPath); err != nil {
			return nil, done, err
		}
		mount := pod.Mount{Target: m.MountPath, ReadOnly: m.ReadOnly}
		if !filepath.IsAbs(mount.Target) {
			mount.Target = filepath.Join("/", mount.Target)
		}
		if vol.Image != nil {
			mount.Image, mount.SubPath, mount.ReadOnly = vol.Image.Reference, m.SubPath, true
		} else {
			source, readOnly, err := v.source(p, vol, objects)
			if err != nil {
				return nil, done, err
			}
			if m.SubPath != "" {
				if source, err = v.subPath(p, c, i, m, source, &cleanups); err != nil {
					return nil, done, err
				}
			}
			mount.Source = source
			// Files have the API's content; upstream mounts these read only, too.
			mount.ReadOnly = mount.ReadOnly || readOnly && vol.PersistentVolumeClaim != nil || filesPlugin(vol) != ""
		}
		if m.MountPropagation != nil {
			mount.Propagation = *m.MountPropagation
		}
		mount.Recursive = mount.ReadOnly && m.RecursiveReadOnly != nil && *m.RecursiveReadOnly != corev1.RecursiveReadOnlyDisabled
		mounts = append(mounts, mount)
	}
	return mounts, done, nil
}

func checkSubPath(path string) error {
	if filepath.IsAbs(path) {
		return fmt.Errorf("error SubPath `%s` must not be an absolute path", path)
	}
	for element := range strings.SplitSeq(path, "/") {
		if element == ".." {
			return fmt.Errorf("unable to provision SubPath `%s`: must not contain '..'", path)
		}
	}
	return nil
}

// subPath binds a path below a volume so that what the container gets cannot be changed by links within the volume.
func (v *Volumes) subPath(p *corev1.Pod, c *corev1.Container, index int, m corev1.VolumeMount, source string, cleanups *[]func()) (string, error) {
	path := filepath.Join(source, m.SubPath)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		mode, err := v.host.GetMode(source)
		if err != nil {
			return "", err
		}
		if err := v.subpaths.SafeMakeDir(m.SubPath, source, mode); err != nil {
			return "", fmt.Errorf("failed to create subPath directory for volumeMount %q of container %q: %w", m.Name, c.Name, err)
		}
	}
	bound, cleanup, err := v.subpaths.PrepareSafeSubpath(subpath.Subpath{VolumeMountIndex: index, Path: path, VolumeName: m.Name,
		VolumePath: source, PodDir: v.Dir(p.UID), ContainerName: c.Name})
	if cleanup != nil {
		*cleanups = append(*cleanups, cleanup)
	}
	if err != nil {
		return "", fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", m.Name, c.Name, err)
	}
	return bound, nil
}

// Cleanup unmounts and removes everything of a pod. With keep, its directory stays with the files that are not volumes.
func (v *Volumes) Cleanup(ctx context.Context, uid types.UID, keep bool) error {
	v.forgetTokens(uid)
	v.forgetCertificates(uid)
	defer v.release(uid)
	dir := v.Dir(uid)
	if dir == v.cfg.Dir || uid == "" {
		return fmt.Errorf("clean up volumes: no pod is named")
	}
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	// Mounts may be stacked, and unmounting one may show another.
	for range 10 {
		mounts, err := mountsBelow(dir)
		if err != nil {
			return err
		}
		if len(mounts) == 0 {
			break
		}
		for i := len(mounts) - 1; i >= 0; i-- {
			if err := unix.Unmount(mounts[i], unix.UMOUNT_NOFOLLOW); err == unix.EBUSY {
				err = unix.Unmount(mounts[i], unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
				if err != nil {
					return fmt.Errorf("unmount %s: %w", mounts[i], err)
				}
			} else if err != nil && err != unix.EINVAL && err != unix.ENOENT {
				return fmt.Errorf("unmount %s: %w", mounts[i], err)
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	if mounts, err := mountsBelow(dir); err != nil || len(mounts) > 0 {
		return errors.Join(err, fmt.Errorf("still mounted below %s: %v", dir, mounts))
	}
	if !keep {
		return os.RemoveAll(dir)
	}
	return errors.Join(os.RemoveAll(filepath.Join(dir, "volumes")), os.RemoveAll(filepath.Join(dir, "volume-subpaths")))
}

// mountsBelow are the mount points below a directory, outer ones first.
func mountsBelow(dir string) ([]string, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	all, err := mount.ParseMountInfo("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	var below []string
	for _, m := range all {
		if strings.HasPrefix(m.MountPoint, dir+"/") {
			below = append(below, m.MountPoint)
		}
	}
	return below, nil
}
