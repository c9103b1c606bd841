package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
)

var nodes = []string{"n1", "n2", "n3"}

// joins makes one node three. The last run's stay.
func (b *bench) joins(ctx context.Context) error {
	for run := range b.runs {
		b.say("joins, run %d of %d", run+1, b.runs)
		if err := b.fresh(ctx, 1); err != nil {
			return err
		}
		for range 2 {
			took, err := b.lab.timed(ctx, "add")
			if err != nil {
				return err
			}
			b.nodes++
			b.table.seconds("join to Ready", "<= 5 s", took)
		}
	}
	return b.load(ctx)
}

// visible takes the time from a write on n1 to watches that show it.
func (b *bench) visible(ctx context.Context) error {
	if err := b.need(ctx, 3); err != nil {
		return err
	}
	for run := range b.runs {
		b.say("visibility, run %d of %d", run+1, b.runs)
		written, last, err := b.seen(ctx, nodes, "write", fmt.Sprintf("visible-%d", run), "200", "10ms")
		if err != nil {
			return err
		}
		b.table.latencies("write acknowledged, durable on its node", "", spans(written))
		b.table.latencies("write visible on all of 3 nodes, from the request on", "<= 50 ms", until(written, last))
		for _, rate := range []struct {
			perSecond int
			lasts     time.Duration
		}{{1, 10 * time.Second}, {100, 4 * time.Second}, {1000, 4 * time.Second}} {
			written, last, err := b.seen(ctx, []string{"n3"}, "pace", fmt.Sprintf("pace-%d-%d", rate.perSecond, run), strconv.Itoa(rate.perSecond), rate.lasts.String())
			if err != nil {
				return err
			}
			what := fmt.Sprintf("write on n1 to watch event on n3, %d a second offered", rate.perSecond)
			b.table.latencies(what, "", until(written, last))
			if rate.perSecond > 1 {
				done := slices.MaxFunc(written, func(x, y mark) int { return x.Done.Compare(y.Done) }).Done
				b.table.add(what+": acknowledged a second", "", "", float64(len(written))/done.Sub(written[0].Began).Seconds())
				b.table.latencies(what+": from the acknowledgement on", "", behind(written, last))
			}
		}
	}
	return nil
}

// seen lets a client write on n1 whose names begin with its first argument, and returns what it wrote and when each was seen on the last of the watchers.
func (b *bench) seen(ctx context.Context, watchers []string, word, prefix string, args ...string) ([]mark, map[string]time.Time, error) {
	var all []*client
	for _, n := range watchers {
		w, err := b.lab.client(ctx, n, "see", prefix+"-")
		if err != nil {
			return nil, nil, err
		}
		if _, err := w.next(); err != nil {
			return nil, nil, err
		}
		all = append(all, w)
	}
	written, err := b.lab.ask(ctx, "n1", append([]string{word, prefix}, args...)...)
	if err != nil {
		return nil, nil, err
	}
	last := map[string]time.Time{}
	for _, w := range all {
		if _, err := fmt.Fprintln(w.stdin, len(written)); err != nil {
			return nil, nil, err
		}
		seen, err := w.rest()
		if err != nil {
			return nil, nil, err
		}
		for _, m := range seen {
			if m.Done.After(last[m.Name]) {
				last[m.Name] = m.Done
			}
		}
	}
	return written, last, nil
}

// until is how long each took from its request on.
func until(written []mark, last map[string]time.Time) []time.Duration {
	var all []time.Duration
	for _, m := range written {
		all = append(all, last[m.Name].Sub(m.Began))
	}
	return all
}

// behind is how long after its acknowledgement each was seen; many are seen before.
func behind(written []mark, last map[string]time.Time) []time.Duration {
	var all []time.Duration
	for _, m := range written {
		all = append(all, max(0, last[m.Name].Sub(m.Done)))
	}
	return all
}

// quiet counts what three nodes send each other while nothing changes.
func (b *bench) quiet(ctx context.Context) error {
	if err := b.need(ctx, 3); err != nil {
		return err
	}
	// What was written before is to be settled: within a minute stamps and tombstones are let go of.
	if err := sleep(ctx, 20*time.Second); err != nil {
		return err
	}
	const window = time.Minute
	var before []float64
	for i := range 2 {
		for j, n := range nodes {
			pid, err := b.lab.pid(ctx, n)
			if err != nil {
				return err
			}
			bytes, err := sent(pid, "eth0")
			if err != nil {
				return err
			}
			if i == 0 {
				before = append(before, bytes)
				continue
			}
			b.table.add("bytes a node sends a second when nothing changes, 3 nodes", "", "B", (bytes-before[j])/window.Seconds())
		}
		if i == 0 {
			if err := sleep(ctx, window); err != nil {
				return err
			}
		}
	}
	return nil
}

// heals cuts n1 off, writes on both sides, and takes the time from the healed link until members see each other and all nodes hold the same.
func (b *bench) heals(ctx context.Context) error {
	if err := b.need(ctx, 3); err != nil {
		return err
	}
	for run := range b.runs {
		b.say("heal, run %d of %d", run+1, b.runs)
		if _, err := b.lab.do(ctx, "partition", "n1", "n2,n3"); err != nil {
			return err
		}
		for _, n := range []string{"n1", "n3"} {
			if _, err := b.lab.ask(ctx, n, "write", fmt.Sprintf("cut-%d-%s", run, n), "100", "0s"); err != nil {
				return err
			}
		}
		if err := sleep(ctx, 10*time.Second); err != nil { // both sides have noticed
			return err
		}
		if same, err := b.same(ctx); err != nil || same {
			return errors.Join(err, errors.New("the digests are the same while the nodes are cut"))
		}
		var lookers []*client
		for _, n := range nodes {
			c, err := b.lab.client(ctx, n, "alive", strconv.Itoa(len(nodes)))
			if err != nil {
				return err
			}
			m, err := c.next()
			if err != nil {
				return err
			}
			if m.Name != "looking" {
				return fmt.Errorf("%s sees all members while the nodes are cut", n)
			}
			lookers = append(lookers, c)
		}
		if _, err := b.lab.do(ctx, "heal"); err != nil {
			return err
		}
		healed := time.Now()
		for {
			same, err := b.same(ctx)
			if err != nil {
				return err
			}
			if same {
				break
			}
			if time.Since(healed) > time.Minute {
				return errors.New("the digests differ a minute after the link is back")
			}
		}
		b.table.seconds("heal to identical digests on 3 nodes", "<= 3 s", time.Since(healed))
		noticed := healed
		for _, c := range lookers {
			m, err := c.next()
			if err != nil {
				return err
			}
			if _, err := c.rest(); err != nil {
				return err
			}
			if m.Done.After(noticed) {
				noticed = m.Done
			}
		}
		b.table.seconds("heal noticed: all 3 nodes list all members as alive", "<= 3 s", noticed.Sub(healed))
	}
	return nil
}

func (b *bench) same(ctx context.Context) (bool, error) {
	digests := make([]string, len(nodes))
	var g errgroup.Group
	for i, n := range nodes {
		g.Go(func() (err error) { digests[i], err = b.lab.digest(ctx, n); return err })
	}
	err := g.Wait()
	return digests[0] == digests[1] && digests[1] == digests[2], err
}

// crashes kills nodes and takes the time until the others know, and until a pod runs in place of one that was there.
func (b *bench) crashes(ctx context.Context) error {
	if err := b.need(ctx, 3); err != nil {
		return err
	}
	if err := b.replacements(ctx, "replaced-soon", "1s", "replacement Running after a node's crash, replace-after: 1s", "<= 8 s", b.runs); err != nil {
		return err
	}
	return b.replacements(ctx, "replaced", "default", "the same with the default toleration of 15 s", "", 1)
}

// replacements kills a node that has one of three pods.
func (b *bench) replacements(ctx context.Context, name, replaceAfter, what, target string, runs int) error {
	if _, err := b.lab.ask(ctx, "n1", "deploy", name, "3", replaceAfter); err != nil {
		return err
	}
	for run := range runs {
		b.say("%s, run %d of %d", name, run+1, runs)
		pods, err := b.lab.ask(ctx, "n1", "settled", name, "3")
		if err != nil {
			return err
		}
		i := slices.IndexFunc(pods, func(m mark) bool { return m.Node != "n1" })
		if i < 0 {
			return errors.New("all pods are on n1")
		}
		victim := pods[i].Node
		looker, err := b.looker(ctx, "n1", "replaced", name)
		if err != nil {
			return err
		}
		var survivors []*client
		for _, n := range nodes {
			if n == victim {
				continue
			}
			c, err := b.looker(ctx, n, "lost", victim)
			if err != nil {
				return err
			}
			survivors = append(survivors, c)
		}
		crashed := time.Now()
		if _, err := b.lab.do(ctx, "kill", victim); err != nil {
			return err
		}
		known := crashed
		for _, c := range survivors {
			m, err := c.next()
			if err != nil {
				return err
			}
			if _, err := c.rest(); err != nil {
				return err
			}
			if m.Done.After(known) {
				known = m.Done
			}
		}
		b.table.seconds("crash known to all: both other nodes' APIs show NotReady", "<= 4.5 s", known.Sub(crashed))
		m, err := looker.next()
		if err != nil {
			return err
		}
		b.table.seconds(what, target, m.Done.Sub(crashed))
		if _, err := looker.rest(); err != nil {
			return err
		}
		if _, err := b.lab.do(ctx, "start", victim); err != nil {
			return err
		}
	}
	_, err := b.lab.ask(ctx, "n1", "remove", name)
	return err
}

// looker is a client that has begun to look.
func (b *bench) looker(ctx context.Context, node string, args ...string) (*client, error) {
	c, err := b.lab.client(ctx, node, args...)
	if err != nil {
		return nil, err
	}
	_, err = c.next()
	return c, err
}
