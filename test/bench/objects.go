package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// objects fills the store of one node: what the daemon holds in memory then, and how long it takes to start on such a disk. It is
// done once: what is measured varies little, and filling takes minutes.
func (b *bench) objects(ctx context.Context) error {
	if err := b.fresh(ctx, 1); err != nil {
		return err
	}
	have := 0
	for _, want := range []int{0, 10_000, 100_000} {
		if want > have {
			b.say("objects: filling up to %d", want)
			if _, err := b.lab.ask(ctx, "n1", "fill", fmt.Sprintf("fill-%d", want), strconv.Itoa(want-have), strconv.Itoa(4*writers)); err != nil {
				return err
			}
			have = want
		}
		if err := b.settledMemory(ctx, fmt.Sprintf("with %d objects of 1 kB", want)); err != nil {
			return err
		}
	}
	what := fmt.Sprintf("with %d objects of 1 kB", have)
	for range b.runs {
		took, err := b.reopen(ctx, "n1")
		if err != nil {
			return err
		}
		b.table.seconds("start of a daemon to /readyz "+what, "", took)
	}
	return b.settledMemory(ctx, what+", started on them")
}

// settledMemory waits until what was only needed for a moment is given back.
func (b *bench) settledMemory(ctx context.Context, what string) error {
	if err := sleep(ctx, 20*time.Second); err != nil {
		return err
	}
	pid, err := b.lab.pid(ctx, "n1")
	if err != nil {
		return err
	}
	all, own, err := resident(pid)
	b.table.add("resident memory of a daemon "+what, "", "MB", all)
	b.table.add("of that its own, "+what, "", "MB", own)
	return err
}

// reopen kills a node's daemon and takes the time from its start until it is ready.
func (b *bench) reopen(ctx context.Context, node string) (time.Duration, error) {
	if _, err := b.lab.do(ctx, "kill", node, "--daemon"); err != nil {
		return 0, err
	}
	c, err := b.lab.client(ctx, node, "ready")
	if err != nil {
		return 0, err
	}
	if m, err := c.next(); err != nil || m.Name != "looking" {
		return 0, errors.Join(err, errors.New("a daemon that was killed is ready"))
	}
	began := time.Now()
	if _, err := b.lab.do(ctx, "start", node); err != nil {
		return 0, err
	}
	m, err := c.next()
	if err != nil {
		return 0, err
	}
	_, err = c.rest()
	return m.Done.Sub(began), err
}
