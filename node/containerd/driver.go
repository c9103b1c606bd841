package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/client"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	internalapi "k8s.io/cri-api/pkg/apis"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-client/pkg/logs"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/kubelet/userns"

	"murmur/node/containerd/seal"
	"murmur/node/pod"
)

// Namespace is containerd's namespace of everything made through CRI.
const Namespace = "k8s.io"

// Driver runs pods through containerd. It satisfies pod.Runtime.
type Driver struct {
	cfg     Config
	conn    *grpc.ClientConn
	runtime cri.RuntimeServiceClient
	images  cri.ImageServiceClient
	client  *client.Client
	ready   chan struct{}
	once    sync.Once

	mu         sync.Mutex // guards the caches of what no longer changes
	containers map[string]pod.Container
	sandboxes  map[string]pod.Sandbox
	unseals    map[string]bool // by sandbox: what starts its containers opens sealed texts
	key        *seal.Key       // of this boot; nil before containerd was first started

	cgroups cgroups

	// users allots ids to pods that have users of their own; nil for the reason noUsers.
	users   *userns.UsernsManager
	noUsers error
}

var _ pod.Runtime = (*Driver)(nil)

// New prepares a Driver. Nothing runs until Run; calls made before wait or fail until containerd answers.
func New(cfg Config) (*Driver, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if !cfg.External {
		var err error
		if cfg.BinDir, err = filepath.Abs(cfg.BinDir); err != nil { // containerd runs elsewhere
			return nil, err
		}
		if _, err := Runc(cfg.BinDir); err != nil {
			return nil, err
		}
	}
	const maxMessage = 16 << 20
	conn, err := grpc.NewClient("passthrough:///unix://"+cfg.Socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(dialUnix),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, MaxDelay: time.Second},
			MinConnectTimeout: 5 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	if err != nil {
		return nil, fmt.Errorf("containerd: connect to %s: %w", cfg.Socket, err)
	}
	c, err := client.NewWithConn(conn, client.WithDefaultNamespace(Namespace))
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("containerd: connect to %s: %w", cfg.Socket, err)
	}
	d := &Driver{cfg: cfg, conn: conn, client: c,
		runtime: cri.NewRuntimeServiceClient(conn), images: cri.NewImageServiceClient(conn),
		ready:      make(chan struct{}),
		containers: map[string]pod.Container{}, sandboxes: map[string]pod.Sandbox{}, unseals: map[string]bool{},
		cgroups: cgroups{fs: "/sys/fs/cgroup", root: cfg.CgroupRoot}}
	d.readUsers()
	return d, nil
}

// statusPatience is how long a pod that is about to start waits for what containerd says of itself.
const statusPatience = 10 * time.Second

// readUsers reads back which ids pods have. What cannot be read must not keep a node from starting: its pods that have users of
// their own are refused, and say why.
func (d *Driver) readUsers() {
	if d.cfg.PodsDir == "" {
		d.noUsers = pod.ErrNotSupported
		return
	}
	dirs := &podDirs{dir: d.cfg.PodsDir, maxPods: d.cfg.MaxPods, check: d.userNamespaces, status: func() (*cri.StatusResponse, error) {
		ctx, cancel := context.WithTimeout(context.Background(), statusPatience)
		defer cancel()
		return d.runtime.Status(ctx, &cri.StatusRequest{})
	}}
	if d.users, d.noUsers = userns.MakeUserNsManager(klog.Background(), dirs, nil); d.noUsers != nil {
		d.users = nil
		d.cfg.Log.Error("cannot read which ids pods have: none gets users of its own", "err", d.noUsers)
	}
}

// Runc is the path of the runc that containers are started with: that which comes with us, or else the machine's.
func Runc(binDir string) (string, error) {
	own := filepath.Join(binDir, "runc")
	if _, err := os.Stat(own); err == nil {
		return filepath.Abs(own)
	}
	path, err := exec.LookPath("runc")
	if err != nil {
		return "", fmt.Errorf("runc is neither in %s, which it comes with, nor installed: install the whole release, or `make build`", binDir)
	}
	return filepath.Abs(path)
}

// Up is closed once containerd has answered and the pause image is there.
func (d *Driver) Up() <-chan struct{} { return d.ready }

// Socket is the path of containerd's socket.
func (d *Driver) Socket() string { return d.cfg.Socket }

// Run supervises containerd and imports image archives until ctx ends. containerd and its containers stay.
func (d *Driver) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	if d.cfg.External {
		d.cfg.Log.Warn("what pods take from Secrets as variables is written down by this containerd, which is not ours to configure", "socket", d.cfg.Socket)
		group.Go(func() error {
			for ctx.Err() == nil {
				if _, err := d.Version(ctx); err == nil {
					d.once.Do(func() { close(d.ready) })
					break
				}
				select {
				case <-ctx.Done():
				case <-time.After(time.Second):
				}
			}
			<-ctx.Done()
			return nil
		})
	} else {
		group.Go(func() error { return d.supervise(ctx, d.prepare) })
		group.Go(func() error { return d.trimLog(ctx) })
	}
	if d.cfg.ImagesDir != "" {
		group.Go(func() error { return d.watchArchives(ctx) })
	}
	return group.Wait()
}

// prepare makes a fresh containerd usable: the pause image must be there before the first pod.
func (d *Driver) prepare(ctx context.Context) error {
	image, err := d.Image(ctx, PauseImage)
	if err != nil {
		return err
	}
	if image == nil {
		r, w := io.Pipe()
		go func() { w.CloseWithError(d.cfg.pauseArchive().Write(w)) }()
		if _, err := d.Import(ctx, r); err != nil {
			return fmt.Errorf("import the pause image: %w", err)
		}
	}
	d.once.Do(func() { close(d.ready) })
	return nil
}

// Close ends the connection. Call it after Run has returned.
func (d *Driver) Close() error { return d.conn.Close() }

// Shutdown stops and removes every pod, each with the grace that it asks for and at most the given one, then ends containerd:
// what a node does when it leaves, and every test at its end. A containerd that is dead already is no hindrance: what it left
// is killed, unmounted and removed all the same. It carries on over errors and returns the first. Call it after Run has returned.
func (d *Driver) Shutdown(ctx context.Context, grace time.Duration) error {
	var first error
	note := func(err error) {
		if first == nil {
			first = err
		}
	}
	pid := d.running()
	if pid != 0 || d.cfg.External {
		sandboxes, containers, err := d.List(ctx, "")
		note(err)
		var all sync.WaitGroup
		for _, c := range containers {
			all.Go(func() { _ = d.StopContainer(ctx, c.ID, min(c.Grace, grace)) })
		}
		all.Wait()
		for _, s := range sandboxes {
			note(d.StopSandbox(ctx, s.ID))
			note(d.RemoveSandbox(ctx, s.ID))
		}
	}
	if !d.cfg.External {
		if pid != 0 {
			note(end(pid, 10*time.Second))
		}
		note(d.sweep())
		note(os.RemoveAll(d.cfg.shimDir()))
		_ = os.Remove("/run/murmur-shims") // if no other node uses it
	}
	note(d.cgroups.removeAll())
	return first
}

// Version names the runtime.
func (d *Driver) Version(ctx context.Context) (string, error) {
	v, err := d.runtime.Version(ctx, &cri.VersionRequest{})
	if err != nil {
		return "", fmt.Errorf("ask containerd for its version: %w", err)
	}
	return v.RuntimeName + "://" + v.RuntimeVersion, nil
}

// Ready is nil when containerd and its network are ready.
func (d *Driver) Ready(ctx context.Context) error {
	r, err := d.runtime.Status(ctx, &cri.StatusRequest{})
	if err != nil {
		return fmt.Errorf("container runtime is down: %w", err)
	}
	for _, c := range r.GetStatus().GetConditions() {
		if c.Status {
			continue
		}
		switch c.Type {
		case cri.RuntimeReady:
			return fmt.Errorf("container runtime not ready: %s reason:%s message:%s", c.Type, c.Reason, c.Message)
		case cri.NetworkReady:
			return fmt.Errorf("container runtime network not ready: %s=false reason:%s message:%s", c.Type, c.Reason, c.Message)
		}
	}
	return nil
}

// Watch tells which pods' containers changed.
func (d *Driver) Watch(ctx context.Context, changed func(types.UID)) error {
	events, err := d.runtime.GetContainerEvents(ctx, &cri.GetEventsRequest{})
	if err != nil {
		return fmt.Errorf("watch containers: %w", err)
	}
	for {
		e, err := events.Recv()
		if err != nil {
			return fmt.Errorf("watch containers: %w", err)
		}
		changed(types.UID(e.GetPodSandboxStatus().GetMetadata().GetUid()))
	}
}

// Exec runs a command in a container.
func (d *Driver) Exec(ctx context.Context, id string, cmd []string, timeout time.Duration) ([]byte, int, error) {
	if timeout > 0 {
		// CRI ends the command in time; the margin is for its answer.
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout+5*time.Second)
		defer cancel()
	}
	seconds := int64((timeout + time.Second - 1) / time.Second)
	r, err := d.runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: cmd, Timeout: seconds})
	if status.Code(err) == codes.DeadlineExceeded {
		return nil, 0, fmt.Errorf("%w: %v", pod.ErrExecTimeout, status.Convert(err).Message())
	}
	if err != nil {
		return nil, 0, plain(err)
	}
	return append(r.Stdout, r.Stderr...), int(r.ExitCode), nil
}

// ExecURL prepares an interactive command.
func (d *Driver) ExecURL(ctx context.Context, id string, opts *corev1.PodExecOptions) (*url.URL, error) {
	r, err := d.runtime.Exec(ctx, &cri.ExecRequest{ContainerId: id, Cmd: opts.Command, Tty: opts.TTY, Stdin: opts.Stdin,
		Stdout: opts.Stdout, Stderr: opts.Stderr && !opts.TTY})
	if err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", id, err)
	}
	return url.Parse(r.Url)
}

// AttachURL prepares to attach to a container's first process.
func (d *Driver) AttachURL(ctx context.Context, id string, opts *corev1.PodAttachOptions) (*url.URL, error) {
	r, err := d.runtime.Attach(ctx, &cri.AttachRequest{ContainerId: id, Tty: opts.TTY, Stdin: opts.Stdin,
		Stdout: opts.Stdout, Stderr: opts.Stderr && !opts.TTY})
	if err != nil {
		return nil, fmt.Errorf("attach to container %s: %w", id, err)
	}
	return url.Parse(r.Url)
}

// PortForwardURL prepares to forward ports of a sandbox.
func (d *Driver) PortForwardURL(ctx context.Context, sandboxID string, ports []int32) (*url.URL, error) {
	r, err := d.runtime.PortForward(ctx, &cri.PortForwardRequest{PodSandboxId: sandboxID, Port: ports})
	if err != nil {
		return nil, fmt.Errorf("forward ports of sandbox %s: %w", sandboxID, err)
	}
	return url.Parse(r.Url)
}

// ReadLog copies a container's log to out.
func (d *Driver) ReadLog(ctx context.Context, path, id string, opts *corev1.PodLogOptions, out io.Writer) error {
	stdout, stderr := out, out
	if opts.Stream != nil {
		switch *opts.Stream {
		case corev1.LogStreamStdout:
			stderr = io.Discard
		case corev1.LogStreamStderr:
			stdout = io.Discard
		}
	}
	return logs.ReadLogs(ctx, path, id, logOptions(opts, time.Now()), statusService{d: d}, stdout, stderr)
}

func logOptions(o *corev1.PodLogOptions, now time.Time) *logs.LogOptions {
	opts := &logs.LogOptions{TailLines: o.TailLines, LimitBytes: o.LimitBytes, Follow: o.Follow, Timestamp: o.Timestamps}
	switch {
	case o.SinceSeconds != nil:
		opts.Since = now.Add(-time.Duration(*o.SinceSeconds) * time.Second)
	case o.SinceTime != nil:
		opts.Since = o.SinceTime.Time
	}
	return opts
}

// statusService is the one call that reading a log needs to know whether to go on following.
type statusService struct {
	internalapi.RuntimeService
	d *Driver
}

func (s statusService) ContainerStatus(ctx context.Context, id string, verbose bool) (*cri.ContainerStatusResponse, error) {
	return s.d.runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id, Verbose: verbose})
}

// ReopenLog makes containerd open the log file again.
func (d *Driver) ReopenLog(ctx context.Context, id string) error {
	if _, err := d.runtime.ReopenContainerLog(ctx, &cri.ReopenContainerLogRequest{ContainerId: id}); err != nil {
		return fmt.Errorf("reopen log of container %s: %w", id, err)
	}
	return nil
}

// Stats reads what running containers use.
func (d *Driver) Stats(ctx context.Context) ([]pod.ContainerStats, error) {
	r, err := d.runtime.ListContainerStats(ctx, &cri.ListContainerStatsRequest{})
	if err != nil {
		return nil, fmt.Errorf("read container statistics: %w", err)
	}
	var all []pod.ContainerStats
	for _, s := range r.Stats {
		labels := s.GetAttributes().GetLabels()
		all = append(all, pod.ContainerStats{
			Pod: refOf(labels), ID: s.GetAttributes().GetId(), Name: labels[labelContainerName],
			Time: time.Unix(0, s.GetCpu().GetTimestamp()), CPU: time.Duration(s.GetCpu().GetUsageCoreNanoSeconds().GetValue()),
			Memory: int64(s.GetMemory().GetWorkingSetBytes().GetValue()), RSS: int64(s.GetMemory().GetRssBytes().GetValue()),
			DiskBytes: int64(s.GetWritableLayer().GetUsedBytes().GetValue()),
		})
	}
	return all, nil
}

// notFound is how idempotent calls read the runtime's answer.
func notFound(err error) bool { return status.Code(err) == codes.NotFound }

// plain is containerd's own message without gRPC's frame, for errors that users read in a pod's status.
func plain(err error) error {
	if err == nil {
		return nil
	}
	return errors.New(status.Convert(err).Message())
}
