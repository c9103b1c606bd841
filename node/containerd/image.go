package containerd

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/client"
	ctrns "github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/distribution/reference"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"murmur/node/pod"
)

func imageOf(i *cri.Image) pod.Image {
	image := pod.Image{ID: i.Id, Tags: i.RepoTags, Digests: i.RepoDigests, Size: int64(i.Size), Pinned: i.Pinned, User: i.Username}
	if i.Uid != nil {
		image.UID = &i.Uid.Value
	}
	return image
}

// Image looks an image up.
func (d *Driver) Image(ctx context.Context, ref string) (*pod.Image, error) {
	r, err := d.images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: ref}})
	if err != nil {
		return nil, fmt.Errorf("look up image %s: %w", ref, err)
	}
	if r.Image == nil {
		return nil, nil
	}
	image := imageOf(r.Image)
	return &image, nil
}

// Images lists every image of this node.
func (d *Driver) Images(ctx context.Context) ([]pod.Image, error) {
	r, err := d.images.ListImages(ctx, &cri.ListImagesRequest{})
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	images := make([]pod.Image, len(r.Images))
	for n, i := range r.Images {
		images[n] = imageOf(i)
	}
	return images, nil
}

// Pull fetches an image with the first credential that works.
func (d *Driver) Pull(ctx context.Context, ref string, auths []pod.Auth) (*pod.Image, error) {
	tries := []*cri.AuthConfig{nil}
	if len(auths) > 0 {
		tries = nil
	}
	for _, a := range auths {
		tries = append(tries, &cri.AuthConfig{Username: a.Username, Password: a.Password, ServerAddress: a.Server,
			IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken})
	}
	var last error
	for _, auth := range tries {
		r, err := d.images.PullImage(ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: ref, UserSpecifiedImage: ref}, Auth: auth})
		if err != nil {
			last = plain(err)
			continue
		}
		image, err := d.Image(ctx, r.ImageRef)
		if err == nil && image == nil {
			err = fmt.Errorf("image %s was pulled and is gone", ref)
		}
		return image, err
	}
	return nil, last
}

// RemoveImage removes an image and all its names.
func (d *Driver) RemoveImage(ctx context.Context, id string) error {
	if _, err := d.images.RemoveImage(ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: id}}); err != nil {
		return fmt.Errorf("remove image %s: %w", id, err)
	}
	return nil
}

// ImageFS is containerd's own directory: images and writable layers are below it.
func (d *Driver) ImageFS() string {
	if d.cfg.External {
		return "/var/lib/containerd"
	}
	return filepath.Join(d.cfg.Root, "root")
}

// Import reads an image archive (docker save or OCI layout, as a tar) and returns the names it made known.
func (d *Driver) Import(ctx context.Context, archive io.Reader) ([]string, error) {
	ctx = ctrns.WithNamespace(ctx, Namespace)
	images, err := d.client.Import(ctx, archive, client.WithImageRefTranslator(fullName))
	if err != nil {
		return nil, fmt.Errorf("import image archive: %w", err)
	}
	var names []string
	for _, image := range images {
		name := fullName(image.Name)
		if name != image.Name { // CRI looks for full names only
			full := image
			full.Name = name
			if _, err := d.client.ImageService().Create(ctx, full); err != nil {
				if _, err := d.client.ImageService().Update(ctx, full); err != nil {
					return names, fmt.Errorf("name image %s: %w", name, err)
				}
			}
			if err := d.client.ImageService().Delete(ctx, image.Name); err != nil {
				return names, fmt.Errorf("name image %s: %w", name, err)
			}
			image = full
		}
		if err := client.NewImage(d.client, image).Unpack(ctx, "overlayfs"); err != nil {
			return names, fmt.Errorf("unpack image %s: %w", name, err)
		}
		if err := d.known(ctx, name, string(image.Target.Digest)); err != nil {
			return names, err
		}
		names = append(names, name)
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("import image archive: it holds no image with a name")
	}
	return names, nil
}

// known waits until CRI, which follows containerd's images by events, can start containers from this one.
func (d *Driver) known(ctx context.Context, name, digest string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		image, err := d.Image(ctx, name)
		if err != nil {
			return err
		}
		if image != nil && (len(image.Digests) == 0 || slices.ContainsFunc(image.Digests, func(d string) bool { return strings.HasSuffix(d, digest) })) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("image %s was imported but CRI does not see it: %w", name, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// fullName is the name under which CRI looks an image up: "busybox" is docker.io/library/busybox:latest.
func fullName(name string) string {
	named, err := reference.ParseDockerRef(name)
	if err != nil {
		return name
	}
	return named.String()
}

// watchArchives imports Config.ImagesDir's archives, each once for each version of the file.
func (d *Driver) watchArchives(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-d.ready:
	}
	seenPath := filepath.Join(d.cfg.Root, "imported.json")
	seen := map[string]string{}
	if text, err := os.ReadFile(seenPath); err == nil {
		_ = json.Unmarshal(text, &seen) // broken: import again, which changes nothing
	}
	for {
		entries, _ := os.ReadDir(d.cfg.ImagesDir)
		for _, e := range entries {
			info, err := e.Info()
			if err != nil || !info.Mode().IsRegular() || !strings.HasSuffix(e.Name(), ".tar") {
				continue
			}
			version := fmt.Sprintf("%d %d", info.Size(), info.ModTime().UnixNano())
			if seen[e.Name()] == version || time.Since(info.ModTime()) < 500*time.Millisecond { // still being written
				continue
			}
			names, err := d.importFile(ctx, filepath.Join(d.cfg.ImagesDir, e.Name()))
			if ctx.Err() != nil {
				return nil
			}
			if err != nil {
				d.cfg.Log.Error("image archive not imported", "file", e.Name(), "err", err)
			} else {
				d.cfg.Log.Info("imported image archive", "file", e.Name(), "images", names)
			}
			seen[e.Name()] = version
			if text, err := json.Marshal(seen); err == nil {
				_ = os.WriteFile(seenPath, text, 0o600)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(2 * time.Second):
		}
	}
}

func (d *Driver) importFile(ctx context.Context, path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return d.Import(ctx, f)
}
