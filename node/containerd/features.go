package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/pkg/apparmor"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	utilversion "k8s.io/apimachinery/pkg/util/version"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	upstreamapparmor "k8s.io/kubernetes/pkg/security/apparmor"
	utilkernel "k8s.io/kubernetes/pkg/util/kernel"

	"murmur/node/pod"
)

// Features reads what containerd, runc below it and the kernel can do.
func (d *Driver) Features(ctx context.Context) (pod.Features, error) {
	r, err := d.runtime.Status(ctx, &cri.StatusRequest{})
	if err != nil {
		return pod.Features{}, fmt.Errorf("ask containerd what it can do: %w", err)
	}
	f := pod.Features{
		UserNamespaces: d.userNamespaces(r, ""), AppArmor: appArmor(),
		UserNamespacesHostNetwork: r.GetFeatures().GetUserNamespacesHostNetwork(),
		StrictGroups:              r.GetFeatures().GetSupplementalGroupsPolicy(),
	}
	for _, h := range r.GetRuntimeHandlers() {
		if h.GetName() == "" {
			f.RecursiveReadOnly = h.GetFeatures().GetRecursiveReadOnlyMounts()
		}
	}
	return f, nil
}

// idmappedTmpfs is the kernel that can give a tmpfs, which Secrets are kept in, to the users of a user namespace.
var idmappedTmpfs = utilversion.MustParseGeneric("6.3")

// userNamespaces tells why pods cannot have their own users; nil if they can.
func (d *Driver) userNamespaces(r *cri.StatusResponse, handler string) error {
	if d.users == nil {
		return d.noUsers
	}
	if most, err := os.ReadFile("/proc/sys/user/max_user_namespaces"); err != nil || strings.TrimSpace(string(most)) == "0" {
		return errors.New("the kernel makes no user namespaces (user.max_user_namespaces)")
	}
	kernel, err := utilkernel.GetVersion()
	if err != nil {
		return fmt.Errorf("find the kernel's version: %w", err)
	}
	if !kernel.AtLeast(idmappedTmpfs) {
		return fmt.Errorf("the kernel is %s, volumes in memory need %s", kernel, idmappedTmpfs)
	}
	for _, h := range r.GetRuntimeHandlers() {
		if h.GetName() == handler {
			if h.GetFeatures().GetUserNamespaces() {
				return nil
			}
			return errors.New("runc is too old: it cannot map the owners of mounts")
		}
	}
	return pod.ErrNotSupported
}

// appArmor tells why profiles cannot be enforced; nil if they can. It is read anew only when the daemon starts, as upstream does.
func appArmor() error {
	if err := upstreamapparmor.NewValidator().ValidateHost(); err != nil {
		return err
	}
	if !apparmor.HostSupports() {
		return errors.New("/sbin/apparmor_parser is not installed")
	}
	return nil
}

// podDirs is what upstream's user namespace manager asks of a kubelet.
type podDirs struct {
	dir     string
	maxPods int
	status  func() (*cri.StatusResponse, error)
	check   func(*cri.StatusResponse, string) error
}

func (p *podDirs) HandlerSupportsUserNamespaces(handler string) (bool, error) {
	r, err := p.status()
	if err == nil {
		err = p.check(r, handler)
	}
	return err == nil, err
}

func (p *podDirs) GetPodDir(uid types.UID) string { return filepath.Join(p.dir, podDirName(uid)) }

func (p *podDirs) ListPodsFromDisk() ([]types.UID, error) {
	entries, err := os.ReadDir(p.dir)
	var uids []types.UID
	for _, e := range entries {
		if e.IsDir() {
			uids = append(uids, types.UID(e.Name()))
		}
	}
	return uids, err
}

// GetKubeletMappings is upstream's default: all ids but those of the node itself.
func (p *podDirs) GetKubeletMappings(_ klog.Logger, perPod uint32) (first, length uint32, err error) {
	return perPod, uint32(1<<32 - uint64(perPod)), nil
}

func (p *podDirs) GetMaxPods() int { return p.maxPods }

// usersOf are the ids that a pod's users have on the node; those of the node itself unless the pod asks for its own.
func (d *Driver) usersOf(p *corev1.Pod, handler string) (*cri.UserNamespace, error) {
	if !pod.UsersOfItsOwn(p) {
		return &cri.UserNamespace{Mode: cri.NamespaceMode_NODE}, nil
	}
	if d.users == nil {
		return nil, fmt.Errorf("can't set `spec.hostUsers: false`: %w", d.noUsers)
	}
	return d.users.GetOrCreateUserNamespaceMappings(klog.Background(), p, handler)
}
