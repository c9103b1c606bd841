package node

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/gossip"
	"murmur/node/member"
)

// ErrAgain is returned by Run when the node is to be made and run anew, in the same process: it has moved to another
// cluster, of which its disk now says that it is a member.
var ErrAgain = errors.New("the node is to be started again")

// JoinRequest tells a daemon to join the cluster of a member.
type JoinRequest struct {
	// Host is the member, as --join takes it.
	Host  string `json:"host"`
	Token string `json:"token"`
	// Rejoin asks the cluster that this node is a member of for a certificate of today: it was away while the CA was rotated.
	Rejoin bool `json:"rejoin,omitempty"`
}

// JoinReply is what a daemon does about it.
type JoinReply struct {
	Node    string `json:"node"`
	Cluster string `json:"cluster"`
	// Already is true if the node was a member of that cluster before it was asked.
	Already bool `json:"already,omitempty"`
	// Rejoined is true if it has a certificate of today from that cluster now.
	Rejoined bool `json:"rejoined,omitempty"`
}

// move is a decision to become a member of another cluster.
type move struct {
	to *member.Identity
	// forgotten tells that the state of this node is void, whatever it is.
	forgotten bool
	// answer takes why it cannot be, or nil once nothing acts for the old cluster any more.
	answer chan error
}

// join asks for admission to another cluster and moves there, if nothing of a user is lost by it.
func (n *Node) join(ctx context.Context, req JoinRequest) (JoinReply, error) {
	cfg := n.cfg
	cfg.Join, cfg.Token = req.Host, req.Token
	cfg, err := cfg.complete()
	if err != nil {
		return JoinReply{}, err
	}
	if req.Rejoin {
		return n.rejoin(ctx, cfg)
	}
	if theirs, _, _ := member.ParseToken(cfg.Token); n.self.Identity().Knows(theirs) {
		return JoinReply{Node: n.id.NodeName, Cluster: n.id.Cluster.ID, Already: true}, nil
	}
	if err := n.settled(); err != nil {
		return JoinReply{}, err
	}
	if err := n.blank(); err != nil {
		return JoinReply{}, err
	}
	cfg.NodeName = n.id.NodeName
	to, err := invited(ctx, cfg)
	if err != nil {
		return JoinReply{}, err
	}
	m := move{to: to, answer: make(chan error, 1)}
	select {
	case n.moves <- m:
	case <-ctx.Done():
		return JoinReply{}, ctx.Err()
	}
	select {
	case err = <-m.answer:
	case <-ctx.Done():
		err = ctx.Err()
	}
	return JoinReply{Node: n.id.NodeName, Cluster: to.Cluster.ID}, err
}

// rejoin has a member of the same cluster sign this node's certificate, with a token as a joiner has one. Nothing stops meanwhile.
func (n *Node) rejoin(ctx context.Context, cfg Config) (JoinReply, error) {
	id := n.self.Identity()
	req := member.Request{NodeID: id.NodeID, NodeName: id.NodeName, Addr: cfg.NodeIP}
	to, err := member.Join(ctx, cfg.joinAddress(), cfg.Token, req, hosts(n.cfg, id.NodeName, n.settings), id, time.Now())
	if err != nil {
		return JoinReply{}, err
	}
	if err := n.self.Update(func(id *member.Identity) error {
		id.Certificate, id.Crosses, id.Cluster, id.GossipKeys = to.Certificate, to.Crosses, to.Cluster, to.GossipKeys
		id.Denied, id.Robbed, id.Words, id.Known = to.Denied, to.Robbed, to.Words, to.Known
		return nil
	}); err != nil {
		return JoinReply{}, err
	}
	n.membershipChanged()
	for _, inv := range to.Inviters {
		if err := n.agent.Join(inv.Serf); err == nil {
			break
		}
	}
	return JoinReply{Node: id.NodeName, Cluster: id.Cluster.ID, Rejoined: true}, nil
}

// blank refuses unless this node is the only one of a cluster in which no user has made anything.
func (n *Node) blank() error {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("%s is in a cluster already, with %s: `murmur leave` gives that up for good", n.id.NodeName, fmt.Sprintf(format, args...))
	}
	for _, m := range n.agent.Members() {
		if m.ID != n.id.NodeID && m.Status != gossip.Left {
			return refuse("the member %s", m.Name)
		}
	}
	if name, ok := n.door.Admitted(); ok {
		return refuse("the member %s, which is joining", name)
	}
	if key, ok := users(n.store.Snapshot(), n.api.Resources(), n.id.NodeName); ok {
		return refuse("state of its own, such as %s", key)
	}
	return nil
}

// users finds an object that a user made or changed, in the store of a cluster with one node. Whatever the daemon writes
// of itself is managed by system:something; the rest of what is not a user's is written out here.
func users(snap *store.Snapshot, resources []string, self string) (crdt.Key, bool) {
	for _, resource := range resources {
		for e := range snap.Range(resource, "", "") {
			if stored, ok := snap.Stored(e.Key); ok && !systems(stored, self) {
				return e.Key, true // what is only derived nobody has made
			}
		}
	}
	return crdt.Key{}, false
}

func systems(e *store.Entry, self string) bool {
	k := e.Key
	switch k.Resource {
	case "pods", "secrets", "persistentvolumes", "persistentvolumeclaims":
		// A join token is a secret that somebody made and gave away.
		return false
	case "events", "networking.k8s.io/ipaddresses":
		// Addresses are those of Services, which are looked at themselves.
		return true
	case "nodes":
		return k.Name == self
	case "coordination.k8s.io/leases":
		return k.Namespace == corev1.NamespaceNodeLease && k.Name == self
	}
	var o struct {
		Metadata metav1.ObjectMeta `json:"metadata"`
	}
	if err := json.Unmarshal(e.JSON(), &o); err != nil {
		return false
	}
	for _, f := range o.Metadata.ManagedFields {
		// Flow schemas and priority levels are made by upstream's code, which calls itself so.
		if m := cmp.Or(f.Manager, "?"); !strings.HasPrefix(m, "system:") && !strings.HasPrefix(m, "api-priority-and-fairness-config-") {
			return false
		}
	}
	// An account without fields has no managers.
	return len(o.Metadata.ManagedFields) > 0 || k.Resource == "serviceaccounts" && k.Name == "default"
}
