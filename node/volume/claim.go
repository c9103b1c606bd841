package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	storagehelpers "k8s.io/component-helpers/storage/volume"
	volumeutil "k8s.io/kubernetes/pkg/volume/util"

	"murmur/node/pod"
)

// boundVolume is the volume that a claim is bound to, if it is: each must name the other. Beyond upstream's checks before a
// mount (desired_state_of_world_populator.go, operation_generator.go) it makes those of upstream's binder that a claim
// whose author wrote the volume's name himself has not been through.
func boundVolume(claim *corev1.PersistentVolumeClaim, objects pod.Objects) (*corev1.PersistentVolume, error) {
	if claim.DeletionTimestamp != nil && !slices.Contains(claim.Finalizers, volumeutil.PVCProtectionFinalizer) {
		return nil, fmt.Errorf("PVC %s/%s is being deleted", claim.Namespace, claim.Name)
	}
	if claim.Status.Phase != corev1.ClaimBound {
		return nil, fmt.Errorf("PVC %s/%s is not bound", claim.Namespace, claim.Name)
	}
	name := claim.Spec.VolumeName
	if name == "" {
		return nil, fmt.Errorf("PVC %s/%s has empty pvc.Spec.VolumeName", claim.Namespace, claim.Name)
	}
	pv, ok := objects.PersistentVolume(name)
	if !ok {
		return nil, fmt.Errorf("failed to fetch PV %s from API server: persistentvolume %q not found", name, name)
	}
	ref := pv.Spec.ClaimRef
	if ref == nil {
		return nil, fmt.Errorf("found PV object %s but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim", name)
	}
	if ref.UID == "" || ref.UID != claim.UID || ref.Namespace != claim.Namespace || ref.Name != claim.Name {
		return nil, fmt.Errorf("found PV object %s but its pv.Spec.ClaimRef.UID %s does not point to claim.UID %s", name, ref.UID, claim.UID)
	}
	if !volumeutil.ContainsAllAccessModes(pv.Spec.AccessModes, claim.Spec.AccessModes) {
		return nil, fmt.Errorf("PV %s has the access modes %v, which are not all of claim %s's %v", name, pv.Spec.AccessModes, claim.Name, claim.Spec.AccessModes)
	}
	if mode := pv.Spec.VolumeMode; mode != nil && *mode != corev1.PersistentVolumeFilesystem {
		return nil, fmt.Errorf("PV %s has volumeMode %s, which is not supported", name, *mode)
	}
	return pv, nil
}

// claimed is a volume on this machine that a claim has.
type claimed struct {
	path     string
	readOnly bool
	local    bool // of type local: it takes its pod's fsGroup, which a hostPath does not
}

// claimed finds the volume that a pod's claim is bound to.
func (v *Volumes) claimed(p *corev1.Pod, vol *corev1.Volume, objects pod.Objects) (claimed, error) {
	name := vol.PersistentVolumeClaim.ClaimName
	claim, ok := objects.PersistentVolumeClaim(p.Namespace, name)
	if !ok {
		return claimed{}, fmt.Errorf("persistentvolumeclaim %q not found", name)
	}
	pv, err := boundVolume(claim, objects)
	if err != nil {
		return claimed{}, err
	}
	if err := v.reaches(pv, objects); err != nil {
		return claimed{}, err
	}
	readOnly := vol.PersistentVolumeClaim.ReadOnly || onlyReads(claim.Spec.AccessModes)
	switch {
	case pv.Spec.Local != nil:
		if pv.Spec.NodeAffinity == nil || pv.Spec.NodeAffinity.Required == nil {
			return claimed{}, fmt.Errorf("local volume %q names no node", pv.Name) // validation wants it
		}
		if _, err := os.Stat(pv.Spec.Local.Path); err != nil {
			return claimed{}, fmt.Errorf("path of local volume %q: %w", pv.Name, err)
		}
		return claimed{pv.Spec.Local.Path, readOnly, true}, v.take(claim, p)
	case pv.Spec.HostPath != nil:
		if err := v.checkHostPath(pv.Spec.HostPath); err != nil {
			return claimed{}, err
		}
		return claimed{pv.Spec.HostPath.Path, readOnly, false}, v.take(claim, p)
	}
	return claimed{}, fmt.Errorf("persistentvolume %q has a type that is not supported", pv.Name)
}

// reaches tells whether a volume can be used on this node.
func (v *Volumes) reaches(pv *corev1.PersistentVolume, objects pod.Objects) error {
	if pv.Spec.NodeAffinity == nil {
		return nil
	}
	node, ok := objects.Node(v.cfg.Node)
	if !ok {
		return fmt.Errorf("node %q not found, which PV %s may want another than", v.cfg.Node, pv.Name)
	}
	if err := storagehelpers.CheckNodeAffinity(pv, node.Labels); err != nil {
		return fmt.Errorf("MountVolume.NodeAffinity check failed for volume %q : %w", pv.Name, err)
	}
	return nil
}

func onlyReads(modes []corev1.PersistentVolumeAccessMode) bool {
	return len(modes) > 0 && !slices.ContainsFunc(modes, func(m corev1.PersistentVolumeAccessMode) bool { return m != corev1.ReadOnlyMany })
}

// errInUse is upstream's word for a second pod at a volume that is for one.
var errInUse = errors.New("volume uses the ReadWriteOncePod access mode and is already in use by another pod")

// take notes that a pod uses a claim that only one pod may use.
func (v *Volumes) take(claim *corev1.PersistentVolumeClaim, p *corev1.Pod) error {
	if !volumeutil.ContainsAccessMode(claim.Spec.AccessModes, corev1.ReadWriteOncePod) {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if by, taken := v.sole[claim.UID]; taken && by != p.UID {
		return errInUse
	}
	v.sole[claim.UID] = p.UID
	return nil
}

// release is the end of what a pod took.
func (v *Volumes) release(uid types.UID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	maps.DeleteFunc(v.sole, func(_, pod types.UID) bool { return pod == uid })
	maps.DeleteFunc(v.grouped, func(key string, _ bool) bool { return strings.HasPrefix(key, string(uid)+"/") })
}

// setLocalGroup gives a local volume to its pod's fsGroup, once for each pod: all of it, or where fsGroupChangePolicy is OnRootMismatch
// only if its top is not the group's already.
func (v *Volumes) setLocalGroup(p *corev1.Pod, name, dir string) error {
	group := fsGroup(p)
	if group == nil {
		return nil
	}
	key := string(p.UID) + "/" + name
	v.mu.Lock()
	done := v.grouped[key]
	v.mu.Unlock()
	if done {
		return nil
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	const want = fs.ModeSetgid | 0o770
	st, ok := info.Sys().(*syscall.Stat_t)
	has := ok && int64(st.Gid) == *group && info.Mode()&want == want
	if policy := p.Spec.SecurityContext.FSGroupChangePolicy; !has || policy == nil || *policy != corev1.FSGroupChangeOnRootMismatch {
		if err := setGroup(dir, group, false); err != nil {
			return fmt.Errorf("set the group of a local volume: %w", err)
		}
	}
	v.mu.Lock()
	v.grouped[key] = true
	v.mu.Unlock()
	return nil
}
