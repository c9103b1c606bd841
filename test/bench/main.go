// Command bench measures what murmur promises and prints it as a table, in Markdown, the targets beside it.
//
// It drives a lab as a user would. Clients run in a node's namespace and speak to its API; all nodes share the machine's clock,
// so times taken on different nodes can be compared. What is promised as a ratio to upstream is measured beside upstream, in turns, in
// the same run. Everything is measured several times and quoted as median, least and most: on a machine that does other work too only
// the least says much. A whole run takes about a quarter of an hour, and half an hour more for what grows; it ends its labs however it
// ends.
//
//	go run ./test/bench [-runs 3] [-only REGEXP] [-bin DIR] [-sizes 100,1000,5000,20000] [-profiles DIR] [-against DIR]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == clientWord {
		exit(runClient(os.Args[2:]))
	}
	runs := flag.Int("runs", 3, "how often each thing is measured")
	only := flag.String("only", "", "measure only that whose name this regular expression finds: "+strings.Join(names(), ", "))
	name := flag.String("name", "bench", "the lab's name")
	bin := flag.String("bin", "bin", "the directory of the programs that are measured")
	sizes := flag.String("sizes", "100,1000,5000,20000", "numbers of pods at which grow measures")
	profiles := flag.String("profiles", "", "a directory for processor profiles of the daemons while grow changes something; none are taken unless it is given")
	against := flag.String("against", "", "a directory with the programs of another build, such as the commit before: creates-against measures both in turns")
	flag.Parse()
	find, err := regexp.Compile(*only)
	if err != nil {
		exit(err)
	}
	pods, err := parseSizes(*sizes)
	if err != nil {
		exit(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	b := bench{lab: lab{*name, *bin}, runs: max(*runs, 1), sizes: pods, profiles: *profiles, against: *against}
	began, before := time.Now(), load()
	err = errors.Join(b.clear(), b.measure(ctx, find))
	stop() // clients that are left end before what they speak to
	err = errors.Join(err, b.clear())
	printMachine(began, before)
	if len(b.table) > 0 {
		b.table.print(os.Stdout)
	}
	b.grid.print(os.Stdout)
	exit(err)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func printMachine(began time.Time, before string) {
	var u syscall.Utsname
	_ = syscall.Uname(&u)
	var release []byte
	for _, c := range u.Release {
		if c == 0 {
			break
		}
		release = append(release, byte(c))
	}
	fmt.Printf("%d cores, Linux %s, %s; all nodes on this one machine. It took %s; the load average was %s before and %s at the end.\n\n",
		runtime.NumCPU(), release, runtime.Version(), time.Since(began).Round(time.Second), before, load())
}

// load is the machine's load average of a minute.
func load() string {
	b, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(b), " ")
	return first
}

type bench struct {
	lab   lab
	runs  int
	table table
	// sizes are those at which growth is measured, grid what came of it, profiles where to put daemons' profiles, "" for none.
	sizes    []int
	grid     grid
	profiles string
	// against is the directory of another build's programs, "" for none.
	against string
	// nodes is how many the lab has now; 0: there is none.
	nodes int
	// images are archives of what pods run.
	images []string
}

// experiment is something that can be measured by itself.
type experiment struct {
	name string
	do   func(*bench, context.Context) error
}

// experiments are in such an order that a lab serves those that follow each other.
var experiments = []experiment{
	{"size", (*bench).programs},
	{"start", (*bench).starts},
	{"pods", (*bench).bursts},
	{"creates", (*bench).creates},
	{"creates-against", (*bench).createsAgainst},
	{"objects", (*bench).objects},
	{"join", (*bench).joins},
	{"creates-3", (*bench).createsOfThree},
	{"visible", (*bench).visible},
	{"quiet", (*bench).quiet},
	{"heal", (*bench).heals},
	{"crash", (*bench).crashes},
	{"watchers", (*bench).watchers},
	{"grow", (*bench).growth},
	{"functions", (*bench).functions},
}

func names() []string {
	var all []string
	for _, e := range experiments {
		all = append(all, e.name)
	}
	return all
}

// measure goes through everything. What was measured before an error is in the table.
func (b *bench) measure(ctx context.Context, only *regexp.Regexp) error {
	for _, i := range [][2]string{{"examples/hello", image}, {"cmd/pause", pauseImage}} {
		out, err := b.lab.do(ctx, "image", i[0], i[1])
		if err != nil {
			return err
		}
		lines := strings.Fields(out)
		b.images = append(b.images, lines[len(lines)-1])
	}
	for _, e := range experiments {
		if !only.MatchString(e.name) {
			continue
		}
		began := time.Now()
		if err := e.do(b, ctx); err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
		b.say("%s: %s", e.name, time.Since(began).Round(time.Second))
	}
	return nil
}

func (b *bench) say(format string, v ...any) { fmt.Fprintf(os.Stderr, format+"\n", v...) }

// clear ends the lab, whatever became of it.
func (b *bench) clear() error {
	b.nodes = 0
	return b.lab.down()
}

// fresh makes a new lab.
func (b *bench) fresh(ctx context.Context, nodes int) error {
	if err := b.clear(); err != nil {
		return err
	}
	_, err := b.lab.do(ctx, "up", "--nodes", strconv.Itoa(nodes))
	b.nodes = nodes
	return err
}

// load puts what pods run onto all nodes.
func (b *bench) load(ctx context.Context) error {
	for _, i := range b.images {
		if _, err := b.lab.do(ctx, "load", i); err != nil {
			return err
		}
	}
	return nil
}

// need makes a lab of so many nodes, unless there is one.
func (b *bench) need(ctx context.Context, nodes int) error {
	if b.nodes == nodes {
		return nil
	}
	if err := b.fresh(ctx, nodes); err != nil {
		return err
	}
	return b.load(ctx)
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// spans are how long what was marked took.
func spans(marks []mark) []time.Duration {
	var all []time.Duration
	for _, m := range marks {
		all = append(all, m.Done.Sub(m.Began))
	}
	return all
}

// functions runs the micro-benchmarks.
func (b *bench) functions(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", ".", "-benchtime", "200x", "-count", strconv.Itoa(b.runs), "./crdt", "./sched", "./node/proxy")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("go test -bench: %w: %s", err, out)
	}
	for line := range strings.SplitSeq(string(out), "\n") {
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
