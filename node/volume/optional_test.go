package volume

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"murmur/node/pod"
)

// half is a world of a ConfigMap and a Secret, each with one key.
type half struct{ pod.Objects }

func (half) ConfigMap(_, name string) (*corev1.ConfigMap, bool) {
	return &corev1.ConfigMap{Data: map[string]string{"a": "1"}}, name == "there"
}

func (half) Secret(_, name string) (*corev1.Secret, bool) {
	return &corev1.Secret{Data: map[string][]byte{"a": []byte("1")}}, name == "there"
}

// TestOptional: what a volume is made of must be there, the keys that it names too, unless it is optional: then it has what there is.
func TestOptional(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("Secrets are kept in a tmpfs")
	}
	yes := true
	both := []corev1.KeyToPath{{Key: "a", Path: "a"}, {Key: "b", Path: "b"}}
	v := New(Config{Dir: t.TempDir()})
	n := 0
	for _, optional := range []*bool{nil, &yes} {
		for what, c := range map[string]struct {
			source corev1.VolumeSource
			files  []string
			there  bool
		}{
			"ConfigMap":       {corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "there"}, Optional: optional}}, []string{"a"}, true},
			"no ConfigMap":    {corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "gone"}, Optional: optional}}, nil, false},
			"ConfigMap, keys": {corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "there"}, Items: both, Optional: optional}}, []string{"a"}, false},
			"Secret":          {corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "there", Optional: optional}}, []string{"a"}, true},
			"no Secret":       {corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "gone", Optional: optional}}, nil, false},
			"Secret, keys":    {corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "there", Items: both, Optional: optional}}, []string{"a"}, false},
			"projected": {corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
				{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "gone"}, Optional: optional}},
				{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "there"}, Items: both, Optional: optional}}}}}, []string{"a"}, false},
		} {
			p := testPod(corev1.Volume{Name: "v", VolumeSource: c.source})
			n++
			p.UID = types.UID(string(rune('a' + n)))
			_, err := v.Prepare(t.Context(), p, half{})
			if fails := optional == nil && !c.there; (err != nil) != fails {
				t.Errorf("%s, optional %v: %v", what, optional != nil, err)
			}
			if err == nil {
				mounts, done, err := v.Mounts(t.Context(), p, &p.Spec.Containers[0], half{})
				if err != nil {
					t.Errorf("%s: %v", what, err)
					continue
				}
				for _, name := range []string{"a", "b"} {
					_, err := os.Stat(filepath.Join(mounts[0].Source, name))
					if want := len(c.files) > 0 && c.files[0] == name; (err == nil) != want {
						t.Errorf("%s, optional %v: %s is there: %v", what, optional != nil, name, err == nil)
					}
				}
				done()
			}
			if err := v.Cleanup(t.Context(), p.UID, false); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestHugePagesAreNoMedium: a volume of huge pages is refused with the reason, and not made of something else.
func TestHugePagesAreNoMedium(t *testing.T) {
	v := New(Config{Dir: t.TempDir()})
	for _, medium := range []corev1.StorageMedium{corev1.StorageMediumHugePages, corev1.StorageMediumHugePagesPrefix + "2Mi"} {
		p := testPod(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: medium}}})
		if _, err := v.Prepare(t.Context(), p, half{}); err == nil || !strings.Contains(err.Error(), "is not supported") {
			t.Errorf("%s: %v", medium, err)
		}
	}
}
