package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"murmur/node/containerd"
)

// buildImage builds the Go program in a folder statically and packs it as the only file of an image.
func buildImage(ctx context.Context, dir, name string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	out := filepath.Join(os.TempDir(), "murmur-lab-images")
	if err := os.MkdirAll(out, 0o755); err != nil {
		return "", err
	}
	program := filepath.Join(out, fmt.Sprintf("%x", sha256.Sum256([]byte(abs+" "+name)))[:16])
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, ".")
	cmd.Dir = abs
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("build the program in %s: %w", abs, err)
	}
	defer os.Remove(program)
	path := program + ".tar"
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	archive := containerd.Archive{Name: name, Files: map[string]string{"app": program}, Entrypoint: []string{"/app"}}
	if err := archive.Write(f); err != nil {
		return "", fmt.Errorf("pack %s: %w", name, err)
	}
	return path, f.Close()
}
