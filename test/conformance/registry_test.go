package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
)

// TestRegistry: what is in the archive is found by tag and by digest, and its parts by theirs; nothing else is.
func TestRegistry(t *testing.T) {
	dir := t.TempDir()
	content := filepath.Join(dir, "layer")
	if err := os.WriteFile(content, []byte("a layer"), 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := measure(content)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "images.tar")
	if err := writeImages(file, []image{{name: upstreamRegistry + "/a/b:1", layers: []layer{l}}, {name: "example.org/a/c:1", layers: []layer{l}}}); err != nil {
		t.Fatal(err)
	}
	r, err := openRegistry(file)
	if err != nil {
		t.Fatal(err)
	}
	defer r.file.Close()
	get := func(path string) (int, string, string) {
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		b, _ := io.ReadAll(w.Body)
		return w.Code, string(b), w.Header().Get("Docker-Content-Digest")
	}
	code, manifest, digest := get("/v2/a/b/manifests/1")
	if code != http.StatusOK || digest == "" {
		t.Fatalf("by tag: %d %s", code, manifest)
	}
	if code, again, _ := get("/v2/a/b/manifests/" + digest); code != http.StatusOK || again != manifest {
		t.Errorf("by digest: %d %s", code, again)
	}
	if code, body, _ := get("/v2/a/b/blobs/" + l.digest); code != http.StatusOK || body != "a layer" {
		t.Errorf("a layer: %d %q", code, body)
	}
	if code, _, _ := get("/v2/"); code != http.StatusOK {
		t.Errorf("/v2/: %d", code)
	}
	for _, path := range []string{"/v2/a/b/manifests/2", "/v2/a/c/manifests/1", "/v2/a/c/manifests/" + digest, "/v2/a/b/blobs/sha256:00", "/v2/a/b/blobs/..", "/v2/x"} {
		if code, body, _ := get(path); code != http.StatusNotFound {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
}
