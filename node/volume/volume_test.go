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
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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
	calls := 0
	v := New(Config{Dir: t.TempDir(), Tokens: func(_ context.Context, _, account, audience string, seconds int64, _ *corev1.Pod) (string, time.Time, error) {
		calls++
		return account + "@" + audience, time.Now().Add(time.Duration(seconds) * time.Second), nil
	}})
	p := testPod(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", Audience: "api"}}}}}})
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
			if left := time.Until(have.refresh); left < 47*time.Minute || left > 49*time.Minute { // 80 % of an hour
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
