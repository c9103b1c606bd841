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
	layer, err := a.layer()
	if err != nil {
		return err
	}
	config := encoded(fields{"architecture": runtime.GOARCH, "os": "linux", "config": a.settings(),
		"rootfs": fields{"type": "layers", "diff_ids": []string{digest(layer)}}})
	manifest := encoded(fields{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": fields{"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(config), "size": len(config)},
		"layers": []fields{{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(layer), "size": len(layer)}}})
	index := encoded(fields{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
		"manifests": []fields{{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest(manifest), "size": len(manifest),
			"platform":    fields{"architecture": runtime.GOARCH, "os": "linux"},
			"annotations": fields{"io.containerd.image.name": a.Name, "org.opencontainers.image.ref.name": a.Name[strings.LastIndex(a.Name, ":")+1:]}}}})

	tw := tar.NewWriter(out)
	for _, f := range []struct {
		name    string
		content []byte
	}{
		{"oci-layout", encoded(fields{"imageLayoutVersion": "1.0.0"})},
		{"index.json", index},
		{"blobs/sha256/" + digest(manifest)[7:], manifest},
		{"blobs/sha256/" + digest(config)[7:], config},
		{"blobs/sha256/" + digest(layer)[7:], layer},
	} {
		if err := writeFile(tw, f.name, 0o644, f.content); err != nil {
			return err
		}
	}
	return tw.Close()
}

// layer is the one layer of the image, as a tar: the files and links by name, each behind the directories that it is in.
func (a Archive) layer() ([]byte, error) {
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
		return nil, err
	}
	for _, name := range names {
		inside := strings.TrimPrefix(path.Clean("/"+name), "/")
		if err := mkdir(path.Dir(inside)); err != nil {
			return nil, err
		}
		if target, ok := a.Links[name]; ok {
			if err := lw.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: inside, Linkname: target, Mode: 0o777}); err != nil {
				return nil, err
			}
			continue
		}
		content, err := os.ReadFile(a.Files[name])
		if err != nil {
			return nil, fmt.Errorf("pack image %s: %w", a.Name, err)
		}
		if err := writeFile(lw, inside, 0o755, content); err != nil {
			return nil, err
		}
	}
	if err := lw.Close(); err != nil {
		return nil, err
	}
	return layer.Bytes(), nil
}

func writeFile(w *tar.Writer, name string, mode int64, content []byte) error {
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content))}); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}

// fields is an object of the OCI image specification.
type fields map[string]any

// settings are how a container of the image starts.
func (a Archive) settings() fields {
	out := fields{}
	for key, value := range map[string][]string{"Entrypoint": a.Entrypoint, "Cmd": a.Cmd, "Env": a.Env} {
		if len(value) > 0 {
			out[key] = value
		}
	}
	if a.User != "" {
		out["User"] = a.User
	}
	return out
}

func encoded(f fields) []byte {
	b, err := json.Marshal(f)
	if err != nil {
		panic(err) // strings and numbers
	}
	return b
}

func digest(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

// pauseArchive is the sandbox image made of the pause program beside containerd.
func (c Config) pauseArchive() Archive {
	return Archive{Name: PauseImage, Files: map[string]string{"/pause": filepath.Join(c.BinDir, "pause")},
		Entrypoint: []string{"/pause"}, User: "65535:65535"}
}
