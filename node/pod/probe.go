package pod

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/kubernetes/pkg/probe"
	grpcprobe "k8s.io/kubernetes/pkg/probe/grpc"
	httpprobe "k8s.io/kubernetes/pkg/probe/http"
	tcpprobe "k8s.io/kubernetes/pkg/probe/tcp"
)

// probeKind is what a probe decides about.
type probeKind string

const (
	startup   probeKind = "Startup"
	liveness  probeKind = "Liveness"
	readiness probeKind = "Readiness"
)

type probeKey struct {
	id   string // of the container
	kind probeKind
}

// probes runs the probes of one pod's containers, a goroutine each, and keeps what they found.
type probes struct {
	w    *worker
	wait sync.WaitGroup

	running map[probeKey]context.CancelFunc // touched by the worker's loop only

	mu      sync.Mutex // guards results
	results map[string]Health
}

func newProbes(w *worker) *probes {
	return &probes{w: w, running: map[probeKey]context.CancelFunc{}, results: map[string]Health{}}
}

func (ps *probes) health() map[string]Health {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return maps.Clone(ps.results)
}

// set changes what is known of a container and wakes the worker if it did.
func (ps *probes) set(id string, change func(*Health)) {
	ps.mu.Lock()
	h := ps.results[id]
	before := h
	change(&h)
	ps.results[id] = h
	ps.mu.Unlock()
	if h != before {
		ps.w.poke()
	}
}

func (ps *probes) started(id string) bool {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return ps.results[id].Started
}

// sync starts the probes of containers that run and ends those of containers that do not.
func (ps *probes) sync(ctx context.Context, p *corev1.Pod, sandboxes []Sandbox, containers []Container) {
	want := map[probeKey]bool{}
	if p != nil && len(sandboxes) > 0 {
		ips := sandboxes[0].IPs
		if p.Spec.HostNetwork {
			ips = ps.w.k.cfg.HostIPs
		}
		for _, run := range containers {
			if run.State != Running {
				continue
			}
			for c, kind := range podutil.ContainerIter(&p.Spec, podutil.InitContainers|podutil.Containers) {
				if c.Name != run.Name || kind == podutil.InitContainers && !podutil.IsRestartableInitContainer(c) {
					continue
				}
				ps.seed(p, c, run)
				for kind, spec := range map[probeKind]*corev1.Probe{startup: c.StartupProbe, liveness: c.LivenessProbe, readiness: c.ReadinessProbe} {
					// A pod that is going away may still become unready, but is no longer killed for its health.
					if spec == nil || p.DeletionTimestamp != nil && kind != readiness {
						continue
					}
					key := probeKey{run.ID, kind}
					want[key] = true
					if _, ok := ps.running[key]; ok {
						continue
					}
					probeCtx, cancel := context.WithCancel(ctx)
					ps.running[key] = cancel
					r := &prober{ps: ps, pod: p, container: c, run: run, kind: kind, spec: spec, ips: slices.Clone(ips)}
					ps.wait.Go(func() { r.loop(probeCtx) })
				}
			}
		}
	}
	for key, cancel := range ps.running {
		if !want[key] {
			cancel()
			delete(ps.running, key)
		}
	}
	live := map[string]bool{}
	for _, c := range containers {
		live[c.ID] = true
	}
	ps.mu.Lock()
	maps.DeleteFunc(ps.results, func(id string, _ Health) bool { return !live[id] })
	ps.mu.Unlock()
}

// seed takes over what the status says of a container that was running before this daemon was: a restart of the daemon
// must not make a service lose its endpoints until the next answer of a probe.
func (ps *probes) seed(p *corev1.Pod, c *corev1.Container, run Container) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if _, ok := ps.results[run.ID]; ok {
		return
	}
	h := Health{Started: c.StartupProbe == nil}
	if st := statusOf(p, c.Name); st != nil && st.ContainerID == containerID(&run) {
		h.Started = h.Started || st.Started != nil && *st.Started
		h.Ready = c.ReadinessProbe != nil && st.Ready
	}
	ps.results[run.ID] = h
}

func (ps *probes) stop() {
	for _, cancel := range ps.running {
		cancel()
	}
	ps.wait.Wait()
}

// prober is the loop of one probe of one run of a container.
type prober struct {
	ps        *probes
	pod       *corev1.Pod
	container *corev1.Container
	run       Container
	kind      probeKind
	spec      *corev1.Probe
	ips       []string
}

func seconds(n, otherwise int32) time.Duration {
	if n <= 0 {
		n = otherwise
	}
	return time.Duration(n) * time.Second
}

func (r *prober) loop(ctx context.Context) {
	period := seconds(r.spec.PeriodSeconds, 10)
	first := time.Until(r.run.Started.Add(seconds(r.spec.InitialDelaySeconds, 0)))
	if time.Since(r.run.Started) > period {
		first = max(first, rand.N(period)) // a daemon that starts finds many containers at once
	}
	timer := time.NewTimer(max(first, 0))
	defer timer.Stop()
	good, bad := int32(0), int32(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if r.kind != startup && !r.ps.started(r.run.ID) {
			timer.Reset(min(period, 250*time.Millisecond)) // it begins as soon as the container has started
			continue
		}
		began := time.Now()
		ok, message := r.try(ctx)
		if ctx.Err() != nil {
			return
		}
		if ok {
			good, bad = good+1, 0
		} else {
			good, bad = 0, bad+1
			r.ps.w.k.event(r.pod, r.container.Name, corev1.EventTypeWarning, "Unhealthy", "%s probe failed: %s", r.kind, message)
		}
		switch {
		case ok && good >= max(r.spec.SuccessThreshold, 1):
			r.ps.set(r.run.ID, func(h *Health) {
				switch r.kind {
				case startup:
					h.Started = true
				case readiness:
					h.Ready = true
				}
			})
			if r.kind == startup {
				return
			}
		case !ok && bad >= max(r.spec.FailureThreshold, 1):
			r.ps.set(r.run.ID, func(h *Health) {
				switch r.kind {
				case startup:
					h.StartupFailed = true
				case liveness:
					h.Unhealthy = true
				case readiness:
					h.Ready = false
				}
			})
			if r.kind != readiness {
				return // it is killed; its successor has its own probes
			}
		}
		timer.Reset(max(period-time.Since(began), 0))
	}
}

var (
	httpProber = httpprobe.New(false)
	tcpProber  = tcpprobe.New()
	grpcProber = grpcprobe.New()
)

// try asks once.
func (r *prober) try(ctx context.Context) (bool, string) {
	timeout := seconds(r.spec.TimeoutSeconds, 1)
	ip := ""
	if len(r.ips) > 0 {
		ip = r.ips[0]
	}
	var result probe.Result
	var message string
	var err error
	switch h := r.spec.ProbeHandler; {
	case h.Exec != nil:
		command := probeCommand(r.container, h.Exec.Command)
		output, code, execErr := r.ps.w.k.cfg.Runtime.Exec(ctx, r.run.ID, command, timeout)
		switch {
		case errors.Is(execErr, ErrExecTimeout):
			return false, fmt.Sprintf("command timed out: %q timed out after %v", command, timeout)
		case execErr != nil:
			return false, execErr.Error()
		}
		return code == 0, string(output[:min(len(output), 10<<10)])
	case h.HTTPGet != nil:
		request, requestErr := httpprobe.NewRequestForHTTPGetAction(h.HTTPGet, r.container, ip, "probe")
		if requestErr != nil {
			return false, requestErr.Error()
		}
		result, message, err = httpProber.Probe(request, timeout)
	case h.TCPSocket != nil:
		host := h.TCPSocket.Host
		if host == "" {
			host = ip
		}
		port, portErr := containerPort(h.TCPSocket.Port, r.container)
		if portErr != nil {
			return false, portErr.Error()
		}
		result, message, err = tcpProber.Probe(host, port, timeout)
	case h.GRPC != nil:
		service := ""
		if h.GRPC.Service != nil {
			service = *h.GRPC.Service
		}
		result, message, err = grpcProber.Probe(ip, service, int(h.GRPC.Port), timeout, grpcprobe.ProbeOptions{})
	default:
		return true, ""
	}
	if err != nil {
		return false, err.Error()
	}
	return result == probe.Success || result == probe.Warning, message
}

func containerPort(port intstr.IntOrString, c *corev1.Container) (int, error) {
	if port.Type == intstr.Int {
		return port.IntValue(), nil
	}
	for _, p := range c.Ports {
		if p.Name == port.StrVal {
			return int(p.ContainerPort), nil
		}
	}
	return 0, fmt.Errorf("couldn't find port %q in container %q", port.StrVal, c.Name)
}
