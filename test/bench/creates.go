package main

import (
	"context"
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
		if err := sleep(ctx, 2*time.Second); err != nil {
			return err
		}
		marks, err := b.lab.ask(ctx, "n1", flood...)
		if err != nil {
			return err
		}
		b.flooded(ours, marks)
		// Whoever is not measured does not run.
		if err := b.clear(); err != nil {
			return err
		}
		if err := b.floodUpstream(ctx, built); err != nil {
			return err
		}
	}
	b.table.ratio("ratio of these", ">= 2", ours, theirs)
	b.table.ratio("ratio of their p99", "<= 1", ours+", p99", theirs+", p99")
	return nil
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
	marks, err := askLocal(ctx, u.kubeconfig, flood...)
	if err != nil {
		return u.explain(err)
	}
	b.flooded(theirs, marks)
	return nil
}

var flood = []string{"flood", strconv.Itoa(writers), warmUp.String(), counted.String()}

func (b *bench) flooded(what string, marks []mark) {
	b.table.add(what, "", "", float64(len(marks))/counted.Seconds())
	b.table.latencies(what, "", spans(marks))
}

// createsOfThree floods one node of three.
func (b *bench) createsOfThree(ctx context.Context) error {
	if err := b.need(ctx, 3); err != nil {
		return err
	}
	for run := range b.runs {
		b.say("creates on three nodes, run %d of %d", run+1, b.runs)
		marks, err := b.lab.ask(ctx, "n1", flood...)
		if err != nil {
			return err
		}
		b.flooded("the same: murmur, one node of three, which all hold it", marks)
	}
	return nil
}
