package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/gossip"
	"murmur/node/member"
)

const (
	// leaveLimit bounds a departure: whatever hangs, the daemon ends.
	leaveLimit = 2 * time.Minute
	// leaveGrace bounds how long its pods may take to end by themselves.
	leaveGrace = 90 * time.Second
)

// ForgetRequest names a member that is not coming back.
type ForgetRequest struct {
	Node string `json:"node"`
	// Revoke shuts it out for ever, alive or not.
	Revoke bool `json:"revoke,omitempty"`
}

// ForgetReply is what was rotated because a revoked node knew it.
type ForgetReply struct {
	Rotated []member.Rotated `json:"rotated,omitempty"`
	// Left are nodes that the new CA leaves behind, for nobody knows the keys by which to keep them: they run a version of before.
	Left []string `json:"left,omitempty"`
}

// depart ends this node's membership: its pods are stopped, its Node object deleted. Nothing acts any more.
func (n *Node) depart(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, leaveLimit)
	defer cancel()
	n.log.Info("leaving the cluster", "cluster", n.id.Cluster.ID)
	// The others hear of it first: they replace its pods and send them no more requests, while the pods end in their own time.
	err := errors.Join(n.unregister(ctx, n.id.NodeName), n.runtime.Shutdown(ctx, leaveGrace))
	for _, m := range n.agent.Members() {
		if m.Status == gossip.Alive && m.Name != n.id.NodeName {
			if serr := n.agent.Sync(ctx, m.Name); serr == nil {
				break // one that knows tells the others
			}
		}
	}
	pods, verr := n.volumes.Pods()
	err = errors.Join(err, verr)
	for _, uid := range pods {
		err = errors.Join(err, n.volumes.Cleanup(ctx, uid, false))
	}
	return errors.Join(err, n.rules.Cleanup(ctx), n.names.Cleanup(), n.network.Cleanup(), n.agent.Leave())
}

// unregister deletes a Node object, if it is there.
func (n *Node) unregister(ctx context.Context, name string) error {
	for {
		e, ok := n.store.Snapshot().Get(nodeKey(name))
		if !ok {
			return nil
		}
		recorded, end := n.written(ctx, "delete", e.Key, e.UID)
		_, err := n.store.Commit(recorded, store.Write{Key: e.Key, Base: e})
		end(err)
		if !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
}

// discard takes away what this node was, so that the next start is that of a new one, and no Secret of the cluster is left on its disk: not
// in the store, nor a key. The store is closed. The images of containerd stay, and so does what volumes keep for ever.
func (n *Node) discard() error {
	dir := func(name string) string { return filepath.Join(n.cfg.DataDir, name) }
	errs := []error{os.Remove(member.File(n.cfg.DataDir)), os.RemoveAll(dir("store"))}
	// Versions of before put the store aside. The promises and the number of starts of a scheduler are those of a node; addresses, volumes and logs those of its pods.
	for _, name := range []string{"store.left", "placement", "cni", "logs"} {
		errs = append(errs, os.RemoveAll(dir(name)))
	}
	// What a crash left half written holds keys too.
	for _, half := range []string{n.cfg.DataDir, filepath.Dir(n.kubeconfig())} {
		found, err := filepath.Glob(filepath.Join(half, ".new-*"))
		errs = append(errs, err)
		for _, path := range found {
			errs = append(errs, os.Remove(path))
		}
	}
	if err := os.Remove(n.kubeconfig()); err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// forget is the explicit end of a member that failed. One that answers can leave by itself, and would come back at once.
func (n *Node) forget(ctx context.Context, name string) error {
	// A node that was restored alone waits for just this.
	waits := n.joining.Load() != nil && n.store.Behind()
	if err := n.settled(); err != nil && !waits {
		return err
	}
	if name == n.id.NodeName {
		return fmt.Errorf("%s is this node: take it out with `murmur leave`", name)
	}
	stored, known := store.Get[corev1.Node](n.store.Snapshot(), nodeKey(name))
	var failed []string
	for _, m := range n.agent.Members() {
		switch {
		case m.Name != name:
		case m.Status == gossip.Alive && waits: // as this node does: it hears of it, and joins this one empty
		case m.Status == gossip.Alive:
			return fmt.Errorf("%s is alive at %s: take it out with `murmur leave` there", name, m.Addr)
		case m.Status == gossip.Failed:
			failed = append(failed, m.ID)
		}
	}
	if !known && len(failed) == 0 {
		return fmt.Errorf("there is no member %s; `murmur members` lists them", name)
	}
	for _, id := range failed {
		if err := n.agent.Forget(id); err != nil {
			return fmt.Errorf("forget %s: %w", name, err)
		}
	}
	if known {
		if err := n.endStore(ctx, name, stored); err != nil {
			return err
		}
	}
	if err := n.unregister(ctx, name); err != nil {
		return fmt.Errorf("delete the Node object of %s: %w", name, err)
	}
	n.log.Info("forgotten", "node", name)
	return nil
}

// endStore has nobody wait for the store of a node, nor take anything of it that is not known yet.
func (n *Node) endStore(ctx context.Context, name string, stored *corev1.Node) error {
	origin, err := crdt.ParseOrigin(stored.Annotations[annotationOrigin])
	if err == nil {
		err = n.store.Forget(ctx, origin)
	}
	if err != nil {
		return fmt.Errorf("forget the store of %s: %w", name, err)
	}
	return nil
}
