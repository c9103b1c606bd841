package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// How often what grows is measured at each size, and for how long nothing is done.
const (
	growDeployments = 15
	// Both are even: what changes is as it was when they are over.
	growRounds  = 20
	growChanges = 50
	// growPace is from the beginning of a change to that of the next, if it is over then: one change, one reaction.
	growPace   = 200 * time.Millisecond
	growSettle = 30 * time.Second
	growIdle   = time.Minute
	// growAfter is what the last change of a row is given until its processor time is taken.
	growAfter = 3 * time.Second
)

// parseSizes reads numbers of pods, which come out ascending.
func parseSizes(s string) ([]int, error) {
	var out []int
	for word := range strings.SplitSeq(s, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(word))
		if err != nil || n < 1 || n > 100_000 {
			return nil, fmt.Errorf("-sizes %s: %q is no number from 1 to 100000", s, word)
		}
		out = append(out, n)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// growth fills three nodes with pods that none runs, and takes at each size what one change costs, what nothing costs,
// what it takes in memory, and how long a start and lists last. What the objects are is in growobject.go.
func (b *bench) growth(ctx context.Context) error {
	if err := b.fresh(ctx, len(nodes)); err != nil {
		return err
	}
	if err := b.load(ctx); err != nil {
		return err
	}
	if _, err := b.lab.ask(ctx, "n1", "grow-base"); err != nil {
		return err
	}
	have := 0
	for _, size := range b.sizes {
		g, err := b.newGrown(ctx, size)
		if err != nil {
			return err
		}
		steps := []struct {
			name string
			do   func(context.Context) error
		}{
			{"fill", func(ctx context.Context) error { return g.fill(ctx, have) }},
			{"idle", g.idle},
			{"lists", g.lists},
			{"deployments", g.deployments},
			{"readiness", g.readiness},
			{"changes", g.changes},
			{"clean", func(ctx context.Context) error { _, err := b.lab.ask(ctx, "n1", "grow-clean"); return err }},
			{"start", g.starts},
		}
		for _, s := range steps {
			began := time.Now()
			if err := s.do(ctx); err != nil {
				return fmt.Errorf("%s at %d pods: %w", s.name, size, err)
			}
			b.say("grow, %d pods: %s took %s", size, s.name, time.Since(began).Round(time.Second))
		}
		have = size
	}
	return b.clear()
}

// grown is the lab at one size.
type grown struct {
	*bench
	size    int
	daemons []daemon
	other   string // address of n3
	// rest is the share of a core that each daemon takes when nothing is done.
	rest []float64
}

func (b *bench) newGrown(ctx context.Context, size int) (*grown, error) {
	g := &grown{bench: b, size: size}
	for _, n := range nodes {
		s, err := b.lab.node(ctx, n)
		if err != nil {
			return nil, err
		}
		run, err := b.lab.runDir(ctx, n)
		if err != nil {
			return nil, err
		}
		g.daemons, g.other = append(g.daemons, daemon{s.PID, filepath.Join(run, "murmur.sock")}), s.Address
	}
	return g, nil
}

// note adds a cell to the column of this size.
func (g *grown) note(what, unit string, values ...float64) { g.grid.add(what, unit, g.size, values...) }

// latencies notes a median and a p90.
func (g *grown) latencies(what string, all []time.Duration) {
	g.note(what+", median", "ms", percentile(all, 50))
	g.note(what+", p90", "ms", percentile(all, 90))
}

func (g *grown) fill(ctx context.Context, have int) error {
	began := time.Now()
	before, err := g.used()
	if err != nil {
		return err
	}
	c, err := g.lab.client(ctx, "n1", "grow-fill", strconv.Itoa(have), strconv.Itoa(g.size))
	if err != nil {
		return err
	}
	for {
		m, err := c.next()
		if errors.Is(err, io.EOF) {
			if c.cmd.ProcessState.Success() {
				break
			}
		}
		if err != nil {
			return err
		}
		g.say("grow, %d pods: %s of %d objects", g.size, m.Name, 3*(g.size-have))
	}
	took := time.Since(began)
	after, err := g.used()
	if err != nil {
		return err
	}
	objects := float64(3 * (g.size - have))
	g.note("creates a second while it is filled up to here", "", objects/took.Seconds())
	var each []float64
	for i := range after {
		each = append(each, (after[i]-before[i]).Seconds()*1000/objects)
	}
	g.note("processor of each daemon for one of these creates", "ms", each...)
	return nil
}

// used is the processor time that each daemon has taken since it began.
func (g *grown) used() ([]time.Duration, error) {
	var out []time.Duration
	for _, d := range g.daemons {
		u, err := cpu(d.pid)
		if err != nil {
			return nil, err
		}
		out = append(out, u)
	}
	return out, nil
}

func (g *grown) idle(ctx context.Context) error {
	if err := sleep(ctx, growSettle); err != nil {
		return err
	}
	before, err := g.used()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := sleep(ctx, growIdle); err != nil {
		return err
	}
	after, err := g.used()
	if err != nil {
		return err
	}
	took := time.Since(began)
	var share, all, own, heap []float64
	for i, d := range g.daemons {
		g.rest = append(g.rest, (after[i]-before[i]).Seconds()/took.Seconds())
		share = append(share, 100*g.rest[i])
		a, o, err := resident(d.pid)
		if err != nil {
			return err
		}
		all, own = append(all, a), append(own, o)
	}
	// To ask changes what is asked for, so it is done after all else was read.
	for _, d := range g.daemons {
		h, err := d.profile(ctx, "heap", "# HeapInuse = ")
		if err != nil {
			return err
		}
		heap = append(heap, h/1e6)
	}
	g.note("processor of each daemon when nothing is done", "%", share...)
	g.note("resident memory of each daemon", "MB", all...)
	g.note("of that its own, the rest being pages of the program's file", "MB", own...)
	g.note("heap in use", "MB", heap...)
	return nil
}

func (g *grown) lists(ctx context.Context) error {
	marks, err := g.lab.ask(ctx, "n1", "grow-lists", strconv.Itoa(g.size))
	if err != nil {
		return err
	}
	for _, form := range growLists() {
		g.note("list of pods: "+form.name+", median", "ms", percentile(spans(named(marks, form.name)), 50))
	}
	return nil
}

// costs notes what each daemon has taken for one of so many changes, without what it takes when nothing is done.
func (g *grown) costs(what string, before, after []time.Duration, took time.Duration, count int) {
	var each []float64
	for i := range after {
		spent := (after[i] - before[i]).Seconds() - g.rest[i]*took.Seconds()
		each = append(each, max(0, spent)*1000/float64(count))
	}
	g.note("processor of each daemon for "+what, "ms", each...)
}

func (g *grown) deployments(ctx context.Context) error {
	before, err := g.used()
	if err != nil {
		return err
	}
	began := time.Now()
	marks, err := g.lab.ask(ctx, "n1", "grow-deploy", g.other, strconv.Itoa(g.size), strconv.Itoa(growDeployments))
	if err != nil {
		return err
	}
	if err := sleep(ctx, growAfter); err != nil {
		return err
	}
	after, err := g.used()
	if err != nil {
		return err
	}
	g.latencies("Deployment created on n1 > its pod is there on n3", spans(marks))
	g.costs("one such Deployment", before, after, time.Since(began), len(marks))
	return nil
}

// open starts a client that does what its input says, a line at a time.
func (g *grown) open(ctx context.Context, node string, args ...string) (*client, error) {
	c, err := g.lab.client(ctx, node, args...)
	if err != nil {
		return nil, err
	}
	if m, err := c.next(); err != nil || m.Name != "looking" {
		return nil, errors.Join(err, c.end(), fmt.Errorf("client on %s: it says %q and not that it looks", node, m.Name))
	}
	return c, nil
}

// readiness takes the time from a change of a pod's condition to what follows from it.
func (g *grown) readiness(ctx context.Context) (err error) {
	flip, err := g.open(ctx, "n1", "grow-flip", g.other)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, flip.end()) }()
	var rules []*client
	for _, n := range nodes {
		c, err := g.open(ctx, n, "grow-rules")
		if err != nil {
			return err
		}
		defer func() { _ = c.end() }()
		rules = append(rules, c)
	}
	var slice, table []time.Duration
	for i := range growRounds {
		ready := strconv.FormatBool(i%2 == 0)
		for _, c := range rules {
			if err := c.tell(ready); err != nil {
				return err
			}
			if m, err := c.next(); err != nil || m.Name != "differs" {
				return errors.Join(err, fmt.Errorf("the rules of %s are as they should become: %q", c.node, m.Name))
			}
		}
		if err := flip.tell(ready); err != nil {
			return err
		}
		m, err := flip.next()
		if err != nil {
			return err
		}
		slice = append(slice, m.Done.Sub(m.Began))
		last := m.Began
		for _, c := range rules {
			seen, err := c.next()
			if err != nil {
				return err
			}
			if seen.Done.After(last) {
				last = seen.Done
			}
		}
		table = append(table, last.Sub(m.Began))
		if err := sleep(ctx, growPace); err != nil {
			return err
		}
	}
	g.latencies("readiness of a pod changed on n1 > the EndpointSlice on n3 says so", slice)
	g.latencies("the same > the rules of all three nodes", table)
	return nil
}

// changes takes the processor time of such changes while nobody looks at rules.
func (g *grown) changes(ctx context.Context) (err error) {
	flip, err := g.open(ctx, "n1", "grow-flip", g.other)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, flip.end()) }()
	profiles, within := errgroup.WithContext(ctx)
	if g.profiles != "" {
		for i, d := range g.daemons {
			profiles.Go(func() error {
				return d.save(within, "profile?seconds="+strconv.Itoa(int((growChanges*growPace+growAfter)/time.Second)),
					filepath.Join(g.profiles, fmt.Sprintf("grow-%d-%s.pprof", g.size, nodes[i])))
			})
		}
	}
	before, err := g.used()
	if err != nil {
		return err
	}
	began := time.Now()
	for i := range growChanges {
		due := time.Now().Add(growPace)
		if err := flip.tell(strconv.FormatBool(i%2 == 0)); err != nil {
			return err
		}
		if _, err := flip.next(); err != nil {
			return err
		}
		if err := sleep(ctx, time.Until(due)); err != nil {
			return err
		}
	}
	if err := sleep(ctx, growAfter); err != nil {
		return err
	}
	after, err := g.used()
	if err != nil {
		return err
	}
	g.costs("one change of a pod's readiness", before, after, time.Since(began), growChanges)
	return profiles.Wait()
}

func (g *grown) starts(ctx context.Context) error {
	var all []float64
	for range g.runs {
		took, err := g.reopen(ctx, "n3")
		if err != nil {
			return err
		}
		all = append(all, took.Seconds())
		if err := sleep(ctx, growAfter); err != nil {
			return err
		}
	}
	slices.Sort(all)
	g.note("start of a daemon that was killed to /readyz, median", "s", all[len(all)/2])
	return nil
}

// save writes what a daemon says of itself to a file.
func (d daemon) save(ctx context.Context, what, path string) error {
	r, err := d.get(ctx, what)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", what, r.Status)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r.Body)
	return errors.Join(err, f.Close())
}
