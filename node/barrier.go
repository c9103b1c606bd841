package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"murmur/crdt"
	"murmur/gossip"
	"murmur/node/member"
)

// syncLimit bounds one attempt to take a member's state.
const syncLimit = time.Minute

// reachState is the barrier: a joiner waits until it holds what one member that has the cluster's state holds. That is the
// one that invited it if it is there, or any other; those that are behind the barrier themselves are not asked. It returns
// early if the node is told to leave.
//
// A node whose store is behind, because it was restored or its disk has lost something, waits in the same way: it may hold what the
// others have deleted long ago, and must not act on it. It waits for nobody once all others that it knows are forgotten.
func (n *Node) reachState(ctx context.Context) error {
	id := n.self.Identity()
	if id.Alone {
		if err := n.forgetAll(ctx); err != nil {
			return err
		}
	}
	inviters := id.Inviters
	if len(inviters) == 0 && !id.Alone {
		return n.store.CaughtUp(ctx)
	}
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		if (n.store.Behind() || id.Alone) && len(n.registeredOthers()) == 0 {
			n.log.Warn("there is no other node of the cluster: it goes on from what is here")
			break
		}
		err := n.takeState(ctx, inviters)
		if err == nil {
			break
		}
		if n.store.Behind() {
			n.log.Warn("waiting for a node of the cluster: this one was restored, or its disk has lost something, and what was deleted since must not come back; "+
				"if the others are gone for good, `murmur forget` each", "others", n.registeredOthers(), "err", err)
		} else {
			n.log.Warn("waiting for the state of the cluster", "invited by", inviters[0].NodeName, "err", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-n.leaving:
			return nil
		case <-time.After(wait):
		}
	}
	if id.Alone {
		// Nobody can tell what was deleted since the backup: no UID of that time is to come again.
		if err := n.store.BeginAt(ctx, crdt.Stamp{}); err != nil {
			return err
		}
	}
	if err := n.store.CaughtUp(ctx); err != nil {
		return err
	}
	if err := n.self.Update(func(id *member.Identity) error { id.Inviters, id.Alone = nil, false; return nil }); err != nil {
		return err
	}
	n.joining.Store(nil)
	return nil
}

// registeredOthers are the nodes of the store but this one.
func (n *Node) registeredOthers() []string {
	return slices.DeleteFunc(n.registeredNames(), func(name string) bool { return name == n.id.NodeName })
}

// forgetAll forgets all other nodes.
func (n *Node) forgetAll(ctx context.Context) error {
	for _, name := range n.registeredOthers() {
		if err := n.forget(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// catchUp has a store that was found to be behind while the node acts compare itself with a member.
func (n *Node) catchUp(ctx context.Context) error {
	var errs []error
	for _, name := range alive(n.id.NodeName, n.agent.Members()) {
		err := n.takeStateOf(ctx, name)
		if err == nil {
			return n.store.CaughtUp(ctx)
		}
		errs = append(errs, fmt.Errorf("%s: %w", name, err))
	}
	return errors.Join(errs...)
}

// settled refuses what a node that is behind the barrier must not do.
func (n *Node) settled() error {
	switch {
	case n.joining.Load() == nil:
	case n.store.Behind():
		return fmt.Errorf("%s was restored, or its disk has lost something, and it waits for a node of the cluster: if the others are gone for good, `murmur forget` each (%s)",
			n.id.NodeName, strings.Join(n.registeredOthers(), ", "))
	default:
		return fmt.Errorf("%s is joining a cluster, and waits for the state of a member: `murmur leave` gives that up", n.id.NodeName)
	}
	return nil
}

// takeState meets the cluster and takes the state of the first member that gives it.
func (n *Node) takeState(ctx context.Context, inviters []member.Inviter) error {
	alive := map[netip.Addr]bool{}
	for _, m := range n.agent.Members() {
		alive[m.Addr] = m.Status == gossip.Alive
	}
	var errs []error
	for _, inv := range inviters {
		if alive[inv.Serf.Addr()] {
			break
		}
		// One is enough to meet all.
		err := n.agent.Join(inv.Serf)
		if err == nil {
			break
		}
		errs = append(errs, err)
	}
	for _, name := range sources(n.id.NodeName, inviters[0].NodeName, n.agent.Members()) {
		err := n.takeStateOf(ctx, name)
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", name, err))
	}
	if len(errs) == 0 {
		return errors.New("no member is met yet")
	}
	// On one line, for the log.
	return errors.New(strings.Join(strings.Fields(errors.Join(errs...).Error()), " "))
}

// sources lists the live members whose state to ask for, the inviter first.
func sources(self, inviter string, members []gossip.Member) []string {
	var first, others []string
	for _, m := range members {
		switch {
		case m.Name == self || m.Status != gossip.Alive:
		case m.Name == inviter:
			first = append(first, m.Name)
		default:
			others = append(others, m.Name)
		}
	}
	return append(first, others...)
}

// takeStateOf reaches the vector of a member. Only one that is past its own barrier tells it.
func (n *Node) takeStateOf(ctx context.Context, name string) error {
	asking, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	vector, err := n.peer(name).vector(asking)
	if err != nil {
		return fmt.Errorf("does not say what it has: it may be joining itself: %w", err)
	}
	syncing, cancel := context.WithTimeout(ctx, syncLimit)
	defer cancel()
	if err := n.agent.Sync(syncing, name); err != nil {
		return fmt.Errorf("take its state: %w", err)
	}
	if covered, err := n.store.Covers(vector); err != nil || !covered {
		return errors.Join(err, errors.New("its state has not arrived whole"))
	}
	// What came from others meanwhile, or from a backup, may be what the cluster has let go of.
	if _, err := n.compare(syncing, name, true); err != nil {
		return fmt.Errorf("compare stores: %w", err)
	}
	return nil
}
