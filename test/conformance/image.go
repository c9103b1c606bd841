package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
)

// layer is a file system's worth of tar, in a file.
type layer struct {
	path   string
	digest string
	size   int64
}

// layerWriter collects the entries of a layer. Paths are relative to the root, without a leading slash.
type layerWriter struct {
	f    *os.File
	tar  *tar.Writer
	seen map[string]bool
	err  error
}

func newLayer(path string) (*layerWriter, error) {
	f, err := os.Create(path + ".new")
	if err != nil {
		return nil, err
	}
	return &layerWriter{f: f, tar: tar.NewWriter(f), seen: map[string]bool{}}, nil
}

func (l *layerWriter) entry(h *tar.Header, content io.Reader) {
	if l.err != nil || l.seen[strings.TrimSuffix(h.Name, "/")] && h.Typeflag == tar.TypeDir {
		return
	}
	l.seen[strings.TrimSuffix(h.Name, "/")] = true
	if l.err = l.tar.WriteHeader(h); l.err == nil && content != nil {
		_, l.err = io.Copy(l.tar, content)
	}
	if l.err != nil {
		l.err = fmt.Errorf("layer entry %s: %w", h.Name, l.err)
	}
}

// dir makes a folder, and those above it that this layer has not made.
func (l *layerWriter) dir(name string, mode int64) {
	if name == "." || name == "" || l.seen[name] {
		return
	}
	l.dir(path.Dir(name), 0o755)
	l.entry(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode}, nil)
}

func (l *layerWriter) text(name string, mode int64, content string) {
	l.dir(path.Dir(name), 0o755)
	l.entry(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content))}, strings.NewReader(content))
}

func (l *layerWriter) link(name, target string) {
	l.dir(path.Dir(name), 0o755)
	l.entry(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, nil)
}

// file copies a file of this machine.
func (l *layerWriter) file(name string, mode int64, from string) {
	if l.err != nil {
		return
	}
	b, err := os.ReadFile(from)
	if err != nil {
		l.err = err
		return
	}
	l.dir(path.Dir(name), 0o755)
	l.entry(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(b))}, bytes.NewReader(b))
}

func (l *layerWriter) close() (layer, error) {
	defer l.f.Close()
	defer os.Remove(l.f.Name())
	if err := errors.Join(l.err, l.tar.Close()); err != nil {
		return layer{}, err
	}
	final := strings.TrimSuffix(l.f.Name(), ".new")
	if err := os.Rename(l.f.Name(), final); err != nil {
		return layer{}, err
	}
	return measure(final)
}

func measure(file string) (layer, error) {
	f, err := os.Open(file)
	if err != nil {
		return layer{}, err
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	return layer{path: file, digest: fmt.Sprintf("sha256:%x", sum.Sum(nil)), size: n}, err
}

// image is one name, the layers it stands on, and how it starts.
type image struct {
	name       string
	layers     []layer
	entrypoint []string
	cmd        []string
	user       string
}

// writeImages writes images as one OCI layout in a tar, each layer once.
func writeImages(file string, images []image) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	f, err := os.Create(file + ".new")
	if err != nil {
		return err
	}
	defer f.Close()
	defer os.Remove(f.Name())
	tw := tar.NewWriter(f)
	written := map[string]bool{}
	put := func(name string, size int64, content io.Reader) error {
		if written[name] {
			return nil
		}
		written[name] = true
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size}); err != nil {
			return err
		}
		_, err := io.Copy(tw, content)
		return err
	}
	type m = map[string]any
	blob := func(v any) (m, error) {
		b, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		digest := fmt.Sprintf("sha256:%x", sha256.Sum256(b))
		return m{"digest": digest, "size": len(b)}, put("blobs/sha256/"+digest[7:], int64(len(b)), bytes.NewReader(b))
	}
	var manifests []m
	for _, i := range images {
		var ids []string
		var layers []m
		for _, l := range i.layers {
			ids = append(ids, l.digest)
			layers = append(layers, m{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": l.digest, "size": l.size})
			content, err := os.Open(l.path)
			if err != nil {
				return err
			}
			err = put("blobs/sha256/"+l.digest[7:], l.size, content)
			content.Close()
			if err != nil {
				return fmt.Errorf("layer %s: %w", l.path, err)
			}
		}
		settings := m{"Env": []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, "WorkingDir": "/"}
		if len(i.entrypoint) > 0 {
			settings["Entrypoint"] = i.entrypoint
		}
		if len(i.cmd) > 0 {
			settings["Cmd"] = i.cmd
		}
		if i.user != "" {
			settings["User"] = i.user
		}
		config, err := blob(m{"architecture": runtime.GOARCH, "os": "linux", "config": settings, "rootfs": m{"type": "layers", "diff_ids": ids}})
		if err != nil {
			return err
		}
		config["mediaType"] = "application/vnd.oci.image.config.v1+json"
		manifest, err := blob(m{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": layers})
		if err != nil {
			return err
		}
		manifest["mediaType"] = "application/vnd.oci.image.manifest.v1+json"
		manifest["platform"] = m{"architecture": runtime.GOARCH, "os": "linux"}
		manifest["annotations"] = m{"io.containerd.image.name": i.name, "org.opencontainers.image.ref.name": i.name[strings.LastIndex(i.name, ":")+1:]}
		manifests = append(manifests, manifest)
	}
	index, err := json.Marshal(m{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests})
	if err != nil {
		return err
	}
	const layout = `{"imageLayoutVersion":"1.0.0"}`
	err = errors.Join(put("index.json", int64(len(index)), bytes.NewReader(index)), put("oci-layout", int64(len(layout)), strings.NewReader(layout)),
		tw.Close(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}
