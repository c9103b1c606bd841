package sched

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	podresource "k8s.io/component-helpers/resource"
)

// Ledger is what one node has promised: its Node object and every pod that it counts as its own, admitted or bound. Only
// the node that it describes admits pods against it, which is why nothing is ever promised twice. With no pods in it, it
// serves an arbiter to ask whether a pod could ever fit there.
type Ledger struct {
	node     *corev1.Node
	capacity amounts
	pods     map[types.UID]*counted
	used     amounts
	// scored is used, with a default for containers that request nothing, as the score plugins want it.
	scored amounts
	ports  map[hostPort]int
	// own are the ports that the node's daemon has itself, at every address.
	own []hostPort
	// siblings counts pods by controller.
	siblings map[types.UID]int
	images   map[string]int64
	// spread says on how many nodes an image is, and of how many.
	spread *imageSpread
}

// counted is a pod with what placement looks at, computed once.
type counted struct {
	pod        *corev1.Pod
	need       amounts
	scored     amounts
	ports      []hostPort
	controller types.UID
}

// amounts are quantities in the units that Kubernetes schedules by: milli-cores and bytes.
type amounts struct {
	cpu, memory, storage, pods int64
	other                      map[corev1.ResourceName]int64
}

func amountsOf(list corev1.ResourceList) amounts {
	var a amounts
	for name, q := range list {
		switch name {
		case corev1.ResourceCPU:
			a.cpu = q.MilliValue()
		case corev1.ResourceMemory:
			a.memory = q.Value()
		case corev1.ResourceEphemeralStorage:
			a.storage = q.Value()
		case corev1.ResourcePods:
			a.pods = q.Value()
		default:
			if a.other == nil {
				a.other = map[corev1.ResourceName]int64{}
			}
			a.other[name] = q.Value()
		}
	}
	return a
}

func (a *amounts) add(b amounts, sign int64) {
	a.cpu += sign * b.cpu
	a.memory += sign * b.memory
	a.storage += sign * b.storage
	a.pods += sign * b.pods
	for name, n := range b.other {
		if a.other == nil {
			a.other = map[corev1.ResourceName]int64{}
		}
		a.other[name] += sign * n
	}
}

type hostPort struct {
	ip       string
	protocol corev1.Protocol
	port     int32
}

const anyAddress = "0.0.0.0"

// AnnotationPorts is where a Node says which ports its daemon has, as PORT/PROTOCOL with commas between: no pod gets them, neither
// from the node itself nor, without asking it, from an arbiter.
const AnnotationPorts = "murmur.io/ports"

// ownPorts reads AnnotationPorts. What cannot be read reserves nothing: the node that wrote it is of another version.
func ownPorts(node *corev1.Node) []hostPort {
	var ports []hostPort
	for text := range strings.SplitSeq(node.Annotations[AnnotationPorts], ",") {
		number, protocol, _ := strings.Cut(text, "/")
		if n, err := strconv.ParseUint(number, 10, 16); err == nil && n > 0 {
			ports = append(ports, hostPort{anyAddress, corev1.Protocol(protocol), int32(n)})
		}
	}
	return ports
}

// scoredDefaults is what a container that requests nothing is taken to need when nodes are compared: kube-scheduler's.
var scoredDefaults = corev1.ResourceList{
	corev1.ResourceCPU:    resource.MustParse("100m"),
	corev1.ResourceMemory: resource.MustParse("200Mi"),
}

func count(pod *corev1.Pod) *counted {
	c := &counted{
		pod:    pod,
		need:   amountsOf(podresource.PodRequests(pod, podresource.PodResourcesOptions{UseStatusResources: true, InPlacePodLevelResourcesVerticalScalingEnabled: true})),
		scored: amountsOf(podresource.PodRequests(pod, podresource.PodResourcesOptions{UseStatusResources: true, InPlacePodLevelResourcesVerticalScalingEnabled: true, NonMissingContainerRequests: scoredDefaults})),
	}
	c.need.pods = 1
	if o := metav1.GetControllerOfNoCopy(pod); o != nil {
		c.controller = o.UID
	}
	add := func(containers []corev1.Container) {
		for _, ct := range containers {
			for _, p := range ct.Ports {
				if p.HostPort <= 0 {
					continue
				}
				h := hostPort{p.HostIP, p.Protocol, p.HostPort}
				if h.ip == "" {
					h.ip = anyAddress
				}
				if h.protocol == "" {
					h.protocol = corev1.ProtocolTCP
				}
				c.ports = append(c.ports, h)
			}
		}
	}
	add(pod.Spec.Containers)
	for _, ct := range pod.Spec.InitContainers {
		if ct.RestartPolicy != nil && *ct.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			add([]corev1.Container{ct})
		}
	}
	return c
}

// imageSpread is how many nodes hold each image, of how many nodes.
type imageSpread struct {
	nodes   int
	holders map[string]int
}

func spreadOf(nodes []*corev1.Node) *imageSpread {
	s := &imageSpread{nodes: len(nodes), holders: map[string]int{}}
	for _, n := range nodes {
		for _, i := range n.Status.Images {
			for _, name := range i.Names {
				s.holders[name]++
			}
		}
	}
	return s
}

// NewLedger is the ledger of a node with the pods that it already has.
func NewLedger(node *corev1.Node, pods ...*corev1.Pod) *Ledger {
	l := &Ledger{pods: map[types.UID]*counted{}, ports: map[hostPort]int{}, siblings: map[types.UID]int{}, spread: &imageSpread{nodes: 1}}
	l.setNode(node)
	for _, p := range pods {
		l.Add(p)
	}
	return l
}

func (l *Ledger) setNode(node *corev1.Node) {
	if l.node == node {
		return
	}
	l.node = node
	l.capacity = amountsOf(node.Status.Allocatable)
	l.own = ownPorts(node)
	l.images = map[string]int64{}
	for _, i := range node.Status.Images {
		for _, name := range i.Names {
			l.images[name] = i.SizeBytes
		}
	}
}

// Add counts a pod, in place of what was counted under its UID.
func (l *Ledger) Add(pod *corev1.Pod) {
	if had, ok := l.pods[pod.UID]; ok {
		if had.pod == pod {
			return
		}
		l.Remove(pod.UID)
	}
	c := count(pod)
	l.pods[pod.UID] = c
	l.apply(c, 1)
}

// Remove stops counting a pod.
func (l *Ledger) Remove(uid types.UID) {
	if c, ok := l.pods[uid]; ok {
		delete(l.pods, uid)
		l.apply(c, -1)
	}
}

// Has tells whether the pod is counted.
func (l *Ledger) Has(uid types.UID) bool { _, ok := l.pods[uid]; return ok }

func (l *Ledger) apply(c *counted, sign int) {
	l.used.add(c.need, int64(sign))
	l.scored.add(c.scored, int64(sign))
	for _, p := range c.ports {
		if l.ports[p] += sign; l.ports[p] == 0 {
			delete(l.ports, p)
		}
	}
	if c.controller != "" {
		if l.siblings[c.controller] += sign; l.siblings[c.controller] == 0 {
			delete(l.siblings, c.controller)
		}
	}
}

// Overcommitted names the resources of which more is promised than the node has. It is empty unless pods were bound to
// the node past the exchange, or the node became smaller.
func (l *Ledger) Overcommitted() []string {
	var out []string
	for _, r := range shortages(amounts{}, l.used, l.capacity) {
		out = append(out, r.name)
	}
	return out
}

// taken tells whether a wanted host port collides with one in use, or with one of the node's own.
func (l *Ledger) taken(want hostPort) bool {
	for have := range l.ports {
		if have.collides(want) {
			return true
		}
	}
	return l.reserved(want)
}

// reserved tells whether a wanted host port is one of the node's own.
func (l *Ledger) reserved(want hostPort) bool { return slices.ContainsFunc(l.own, want.collides) }

func (p hostPort) collides(o hostPort) bool {
	return p.port == o.port && p.protocol == o.protocol && (p.ip == o.ip || p.ip == anyAddress || o.ip == anyAddress)
}

// trial is a copy to which pods can be added to see what would be.
func (l *Ledger) trial() *Ledger {
	c := *l
	c.used.other, c.scored.other = maps.Clone(l.used.other), maps.Clone(l.scored.other)
	c.pods = nil
	c.ports, c.siblings = maps.Clone(l.ports), maps.Clone(l.siblings)
	return &c
}

// imageName is the name under which a node lists an image.
func imageName(name string) string {
	if strings.LastIndex(name, ":") <= strings.LastIndex(name, "/") {
		name += ":latest"
	}
	return name
}
