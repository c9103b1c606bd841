package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/crdt/store"
	"murmur/node/network"
	"murmur/sched"
)

// Annotations of a Node object by which the others know the node.
const (
	annotationID   = "murmur.io/id"
	annotationSerf = "murmur.io/serf"
	// annotationOrigin is the origin of the node's commits, by which `murmur conflicts` names who wrote what.
	annotationOrigin = "murmur.io/origin"
)

// registration keeps this node's Node object: that it is there, says what this node was told to be, and owns a block of
// pod addresses that no older node owns.
type registration struct {
	store    *store.Store
	id       string
	serf     netip.AddrPort
	ports    string // what sched.AnnotationPorts says
	settings Settings
	labels   map[string]string
	taints   []corev1.Taint
	// fresh makes the object from the facts of this machine.
	fresh func() *corev1.Node
	log   *slog.Logger
}

// wanted is the node object as it should be, from the one that is stored, if any.
func (r *registration) wanted(stored *corev1.Node, nodes []*corev1.Node) (*corev1.Node, error) {
	n := r.fresh()
	if stored != nil {
		n = stored.DeepCopy()
	} else {
		n.Spec.Taints = r.taints
	}
	n.APIVersion, n.Kind = "v1", "Node"
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	for k, v := range r.labels {
		n.Labels[k] = v
	}
	if n.Annotations == nil {
		n.Annotations = map[string]string{}
	}
	n.Annotations[annotationID] = r.id
	n.Annotations[annotationSerf] = r.serf.String()
	n.Annotations[sched.AnnotationPorts] = r.ports
	lost := n.Spec.PodCIDR == ""
	for _, o := range nodes {
		if o.Name != n.Name && stored != nil && network.Loser(stored, o) == stored {
			lost = true
		}
	}
	if lost {
		block := network.ChooseBlock(r.settings.ClusterCIDR, r.id, network.Blocks(nodes))
		if !block.IsValid() {
			return nil, fmt.Errorf("no block of pod addresses is free in %s: the cluster has as many nodes as it can hold", r.settings.ClusterCIDR)
		}
		n.Spec.PodCIDR, n.Spec.PodCIDRs = block.String(), []string{block.String()}
	}
	return n, nil
}

// ensure makes the stored object the wanted one.
func (r *registration) ensure(ctx context.Context) error {
	for {
		snap := r.store.Snapshot()
		var stored *corev1.Node
		key := nodeKey(r.fresh().Name)
		base, ok := snap.Get(key)
		if ok {
			var err error
			if stored, err = store.As[corev1.Node](base); err != nil {
				return err
			}
		}
		n, err := r.wanted(stored, network.Nodes(snap))
		if err != nil {
			return err
		}
		n.Annotations[annotationOrigin] = r.store.Origin().String()
		if e, ok := snap.Stored(key); ok {
			if n.Spec.Taints, err = untainted(e, n.Spec.Taints); err != nil {
				return err
			}
		}
		_, err = r.store.Commit(ctx, store.Write{Key: key, Object: n, Base: base})
		if err == nil && stored != nil && stored.Spec.PodCIDR != n.Spec.PodCIDR {
			r.log.Warn("another node owns this node's block of pod addresses; took another", "old", stored.Spec.PodCIDR, "new", n.Spec.PodCIDR)
		}
		if !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrExists) && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
}

// untainted is the taints of a node without the one that admission gives to a Node that is made through the API. Upstream's node
// controller takes it away when the node is ready; here whether a node is ready is derived, so this taint is not to be stored.
func untainted(stored *store.Entry, shown []corev1.Taint) ([]corev1.Taint, error) {
	n, err := store.As[corev1.Node](stored)
	if err != nil {
		return nil, err
	}
	admitted := func(t corev1.Taint) bool {
		return t.MatchTaint(&corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule})
	}
	if !slices.ContainsFunc(n.Spec.Taints, admitted) {
		return shown, nil
	}
	return slices.DeleteFunc(slices.Clone(shown), admitted), nil
}

// unready makes this node's own word that it is Ready untrue until its kubelet says it anew: what the store says of the
// node and its pods may be from before a crash, and others must not rely on it when they see the node again.
func (r *registration) unready(ctx context.Context) error {
	for {
		base, ok := r.store.Snapshot().Get(nodeKey(r.fresh().Name))
		if !ok {
			return nil
		}
		n := &corev1.Node{}
		if err := base.Into(n); err != nil {
			return err
		}
		n.APIVersion, n.Kind = "v1", "Node"
		for i := range n.Status.Conditions {
			if c := &n.Status.Conditions[i]; c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
				c.Status, c.Reason, c.Message = corev1.ConditionFalse, "KubeletNotReady", "the node has just started"
				c.LastTransitionTime = metav1.Now()
			}
		}
		if _, err := r.store.Commit(ctx, store.Write{Key: base.Key, Object: n, Base: base}); !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
}

// Run registers again when the object was deleted or its block is lost to an older node.
func (r *registration) Run(ctx context.Context) error {
	wake := r.store.Subscribe("nodes")
	defer wake.Close()
	for {
		if err := r.ensure(ctx); err != nil && ctx.Err() == nil {
			r.log.Error("register this node", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-wake.C:
		}
		// Several changes at once are looked at once.
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(100 * time.Millisecond):
		}
	}
}
