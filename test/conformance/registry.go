package main

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"strings"
	"time"
)

// upstreamRegistry is whose names the images have that are made here.
const upstreamRegistry = "registry.k8s.io"

// registryAddr is where nodes find the registry of the images: in the first node's namespace.
const registryAddr = "10.77.0.1:5000"

// registry answers pulls from the archive of images, as the registry does whose names they have. Images are loaded into the nodes
// before; it is for specs whose pods pull always.
type registry struct {
	file  *os.File
	blobs map[string]extent    // by digest
	names map[string]reference // by repository:tag and repository@digest
}

// extent is where a blob is in the archive.
type extent struct{ offset, size int64 }

type reference struct {
	Digest      string            `json:"digest"`
	MediaType   string            `json:"mediaType"`
	Annotations map[string]string `json:"annotations"`
}

func openRegistry(file string) (_ *registry, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	r := &registry{file: f, blobs: map[string]extent{}, names: map[string]reference{}}
	var index struct {
		Manifests []reference `json:"manifests"`
	}
	for archive := tar.NewReader(f); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
		if h.Name == "index.json" {
			if err := json.NewDecoder(archive).Decode(&index); err != nil {
				return nil, fmt.Errorf("read the index of %s: %w", file, err)
			}
			continue
		}
		at, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		if algorithm, sum, ok := strings.Cut(strings.TrimPrefix(h.Name, "blobs/"), "/"); ok {
			r.blobs[algorithm+":"+sum] = extent{at, h.Size}
		}
	}
	for _, m := range index.Manifests {
		name, ok := strings.CutPrefix(m.Annotations["io.containerd.image.name"], upstreamRegistry+"/")
		if !ok {
			continue
		}
		repository, _, _ := strings.Cut(name, ":")
		r.names[name], r.names[repository+"@"+m.Digest] = m, m
	}
	return r, nil
}

// ServeHTTP answers the part of the distribution API that a pull uses.
func (r *registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		http.Error(w, "nothing is pushed here", http.StatusMethodNotAllowed)
		return
	}
	name, ok := strings.CutPrefix(req.URL.Path, "/v2/")
	if !ok || name == "" {
		return // "is it a registry?"
	}
	item := path.Base(name)
	kind := path.Base(path.Dir(name))
	repository := path.Dir(path.Dir(name))
	digest, mediaType := item, "application/octet-stream"
	if kind == "manifests" {
		separator := ":"
		if strings.Contains(item, ":") {
			separator = "@"
		}
		m := r.names[repository+separator+item]
		digest, mediaType = m.Digest, m.MediaType
	}
	blob, ok := r.blobs[digest]
	if !ok {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}`)
		return
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Docker-Content-Digest", digest)
	http.ServeContent(w, req, "", time.Time{}, io.NewSectionReader(r.file, blob.offset, blob.size))
}

// serve answers until ctx ends.
func (r *registry) serve(ctx context.Context) error {
	server := http.Server{Addr: registryAddr, Handler: r, ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() { server.Close() })
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return r.file.Close()
}
