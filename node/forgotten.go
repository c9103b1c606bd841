package node

import (
	"context"
	"errors"

	"murmur/crdt/store"
)

// A node that was forgotten and comes back holds state that the others may have let go of. They take nothing of it. It hears
// from them that it is forgotten, gives up its state and its pods, and begins anew as a member without any.

// giveUp moves this node to the beginning once it hears that it was forgotten. It also sees to it that what this node heard
// of other forgotten ones before they were is heard by all.
func (n *Node) giveUp(ctx context.Context) error {
	wake := n.store.Subscribe(store.ForgottenResource)
	defer wake.Close()
	for {
		origins, this := n.store.Forgotten()
		if this {
			return n.beginAnew(ctx)
		}
		for _, o := range origins {
			if err := n.store.Forget(ctx, o); err != nil && ctx.Err() == nil {
				n.log.Error("note what a forgotten node had told", "origin", o, "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-wake.C:
		}
	}
}

func (n *Node) beginAnew(ctx context.Context) error {
	inviters := n.others(n.id.NodeName)
	if len(inviters) == 0 {
		return errors.New("this node was forgotten by a cluster of which no member is reachable: `murmur leave`, then join again")
	}
	n.log.Warn("this node was forgotten while it was away: it gives up its state and joins the cluster again, empty", "by way of", inviters[0].NodeName)
	to := n.self.Identity().Anew(inviters)
	// Its pods are stopped through the runtime, which may be starting.
	select {
	case <-n.runtime.Up():
	case <-ctx.Done():
		return nil
	}
	// The answer comes when all parts have stopped, this one among them.
	select {
	case n.moves <- move{to: to, forgotten: true, answer: make(chan error, 1)}:
	case <-ctx.Done():
	}
	return nil
}
