// Package iptables makes the kernel's packet rules what node/proxy says they should be.
//
// # The law
//
// The wanted rules are given whole, and the driver finds out what to change. Nothing is read back to decide, nothing
// is remembered on disk, and nothing that is not named MURMUR-* is touched. Each table changes in one
// transaction of iptables-restore --noflush, so a packet meets the old rules or the new ones and never half of each.
//
// # The loop
//
// Run looks at services, pods, slices and nodes whenever one of them changes, at once the first time and then not more
// often than every 50 ms: see which services the changes concern, have the rules of these made anew (followed.go), write the chains that
// differ, forget the connections that no longer lead anywhere, publish the snapshot's version. Applied returns that version, so that whoever withdraws a
// pod or counts it as available can know that the kernel has the rules. Every 15 s the tables are read and compared
// with what was read after the last write: if somebody flushed them they are written again.
//
// # Back ends
//
// iptables-nft and iptables-legacy both work; the one called iptables on the machine is used unless Config.Command names
// another. Rules stay when Run ends: a daemon that restarts interrupts no connection. Cleanup removes them.
//
// # What it does not do
//
// It decides nothing about services; that is node/proxy. It does not repair jumps that were moved behind other
// rules, only those that are missing or not in their order.
//
// To look inside: iptables-save | grep MURMUR, conntrack -L, and the debug log, which has every transaction's size.
package iptables

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"murmur/crdt/store"
	"murmur/node/proxy"
)

// Config of the loop. Zero values mean what the comments say.
type Config struct {
	Store   *store.Store
	Proxy   proxy.Config
	Command string        // iptables program; "" is iptables
	Gap     time.Duration // least time between two writes; 0 is 50 ms
	Verify  time.Duration // time between two comparisons with the kernel; 0 is 15 s
	Log     *slog.Logger  // nil is slog.Default
	// Contested is told of the external addresses that services cannot have, when that has changed. May be nil.
	Contested func([]proxy.Contest)
}

// Loop keeps the rules of this node.
type Loop struct {
	cfg     Config
	driver  *Driver
	poke    chan struct{}
	applied atomic.Uint64
}

// New finds iptables and returns ErrMissing, with what to install, when there is none.
func New(cfg Config) (*Loop, error) {
	if cfg.Gap == 0 {
		cfg.Gap = 50 * time.Millisecond
	}
	if cfg.Verify == 0 {
		cfg.Verify = 15 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	driver, err := NewDriver(cfg.Command)
	if err != nil {
		return nil, err
	}
	return &Loop{cfg: cfg, driver: driver, poke: make(chan struct{}, 1)}, nil
}

// Applied is the version of the newest snapshot whose rules are in the kernel, 0 before the first.
func (l *Loop) Applied() store.Version { return store.Version(l.applied.Load()) }

// contests is what is contested, as text to compare.
func contests(all []proxy.Contest) string {
	var b strings.Builder
	for _, c := range all {
		fmt.Fprintln(&b, c.Service.UID, c.At, c.Holder.UID)
	}
	return b.String()
}

// Poke tells the loop that the view of reachable nodes changed. It does not wait.
func (l *Loop) Poke() {
	select {
	case l.poke <- struct{}{}:
	default:
	}
}

// Run keeps the rules until ctx ends, and leaves them as they are then. A write that fails is logged and tried again,
// with growing pauses; it is never a reason to stop.
func (l *Loop) Run(ctx context.Context) error {
	wake := l.cfg.Store.Subscribe(watched...)
	defer wake.Close()
	verify := time.NewTicker(l.cfg.Verify)
	defer verify.Stop()
	w := follow(l.cfg)
	told := ""
	pause := l.cfg.Gap
	w.look(true)
	for {
		rules := w.rules
		if now := contests(rules.Contested); now != told && l.cfg.Contested != nil {
			told = now
			l.cfg.Contested(rules.Contested)
		}
		changed, err := l.driver.Set(ctx, rules.Tables)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			pause = min(max(2*pause, time.Second), 30*time.Second)
			l.cfg.Log.Error("services: rules not written, trying again", "err", err, "in", pause)
		default:
			pause = l.cfg.Gap
			l.applied.Store(uint64(w.at))
			if changed {
				l.cfg.Log.Debug("services: rules written", "version", w.at, "chains", len(rules.Tables[1].Chains))
			}
			if w.loses {
				n, err := forget(rules.Flows)
				if err != nil {
					l.cfg.Log.Warn("services: stale connections stay until the next change", "err", err)
					break
				}
				if n > 0 {
					l.cfg.Log.Info("services: connections forgotten whose endpoint is gone", "count", n)
				}
			}
			w.loses = false
		}
		// A burst of changes is one write: what comes during the pause waits for its end.
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
		if err != nil {
			w.look(false)
			continue
		}
		for again := false; !again; {
			select {
			case <-wake.C:
				// Most changes of pods are of what no packet follows. The rules are then those of now.
				if again = w.look(false); !again {
					l.applied.Store(uint64(w.at))
				}
			case <-l.poke:
				again = w.look(true)
			case <-verify.C:
				intact, what, err := l.driver.Intact(ctx)
				if err != nil {
					l.cfg.Log.Warn("services: rules not verified", "err", err)
				} else if !intact {
					l.cfg.Log.Warn("services: another program changed our rules, writing them again", "what", what)
					again = true
				}
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// Cleanup removes every chain, jump and rule of ours. Not while Run runs.
func (l *Loop) Cleanup(ctx context.Context) error { return l.driver.Cleanup(ctx) }
