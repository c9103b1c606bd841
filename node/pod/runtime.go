package pod

import (
	"context"
	"errors"
	"io"
	"net/url"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Runtime is the container runtime as this package uses it. The driver in production is node/containerd. Every call may
// block for as long as its context allows; every call is safe for concurrent use.
type Runtime interface {
	// Version names the runtime as a Node reports it: "containerd://2.4.2".
	Version(ctx context.Context) (string, error)
	// Ready is nil when pods can be started; the error says what is missing (the runtime, or its network).
	Ready(ctx context.Context) error
	// Features are what pods can ask of the runtime and the kernel below it.
	Features(ctx context.Context) (Features, error)
	// Watch calls changed with a pod's UID whenever one of its containers changed state, until the stream breaks or ctx ends.
	Watch(ctx context.Context, changed func(types.UID)) error
	// List reads the sandboxes and containers of one pod, or of all pods when uid is empty. Newest first.
	List(ctx context.Context, uid types.UID) ([]Sandbox, []Container, error)

	// RunSandbox makes the pod's namespaces, network and cgroup and returns the sandbox's id.
	RunSandbox(ctx context.Context, spec *SandboxSpec) (string, error)
	// StopSandbox kills what still runs in the sandbox and takes its network away. Idempotent.
	StopSandbox(ctx context.Context, id string) error
	// RemoveSandbox removes a sandbox and its containers from the runtime. Idempotent.
	RemoveSandbox(ctx context.Context, id string) error
	// Resize gives the containers with these ids, which run, other resources, and the pod's own cgroup those of its spec.
	Resize(ctx context.Context, spec *SandboxSpec, containers map[string]Resources) error
	// Forget removes what the driver holds for a pod beside its sandboxes (its cgroup). Idempotent.
	Forget(ctx context.Context, uid types.UID) error

	CreateContainer(ctx context.Context, spec *ContainerSpec) (string, error)
	StartContainer(ctx context.Context, id string) error
	// StopContainer signals, waits for grace, then kills. Idempotent.
	StopContainer(ctx context.Context, id string, grace time.Duration) error
	RemoveContainer(ctx context.Context, id string) error
	// Exec runs a command in a container and returns its output (stdout then stderr) and exit code.
	Exec(ctx context.Context, id string, cmd []string, timeout time.Duration) ([]byte, int, error)
	Stats(ctx context.Context) ([]ContainerStats, error)

	// ExecURL, AttachURL and PortForwardURL prepare a stream and return the address of the runtime's streaming server.
	ExecURL(ctx context.Context, id string, opts *corev1.PodExecOptions) (*url.URL, error)
	AttachURL(ctx context.Context, id string, opts *corev1.PodAttachOptions) (*url.URL, error)
	PortForwardURL(ctx context.Context, sandboxID string, ports []int32) (*url.URL, error)

	// ReadLog copies a container's log file, in the form CRI gives it, to out. id is needed to follow.
	ReadLog(ctx context.Context, path, id string, opts *corev1.PodLogOptions, out io.Writer) error
	// ReopenLog makes the runtime open a container's log file again after it was renamed.
	ReopenLog(ctx context.Context, id string) error

	// Image looks an image up by reference or id; nil when it is not on this node.
	Image(ctx context.Context, ref string) (*Image, error)
	Images(ctx context.Context) ([]Image, error)
	// Pull fetches an image, trying each credential in turn (none at all when there are none).
	Pull(ctx context.Context, ref string, auths []Auth) (*Image, error)
	RemoveImage(ctx context.Context, id string) error
	// ImageFS is where images and writable layers live.
	ImageFS() string
}

// ErrExecTimeout is returned by Runtime.Exec when the command did not end in time.
var ErrExecTimeout = errors.New("command timed out")

// Ref names a pod.
type Ref struct {
	Namespace, Name string
	UID             types.UID
}

// RefOf is the Ref of an API object.
func RefOf(p *corev1.Pod) Ref { return Ref{p.Namespace, p.Name, p.UID} }

func (r Ref) String() string { return r.Namespace + "/" + r.Name }

// Sandbox is a pod's sandbox as the runtime sees it.
type Sandbox struct {
	ID          string
	Pod         Ref
	Attempt     uint32
	Created     time.Time
	Ready       bool
	HostNetwork bool
	IPs         []string // empty with HostNetwork
}

// State is what the runtime says of a container.
type State string

// The states of a container.
const (
	Created State = "created"
	Running State = "running"
	Exited  State = "exited"
	Unknown State = "unknown"
)

// Container is one run of a container as the runtime sees it.
type Container struct {
	ID, SandboxID string
	Pod           Ref
	Name          string
	Restarts      int32         // which run this is, counted from 0
	Hash          string        // of the spec it was made from
	Grace         time.Duration // of its pod, for when the pod is no longer known
	State         State
	Created       time.Time
	Started       time.Time
	Finished      time.Time
	ExitCode      int32
	Reason        string // of an end, e.g. OOMKilled, Error, Completed
	Message       string // the termination message
	Image         string // the reference it was made from
	ImageID       string
	LogPath       string
	Resources     *Resources // that it has now; nil if the runtime does not say
	MemoryAsked   int64      // bytes it requested when it was made, -1 if that is not known: no cgroup tells
}

// Image is an image on this node.
type Image struct {
	ID      string
	Tags    []string
	Digests []string
	Size    int64
	Pinned  bool
	User    string // the user name of the image config, if it is not numeric
	UID     *int64 // the numeric user of the image config
}

// Auth is one set of registry credentials.
type Auth struct {
	Username, Password, IdentityToken, RegistryToken, Server string
	Secret                                                   string // that they are from: namespace/name/UID
}

// ContainerStats is what one running container uses.
type ContainerStats struct {
	Pod       Ref
	ID, Name  string
	Time      time.Time
	CPU       time.Duration // used since its start
	Memory    int64         // working set, bytes
	RSS       int64
	DiskBytes int64 // writable layer
}

// SandboxSpec is what a sandbox is made from.
type SandboxSpec struct {
	Pod       *corev1.Pod
	Attempt   uint32
	Handler   string // of the pod's RuntimeClass; "" is the runtime's default
	Hostname  string
	LogDir    string // absolute, of the pod
	DNS       DNS
	QOS       corev1.PodQOSClass
	Resources Resources // of the whole pod
}

// DNS is the content of a pod's resolv.conf.
type DNS struct{ Servers, Searches, Options []string }

// ContainerSpec is what a container is made from: the API's container with every decision taken.
type ContainerSpec struct {
	Pod       *corev1.Pod
	Sandbox   *SandboxSpec
	SandboxID string
	Container *corev1.Container // as the API has it, with sub-paths expanded; Command, Args and Env below are what it runs with
	Restarts  int32
	Hash      string
	Image     string // reference as the user wrote it
	ImageID   string // of the image on this node
	Command   []Text // with the variables in it replaced, as in Args
	Args      []Text
	Env       []Variable
	Mounts    []Mount
	LogPath   string // relative to Sandbox.LogDir
	Resources Resources
	User      *int64 // numeric user taken from the image, when the pod names none
	Username  string
	Target    string // container id whose process namespace is shared (ephemeral containers)
}

// Mount is one mount of a container.
type Mount struct {
	Source, Target string
	ReadOnly       bool
	Recursive      bool // read-only for mounts below, too
	Propagation    corev1.MountPropagationMode
	Image          string // an image volume: mount this image, by its id, in place of Source
	SubPath        string // within the image
}

// Resources are cgroup settings; zero means unset.
type Resources struct {
	CPUShares   uint64
	CPUQuota    int64 // microseconds in a period of CPUPeriod
	CPUPeriod   uint64
	Memory      int64
	OOMScoreAdj int64
}
