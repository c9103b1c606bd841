package pod

import (
	"context"
	"errors"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/nodedeclaredfeatures/features/inplacepodresize"

	"murmur/crdt"
	"murmur/crdt/store"
)

// KubeletVersion is the version of the API whose semantics this package follows, as nodes report it.
const KubeletVersion = "v1.37.2"

// Thresholds of the pressure conditions: the kubelet's defaults.
const (
	memoryFloor   = 100 << 20 // bytes available
	diskFloor     = 10        // percent free of the data disk
	imageFloor    = 15        // percent free of the image disk
	inodesFloor   = 5         // percent free
	pidsFloor     = 5         // percent free
	reportEvery   = 10 * time.Second
	maxNodeImages = 50
)

// declared are the features that this kubelet has of those that nodes declare, sorted: admission refuses to change of a pod what takes a feature that
// its node does not declare.
var declared = []string{inplacepodresize.IPPRPodLevelResourcesFeatureGate, inplacepodresize.IPPRInitContainersFeatureGate}

// facts are what does not change while the daemon runs.
type facts struct {
	memory      int64
	capacity    corev1.ResourceList
	allocatable corev1.ResourceList
	info        corev1.NodeSystemInfo
}

// Reading is what was measured of the node at one moment.
type Reading struct {
	RuntimeVersion  string
	NotReady        string // why pods cannot be started, empty if they can
	MemoryAvailable int64  // bytes
	Disk, ImageDisk disk
	PIDs, MaxPIDs   int64
	Images          []Image
	Features        *Features // nil: not known now
}

func readFile(path string) string {
	text, _ := os.ReadFile(path)
	return strings.TrimSpace(string(text))
}

// meminfo reads one line of /proc/meminfo, bytes.
func meminfo(key string) int64 {
	for line := range strings.Lines(readFile("/proc/meminfo")) {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			n, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return n << 10
		}
	}
	return 0
}

func readFacts(cfg Config) facts {
	f := facts{memory: meminfo("MemTotal")}
	f.capacity = corev1.ResourceList{
		corev1.ResourceCPU:              *resource.NewQuantity(int64(runtime.NumCPU()), resource.DecimalSI),
		corev1.ResourceMemory:           *resource.NewQuantity(f.memory, resource.BinarySI),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(readDisk(existing(cfg.DataDir)).total, resource.BinarySI),
		corev1.ResourcePods:             *resource.NewQuantity(int64(cfg.MaxPods), resource.DecimalSI),
	}
	f.allocatable = f.capacity.DeepCopy()
	for name, reserved := range cfg.SystemReserved {
		if q, ok := f.allocatable[name]; ok {
			q.Sub(reserved)
			f.allocatable[name] = q
		}
	}
	var uts unix.Utsname
	_ = unix.Uname(&uts)
	f.info = corev1.NodeSystemInfo{
		MachineID: readFile("/etc/machine-id"), SystemUUID: readFile("/sys/class/dmi/id/product_uuid"), BootID: readFile("/proc/sys/kernel/random/boot_id"),
		KernelVersion: unix.ByteSliceToString(uts.Release[:]), OSImage: "Linux", KubeletVersion: KubeletVersion,
		OperatingSystem: runtime.GOOS, Architecture: runtime.GOARCH,
	}
	for line := range strings.Lines(readFile("/etc/os-release")) {
		if name, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			f.info.OSImage = strings.Trim(strings.TrimSpace(name), `"`)
		}
	}
	if f.info.SystemUUID == "" {
		f.info.SystemUUID = f.info.MachineID
	}
	return f
}

// existing is the path, or its nearest parent that is there.
func existing(path string) string {
	for path != "/" && path != "." && path != "" {
		if _, err := os.Stat(path); err == nil {
			break
		}
		path = path[:max(strings.LastIndex(path, "/"), 1)]
	}
	return path
}

// Node is a new Node object for this machine, with its labels and its status as far as it is known now. Node addresses,
// capacity and nodeInfo are facts; node.go adds the pod CIDR and registers it.
func (k *Kubelet) Node() *corev1.Node {
	return &corev1.Node{
		TypeMeta: metav1.TypeMeta{Kind: "Node", APIVersion: "v1"},
		ObjectMeta: metav1.ObjectMeta{Name: k.cfg.Node, Labels: map[string]string{
			corev1.LabelHostname: k.cfg.Node, corev1.LabelOSStable: runtime.GOOS, corev1.LabelArchStable: runtime.GOARCH}},
		Status: corev1.NodeStatus{Capacity: k.facts.capacity, Allocatable: k.facts.allocatable, NodeInfo: k.facts.info,
			Addresses: addresses(k.cfg.HostIPs, k.cfg.Node)},
	}
}

func addresses(ips []string, name string) []corev1.NodeAddress {
	var all []corev1.NodeAddress
	for _, ip := range ips {
		all = append(all, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip})
	}
	return append(all, corev1.NodeAddress{Type: corev1.NodeHostName, Address: name})
}

func (k *Kubelet) read(ctx context.Context) Reading {
	r := Reading{MemoryAvailable: meminfo("MemAvailable"), Disk: readDisk(existing(k.cfg.DataDir)), ImageDisk: readDisk(existing(k.cfg.Runtime.ImageFS()))}
	if err := k.cfg.Runtime.Ready(ctx); err != nil {
		r.NotReady = err.Error()
	}
	if v, err := k.cfg.Runtime.Version(ctx); err == nil {
		r.RuntimeVersion = v
	}
	if f, err := k.cfg.Runtime.Features(ctx); err == nil {
		r.Features = &f
	}
	if images, err := k.cfg.Runtime.Images(ctx); err == nil {
		r.Images = images
	}
	if fields := strings.Fields(readFile("/proc/loadavg")); len(fields) > 3 {
		_, total, _ := strings.Cut(fields[3], "/")
		r.PIDs, _ = strconv.ParseInt(total, 10, 64)
	}
	r.MaxPIDs, _ = strconv.ParseInt(readFile("/proc/sys/kernel/pid_max"), 10, 64)
	return r
}

// nodeStatus is the node's status by what was read, from the status before it. Conditions of others are kept.
func nodeStatus(old corev1.NodeStatus, f facts, addresses []corev1.NodeAddress, r Reading, now time.Time) corev1.NodeStatus {
	st := *old.DeepCopy()
	st.Capacity, st.Allocatable = extended(f.capacity, old.Capacity), extended(extended(f.allocatable, old.Capacity), old.Allocatable)
	st.Addresses = addresses
	st.NodeInfo = f.info
	st.DeclaredFeatures = slices.Clone(declared)
	st.NodeInfo.ContainerRuntimeVersion = r.RuntimeVersion
	if r.RuntimeVersion == "" {
		st.NodeInfo.ContainerRuntimeVersion = old.NodeInfo.ContainerRuntimeVersion
	}
	if r.Images != nil {
		st.Images = nodeImages(r.Images)
	}
	if f := r.Features; f != nil {
		handler := corev1.NodeRuntimeHandler{Features: &corev1.NodeRuntimeHandlerFeatures{
			RecursiveReadOnlyMounts: new(f.RecursiveReadOnly), UserNamespaces: new(f.UserNamespaces == nil)}}
		st.RuntimeHandlers = []corev1.NodeRuntimeHandler{handler}
		st.Features = &corev1.NodeFeatures{SupplementalGroupsPolicy: new(f.StrictGroups)}
	}
	set := func(kind corev1.NodeConditionType, on bool, yes, no [2]string) {
		c := corev1.NodeCondition{Type: kind, Status: corev1.ConditionFalse, Reason: no[0], Message: no[1], LastTransitionTime: metav1.NewTime(now.Truncate(time.Second))}
		if on {
			c.Status, c.Reason, c.Message = corev1.ConditionTrue, yes[0], yes[1]
		}
		i := slices.IndexFunc(st.Conditions, func(have corev1.NodeCondition) bool { return have.Type == kind })
		if i < 0 {
			c.LastHeartbeatTime = c.LastTransitionTime
			st.Conditions = append(st.Conditions, c)
			return
		}
		if have := st.Conditions[i]; have.Status == c.Status {
			c.LastTransitionTime = have.LastTransitionTime
		}
		c.LastHeartbeatTime = c.LastTransitionTime // there are no heartbeats
		st.Conditions[i] = c
	}
	percent := func(part, whole int64) int64 {
		if whole == 0 {
			return 100
		}
		return part * 100 / whole
	}
	set(corev1.NodeMemoryPressure, r.MemoryAvailable > 0 && r.MemoryAvailable < memoryFloor,
		[2]string{"KubeletHasInsufficientMemory", "kubelet has insufficient memory available"},
		[2]string{"KubeletHasSufficientMemory", "kubelet has sufficient memory available"})
	set(corev1.NodeDiskPressure, percent(r.Disk.free, r.Disk.total) < diskFloor || percent(r.ImageDisk.free, r.ImageDisk.total) < imageFloor ||
		r.Disk.inodesFree < inodesFloor || r.ImageDisk.inodesFree < inodesFloor,
		[2]string{"KubeletHasDiskPressure", "kubelet has disk pressure"},
		[2]string{"KubeletHasNoDiskPressure", "kubelet has no disk pressure"})
	set(corev1.NodePIDPressure, percent(r.MaxPIDs-r.PIDs, r.MaxPIDs) < pidsFloor,
		[2]string{"KubeletHasInsufficientPID", "kubelet has insufficient PID available"},
		[2]string{"KubeletHasSufficientPID", "kubelet has sufficient PID available"})
	set(corev1.NodeReady, r.NotReady == "", [2]string{"KubeletReady", "kubelet is posting ready status"}, [2]string{"KubeletNotReady", r.NotReady})
	return st
}

// extended are the machine's own resources and the extended ones that somebody else has written into the node's status: a
// device's owner, or an administrator. What is written as capacity alone is allocatable whole.
func extended(own, written corev1.ResourceList) corev1.ResourceList {
	out := own.DeepCopy()
	for name, q := range written {
		if s := string(name); strings.Contains(s, "/") && !strings.Contains(s, corev1.ResourceDefaultNamespacePrefix) {
			out[name] = q
		}
	}
	return out
}

// nodeImages are the biggest images, as a Node lists them.
func nodeImages(images []Image) []corev1.ContainerImage {
	images = slices.Clone(images)
	slices.SortFunc(images, func(a, b Image) int {
		if a.Size != b.Size {
			return int(b.Size - a.Size)
		}
		return strings.Compare(a.ID, b.ID)
	})
	var all []corev1.ContainerImage
	for _, i := range images[:min(len(images), maxNodeImages)] {
		names := slices.Concat(i.Digests, i.Tags)
		if len(names) > 0 {
			all = append(all, corev1.ContainerImage{Names: names[:min(len(names), 5)], SizeBytes: i.Size})
		}
	}
	return all
}

// reportNode writes the Node's status whenever what it says has changed.
func (k *Kubelet) reportNode(ctx context.Context) error {
	key := crdt.Key{Resource: "nodes", Name: k.cfg.Node}
	wake := k.cfg.Store.Subscribe("nodes")
	defer wake.Close()
	ready, looked := false, false
	for {
		r := k.read(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if looked = looked || k.looked(); !looked && r.NotReady == "" {
			r.NotReady = "the pods of this node are being looked at after a start"
		}
		snap := k.cfg.Store.Snapshot()
		if e, ok := snap.Get(key); ok {
			if node, err := store.As[corev1.Node](e); err == nil {
				st := nodeStatus(node.Status, k.facts, addresses(k.cfg.HostIPs, k.cfg.Node), r, time.Now())
				if !equality.Semantic.DeepEqual(st, node.Status) {
					changed := node.DeepCopy()
					changed.TypeMeta = metav1.TypeMeta{Kind: "Node", APIVersion: "v1"}
					changed.Status = st
					if _, err := k.cfg.Store.Commit(ctx, store.Write{Key: key, Object: changed, Base: e}); err != nil && ctx.Err() == nil {
						if errors.Is(err, store.ErrConflict) {
							continue
						}
						k.cfg.Log.Error("cannot write this node's status", "err", err)
					}
				}
			}
		}
		ready = r.NotReady == ""
		every := reportEvery
		if !ready {
			every = 100 * time.Millisecond // a node that starts becomes ready as soon as it is
		}
		select {
		case <-ctx.Done():
			return nil
		case <-wake.C:
			// Others' nodes change too; reading costs little, but not nothing.
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(100 * time.Millisecond):
			}
		case <-time.After(every):
		}
	}
}

// MachineResources are what a container without limits may use: the processors and the memory of this machine.
func MachineResources() corev1.ResourceList {
	return corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewQuantity(int64(runtime.NumCPU()), resource.DecimalSI),
		corev1.ResourceMemory: *resource.NewQuantity(meminfo("MemTotal"), resource.BinarySI),
	}
}
