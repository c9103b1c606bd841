// Package network gives the pods of this node their addresses and leads packets to the pods of the others.
//
// # The law
//
// Everything follows from the Node objects as this node holds them: a peer's spec.podCIDR is reached through
// its InternalIP. Plan is that function; the driver makes the kernel match it and prunes what it made before (routes carry
// our own routing protocol number, so nothing foreign is touched). A node that cannot be reached keeps its
// route: suspicion deletes nothing, and when it is back no packet has to wait for us.
//
// # The loop
//
// Run looks at the nodes when one changes and every 5 s: plan, write the CNI configuration once this node
// has a podCIDR, set what the kernel needs to forward, apply links, neighbours and routes.
//
// # Between nodes
//
// host-gw: a route via the peer, for nodes on one wire. vxlan: one device, murmur.1, with a static entry per
// peer; nothing is learned or flooded. auto, the default: host-gw for a peer whose address is on a wire of ours, vxlan else.
// A device's hardware address follows from the node's IP, so peers need to tell each other nothing.
//
// # On the node
//
// Pods hang on the bridge cni0, with addresses handed out by the host-local plugin from the node's block. The service
// addresses have a route on lo, so that the node itself can reach services without a default route (which an edge node
// that lost its link may not have): the packet is translated on its way out, before anybody would miss a real one.
// The kernel's redirects are off: they tell pods a way that skips the translation, and spend the rate limit of the
// errors that make clients of an empty service fail fast.
//
// # What it does not do
//
// Packet filters, masquerade and services are rules of node/proxy. IPv6. The loopback of a pod is brought up
// by the CRI. A node that must give up its block (see Loser) has to replace its pods; that is the node's business.
//
// To look inside: ip route show proto 109; bridge fdb show dev murmur.1; cat /etc/cni/net.d/10-murmur.conflist.
package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"

	"murmur/crdt/store"
)

// Mode is how packets travel between nodes.
type Mode string

const (
	Auto   Mode = "auto"
	HostGW Mode = "host-gw"
	VXLAN  Mode = "vxlan"
)

// TunnelPort is the UDP port of pod traffic between nodes that are not on one wire: the kernel's own for VXLAN.
const TunnelPort = 8472

// Config of a node's network. Zero values mean what the comments say.
type Config struct {
	Store       *store.Store
	Node        string       // this node's name
	NodeIP      netip.Addr   // this node's address
	ServiceCIDR netip.Prefix // a route on lo for the node's own packets; invalid means none
	Mode        Mode         // "" is auto
	Bridge      string       // "" is cni0
	Tunnel      string       // "" is murmur.1
	VNI         int          // 0 is 1
	VXLANPort   int          // 0 is TunnelPort
	MTU         int          // of pods; 0 is the uplink's, less the tunnel's share where there is one
	ConfDir     string       // where the CNI configuration goes; "" is /etc/cni/net.d
	DataDir     string       // where host-local remembers addresses; "" is /var/lib/cni/networks
	Log         *slog.Logger // nil is slog.Default
}

// Network is the pod network of one node.
type Network struct {
	cfg   Config
	ready chan struct{}
}

// New checks the configuration. It starts nothing.
func New(cfg Config) (*Network, error) {
	if cfg.Mode == "" {
		cfg.Mode = Auto
	}
	if cfg.Mode != Auto && cfg.Mode != HostGW && cfg.Mode != VXLAN {
		return nil, fmt.Errorf("network mode %q is not one of auto, host-gw, vxlan", cfg.Mode)
	}
	if !cfg.NodeIP.Is4() {
		return nil, fmt.Errorf("node address %q is not an IPv4 address", cfg.NodeIP)
	}
	for _, d := range []struct {
		field *string
		value string
	}{{&cfg.Bridge, "cni0"}, {&cfg.Tunnel, "murmur.1"}, {&cfg.ConfDir, "/etc/cni/net.d"}, {&cfg.DataDir, "/var/lib/cni/networks"}} {
		if *d.field == "" {
			*d.field = d.value
		}
	}
	if cfg.VNI == 0 {
		cfg.VNI = 1
	}
	if cfg.VXLANPort == 0 {
		cfg.VXLANPort = TunnelPort
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Network{cfg: cfg, ready: make(chan struct{})}, nil
}

// Ready is closed once pods can be started: this node has a block and the CNI configuration is written.
func (n *Network) Ready() <-chan struct{} { return n.ready }

// Run keeps the network until ctx ends, and leaves it as it is then, pods and all. What fails is logged and tried again.
func (n *Network) Run(ctx context.Context) error {
	wake := n.cfg.Store.Subscribe("nodes")
	defer wake.Close()
	isReady, said := false, ""
	for {
		again := 5 * time.Second // links come and go without telling us, and take routes with them
		done, err := n.Apply(Nodes(n.cfg.Store.Snapshot()))
		if err != nil {
			again = time.Second
			if said != err.Error() { // once, not every second while a link is down
				said = err.Error()
				n.cfg.Log.Error("network: not as planned, trying again", "err", err)
			}
		} else {
			said = ""
		}
		if done && !isReady {
			isReady = true
			close(n.ready)
			n.cfg.Log.Info("network: ready for pods")
		}
		select {
		case <-wake.C:
		case <-time.After(again):
		case <-ctx.Done():
			return nil
		}
	}
}

// Apply makes the kernel and the CNI configuration match the nodes, in the calling thread's network namespace. It
// reports whether pods can be started: this node has a block.
func (n *Network) Apply(nodes []*corev1.Node) (bool, error) {
	up, err := n.uplink()
	if err != nil {
		return false, err
	}
	plan := Make(nodes, n.cfg, up)
	err = n.apply(plan) // a peer without a way does not keep pods from starting here
	if !plan.Block.IsValid() {
		return false, err
	}
	if e := writeConf(n.cfg, plan); e != nil {
		return false, errors.Join(err, e)
	}
	return true, err
}
