package volume

import (
	"context"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"murmur/node/pod"
)

// objects are the API objects of a test, by name.
type objects struct {
	pod.Objects
	configMaps map[string]map[string]string
}

func (o objects) ConfigMap(_, name string) (*corev1.ConfigMap, bool) {
	data, ok := o.configMaps[name]
	return &corev1.ConfigMap{Data: data}, ok
}

func testPod(volumes ...corev1.Volume) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "uid-1"}, Spec: corev1.PodSpec{Volumes: volumes}}
	for _, v := range volumes {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: v.Name, VolumeMounts: []corev1.VolumeMount{{Name: v.Name, MountPath: "/m"}}})
	}
	return p
}

func fromConfigMap(name string, items ...corev1.KeyToPath) corev1.Volume {
	return corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}, Items: items}}}
}

func TestConfigMap(t *testing.T) {
	v := New(Config{Dir: t.TempDir()})
	ctx := context.Background()
	o := objects{configMaps: map[string]map[string]string{"cm": {"a": "1", "b": "2"}}}
	read := func(p *corev1.Pod) string {
		mounts, done, err := v.Mounts(ctx, p, &p.Spec.Containers[0], o)
		if err != nil {
			t.Fatal(err)
		}
		defer done()
		if !mounts[0].ReadOnly {
			t.Error("a configMap is mounted for writing")
		}
		var b strings.Builder
		entries, _ := os.ReadDir(mounts[0].Source)
		for _, e := range entries {
			if text, err := os.ReadFile(filepath.Join(mounts[0].Source, e.Name())); err == nil {
				b.WriteString(e.Name() + "=" + string(text) + " ")
			}
		}
		return b.String()
	}
	p := testPod(fromConfigMap("cm"))
	if _, err := v.Prepare(ctx, p, o); err != nil {
		t.Fatal(err)
	}
	if got := read(p); got != "a=1 b=2 " {
		t.Errorf("content %q", got)
	}
	before, _ := os.Readlink(filepath.Join(v.path(p.UID, "configmap", "v"), "..data"))
	if _, err := v.Prepare(ctx, p, o); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.Readlink(filepath.Join(v.path(p.UID, "configmap", "v"), "..data")); after != before {
		t.Error("the same content was written again")
	}
	o.configMaps["cm"] = map[string]string{"a": "3"}
	if _, err := v.Prepare(ctx, p, o); err != nil {
		t.Fatal(err)
	}
	if got := read(p); got != "a=3 " {
		t.Errorf("content %q after the change", got)
	}
	for want, p := range map[string]*corev1.Pod{
		`configmap "none" not found`:                         testPod(fromConfigMap("none")),
		"configmap references non-existent configmap key: x": testPod(fromConfigMap("cm", corev1.KeyToPath{Key: "x", Path: "x"})),
	} {
		if _, err := v.Prepare(ctx, p, o); err == nil || err.Error() != `MountVolume.SetUp failed for volume "v" : `+want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if uids, err := v.Pods(); err != nil || len(uids) != 1 {
		t.Errorf("pods %v %v", uids, err)
	}
	if err := v.Cleanup(ctx, p.UID, true); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(v.Dir(p.UID)); err != nil {
		t.Error("keep did not keep the directory")
	}
	if err := v.Cleanup(ctx, p.UID, false); err != nil {
		t.Fatal(err)
	}
	if uids, err := v.Pods(); err != nil || len(uids) != 0 {
		t.Errorf("pods %v %v", uids, err)
	}
	if err := v.Cleanup(ctx, "", false); err == nil {
		t.Error("cleaned up no pod in particular")
	}
}

func TestHostPath(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	v := New(Config{Dir: t.TempDir()})
	for _, c := range []struct {
		path string
		kind corev1.HostPathType
		ok   bool
	}{
		{dir, corev1.HostPathDirectory, true}, {dir + "/file", corev1.HostPathFile, true}, {dir + "/file", corev1.HostPathDirectory, false},
		{dir, corev1.HostPathFile, false}, {dir + "/none", corev1.HostPathDirectory, false}, {dir + "/none", corev1.HostPathFile, false},
		{dir + "/d", corev1.HostPathDirectoryOrCreate, true}, {dir + "/f", corev1.HostPathFileOrCreate, true}, {"/dev/null", corev1.HostPathCharDev, true},
		{"/dev/null", corev1.HostPathBlockDev, false}, {dir + "/file", corev1.HostPathSocket, false}, {dir, "odd", false},
	} {
		if err := v.checkHostPath(&corev1.HostPathVolumeSource{Path: c.path, Type: &c.kind}); (err == nil) != c.ok {
			t.Errorf("%s as %s: %v", c.path, c.kind, err)
		}
	}
}

func TestTokens(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: tokens are kept in a tmpfs")
	}
	calls, life := 0, int64(7200)
	v := New(Config{Dir: t.TempDir(), Tokens: func(_ context.Context, _, account, audience string, seconds int64, _ *corev1.Pod) (string, time.Time, error) {
		calls++
		return account + "@" + audience, time.Now().Add(time.Duration(seconds) * time.Second), nil
	}})
	p := testPod(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", Audience: "api", ExpirationSeconds: &life}}}}}})
	ctx := context.Background()
	t.Cleanup(func() { _ = v.Cleanup(ctx, p.UID, false) })
	for range 2 {
		again, err := v.Prepare(ctx, p, objects{})
		if err != nil {
			t.Fatal(err)
		}
		if left := time.Until(again); left < lookAtTokens-time.Minute || left > lookAtTokens {
			t.Errorf("the token is looked at again in %v", left)
		}
		for _, have := range v.tokens {
			if left := time.Until(have.refresh); left < 95*time.Minute || left > 97*time.Minute { // 80 % of two hours
				t.Errorf("token is renewed in %v", left)
			}
		}
	}
	if calls != 1 {
		t.Errorf("%d tokens were made for one that lasts", calls)
	}
	v.RenewTokens()
	if _, err := v.Prepare(ctx, p, objects{}); err != nil || calls != 2 {
		t.Errorf("after the key was replaced %d tokens were made, want 2: %v", calls, err)
	}
	if text, err := os.ReadFile(filepath.Join(v.path(p.UID, "projected", "v"), "token")); err != nil || string(text) != "default@api" {
		t.Errorf("token %q %v", text, err)
	}
	if err := v.Cleanup(ctx, p.UID, false); err != nil {
		t.Fatal(err)
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), v.cfg.Dir) {
		t.Error("the tmpfs is still mounted")
	}
}

// TestUnknownVolume: a volume of a type that nothing here mounts keeps its pod from starting, whatever types upstream has.
func TestUnknownVolume(t *testing.T) {
	const unknown = "not supported"
	known := []string{"HostPath", "EmptyDir", "Secret", "ConfigMap", "DownwardAPI", "Projected", "PersistentVolumeClaim", "Image"}
	v := New(Config{Dir: t.TempDir(), Node: "n1"})
	source := reflect.TypeFor[corev1.VolumeSource]()
	for i := range source.NumField() {
		f := source.Field(i)
		if slices.Contains(known, f.Name) {
			continue
		}
		vol := corev1.Volume{Name: "v"}
		reflect.ValueOf(&vol.VolumeSource).Elem().Field(i).Set(reflect.New(f.Type.Elem()))
		if _, err := v.Prepare(t.Context(), testPod(vol), bound(t)); err == nil || !strings.Contains(err.Error(), unknown) {
			t.Errorf("%s: %v", f.Name, err)
		}
	}
	persistent := reflect.TypeFor[corev1.PersistentVolumeSource]()
	for i := range persistent.NumField() {
		f := persistent.Field(i)
		if f.Name == "HostPath" || f.Name == "Local" {
			continue
		}
		s := bound(t)
		s.pv.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{}
		reflect.ValueOf(&s.pv.Spec.PersistentVolumeSource).Elem().Field(i).Set(reflect.New(f.Type.Elem()))
		if _, err := v.Prepare(t.Context(), claimPod("p"), s); err == nil || !strings.Contains(err.Error(), unknown) {
			t.Errorf("a volume of type %s: %v", f.Name, err)
		}
	}
}

// TestModesOfFiles: a file has its item's mode, or its volume's; binary data are data.
func TestModesOfFiles(t *testing.T) {
	all, own := int32(0o640), int32(0o400)
	v := New(Config{Dir: t.TempDir()})
	memory := &corev1.ResourceFieldSelector{ContainerName: "v", Resource: "limits.memory", Divisor: resource.MustParse("1Mi")}
	for name, c := range map[string]struct {
		source corev1.VolumeSource
		text   string
	}{
		"configmap": {corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}, DefaultMode: &all,
			Items: []corev1.KeyToPath{{Key: "a", Path: "default"}, {Key: "b", Path: "own", Mode: &own}}}}, "\x00"},
		"secret": {corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s", DefaultMode: &all,
			Items: []corev1.KeyToPath{{Key: "a", Path: "default"}, {Key: "b", Path: "own", Mode: &own}}}}, "\x00"},
		"downward-api": {corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{DefaultMode: &all, Items: []corev1.DownwardAPIVolumeFile{
			{Path: "default", ResourceFieldRef: memory}, {Path: "own", ResourceFieldRef: memory, Mode: &own}}}}, "32"},
		"projected": {corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{DefaultMode: &all, Sources: []corev1.VolumeProjection{
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}, Items: []corev1.KeyToPath{{Key: "a", Path: "default"}}}},
			{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}, Items: []corev1.KeyToPath{{Key: "b", Path: "own", Mode: &own}}}}}}}, "\x00"},
	} {
		p := testPod(corev1.Volume{Name: "v", VolumeSource: c.source})
		p.UID = types.UID(name)
		p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("32Mi")}
		t.Cleanup(func() { _ = v.Cleanup(context.Background(), p.UID, false) })
		if name != "configmap" && os.Getuid() != 0 {
			continue // kept in a tmpfs
		}
		if _, err := v.Prepare(t.Context(), p, binary{}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		mounts, done, err := v.Mounts(t.Context(), p, &p.Spec.Containers[0], binary{})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for file, mode := range map[string]os.FileMode{"default": 0o640, "own": 0o400} {
			info, err := os.Stat(filepath.Join(mounts[0].Source, file))
			if err != nil || info.Mode().Perm() != mode {
				t.Errorf("%s: %s has %v %v, want %v", name, file, info, err, mode)
			}
		}
		if text, err := os.ReadFile(filepath.Join(mounts[0].Source, "own")); err != nil || string(text) != c.text {
			t.Errorf("%s: %q %v, want %q", name, text, err, c.text)
		}
		done()
	}
}

// binary is a world of a ConfigMap and a Secret whose b is no text.
type binary struct{ pod.Objects }

func (binary) ConfigMap(string, string) (*corev1.ConfigMap, bool) {
	return &corev1.ConfigMap{Data: map[string]string{"a": "1"}, BinaryData: map[string][]byte{"b": {0}}}, true
}

func (binary) Secret(string, string) (*corev1.Secret, bool) {
	return &corev1.Secret{Data: map[string][]byte{"a": []byte("1"), "b": {0}}}, true
}

// TestMounts: how a volume is mounted is what the container says.
func TestMounts(t *testing.T) {
	v := New(Config{Dir: t.TempDir()})
	p := testPod(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: t.TempDir()}}})
	both, recursive := corev1.MountPropagationBidirectional, corev1.RecursiveReadOnlyEnabled
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/a", MountPropagation: &both}, {Name: "v", MountPath: "/b", ReadOnly: true, RecursiveReadOnly: &recursive},
		{Name: "v", MountPath: "c"}}
	mounts, done, err := v.Mounts(t.Context(), p, &p.Spec.Containers[0], objects{})
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	source := p.Spec.Volumes[0].HostPath.Path
	want := []pod.Mount{{Source: source, Target: "/a", Propagation: both}, {Source: source, Target: "/b", ReadOnly: true, Recursive: true}, {Source: source, Target: "/c"}}
	if !reflect.DeepEqual(mounts, want) {
		t.Errorf("%+v, want %+v", mounts, want)
	}
}
