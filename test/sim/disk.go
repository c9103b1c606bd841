package sim

import (
	"context"
	"iter"
	"time"

	"murmur/crdt/store"
)

// crashPoint is where the next write to a disk fails.
type crashPoint byte

const (
	crashNot    crashPoint = iota
	crashBefore            // nothing was written
	crashAfter             // all was, but nobody hears of it
)

// disk is a node's disk: what it holds survives crashes, and a write to it may be the moment of one. Some states that it went through
// are kept, because it may turn out that what it acknowledged since was never on it.
type disk struct {
	*store.Memory
	*past
	now     func() time.Duration
	crash   crashPoint
	crashed bool
	// lies makes it lose what it says it has written (a mutant).
	lies func() bool
}

func (d *disk) Write(records []store.Record) error {
	if d.crashed || d.crash == crashBefore {
		d.crashed = true
		return errCrash
	}
	if d.lies != nil && d.lies() {
		return nil
	}
	d.keep(d.now(), d.Memory)
	if err := d.Memory.Write(records); err != nil {
		return err
	}
	if d.crash == crashAfter {
		d.crashed = true
		return errCrash
	}
	return nil
}

// past is what a machine's disk was, and the mark beside its log.
type past struct {
	states []state
	mark   store.Mark
	trust  store.Trust
}

// state is what a disk held until a moment.
type state struct {
	until  time.Duration
	memory *store.Memory
}

// maxPast bounds the states that are kept.
const maxPast = 24

func (p *past) keep(now time.Duration, m *store.Memory) {
	if p.states = append(p.states, state{now, m.Clone()}); len(p.states) > maxPast {
		p.states = p.states[1:]
	}
}

func (p *past) Marked() (store.Mark, store.Trust) { return p.mark, p.trust }

func (p *past) Mark(m store.Mark, _ bool) error {
	p.mark, p.trust = m, store.Exact
	return nil
}

// unmarked is a disk without a mark (a mutant).
type unmarked struct{ store.Disk }

func (d *disk) All() iter.Seq2[store.Record, error] { return d.Memory.All() }
func (d *disk) Run(context.Context)                 {}
func (d *disk) Close() error                        { return nil }
