package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"filippo.io/age"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// marker is a value that is found wherever it is.
func marker(t *testing.T) string {
	t.Helper()
	b := make([]byte, 18)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return "marker" + hex.EncodeToString(b)
}

// forms are how the bytes of a value may stand in a file: as they are, in base64 at each of its three alignments, in hexadecimal, and in both orders of UTF-16.
func forms(value string) map[string][]byte {
	out := map[string][]byte{"plain": []byte(value), "hexadecimal": []byte(hex.EncodeToString([]byte(value)))}
	for shift := range 3 {
		whole := base64.StdEncoding.EncodeToString(append(make([]byte, shift), value...))
		// What depends on its neighbours is left out.
		out[fmt.Sprintf("base64 at %d", shift)] = []byte(strings.TrimRight(whole, "=")[4*((shift+2)/3) : len(strings.TrimRight(whole, "="))-2])
	}
	for _, r := range utf16.Encode([]rune(value)) {
		out["UTF-16 (little)"] = append(out["UTF-16 (little)"], byte(r), byte(r>>8))
		out["UTF-16 (big)"] = append(out["UTF-16 (big)"], byte(r>>8), byte(r))
	}
	return out
}

// tmpfs is the magic number of what is in memory and on no disk.
const tmpfs = 0x01021994

// holders lists the files below a directory that have a value in any form. What is on a tmpfs is left out: the volumes of Secrets and tokens that pods mount
// (data/pods/UID/volumes/kubernetes.io~secret and ~projected). Removed files are not there to be read, as far as a file system says.
func holders(t *testing.T, dir, value string) (out []string) {
	t.Helper()
	looked := 0
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // a node is at work here
			}
			return err
		}
		if e.IsDir() {
			var st unix.Statfs_t
			if err := unix.Statfs(path, &st); err == nil && int64(st.Type) == tmpfs {
				return fs.SkipDir
			}
			if filepath.Base(path) == "io.containerd.snapshotter.v1.overlayfs" || filepath.Base(path) == "io.containerd.content.v1.content" {
				return fs.SkipDir // layers of images: nothing of a cluster is written there
			}
			return nil
		}
		if !e.Type().IsRegular() {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		looked++
		for form, b := range forms(value) {
			if bytes.Contains(text, b) {
				out = append(out, strings.TrimPrefix(path, dir+"/")+": "+form)
			}
		}
		return nil
	})
	if err != nil || looked == 0 {
		t.Fatalf("looked at %d files below %s: %v", looked, dir, err)
	}
	return out
}

// TestSecretsOnDisk: once a node encrypts, no file of it has a Secret's value: not those that were there in plain before, nor those that were made, changed
// and used since, on no node; nor after the keys were changed.
func TestSecretsOnDisk(t *testing.T) {
	l := up(t, "e-secret", 2)
	nodes := []string{"n1", "n2"}
	create := func(name, value string) {
		t.Helper()
		l.apply("n1", fmt.Sprintf("{apiVersion: v1, kind: Secret, metadata: {name: %s}, stringData: {password: %s}}", name, value))
	}
	everywhere := func(name, value string) {
		t.Helper()
		for _, n := range nodes {
			l.within(10*time.Second, n+" has "+name, func() error {
				s, err := tryGet[corev1.Secret](l, n, "secret", name)
				if err == nil && string(s.Data["password"]) != value {
					err = fmt.Errorf("it is another value")
				}
				return err
			})
		}
	}
	before, gone := marker(t), marker(t)
	create("before", before)
	create("gone", gone)
	everywhere("before", before)
	everywhere("gone", gone)
	l.kubectl("n1", "delete", "secret", "gone")
	for _, n := range nodes {
		if found := holders(t, l.disk(n), before); len(found) == 0 {
			t.Fatalf("%s: a plain store hides a Secret, so that nothing could be shown here", n)
		}
	}

	for _, n := range nodes {
		config := filepath.Join(l.disk(n), "etc", "config.yaml")
		if err := os.WriteFile(config, []byte("secrets-encryption: \"on\"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		l.do("stop", n)
		l.do("start", n)
		l.within(time.Minute, n+" is back", l.registered(n, nodes...))
		if out := l.murmur(n, "secrets", "status"); !strings.Contains(out, "encrypted with a data key of this node's own") {
			t.Errorf("%s: %s", n, out)
		}
	}
	nowhere := func(when string, values map[string]string) {
		t.Helper()
		for what, value := range values {
			for _, n := range nodes {
				if found := holders(t, l.disk(n), value); len(found) > 0 {
					t.Errorf("%s, %s: the value %s is in %q", when, n, what, found)
				}
			}
		}
	}
	nowhere("encryption is on", map[string]string{"from before": before, "that was deleted": gone})

	made, changed := marker(t), marker(t)
	create("made", made)
	everywhere("made", made)
	create("made", changed)
	everywhere("made", changed)
	for _, n := range nodes {
		l.apply(n, fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: mounts-%[1]s}, spec: {nodeName: %[1]s, containers: [{name: c, image: "example.murmur.io/hello:1", volumeMounts: [{name: s, mountPath: /s}]}],
  volumes: [{name: s, secret: {secretName: made}}]}}`, n))
		l.kubectl(n, "wait", "pod/mounts-"+n, "--for=condition=Ready", "--timeout=60s")
	}
	values := map[string]string{"from before": before, "that was deleted": gone, "of the first version": made, "of the second version": changed}
	nowhere("made, changed and mounted", values)

	for _, n := range nodes {
		l.murmur(n, "secrets", "rotate")
	}
	nowhere("the keys are changed", values)
	everywhere("before", before)

	// What a container takes as a variable, or in its arguments, is in its process and nowhere else: not in what containerd writes down of it.
	variable := marker(t)
	create("variable", variable)
	everywhere("variable", variable)
	values["that pods take as a variable"] = variable
	l.do("load", toolbox(t))
	for _, n := range nodes {
		l.apply(n, fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: reads-%[1]s}, spec: {nodeName: %[1]s, terminationGracePeriodSeconds: 1, containers: [{name: c, image: "example.murmur.io/toolbox:1",
  envFrom: [{prefix: ALL_, secretRef: {name: variable}}], env: [{name: P, valueFrom: {secretKeyRef: {name: variable, key: password}}}, {name: URL, value: "//user:$(P)@host"}],
  command: [sh, -c, 'test "$1" = "see $P" && exec sleep 1000000'], args: [sh, see $(P)],
  readinessProbe: {exec: {command: [sh, -c, 'test ${#P} = %[2]d']}, periodSeconds: 1}}]}}`, n, len(variable)))
	}
	reads := func(when string) {
		t.Helper()
		for _, n := range nodes {
			l.kubectl(n, "wait", "pod/reads-"+n, "--for=condition=Ready", "--timeout=60s")
			env := "\n" + l.kubectl(n, "exec", "reads-"+n, "-c", "c", "--", "env")
			for _, line := range []string{"P=" + variable, "ALL_password=" + variable, "URL=//user:" + variable + "@host"} {
				if !strings.Contains(env, "\n"+line+"\n") {
					t.Errorf("%s, %s: a command in the container does not see %s", when, n, line)
				}
			}
		}
		nowhere(when, values)
	}
	reads("a pod reads variables")
	l.kubectl("n1", "patch", "pod", "reads-n1", "--subresource=ephemeralcontainers", "-p", `{"spec":{"ephemeralContainers":[{"name":"look","image":"example.murmur.io/toolbox:1","targetContainerName":"c",
  "env":[{"name":"Q","valueFrom":{"secretKeyRef":{"name":"variable","key":"password"}}}],"command":["sleep","1000000"]}]}}`)
	l.within(time.Minute, "a debugging container sees what it takes", func() error {
		env, err := l.tryKubectl("n1", "exec", "reads-n1", "-c", "look", "--", "env")
		if err == nil && !strings.Contains(env, "Q="+variable+"\n") {
			err = fmt.Errorf("it sees %s", env)
		}
		return err
	})
	for _, n := range nodes {
		l.do("stop", n)
		l.do("start", n)
		l.within(time.Minute, n+" is back", l.registered(n, nodes...))
	}
	reads("another daemon found the pods")

	// After a crash, and a start without anything new.
	for _, n := range nodes {
		l.do("kill", n)
	}
	for _, n := range nodes {
		l.do("start", n)
	}
	for _, n := range nodes {
		l.within(time.Minute, n+" is back", l.registered(n, nodes...))
	}
	everywhere("before", before)
	for _, n := range nodes {
		l.within(time.Minute, "the pod of "+n+" was started again", func() error {
			p, err := tryGet[corev1.Pod](l, n, "pod", "reads-"+n)
			if err == nil && (len(p.Status.ContainerStatuses) == 0 || p.Status.ContainerStatuses[0].RestartCount == 0 || !p.Status.ContainerStatuses[0].Ready) {
				err = fmt.Errorf("its containers: %v", p.Status.ContainerStatuses)
			}
			return err
		})
	}
	reads("after a crash")
}

// TestEncryptedBackup: a backup to a recipient tells nobody anything, makes a node for who has the key, and for nobody else.
func TestEncryptedBackup(t *testing.T) {
	l := up(t, "e-age", 2)
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	key, wrong, file := filepath.Join(dir, "key"), filepath.Join(dir, "wrong"), filepath.Join(dir, "backup")
	for path, id := range map[string]*age.X25519Identity{key: identity, wrong: stranger} {
		if err := os.WriteFile(path, []byte(id.String()+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	value := marker(t)
	l.apply("n1", fmt.Sprintf("{apiVersion: v1, kind: Secret, metadata: {name: kept}, stringData: {password: %s}}", value))
	l.murmur("n1", "backup", file, "--recipient", identity.Recipient().String())
	text, err := os.ReadFile(file)
	if err != nil || !bytes.HasPrefix(text, []byte("age-encryption.org/v1\n")) {
		t.Fatalf("the backup begins with %.40q: %v", text, err)
	}
	for form, b := range forms(value) {
		if bytes.Contains(text, b) {
			t.Errorf("the value is in the backup: %s", form)
		}
	}
	ip := get[corev1.Node](l, "n1", "node", "n1").Status.Addresses[0].Address
	for _, n := range []string{"n1", "n2"} {
		l.do("kill", n)
	}
	data := filepath.Join(l.disk("n1"), "data")
	if err := os.RemoveAll(data); err != nil {
		t.Fatal(err)
	}
	restore := []string{"exec", "n1", "--", "murmur", "restore", file, "--alone", "--data-dir", data, "--node-ip", ip, "--secrets-encryption", "--secrets-key-file", filepath.Join(l.disk("n1"), "etc", "secrets.key")}
	for what, c := range map[string]struct {
		args []string
		says string
	}{"without a key": {nil, "--identity"}, "with another's": {[]string{"--identity", wrong}, "identity"}} {
		if _, err := l.try(append(restore, c.args...)...); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("restored %s: %v", what, err)
		}
		if _, err := os.Stat(filepath.Join(data, "identity.json")); err == nil {
			t.Fatalf("restored %s: there is a node", what)
		}
	}
	l.do(append(restore, "--identity", key)...)
	// It was restored encrypted, before it ever ran.
	if found := holders(t, filepath.Join(data), value); len(found) > 0 {
		t.Errorf("after the restore the value is in %q", found)
	}
	l.do("start", "n1")
	l.within(time.Minute, "n1 goes on from the backup", func() error {
		s, err := tryGet[corev1.Secret](l, "n1", "secret", "kept")
		if err == nil && string(s.Data["password"]) != value {
			err = errors.New("it is another value")
		}
		return err
	})
	if found := holders(t, filepath.Join(data), value); len(found) > 0 {
		t.Errorf("the value is in %q", found)
	}
	events, err := l.audited("n1")
	if err != nil {
		t.Fatal(err)
	}
	recorded := false
	for _, e := range events {
		recorded = recorded || e.Verb == "restore" && e.User.Username == "system:admin-socket" && e.Annotations["audit.murmur.io/node"] == "n1"
	}
	if !recorded {
		t.Error("that it was restored is not in its audit log")
	}
}
