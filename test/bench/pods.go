package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// bursts starts and ends pods, some at once, on a node that is otherwise idle; then the runtime does the same alone.
func (b *bench) bursts(ctx context.Context) error {
	if err := b.need(ctx, 1); err != nil {
		return err
	}
	run, err := b.lab.runDir(ctx, "n1")
	if err != nil {
		return err
	}
	counts := []int{1, 10, 60}
	for i := range b.runs {
		for _, n := range counts {
			if n == counts[len(counts)-1] && i > 1 {
				continue // a minute each
			}
			b.say("%d pods at once, run %d of %d", n, i+1, b.runs)
			if err := b.burst(ctx, run, n); err != nil {
				return err
			}
		}
	}
	// Sandboxes that no pod wants would be swept by the daemon.
	if _, err := b.lab.do(ctx, "kill", "n1", "--daemon"); err != nil {
		return err
	}
	for i := range b.runs {
		for _, n := range counts {
			if n == counts[len(counts)-1] && i > 1 {
				continue
			}
			b.say("%d sandboxes with a container by CRI, run %d of %d", n, i+1, b.runs)
			marks, err := b.lab.ask(ctx, "n1", "cri", filepath.Join(run, "c", "containerd.sock"), "/murmur-lab-"+b.lab.name+"-n1/bench", strconv.Itoa(n))
			if err != nil {
				return err
			}
			b.table.latencies(fmt.Sprintf("%d at once, containerd alone by CRI: start", n), "", spans(named(marks, "start")))
			b.table.latencies(fmt.Sprintf("%d at once, containerd alone by CRI: end", n), "", spans(named(marks, "end")))
		}
	}
	return b.clear()
}

// named are the marks of one name.
func named(marks []mark, name string) []mark {
	var out []mark
	for _, m := range marks {
		if m.Name == name {
			out = append(out, m)
		}
	}
	return out
}

func (b *bench) burst(ctx context.Context, run string, n int) error {
	daemon := daemon{socket: filepath.Join(run, "murmur.sock")}
	var err error
	if daemon.pid, err = b.lab.pid(ctx, "n1"); err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(run, "c", "containerd.pid"))
	if err != nil {
		return err
	}
	runtime, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return err
	}
	what := fmt.Sprintf("%d at once", n)
	for _, phase := range []struct{ word, name string }{{"start", "create to Running"}, {"end", "delete to gone"}} {
		before, err := daemon.used(ctx)
		if err != nil {
			return err
		}
		idle, err := cpu(runtime)
		if err != nil {
			return err
		}
		watch, stop := context.WithCancel(ctx)
		peak := make(chan int, 1)
		go func() { peak <- daemon.goroutines(watch) }()
		marks, err := b.lab.ask(ctx, "n1", phase.word, strconv.Itoa(n))
		stop()
		most := <-peak
		if err != nil {
			return err
		}
		after, err := daemon.used(ctx)
		if err != nil {
			return err
		}
		busy, err := cpu(runtime)
		if err != nil {
			return err
		}
		b.table.latencies(what+", "+phase.name, "", spans(marks))
		each := func(v float64) float64 { return v / float64(n) }
		b.table.add(what+", "+phase.name+": processor time of the daemon a pod", "", "ms", each((after.cpu-before.cpu).Seconds()*1000))
		b.table.add(what+", "+phase.name+": of containerd itself", "", "ms", each((busy-idle).Seconds()*1000))
		b.table.add(what+", "+phase.name+": the daemon's allocations a pod", "", "MB", each(after.bytes-before.bytes)/1e6)
		b.table.add(what+", "+phase.name+": most goroutines of the daemon", "", "", float64(most))
		if phase.word == "start" && n == 60 {
			if err := b.idle(ctx, "a daemon with 60 pods that only run", ""); err != nil {
				return err
			}
		}
	}
	return sleep(ctx, 2*time.Second)
}

// daemon is looked into through its admin socket.
type daemon struct {
	pid    int
	socket string
}

// used is what a daemon has taken since it began.
type used struct {
	cpu   time.Duration
	bytes float64
}

func (d daemon) used(ctx context.Context) (u used, err error) {
	// Asking costs some itself, so it is done before and not between.
	u.bytes, err = d.profile(ctx, "allocs", "# TotalAlloc = ")
	if err != nil {
		return u, err
	}
	u.cpu, err = cpu(d.pid)
	return u, err
}

// goroutines is the most that were seen until the context ends.
func (d daemon) goroutines(ctx context.Context) int {
	var most float64
	for sleep(ctx, 100*time.Millisecond) == nil {
		if n, err := d.profile(ctx, "goroutine", "goroutine profile: total "); err == nil {
			most = max(most, n)
		}
	}
	return int(most)
}

// get asks a daemon for a profile of itself.
func (d daemon) get(ctx context.Context, what string) (*http.Response, error) {
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "unix", d.socket)
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://murmur/debug/pprof/"+what, nil)
	if err != nil {
		return nil, err
	}
	return c.Do(req)
}

// profile reads the number behind some words of a profile.
func (d daemon) profile(ctx context.Context, name, words string) (float64, error) {
	resp, err := d.get(ctx, name+"?debug=1")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if v, ok := strings.CutPrefix(lines.Text(), words); ok {
			return strconv.ParseFloat(strings.TrimSpace(v), 64)
		}
	}
	return 0, fmt.Errorf("the %s profile has no %q", name, words)
}
