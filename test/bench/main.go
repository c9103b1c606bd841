// Command bench measures what murmur promises and prints it as a table, in Markdown, the targets beside it.
//
// It drives a lab as a user would. Clients run in a node's namespace and speak to its API; all nodes share the machine's clock,
// so times taken on different nodes can be compared. Everything is measured several times and quoted as median, least and most: on a
// machine that does other work too only the least says much. It takes about five minutes, and ends its lab however it ends.
//
//	go run ./test/bench [-runs 3] [-bin DIR]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == clientWord {
		exit(runClient(os.Args[2:]))
	}
	runs := flag.Int("runs", 3, "how often each thing is measured")
	name := flag.String("name", "bench", "the lab's name")
	bin := flag.String("bin", "bin", "the directory of the programs that are measured")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	b := bench{lab: lab{*name, *bin}, runs: *runs}
	err := errors.Join(b.lab.down(), b.measure(ctx), b.lab.down())
	stop()
	printMachine()
	b.table.print(os.Stdout)
	exit(err)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func printMachine() {
	var u syscall.Utsname
	_ = syscall.Uname(&u)
	var release []byte
	for _, c := range u.Release {
		if c == 0 {
			break
		}
		release = append(release, byte(c))
	}
	fmt.Printf("%d cores, Linux %s, %s; all nodes on this one machine.\n\n", runtime.NumCPU(), release, runtime.Version())
}

type bench struct {
	lab   lab
	runs  int
	table table
	// image is the archive of the program that pods run.
	image string
}

// measure goes through everything. What was measured before an error is in the table.
func (b *bench) measure(ctx context.Context) error {
	out, err := b.lab.do(ctx, "image", "examples/hello", image)
	if err != nil {
		return err
	}
	lines := strings.Fields(out)
	b.image = lines[len(lines)-1]
	if err := b.sizes(); err != nil {
		return err
	}
	for i := range b.runs {
		if err := b.alone(ctx, i); err != nil {
			return fmt.Errorf("one node: %w", err)
		}
		if err := b.lab.down(); err != nil {
			return err
		}
	}
	for i := range b.runs {
		if err := b.joins(ctx, i); err != nil {
			return fmt.Errorf("three nodes: %w", err)
		}
	}
	if err := b.visible(ctx); err != nil {
		return fmt.Errorf("visibility: %w", err)
	}
	if err := b.heals(ctx); err != nil {
		return fmt.Errorf("heal: %w", err)
	}
	if err := b.crashes(ctx, "replaced-soon", "1s", "replacement Running after a node's crash, replace-after: 1s", "<= 8 s", b.runs); err != nil {
		return fmt.Errorf("crash: %w", err)
	}
	if err := b.crashes(ctx, "replaced", "default", "the same with the default toleration of 15 s", "", min(b.runs, 2)); err != nil {
		return fmt.Errorf("crash: %w", err)
	}
	if err := b.lab.down(); err != nil {
		return err
	}
	return b.functions(ctx)
}

func (b *bench) say(format string, v ...any) { fmt.Fprintf(os.Stderr, format+"\n", v...) }

// sizes adds up what is copied to a machine.
func (b *bench) sizes() error {
	var sum int64
	err := filepath.WalkDir(b.lab.bin, func(path string, d fs.DirEntry, err error) error {
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

// alone is one node, from nothing.
func (b *bench) alone(ctx context.Context, run int) error {
	b.say("one node, run %d of %d", run+1, b.runs)
	began := time.Now()
	if _, err := b.lab.do(ctx, "up", "--nodes", "1"); err != nil {
		return err
	}
	if _, err := b.lab.do(ctx, "load", b.image); err != nil {
		return err
	}
	first, err := b.lab.ask(ctx, "n1", "pods", "1")
	if err != nil {
		return err
	}
	b.table.seconds("first start to first pod Running, one node, image loaded from a file", "<= 10 s", first[0].Done.Sub(began))
	if err := b.idle(ctx); err != nil {
		return err
	}
	marks, err := b.lab.ask(ctx, "n1", "pods", "20")
	if err != nil {
		return err
	}
	b.table.latencies("create to Running, one after the other, idle node", "<= 1 s", spans(marks))
	const writers = 16
	flood, err := b.lab.ask(ctx, "n1", "flood", strconv.Itoa(writers), "5s")
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(flood[0].Name)
	b.table.add("creates a second of 1 kB ConfigMaps, 16 writers, one node, durable", ">= 2x upstream", "", float64(n)/flood[0].Done.Sub(flood[0].Began).Seconds())
	return err
}

func spans(marks []mark) []time.Duration {
	var all []time.Duration
	for _, m := range marks {
		all = append(all, m.Done.Sub(m.Began))
	}
	return all
}

// idle looks at a daemon that nobody asks anything, once it has settled.
func (b *bench) idle(ctx context.Context) error {
	pid, err := b.lab.pid(ctx, "n1")
	if err != nil {
		return err
	}
	if err := sleep(ctx, 20*time.Second); err != nil {
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
	b.table.add("processor of an idle daemon, one node", "", "%", 100*(after-before).Seconds()/window.Seconds())
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return err
	}
	for _, line := range strings.Split(string(status), "\n") {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kib, _ := strconv.ParseFloat(f[1], 64)
		switch f[0] {
		case "VmRSS:":
			b.table.add("resident memory of an idle daemon, one node", "<= 100 MB", "MB", kib*1024/1e6)
		case "RssAnon:":
			b.table.add("of that its own, the rest being pages of the program's file", "", "MB", kib*1024/1e6)
		}
	}
	return nil
}

// cpu is what a process has used.
func cpu(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// Fields 14 and 15, counted from behind the name, in ticks of 10 ms.
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// joins makes one node three. The last run's stay.
func (b *bench) joins(ctx context.Context, run int) error {
	b.say("joins, run %d of %d", run+1, b.runs)
	if err := b.lab.down(); err != nil {
		return err
	}
	if _, err := b.lab.do(ctx, "up", "--nodes", "1"); err != nil {
		return err
	}
	for range 2 {
		took, err := b.lab.timed(ctx, "add")
		if err != nil {
			return err
		}
		b.table.seconds("join to Ready", "<= 5 s", took)
	}
	if run < b.runs-1 {
		return nil
	}
	_, err := b.lab.do(ctx, "load", b.image)
	return err
}

var nodes = []string{"n1", "n2", "n3"}

// visible takes the time from a write on n1 to the last node's watch that shows it.
func (b *bench) visible(ctx context.Context) error {
	for run := range b.runs {
		b.say("visibility, run %d of %d", run+1, b.runs)
		prefix := fmt.Sprintf("visible-%d", run)
		var watchers []*client
		for _, n := range nodes {
			w, err := b.lab.client(ctx, n, "see", prefix)
			if err != nil {
				return err
			}
			if _, err := w.next(); err != nil {
				return err
			}
			watchers = append(watchers, w)
		}
		written, err := b.lab.ask(ctx, "n1", "write", prefix, "200", "10ms")
		if err != nil {
			return err
		}
		if err := sleep(ctx, time.Second); err != nil {
			return err
		}
		last := map[string]time.Time{}
		for _, w := range watchers {
			seen, err := w.rest()
			if err != nil {
				return err
			}
			if len(seen) != len(written) {
				return fmt.Errorf("%s saw %d of %d writes", w.node, len(seen), len(written))
			}
			for _, m := range seen {
				if m.Done.After(last[m.Name]) {
					last[m.Name] = m.Done
				}
			}
		}
		var acknowledged, all []time.Duration
		for _, m := range written {
			acknowledged = append(acknowledged, m.Done.Sub(m.Began))
			all = append(all, last[m.Name].Sub(m.Began))
		}
		b.table.latencies("write acknowledged, durable on its node", "", acknowledged)
		b.table.latencies("write visible on all of 3 nodes, from the request on", "<= 50 ms", all)
	}
	return nil
}

// heals cuts n1 off, writes on both sides, and takes the time from the healed link until all nodes hold the same.
func (b *bench) heals(ctx context.Context) error {
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

// crashes kills a node that has one of three pods, and takes the time until another pod runs in its place.
func (b *bench) crashes(ctx context.Context, name, replaceAfter, what, target string, runs int) error {
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
		c, err := b.lab.client(ctx, "n1", "replaced", name)
		if err != nil {
			return err
		}
		if _, err := c.next(); err != nil {
			return err
		}
		crashed := time.Now()
		if _, err := b.lab.do(ctx, "kill", victim); err != nil {
			return err
		}
		m, err := c.next()
		if err != nil {
			return err
		}
		b.table.seconds(what, target, m.Done.Sub(crashed))
		if _, err := c.rest(); err != nil {
			return err
		}
		if _, err := b.lab.do(ctx, "start", victim); err != nil {
			return err
		}
	}
	_, err := b.lab.ask(ctx, "n1", "remove", name)
	return err
}

// functions runs the micro-benchmarks.
func (b *bench) functions(ctx context.Context) error {
	b.say("micro-benchmarks")
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", ".", "-benchtime", "200x", "-count", strconv.Itoa(b.runs), "./crdt", "./sched", "./node/proxy")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("go test -bench: %w: %s", err, out)
	}
	for _, line := range strings.Split(string(out), "\n") {
		f := strings.Fields(line)
		if len(f) < 4 || !strings.HasPrefix(f[0], "Benchmark") || f[3] != "ns/op" {
			continue
		}
		name, _, _ := strings.Cut(f[0], "-")
		ns, err := strconv.ParseFloat(f[2], 64)
		if err != nil {
			return err
		}
		b.table.add(name, "", "ms/op", ns/1e6)
	}
	return nil
}
