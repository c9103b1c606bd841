package main

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// userland is what Debian brings into images beside busybox: the tools that upstream's images of agnhost and of the DNS
// tests have.
var userland = []string{"bash", "curl", "bind9-dnsutils", "netcat-openbsd", "iproute2", "iperf", "util-linux", "socat", "libc-bin"}

// recipe says how to make an image, whatever its tag.
type recipe struct {
	// layers are names of layers, the lowest first.
	layers     []string
	entrypoint []string
	cmd        []string
	user       string
}

const e2eImages = "registry.k8s.io/e2e-test-images/"

// recipes are the images that can be made here, by name without the tag.
var recipes = map[string]recipe{
	e2eImages + "agnhost":                {layers: []string{"base", "tools", "agnhost"}, entrypoint: []string{"/agnhost"}, cmd: []string{"pause"}},
	e2eImages + "kitten":                 {layers: []string{"base", "tools", "agnhost", "kitten"}, entrypoint: []string{"/agnhost"}, cmd: []string{"test-webserver"}},
	e2eImages + "nautilus":               {layers: []string{"base", "tools", "agnhost", "nautilus"}, entrypoint: []string{"/agnhost"}, cmd: []string{"test-webserver"}},
	e2eImages + "busybox":                {layers: []string{"base", "tools"}, cmd: []string{"sh"}},
	e2eImages + "nonroot":                {layers: []string{"base", "tools"}, cmd: []string{"sh"}, user: "1234"},
	e2eImages + "nonewprivs":             {layers: []string{"base", "nonewprivs"}, cmd: []string{"nnp"}},
	e2eImages + "ipc-utils":              {layers: []string{"base", "tools"}, cmd: []string{"sh"}},
	e2eImages + "glibc-dns-testing":      {layers: []string{"base", "tools"}, cmd: []string{"bash"}},
	e2eImages + "nginx":                  {layers: []string{"base", "nginx"}, cmd: []string{"nginx", "-g", "daemon off;"}},
	e2eImages + "perl":                   {layers: []string{"base", "perl"}, cmd: []string{"perl"}},
	e2eImages + "regression-issue-74839": {layers: []string{"base", "regression-issue-74839"}, entrypoint: []string{"/regression-issue-74839"}},
	"registry.k8s.io/pause":              {layers: []string{"pause"}, entrypoint: []string{"/pause"}, user: "65535:65535"},
}

// programs are built from upstream's module for images.
var programs = map[string]string{
	"agnhost":                "k8s.io/kubernetes/test/images/agnhost",
	"nnp":                    "k8s.io/kubernetes/test/images/nonewprivs",
	"regression-issue-74839": "k8s.io/kubernetes/test/images/regression-issue-74839",
}

// layers makes the layers that recipes name, each unless the cache has it.
func (c cache) layers(ctx context.Context) (map[string]layer, error) {
	upstream, err := moduleDir(ctx, "k8s.io/kubernetes")
	if err != nil {
		return nil, err
	}
	from := filepath.Join(upstream, "test/images")
	packed := func(names ...string) func(*layerWriter) error {
		return func(l *layerWriter) error {
			debs, err := packages(ctx, c.path("debian", names[0]), names...)
			if err != nil {
				return err
			}
			for _, deb := range debs {
				if err := unpacked(ctx, l, deb); err != nil {
					return err
				}
			}
			return nil
		}
	}
	plain := func(fill func(*layerWriter)) func(*layerWriter) error {
		return func(l *layerWriter) error {
			fill(l)
			return l.err
		}
	}
	makers := map[string]func(*layerWriter) error{
		"base": func(l *layerWriter) error { return c.base(ctx, l) },
		"tools": func(l *layerWriter) error {
			if err := packed(userland...)(l); err != nil {
				return err
			}
			l.link("usr/bin/nc", "nc.openbsd") // what the package's scripts would do
			return l.err
		},
		"agnhost": plain(func(l *layerWriter) {
			l.file("agnhost", 0o755, c.path("bin/agnhost"))
			l.link("agnhost-2", "agnhost")
			l.dir("uploads", 0o755)
			l.file("localhost.crt", 0o644, filepath.Join(from, "agnhost/porter/localhost.crt"))
			l.file("localhost.key", 0o644, filepath.Join(from, "agnhost/porter/localhost.key"))
		}),
		"kitten": plain(func(l *layerWriter) {
			l.file("kitten.jpg", 0o644, filepath.Join(from, "kitten/html/kitten.jpg"))
			l.file("data.json", 0o644, filepath.Join(from, "kitten/html/data.json"))
		}),
		"nautilus": plain(func(l *layerWriter) {
			l.file("nautilus.jpg", 0o644, filepath.Join(from, "nautilus/html/nautilus.jpg"))
			l.file("data.json", 0o644, filepath.Join(from, "nautilus/html/data.json"))
		}),
		"nonewprivs": plain(func(l *layerWriter) { l.file("usr/local/bin/nnp", 0o6755, c.path("bin/nnp")) }),
		"nginx": func(l *layerWriter) error {
			if err := packed("nginx-light")(l); err != nil {
				return err
			}
			// The package's own configuration came after ours in the layer, and what comes last holds.
			l.text("etc/nginx/nginx.conf", 0o644, nginxConf)
			l.dir("var/log/nginx", 0o755)
			l.dir("var/lib/nginx", 0o755)
			return l.err
		},
		"perl": packed("perl"),
		"regression-issue-74839": plain(func(l *layerWriter) {
			l.file("regression-issue-74839", 0o755, c.path("bin/regression-issue-74839"))
		}),
		"pause": plain(func(l *layerWriter) { l.file("pause", 0o755, c.product("pause")) }),
	}
	if err := c.freshLayers(); err != nil {
		return nil, err
	}
	out := map[string]layer{}
	for name, fill := range makers {
		file := c.path("layers", name+".tar")
		if _, err := os.Stat(file); err == nil {
			if out[name], err = measure(file); err != nil {
				return nil, err
			}
			continue
		}
		l, err := newLayer(file)
		if err != nil {
			return nil, err
		}
		if err := fill(l); err != nil {
			l.err = err
		}
		if out[name], err = l.close(); err != nil {
			return nil, fmt.Errorf("layer %s: %w", name, err)
		}
	}
	return out, nil
}

// makes is what makes layers: those that it did not make as it is now are made anew.
//
//go:embed recipe.go debian.go image.go
var makes embed.FS

// freshLayers leaves in the cache the layers that these recipes made.
func (c cache) freshLayers() error {
	sum := sha256.New()
	if err := fs.WalkDir(makes, ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		text, err := makes.ReadFile(path)
		sum.Write(text)
		return err
	}); err != nil {
		return err
	}
	dir, now := c.path("layers"), hex.EncodeToString(sum.Sum(nil))
	by := filepath.Join(dir, "made-by")
	if had, _ := os.ReadFile(by); string(had) != now {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(by, []byte(now), 0o644)
}

// base is busybox with all its names, and the files that programs look for in /etc.
func (c cache) base(ctx context.Context, l *layerWriter) error {
	for _, d := range []string{"usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "etc", "root", "home", "proc", "sys", "dev", "run", "var/lib", "var/run", "mnt"} {
		l.dir(d, 0o755)
	}
	l.dir("tmp", 0o1777)
	l.dir("var/tmp", 0o1777)
	for _, d := range []string{"bin", "sbin", "lib", "lib64"} {
		l.link(d, "usr/"+d)
	}
	l.text("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\nwww-data:x:33:33:www-data:/var/www:/bin/false\n"+
		"user-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh\n")
	l.text("etc/group", 0o644, "root:x:0:\nnogroup:x:65534:\nwww-data:x:33:\nuser-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n")
	l.text("etc/nsswitch.conf", 0o644, "passwd: files\ngroup: files\nhosts: files dns\n")
	busybox, err := c.busybox(ctx)
	if err != nil {
		return err
	}
	l.file("usr/bin/busybox", 0o755, busybox)
	out, err := exec.CommandContext(ctx, busybox, "--list").Output()
	if err != nil {
		return fmt.Errorf("busybox --list: %w", err)
	}
	for applet := range strings.FieldsSeq(string(out)) {
		if applet != "busybox" {
			l.link("usr/bin/"+applet, "busybox")
		}
	}
	return l.err
}

// busybox is built from its own source. The one that Debian builds runs its own nc whatever the PATH says, and keeps
// variables whose names are no identifiers from programs; of neither is the one in upstream's images, by whose messages specs tell what happened.
func (c cache) busybox(ctx context.Context) (string, error) {
	program := c.path("bin/busybox")
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	fmt.Fprintln(os.Stderr, "building busybox")
	dir, err := source(ctx, c.path("source"), "busybox")
	if err != nil {
		return "", err
	}
	target := func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, "make", args...)
		cmd.Dir = dir
		return cmd
	}
	config := filepath.Join(dir, ".config")
	if err := quietly(target("defconfig")); err != nil {
		return "", err
	}
	text, err := os.ReadFile(config)
	if err != nil {
		return "", err
	}
	// tc wants what headers of newer kernels no longer define.
	ours := strings.NewReplacer("# CONFIG_STATIC is not set", "CONFIG_STATIC=y", "CONFIG_TC=y", "# CONFIG_TC is not set").Replace(string(text))
	if err := os.WriteFile(config, []byte(ours), 0o644); err != nil {
		return "", err
	}
	resolved := target("oldconfig")
	resolved.Stdin = strings.NewReader(strings.Repeat("\n", 2000)) // each question's default
	if err := quietly(resolved); err != nil {
		return "", err
	}
	if err := quietly(target(fmt.Sprint("-j", runtime.NumCPU()))); err != nil {
		return "", err
	}
	return program, os.Rename(filepath.Join(dir, "busybox"), program)
}

// nginxConf is upstream's image's default server: the package's welcome page on port 80, logs to the container's.
const nginxConf = `worker_processes 1;
error_log /dev/stderr notice;
pid /run/nginx.pid;
events { worker_connections 256; }
http {
	access_log /dev/stdout;
	default_type text/html;
	server {
		listen 80;
		root /usr/share/nginx/html;
		index index.html;
	}
}
`

// images makes every image of the suite's list that there is a recipe for, and says which there is none for.
func (c cache) images(ctx context.Context) (file string, missing []string, err error) {
	list, err := c.wanted(ctx)
	if err != nil {
		return "", nil, err
	}
	layers, err := c.layers(ctx)
	if err != nil {
		return "", nil, err
	}
	var set []image
	for _, name := range list {
		without, _, _ := strings.Cut(name, "@")
		if i := strings.LastIndex(without, ":"); i > strings.LastIndex(without, "/") {
			without = without[:i]
		}
		r, ok := recipes[without]
		if !ok {
			missing = append(missing, name)
			continue
		}
		i := image{name: name, entrypoint: r.entrypoint, cmd: r.cmd, user: r.user}
		for _, l := range r.layers {
			i.layers = append(i.layers, layers[l])
		}
		set = append(set, i)
	}
	file = c.path("images.tar")
	have, _ := os.ReadFile(file + ".txt")
	want := fingerprint(set)
	if _, err := os.Stat(file); err == nil && string(have) == want {
		return file, missing, nil
	}
	if err := writeImages(file, set); err != nil {
		return "", nil, err
	}
	return file, missing, os.WriteFile(file+".txt", []byte(want), 0o644)
}

// fingerprint says what is in an archive, for telling whether it is up to date.
func fingerprint(set []image) string {
	var b strings.Builder
	for _, i := range set {
		fmt.Fprintf(&b, "%s %q %q %q", i.name, i.entrypoint, i.cmd, i.user)
		for _, l := range i.layers {
			b.WriteString(" " + l.digest)
		}
		b.WriteByte('\n')
	}
	return b.String()
}
