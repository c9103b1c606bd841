package containerd

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// PauseImage is the image of every pod's sandbox. It comes with the build, is imported at start and never removed.
const PauseImage = "murmur.io/pause:1"

// Archive describes a single-layer OCI image made of files of this machine.
type Archive struct {
	Name       string            // reference, e.g. "example.org/hello:1"
	Files      map[string]string // path in the image -> path on this machine
	Links      map[string]string // path in the image -> target of the symbolic link
	Entrypoint []string
	Cmd        []string
	Env        []string
	User       string
}

// Write writes the image as an OCI layout tar, the same bytes for the same content. All files are executable by everyone.
func (a Archive) Write(out io.Writer) error {
	var layer bytes.Buffer
	lw := tar.NewWriter(&layer)
	dirs := map[string]bool{".": true, "/": true}
	var mkdir func(dir string) error
	mkdir = func(dir string) error {
		if dirs[dir] {
			return nil
		}
		if err := mkdir(path.Dir(dir)); err != nil {
			return err
		}
		dirs[dir] = true
		mode := int64(0o755)
		if dir == "tmp" {
			mode = 0o1777
		}
		return lw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: mode})
	}
	names := make([]string, 0, len(a.Files)+len(a.Links))
	for name := range a.Files {
		names = append(names, name)
	}
	for name := range a.Links {
		names = append(names, name)
	}
	slices.Sort(names)
	if err := mkdir("tmp"); err != nil {
		return err
	}
	for _, name := range names {
		inside := strings.TrimPrefix(path.Clean("/"+name), "/")
		if err := mkdir(path.Dir(inside)); err != nil {
			return err
		}
		if target, ok := a.Links[name]; ok {
			if err := lw.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: inside, Linkname: target, Mode: 0o777}); err != nil {
				return err
			}
			continue
		}
		content, err := os.ReadFile(a.Files[name])
		if err != nil {
			return fmt.Errorf("pack image %s: %w", a.Name, err)
		}
		if err := lw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: inside, Mode: 0o755, Size: int64(len(content))}); err != nil {
			return err
		}
		if _, err := lw.Write(content); err != nil {
			return err
		}
	}
	if err := lw.Close(); err != nil {
		return err
	}

	type m = map[string]any
	digest := func(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }
	encode := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			panic(err) // maps of strings
		}
		return b
	}
	settings := m{}
	for key, value := range map[string][]string{"Entrypoint": a.Entrypoint, "Cmd": a.Cmd, "Env": a.Env} {
		if len(value) > 0 {
			settings[key] = value
		}
	}
	if a.User != "" {
		settings["User"] = a.User
	}
	config := encode(m{"architecture": runtime.GOARCH, "os": "linux", "config": settings,
		"rootfs": m{"type": "layers", "diff_ids": []string{digest(layer.Bytes())}}})
	manifest := encode(m{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": m{"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(config), "size": len(config)},
		"layers": []m{{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(layer.Bytes()), "size": layer.Len()}}})
	index := encode(m{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
		"manifests": []m{{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest(manifest), "size": len(manifest),
			"platform":    m{"architecture": runtime.GOARCH, "os": "linux"},
			"annotations": m{"io.containerd.image.name": a.Name, "org.opencontainers.image.ref.name": a.Name[strings.LastIndex(a.Name, ":")+1:]}}}})

	tw := tar.NewWriter(out)
	for _, f := range []struct {
		name    string
		content []byte
	}{
		{"oci-layout", encode(m{"imageLayoutVersion": "1.0.0"})},
		{"index.json", index},
		{"blobs/sha256/" + digest(manifest)[7:], manifest},
		{"blobs/sha256/" + digest(config)[7:], config},
		{"blobs/sha256/" + digest(layer.Bytes())[7:], layer.Bytes()},
	} {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: 0o644, Size: int64(len(f.content))}); err != nil {
			return err
		}
		if _, err := tw.Write(f.content); err != nil {
			return err
		}
	}
	return tw.Close()
}

// pauseArchive is the sandbox image made of the pause program beside containerd.
func (c Config) pauseArchive() Archive {
	return Archive{Name: PauseImage, Files: map[string]string{"/pause": filepath.Join(c.BinDir, "pause")},
		Entrypoint: []string{"/pause"}, User: "65535:65535"}
}
