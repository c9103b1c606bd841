package sim

import (
	"context"
	"iter"

	"murmur/crdt"
)

// crashPoint is where the next write to a disk fails.
type crashPoint byte

const (
	crashNot    crashPoint = iota
	crashBefore            // nothing was written
	crashAfter             // all was, but nobody hears of it
)

// disk is a node's disk: what it holds survives crashes, and a write to it may be the moment of one.
type disk struct {
	*crdt.Memory
	crash   crashPoint
	crashed bool
	// lies makes it lose what it says it has written (a mutant).
	lies func() bool
}

func (d *disk) Write(records []crdt.Record) error {
	if d.crashed || d.crash == crashBefore {
		d.crashed = true
		return errCrash
	}
	if d.lies != nil && d.lies() {
		return nil
	}
	if err := d.Memory.Write(records); err != nil {
		return err
	}
	if d.crash == crashAfter {
		d.crashed = true
		return errCrash
	}
	return nil
}

func (d *disk) All() iter.Seq2[crdt.Record, error] { return d.Memory.All() }
func (d *disk) Run(context.Context)                {}
func (d *disk) Close() error                       { return nil }
