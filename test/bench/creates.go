package main

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"
)

const (
	// writers is how many create at once.
	writers = 16
	// The first moments are not counted: connections are made and caches filled.
	warmUp, counted = 2 * time.Second, 6 * time.Second
)

// Rows that are set against each other.
const (
	ours   = "creates a second of 1 kB ConfigMaps, 16 writers, durable: murmur, one node"
	theirs = "the same: etcd and kube-apiserver"
	before = "the same: murmur, the other build"
)

// creates floods one node of ours and upstream in turns, each anew, on the same disk, by the same client.
func (b *bench) creates(ctx context.Context) error {
	built, err := buildUpstream(ctx)
	if err != nil {
		return err
	}
	for run := range b.runs {
		b.say("creates, run %d of %d", run+1, b.runs)
		if err := b.fresh(ctx, 1); err != nil {
			return err
		}
		if err := b.floodNode(ctx, ours); err != nil {
			return err
		}
		// Whoever is not measured does not run.
		if err := b.clear(); err != nil {
			return err
		}
		if err := b.floodUpstream(ctx, built); err != nil {
			return err
		}
	}
	b.table.ratio("ratio of these creates a second", ">= 2", ours, theirs)
	b.table.ratio("ratio of their p99", "<= 1", ours+", p99", theirs+", p99")
	b.table.ratio("ratio of their processor time", "", ours+costs, theirs+costs)
	return nil
}

// createsAgainst floods one node of this build and one of another in turns, each anew. Who comes first changes from run to run:
// what a machine gives wanes and grows.
func (b *bench) createsAgainst(ctx context.Context) error {
	if b.against == "" {
		return nil
	}
	defer func(bin string) { b.lab.bin = bin }(b.lab.bin)
	sides := []struct{ bin, row string }{{b.lab.bin, ours + " beside another build"}, {b.against, before}}
	for run := range b.runs {
		b.say("creates of two builds, run %d of %d", run+1, b.runs)
		for i := range sides {
			side := sides[(run+i)%len(sides)]
			b.lab.bin = side.bin
			if err := b.fresh(ctx, 1); err != nil {
				return err
			}
			if err := b.floodNode(ctx, side.row); err != nil {
				return err
			}
			if err := b.clear(); err != nil {
				return err
			}
		}
	}
	for _, of := range []struct{ what, target, suffix string }{
		{"ratio of these creates a second", ">= 0.95", ""},
		{"ratio of their p99", "<= 1.05", ", p99"},
		{"ratio of their processor time", "", costs},
	} {
		b.table.ratio(of.what+", to the other build", of.target, sides[0].row+of.suffix, before+of.suffix)
	}
	return nil
}

// createsOfThree floods one node of three.
func (b *bench) createsOfThree(ctx context.Context) error {
	if err := b.need(ctx, 3); err != nil {
		return err
	}
	for run := range b.runs {
		b.say("creates on three nodes, run %d of %d", run+1, b.runs)
		if err := b.floodNode(ctx, "the same: murmur, n1 of three nodes, which all hold it when it is told"); err != nil {
			return err
		}
	}
	return nil
}

// floodNode floods n1.
func (b *bench) floodNode(ctx context.Context, what string) error {
	if err := sleep(ctx, 2*time.Second); err != nil {
		return err
	}
	pid, err := b.lab.pid(ctx, "n1")
	if err != nil {
		return err
	}
	return b.flood(what, []int{pid}, func(args ...string) ([]mark, error) { return b.lab.ask(ctx, "n1", args...) })
}

func (b *bench) floodUpstream(ctx context.Context, built string) error {
	u, err := startUpstream(ctx, built)
	if err != nil {
		return err
	}
	defer u.end()
	if err := sleep(ctx, 2*time.Second); err != nil {
		return err
	}
	var pids []int
	for _, p := range u.programs {
		pids = append(pids, p.Process.Pid)
	}
	err = b.flood(theirs, pids, func(args ...string) ([]mark, error) { return askLocal(ctx, u.kubeconfig, args...) })
	if err != nil {
		return u.explain(err)
	}
	return nil
}

// costs is what is added to a row's name for the processor time of one create.
const costs = ", processor time of the daemons a create"

// flood asks a client for it and notes what came of it, and what it cost the processes that served it.
func (b *bench) flood(what string, pids []int, ask func(...string) ([]mark, error)) error {
	before, err := cpus(pids)
	if err != nil {
		return err
	}
	marks, err := ask("flood", strconv.Itoa(writers), (warmUp + counted).String())
	if err != nil {
		return err
	}
	after, err := cpus(pids)
	if err != nil {
		return err
	}
	if len(marks) == 0 {
		return errors.New("nothing was created")
	}
	from := slices.MinFunc(marks, func(x, y mark) int { return x.Began.Compare(y.Began) }).Began.Add(warmUp)
	late := slices.DeleteFunc(slices.Clone(marks), func(m mark) bool { return m.Done.Before(from) || m.Done.After(from.Add(counted)) })
	b.table.add(what, "", "", float64(len(late))/counted.Seconds())
	b.table.latencies(what, "", spans(late))
	b.table.add(what+costs, "", "ms", 1000*(after-before).Seconds()/float64(len(marks)))
	return nil
}

// cpus is what some processes have used together.
func cpus(pids []int) (sum time.Duration, err error) {
	for _, pid := range pids {
		used, err := cpu(pid)
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}
