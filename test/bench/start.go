package main

import (
	"context"
	"io/fs"
	"path/filepath"
	"time"
)

// sizes adds up what is copied to a machine.
func (b *bench) programs(context.Context) error {
	var sum int64
	err := filepath.WalkDir(b.lab.bin, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == "older" { // the Makefile's, for a test
			return fs.SkipDir
		}
		if err != nil || d.IsDir() || d.Name() == "kubectl" || d.Name() == "murmur-lab" {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().IsRegular() {
			sum += info.Size()
		}
		return err
	})
	b.table.add("programs of a node, without kubectl", "<= 120 MB", "MB", float64(sum)/1e6)
	return err
}

// starts is one node, from nothing.
func (b *bench) starts(ctx context.Context) error {
	for run := range b.runs {
		b.say("one node from nothing, run %d of %d", run+1, b.runs)
		if err := b.clear(); err != nil {
			return err
		}
		began := time.Now()
		if err := b.need(ctx, 1); err != nil {
			return err
		}
		first, err := b.lab.ask(ctx, "n1", "pods", "1")
		if err != nil {
			return err
		}
		b.table.seconds("first start to first pod Running, one node, images loaded from files", "<= 10 s", first[0].Done.Sub(began))
		// What only starting needed is let go of after a quarter of a minute.
		if err := sleep(ctx, 20*time.Second); err != nil {
			return err
		}
		if err := b.idle(ctx, "an idle daemon, one node", "<= 100 MB"); err != nil {
			return err
		}
		marks, err := b.lab.ask(ctx, "n1", "pods", "20")
		if err != nil {
			return err
		}
		b.table.latencies("create to Running, one after the other, idle node", "<= 1 s", spans(marks))
	}
	return nil
}

// idle looks at the daemon of n1 while nobody asks it anything.
func (b *bench) idle(ctx context.Context, what, target string) error {
	pid, err := b.lab.pid(ctx, "n1")
	if err != nil {
		return err
	}
	const window = 10 * time.Second
	before, err := cpu(pid)
	if err != nil {
		return err
	}
	if err := sleep(ctx, window); err != nil {
		return err
	}
	after, err := cpu(pid)
	if err != nil {
		return err
	}
	all, own, err := resident(pid)
	b.table.add("processor of "+what, "", "%", 100*(after-before).Seconds()/window.Seconds())
	b.table.add("resident memory of "+what, target, "MB", all)
	b.table.add("of that its own, the rest being pages of the program's file: "+what, "", "MB", own)
	return err
}
