package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// packages downloads packages of Debian with everything they need, without installing any: apt is told that nothing is
// installed. The files land in dir.
func packages(ctx context.Context, dir string, names ...string) ([]string, error) {
	if err := os.MkdirAll(filepath.Join(dir, "partial"), 0o755); err != nil {
		return nil, err
	}
	status := filepath.Join(dir, "status")
	if err := os.WriteFile(status, nil, 0o644); err != nil {
		return nil, err
	}
	args := []string{"-qq", "-y", "--no-install-recommends", "--download-only", "-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root",
		"-o", "Dir::State::status=" + status, "-o", "Dir::Cache::archives=" + dir + "/", "install"}
	get := func() error { return command(ctx, "apt-get", append(args, names...)...) }
	if err := get(); err != nil {
		// The lists may be old, or not there at all on a fresh machine.
		if again := command(ctx, "apt-get", "-qq", "update"); again != nil {
			return nil, errors.Join(err, again)
		}
		if err := get(); err != nil {
			return nil, fmt.Errorf("download packages %s: %w", strings.Join(names, " "), err)
		}
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	slices.Sort(debs)
	return debs, err
}

// source unpacks what the authors of a package's program released, without Debian's patches, and returns its folder.
func source(ctx context.Context, dir, name string) (string, error) {
	if err := os.MkdirAll(filepath.Join(dir, "lists/partial"), 0o755); err != nil {
		return "", err
	}
	// The machine's own lists name programs only, so the same places are asked for their sources.
	places := func() ([]byte, error) {
		return exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "deb-src $(SITE) $(RELEASE) $(COMPONENT)",
			"Created-By: Packages", "Origin: Debian").Output()
	}
	list, err := places()
	if err == nil && len(list) == 0 {
		if err = command(ctx, "apt-get", "-qq", "update"); err == nil {
			list, err = places()
		}
	}
	if err != nil {
		return "", fmt.Errorf("ask apt where Debian is: %w", err)
	}
	sources := filepath.Join(dir, "sources.list")
	if err := os.WriteFile(sources, list, 0o644); err != nil {
		return "", err
	}
	get := func(args ...string) error {
		cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-qq", "-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root",
			"-o", "Dir::Etc::sourcelist=" + sources, "-o", "Dir::Etc::sourceparts=-", "-o", "Dir::State::lists=" + filepath.Join(dir, "lists")}, args...)...)
		cmd.Dir = dir
		return quietly(cmd)
	}
	if err := get("update"); err != nil {
		return "", err
	}
	if err := get("--download-only", "source", name); err != nil {
		return "", err
	}
	archives, err := filepath.Glob(filepath.Join(dir, name+"_*.orig.tar.*"))
	if err != nil || len(archives) != 1 {
		return "", fmt.Errorf("%d archives of the source of %s in %s, want one", len(archives), name, dir)
	}
	out := filepath.Join(dir, name)
	if err := os.MkdirAll(out, 0o755); err != nil {
		return "", err
	}
	return out, command(ctx, "tar", "-xf", archives[0], "-C", out, "--strip-components=1")
}

// quietly runs a program whose output matters only when it fails.
func quietly(cmd *exec.Cmd) error {
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out[max(0, len(out)-4000):])
	}
	return nil
}

// unpacked adds the files of a package to a layer. Documentation is left out. The layer below has /bin, /sbin and /lib as
// links into /usr, so what lies there goes to /usr.
func unpacked(ctx context.Context, l *layerWriter, deb string) error {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("unpack %s: %w", deb, err)
	}
	in := tar.NewReader(out)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return errors.Join(fmt.Errorf("unpack %s: %w", deb, err), cmd.Wait())
		}
		name := merged(h.Name)
		if name == "" || needless(name) {
			continue
		}
		switch h.Typeflag {
		case tar.TypeDir:
			l.dir(name, h.Mode&0o7777)
		case tar.TypeSymlink:
			if name == merged(path.Join(path.Dir("/"+name), h.Linkname)) {
				continue // /usr/lib64 -> /lib64 and the like, which are one
			}
			l.link(name, h.Linkname)
		case tar.TypeLink:
			l.dir(path.Dir(name), 0o755)
			l.entry(&tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: merged(h.Linkname), Mode: h.Mode}, nil)
		case tar.TypeReg:
			l.dir(path.Dir(name), 0o755)
			l.entry(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: h.Mode & 0o7777, Size: h.Size}, in)
		}
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("unpack %s: %w", deb, err)
	}
	return l.err
}

func merged(name string) string {
	name = strings.Trim(path.Clean("/"+name), "/")
	top, _, _ := strings.Cut(name, "/")
	switch top {
	case "bin", "sbin", "lib", "lib32", "lib64", "libx32":
		if name == top {
			return ""
		}
		return "usr/" + name
	}
	return name
}

func needless(name string) bool {
	for _, p := range []string{"usr/share/doc/", "usr/share/man/", "usr/share/locale/", "usr/share/bash-completion/", "usr/share/lintian/", "usr/share/info/"} {
		if strings.HasPrefix(name+"/", p) {
			return true
		}
	}
	return false
}

// command runs a program of this machine, its output on ours.
func command(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return nil
}
