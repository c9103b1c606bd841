package volume

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"murmur/node/pod"
)

// storage is a world of one claim and one volume, seen from a node in zone a.
type storage struct {
	pod.Objects
	claim corev1.PersistentVolumeClaim
	pv    corev1.PersistentVolume
}

func (s *storage) PersistentVolumeClaim(namespace, name string) (*corev1.PersistentVolumeClaim, bool) {
	return &s.claim, namespace == s.claim.Namespace && name == s.claim.Name
}

func (s *storage) PersistentVolume(name string) (*corev1.PersistentVolume, bool) {
	return &s.pv, name == s.pv.Name
}

func (s *storage) Node(name string) (*corev1.Node, bool) {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"zone": "a"}}}, name == "n1"
}

func inZone(zone string) *corev1.VolumeNodeAffinity {
	return &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "zone", Operator: corev1.NodeSelectorOpIn, Values: []string{zone}}}}}}}
}

// bound is a claim that has its volume, a directory.
func bound(t *testing.T) *storage {
	s := &storage{}
	s.claim.Namespace, s.claim.Name, s.claim.UID = "ns", "mine", "claim-1"
	s.claim.Spec.VolumeName = "pv"
	s.claim.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	s.claim.Status.Phase = corev1.ClaimBound
	s.pv.Name = "pv"
	s.pv.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce, corev1.ReadOnlyMany, corev1.ReadWriteOncePod}
	s.pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "ns", Name: "mine", UID: "claim-1"}
	s.pv.Spec.HostPath = &corev1.HostPathVolumeSource{Path: t.TempDir()}
	return s
}

func claimPod(uid types.UID) *corev1.Pod {
	p := testPod(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "mine"}}})
	p.UID = uid
	return p
}

// TestClaim: a claim gets the volume that says it is the claim's, where and as both say, and no other.
func TestClaim(t *testing.T) {
	local := func(s *storage) {
		s.pv.Spec.Local, s.pv.Spec.HostPath = &corev1.LocalVolumeSource{Path: s.pv.Spec.HostPath.Path}, nil
	}
	block, now := corev1.PersistentVolumeBlock, metav1.Now()
	for name, c := range map[string]struct {
		change func(*storage)
		want   string // error; "" if it is mounted
	}{
		"bound in both directions":     {func(*storage) {}, ""},
		"another tenant's volume":      {func(s *storage) { s.pv.Spec.ClaimRef.UID = "claim-2" }, "does not point to claim.UID claim-1"},
		"a volume of an earlier claim": {func(s *storage) { s.claim.UID = "claim-3" }, "does not point to claim.UID claim-3"},
		"reserved, not bound":          {func(s *storage) { s.pv.Spec.ClaimRef.UID = "" }, "does not point to"},
		"a claim without a UID":        {func(s *storage) { s.pv.Spec.ClaimRef.UID, s.claim.UID = "", "" }, "does not point to"},
		"the UID in another namespace": {func(s *storage) { s.pv.Spec.ClaimRef.Namespace = "other" }, "does not point to"},
		"a volume that is nobody's":    {func(s *storage) { s.pv.Spec.ClaimRef = nil }, "nil pv.Spec.ClaimRef"},
		"a claim that is pending":      {func(s *storage) { s.claim.Status.Phase = corev1.ClaimPending }, "PVC ns/mine is not bound"},
		"a claim that lost its volume": {func(s *storage) { s.claim.Status.Phase = corev1.ClaimLost }, "PVC ns/mine is not bound"},
		"a claim that names none":      {func(s *storage) { s.claim.Spec.VolumeName = "" }, "empty pvc.Spec.VolumeName"},
		"a volume that is not there":   {func(s *storage) { s.claim.Spec.VolumeName = "none" }, `persistentvolume "none" not found`},
		"a claim that is deleted":      {func(s *storage) { s.claim.DeletionTimestamp = &now }, "is being deleted"},
		"a claim that is deleted and used": {func(s *storage) {
			s.claim.DeletionTimestamp, s.claim.Finalizers = &now, []string{"kubernetes.io/pvc-protection"}
		}, ""},
		"a mode the volume has not": {func(s *storage) { s.claim.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany} }, "access modes"},
		"a block device":            {func(s *storage) { s.pv.Spec.VolumeMode = &block }, "volumeMode Block"},
		"a volume of this zone":     {func(s *storage) { s.pv.Spec.NodeAffinity = inZone("a") }, ""},
		"a volume of another zone":  {func(s *storage) { s.pv.Spec.NodeAffinity = inZone("b") }, "MountVolume.NodeAffinity check failed"},
		"a local volume here":       {func(s *storage) { local(s); s.pv.Spec.NodeAffinity = inZone("a") }, ""},
		"a local volume elsewhere":  {func(s *storage) { local(s); s.pv.Spec.NodeAffinity = inZone("b") }, "MountVolume.NodeAffinity check failed"},
		"a local volume anywhere":   {local, "names no node"},
	} {
		t.Run(name, func(t *testing.T) {
			s := bound(t)
			c.change(s)
			v, p := New(Config{Dir: t.TempDir(), Node: "n1"}), claimPod("p1")
			_, err := v.Prepare(context.Background(), p, s)
			mounts, done, mountErr := v.Mounts(context.Background(), p, &p.Spec.Containers[0], s)
			done()
			for _, err := range []error{err, mountErr} {
				if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
					t.Errorf("%v, want %q", err, c.want)
				}
			}
			if c.want != "" && len(mounts) > 0 {
				t.Errorf("mounts %v", mounts)
			}
		})
	}
}

// TestClaimModes: what a claim may do with its volume is what its container can.
func TestClaimModes(t *testing.T) {
	ctx := context.Background()
	s, v := bound(t), New(Config{Dir: t.TempDir(), Node: "n1"})
	mount := func(p *corev1.Pod) (pod.Mount, error) {
		mounts, done, err := v.Mounts(ctx, p, &p.Spec.Containers[0], s)
		done()
		if err != nil {
			return pod.Mount{}, err
		}
		return mounts[0], nil
	}
	first, second := claimPod("p1"), claimPod("p2")
	if m, err := mount(first); err != nil || m.ReadOnly {
		t.Errorf("%v, %v", m, err)
	}
	s.claim.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany}
	if m, err := mount(first); err != nil || !m.ReadOnly {
		t.Errorf("a claim that only reads: %v, %v", m, err)
	}
	s.claim.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
	if _, err := v.Prepare(ctx, first, s); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Prepare(ctx, second, s); err == nil || !strings.Contains(err.Error(), errInUse.Error()) {
		t.Errorf("a second pod: %v", err)
	}
	if _, err := v.Prepare(ctx, first, s); err != nil {
		t.Errorf("the first again: %v", err)
	}
	if err := v.Cleanup(ctx, first.UID, false); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Prepare(ctx, second, s); err != nil {
		t.Errorf("the second, the first gone: %v", err)
	}
	second.Spec.Containers[0].VolumeDevices = []corev1.VolumeDevice{{Name: "v", DevicePath: "/dev/x"}}
	if _, err := mount(second); err == nil || !strings.Contains(err.Error(), "volumeDevices are not supported") {
		t.Errorf("a device: %v", err)
	}
}

// TestSubPathStays: a link within a volume leads nowhere out of it.
func TestSubPathStays(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: sub-paths are bind mounts")
	}
	s := bound(t)
	secret := t.TempDir()
	if err := os.WriteFile(filepath.Join(secret, "key"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, filepath.Join(s.pv.Spec.HostPath.Path, "out")); err != nil {
		t.Fatal(err)
	}
	v, p := New(Config{Dir: t.TempDir(), Node: "n1"}), claimPod("p1")
	t.Cleanup(func() { _ = v.Cleanup(context.Background(), p.UID, false) })
	for _, path := range []string{"out", "out/key", "out/new", "../x", "/etc"} {
		p.Spec.Containers[0].VolumeMounts[0].SubPath = path
		_, done, err := v.Mounts(context.Background(), p, &p.Spec.Containers[0], s)
		done()
		if err == nil {
			t.Errorf("subPath %s is mounted", path)
		}
	}
	if _, err := os.Stat(filepath.Join(secret, "new")); err == nil {
		t.Error("a directory was made outside of the volume")
	}
}

// TestGroupOfALocalVolume: a local volume is its pod's fsGroup's, all of it or as fsGroupChangePolicy says, and nothing that it links to is.
func TestGroupOfALocalVolume(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: groups are given away")
	}
	s, outside := bound(t), t.TempDir()
	s.pv.Spec.Local, s.pv.Spec.HostPath = &corev1.LocalVolumeSource{Path: s.pv.Spec.HostPath.Path}, nil
	s.pv.Spec.NodeAffinity = inZone("a")
	dir := s.pv.Spec.Local.Path
	for path, text := range map[string]string{dir + "/file": "x", outside + "/file": "x"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside+"/file", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	group := func(path string) uint32 {
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Sys().(*syscall.Stat_t).Gid
	}
	v := New(Config{Dir: t.TempDir(), Node: "n1"})
	prepare := func(uid types.UID, gid int64, policy corev1.PodFSGroupChangePolicy) {
		p := claimPod(uid)
		p.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &gid, FSGroupChangePolicy: &policy}
		for range 2 {
			if _, err := v.Prepare(context.Background(), p, s); err != nil {
				t.Fatal(err)
			}
		}
	}
	prepare("p1", 4242, corev1.FSGroupChangeAlways)
	if g := group(dir + "/file"); g != 4242 {
		t.Errorf("group %d of a file", g)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode()&fs.ModeSetgid == 0 || group(dir) != 4242 {
		t.Errorf("mode %v, group %d of the volume", info.Mode(), group(dir))
	}
	if info, err := os.Stat(outside + "/file"); err != nil || info.Mode().Perm() != 0o600 || group(outside+"/file") == 4242 {
		t.Errorf("mode %v, group %d of a file outside", info.Mode(), group(outside+"/file"))
	}
	if err := os.Lchown(dir+"/file", -1, 0); err != nil {
		t.Fatal(err)
	}
	prepare("p2", 4242, corev1.FSGroupChangeOnRootMismatch)
	if g := group(dir + "/file"); g != 0 {
		t.Errorf("group %d of a file although the top matches", g)
	}
	prepare("p3", 4242, corev1.FSGroupChangeAlways)
	if g := group(dir + "/file"); g != 4242 {
		t.Errorf("group %d of a file that is to change always", g)
	}
	if err := os.Lchown(dir+"/file", -1, 0); err != nil {
		t.Fatal(err)
	}
	prepare("p3", 4242, corev1.FSGroupChangeAlways) // while it runs nothing is walked again
	if g := group(dir + "/file"); g != 0 {
		t.Errorf("group %d of a file of a pod that has the volume already", g)
	}
}
