package pod

import (
	"context"
	"maps"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"murmur/crdt/store"
)

const collectEvery = time.Minute

// collect removes images that nothing uses when their disk gets full.
func (k *Kubelet) collect(ctx context.Context) error {
	used := map[string]time.Time{} // by image id: when it was last seen in use, or first seen at all
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(collectEvery):
		}
		mark := k.pulled.mark()
		images, err := k.cfg.Runtime.Images(ctx)
		if err != nil {
			continue
		}
		inUse, err := k.imagesInUse(ctx)
		if err != nil {
			continue
		}
		now := time.Now()
		live := map[string]bool{}
		for _, i := range images {
			live[i.ID] = true
			if _, ok := used[i.ID]; !ok || imageUsed(i, inUse) {
				used[i.ID] = now
			}
		}
		maps.DeleteFunc(used, func(id string, _ time.Time) bool { return !live[id] })
		if err := k.pulled.keep(mark, live); err != nil {
			k.cfg.Log.Warn("cannot forget who pulled images that are gone", "err", err)
		}
		d := readDisk(k.cfg.Runtime.ImageFS())
		for _, i := range imagesToRemove(images, inUse, used, d, k.cfg.ImageGCHigh, k.cfg.ImageGCLow, now) {
			k.cfg.Log.Info("removing an unused image", "image", i.ID, "names", i.Tags, "size", i.Size)
			if err := k.cfg.Runtime.RemoveImage(ctx, i.ID); err != nil && ctx.Err() == nil {
				k.cfg.Log.Warn("cannot remove an unused image", "image", i.ID, "err", err)
			}
		}
	}
}

// imagesInUse are those that containers were made from, and those that pods of this node mount.
func (k *Kubelet) imagesInUse(ctx context.Context) (map[string]bool, error) {
	_, containers, err := k.cfg.Runtime.List(ctx, "")
	if err != nil {
		return nil, err
	}
	inUse := map[string]bool{}
	for _, c := range containers {
		inUse[c.ImageID] = true
	}
	for _, p := range store.Find[corev1.Pod](k.cfg.Store.Snapshot(), store.ByNode, k.cfg.Node, "pods", "") {
		for _, v := range p.Spec.Volumes {
			if v.Image == nil || !k.cfg.Holds(p) {
				continue
			}
			i, err := k.cfg.Runtime.Image(ctx, v.Image.Reference)
			if err != nil {
				return nil, err
			}
			if i != nil {
				inUse[i.ID] = true
			}
		}
	}
	return inUse, nil
}

// imageUsed compares what containers say they run with the ways an image is named.
func imageUsed(i Image, inUse map[string]bool) bool {
	return inUse[i.ID] || slices.ContainsFunc(i.Digests, func(d string) bool { return inUse[d] }) ||
		slices.ContainsFunc(i.Tags, func(t string) bool { return inUse[t] })
}

// imagesToRemove are those to give up, least recently used first, until the disk is below low percent. Nothing below high.
func imagesToRemove(images []Image, inUse map[string]bool, used map[string]time.Time, d disk, high, low int, now time.Time) []Image {
	if d.total == 0 || d.used()*100 < d.total*int64(high) {
		return nil
	}
	need := d.used() - d.total*int64(low)/100
	var idle []Image
	for _, i := range images {
		if !i.Pinned && !imageUsed(i, inUse) && now.Sub(used[i.ID]) >= 2*time.Minute { // one just pulled waits for its container
			idle = append(idle, i)
		}
	}
	slices.SortStableFunc(idle, func(a, b Image) int { return used[a.ID].Compare(used[b.ID]) })
	for n, i := range idle {
		if need <= 0 {
			return idle[:n]
		}
		need -= i.Size
	}
	return idle
}

// disk is a file system's size, bytes, and its share of free inodes, percent.
type disk struct {
	total, free int64
	inodesFree  int64
}

func (d disk) used() int64 { return d.total - d.free }

func readDisk(path string) disk {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return disk{inodesFree: 100}
	}
	d := disk{total: int64(st.Blocks) * st.Bsize, free: int64(st.Bavail) * st.Bsize, inodesFree: 100}
	if st.Files > 0 {
		d.inodesFree = int64(st.Ffree * 100 / st.Files)
	}
	return d
}
