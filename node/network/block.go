package network

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"iter"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/crdt/store"
)

// blockBits is the size of a node's block: 254 pods.
const blockBits = 24

// ChooseBlock chooses a node's /24 of the cluster's addresses: by a hash of its id, and while that is another node's, by
// steps the hash also gives. Never the first free one: two nodes that join on two sides of a partition would take the same.
// A block that is the node's own already is chosen again. The zero Prefix means that all are taken, or that
// the cluster's range is smaller than a block.
func ChooseBlock(clusterCIDR netip.Prefix, nodeID string, taken map[netip.Prefix]string) netip.Prefix {
	if !clusterCIDR.IsValid() || !clusterCIDR.Addr().Is4() || clusterCIDR.Bits() > blockBits {
		return netip.Prefix{}
	}
	for p, owner := range taken {
		if owner == nodeID && p.Bits() == blockBits && clusterCIDR.Contains(p.Addr()) {
			return p
		}
	}
	count := uint32(1) << (blockBits - clusterCIDR.Bits())
	sum := sha256.Sum256([]byte(nodeID))
	at := binary.BigEndian.Uint32(sum[0:])
	step := binary.BigEndian.Uint32(sum[4:]) | 1 // odd: visits every block
	base := clusterCIDR.Masked().Addr().As4()
	for range count {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(base[:])+at%count<<(32-blockBits))
		p := netip.PrefixFrom(netip.AddrFrom4(b), blockBits)
		if _, used := taken[p]; !used {
			return p
		}
		at += step
	}
	return netip.Prefix{}
}

// Nodes are all nodes, with no more of each than blocks and routes are made from. Read only.
func Nodes(snap *store.Snapshot) []*corev1.Node { return nodes.Of(snap) }

var nodes = store.NewMemo("nodes", func(all iter.Seq[*store.Entry]) (out []*corev1.Node) {
	for e := range all {
		if n, err := store.As[corev1.Node](e); err == nil {
			out = append(out, &corev1.Node{
				ObjectMeta: metav1.ObjectMeta{Name: n.Name, CreationTimestamp: n.CreationTimestamp},
				Spec:       corev1.NodeSpec{PodCIDR: n.Spec.PodCIDR},
				Status:     corev1.NodeStatus{Addresses: n.Status.Addresses},
			})
		}
	}
	return out
})

// Blocks lists who has which block, as ChooseBlock wants it. Of two with the same block the one that keeps it is named.
func Blocks(nodes []*corev1.Node) map[netip.Prefix]string {
	taken := map[netip.Prefix]*corev1.Node{}
	for _, n := range nodes {
		b := block(n)
		if have := taken[b]; b.IsValid() && (have == nil || Loser(have, n) == have) {
			taken[b] = n
		}
	}
	names := map[netip.Prefix]string{}
	for b, n := range taken {
		names[b] = n.Name
	}
	return names
}

// Loser names which of two nodes that chose the same block on two sides of a partition must choose again: the younger by
// creationTimestamp, of twins the later by name. Every node says the same. nil when their blocks do not overlap.
func Loser(a, b *corev1.Node) *corev1.Node {
	if x, y := block(a), block(b); !x.IsValid() || !y.IsValid() || !x.Overlaps(y) {
		return nil
	}
	if cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name)) > 0 {
		return a
	}
	return b
}
