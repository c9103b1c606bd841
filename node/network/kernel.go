package network

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routeProtocol marks our routes: ip route show proto 109.
const routeProtocol = 109

// BridgeNetfilter reports whether packets between pods of one bridge pass iptables here, loading the kernel's module
// for it where that is possible. When not, node/proxy must masquerade them.
func BridgeNetfilter() bool {
	const dir = "/proc/sys/net/bridge"
	if _, err := os.Stat(dir); err != nil {
		_ = exec.Command("modprobe", "-q", "br_netfilter").Run()
	}
	_, err := os.Stat(dir)
	return err == nil
}

// uplink looks at this machine's links.
func (n *Network) uplink() (Uplink, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return Uplink{}, fmt.Errorf("list links: %w", err)
	}
	var up Uplink
	for _, l := range links {
		a := l.Attrs()
		if a.Flags&net.FlagLoopback != 0 || a.Name == n.cfg.Bridge || a.Name == n.cfg.Tunnel {
			continue
		}
		addrs, err := netlink.AddrList(l, netlink.FAMILY_V4)
		if err != nil {
			return Uplink{}, fmt.Errorf("list addresses of %s: %w", a.Name, err)
		}
		for _, addr := range addrs {
			p := prefix(addr.IPNet)
			if p.Addr() == n.cfg.NodeIP {
				up.MTU = a.MTU
			}
			if p.Bits() < 32 {
				up.OnLink = append(up.OnLink, p.Masked())
			}
		}
	}
	if up.MTU == 0 {
		return Uplink{}, fmt.Errorf("no interface of this machine has the node's address %s: set --node-ip", n.cfg.NodeIP)
	}
	return up, nil
}

// apply makes the kernel match the plan. What fails for one peer does not keep it from the others.
func (n *Network) apply(p Plan) error {
	errs := []error{n.bridge(p), n.sysctls()}
	tunnel, err := n.tunnel(p)
	errs = append(errs, err)
	if tunnel != nil {
		errs = append(errs, neighbours(tunnel, p.Neighbours))
	}
	errs = append(errs, n.routes(p, tunnel))
	return errors.Join(errs...)
}

// sysctls sets what forwarding needs. Each is written only if it differs.
func (n *Network) sysctls() error {
	conf := "/proc/sys/net/ipv4/conf/"
	errs := []error{
		sysctl("/proc/sys/net/ipv4/ip_forward", "1"),
		sysctl(conf+"all/route_localnet", "1"), // node ports on 127.0.0.1; the firewall rules let nothing else through
		sysctl(conf+"all/send_redirects", "0"),
	}
	if exists(conf + n.cfg.Bridge) {
		errs = append(errs, sysctl(conf+n.cfg.Bridge+"/send_redirects", "0"))
	}
	if exists("/proc/sys/net/bridge/bridge-nf-call-iptables") {
		errs = append(errs, sysctl("/proc/sys/net/bridge/bridge-nf-call-iptables", "1"))
	}
	// Strict reverse path filtering drops packets that come by the tunnel and are answered by the wire.
	strict, err := filepath.Glob(conf + "*/rp_filter")
	errs = append(errs, err)
	for _, path := range strict {
		if v, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(v)) == "1" {
			errs = append(errs, sysctl(conf+"all/rp_filter", "2")) // the larger of all and the link's own counts
			break
		}
	}
	return errors.Join(errs...)
}

func sysctl(path, value string) error {
	have, err := os.ReadFile(path)
	if err == nil && strings.TrimSpace(string(have)) == value {
		return nil
	}
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return fmt.Errorf("set %s to %s: %w", path, value, err)
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// bridge makes the bridge pods hang on, with the gateway's address, and takes addresses of former blocks from it.
func (n *Network) bridge(p Plan) error {
	if !p.Block.IsValid() {
		return nil
	}
	l, err := netlink.LinkByName(n.cfg.Bridge)
	if missing(err) {
		la := netlink.NewLinkAttrs()
		la.Name, la.MTU = n.cfg.Bridge, p.MTU
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: la}); err != nil {
			return fmt.Errorf("make bridge %s: %w", n.cfg.Bridge, err)
		}
		l, err = netlink.LinkByName(n.cfg.Bridge)
	}
	if err != nil {
		return fmt.Errorf("look for bridge %s: %w", n.cfg.Bridge, err)
	}
	if l.Type() != "bridge" {
		return fmt.Errorf("%s is a %s, not a bridge: remove it or choose another name for the pod bridge", n.cfg.Bridge, l.Type())
	}
	if err := onlyAddress(l, netip.PrefixFrom(p.Block.Addr().Next(), p.Block.Bits())); err != nil {
		return err
	}
	if l.Attrs().Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(l); err != nil {
			return fmt.Errorf("set %s up: %w", n.cfg.Bridge, err)
		}
	}
	return nil
}

// tunnel makes or removes the VXLAN device; nil when the plan needs none.
func (n *Network) tunnel(p Plan) (netlink.Link, error) {
	have, err := netlink.LinkByName(n.cfg.Tunnel)
	if err != nil && !missing(err) {
		return nil, fmt.Errorf("look for tunnel %s: %w", n.cfg.Tunnel, err)
	}
	if missing(err) {
		have = nil
	}
	needed := p.Block.IsValid() && (n.cfg.Mode == VXLAN || len(p.Neighbours) > 0)
	want := &netlink.Vxlan{LinkAttrs: netlink.NewLinkAttrs(), VxlanId: n.cfg.VNI, Port: n.cfg.VXLANPort, SrcAddr: n.cfg.NodeIP.AsSlice()}
	want.Name, want.MTU, want.HardwareAddr = n.cfg.Tunnel, p.MTU, hardware(n.cfg.NodeIP)
	if have != nil {
		v, ours := have.(*netlink.Vxlan)
		if !ours {
			return nil, fmt.Errorf("%s is a %s, not a VXLAN device: remove it", n.cfg.Tunnel, have.Type())
		}
		if !needed || v.VxlanId != want.VxlanId || v.Port != want.Port || !v.SrcAddr.Equal(want.SrcAddr) || v.Learning ||
			!bytes.Equal(v.HardwareAddr, want.HardwareAddr) {
			if err := netlink.LinkDel(have); err != nil {
				return nil, fmt.Errorf("remove tunnel %s: %w", n.cfg.Tunnel, err)
			}
			have = nil
		}
	}
	if !needed {
		return nil, nil
	}
	if have == nil {
		if err := netlink.LinkAdd(want); err != nil {
			return nil, fmt.Errorf("make tunnel %s: %w", n.cfg.Tunnel, err)
		}
		if have, err = netlink.LinkByName(n.cfg.Tunnel); err != nil {
			return nil, fmt.Errorf("look for tunnel %s: %w", n.cfg.Tunnel, err)
		}
	}
	if have.Attrs().MTU != p.MTU {
		if err := netlink.LinkSetMTU(have, p.MTU); err != nil {
			return nil, fmt.Errorf("set MTU %d of %s: %w", p.MTU, n.cfg.Tunnel, err)
		}
	}
	// The address is what the node's own packets to pods behind the tunnel come from.
	if err := onlyAddress(have, netip.PrefixFrom(p.Block.Addr(), 32)); err != nil {
		return nil, err
	}
	if have.Attrs().Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(have); err != nil {
			return nil, fmt.Errorf("set %s up: %w", n.cfg.Tunnel, err)
		}
	}
	return have, nil
}

// neighbours sets the tunnel's static entries and prunes those of peers that left.
func neighbours(tunnel netlink.Link, want []Neighbour) error {
	index := tunnel.Attrs().Index
	entries := map[string]netlink.Neigh{}
	for _, w := range want {
		arp := netlink.Neigh{LinkIndex: index, Family: unix.AF_INET, State: netlink.NUD_PERMANENT, Type: unix.RTN_UNICAST,
			IP: w.Addr.AsSlice(), HardwareAddr: w.Hardware}
		fdb := netlink.Neigh{LinkIndex: index, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF,
			IP: w.Outer.AsSlice(), HardwareAddr: w.Hardware}
		entries[neighbourKey(unix.AF_INET, arp)] = arp
		entries[neighbourKey(unix.AF_BRIDGE, fdb)] = fdb
	}
	var errs []error
	for _, family := range []int{unix.AF_INET, unix.AF_BRIDGE} {
		have, err := netlink.NeighList(index, family)
		if err != nil {
			errs = append(errs, fmt.Errorf("list neighbours of %s: %w", tunnel.Attrs().Name, err))
			continue
		}
		for _, h := range have {
			k := neighbourKey(family, h)
			if _, wanted := entries[k]; wanted {
				delete(entries, k)
			} else if h.State&netlink.NUD_PERMANENT != 0 {
				h.Family = family
				if family == unix.AF_BRIDGE {
					h.Flags = netlink.NTF_SELF
				}
				if err := netlink.NeighDel(&h); err != nil && !errors.Is(err, unix.ENOENT) {
					errs = append(errs, fmt.Errorf("remove neighbour %s: %w", h.IP, err))
				}
			}
		}
	}
	for _, e := range entries {
		if err := netlink.NeighSet(&e); err != nil {
			errs = append(errs, fmt.Errorf("add neighbour %s: %w", e.IP, err))
		}
	}
	return errors.Join(errs...)
}

func neighbourKey(family int, n netlink.Neigh) string {
	return fmt.Sprint(family, n.IP, n.HardwareAddr, n.State&netlink.NUD_PERMANENT != 0)
}

// routes sets ours and prunes those that are ours by protocol and no longer planned.
func (n *Network) routes(p Plan, tunnel netlink.Link) error {
	want := map[string]netlink.Route{}
	add := func(r netlink.Route) { r.Protocol = routeProtocol; want[routeKey(r)] = r }
	var errs []error
	for _, r := range p.Routes {
		route := netlink.Route{Dst: ipNet(r.Dst), Gw: r.Via.AsSlice()}
		if r.Tunnel {
			if tunnel == nil {
				continue // said already, or this node has no block yet
			}
			route.LinkIndex, route.Flags = tunnel.Attrs().Index, int(netlink.FLAG_ONLINK)
		}
		add(route)
	}
	if n.cfg.ServiceCIDR.IsValid() {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("look for lo: %w", err)
		}
		add(netlink.Route{Dst: ipNet(n.cfg.ServiceCIDR), LinkIndex: lo.Attrs().Index, Src: n.cfg.NodeIP.AsSlice(), Scope: netlink.SCOPE_LINK})
	}
	have, err := ownRoutes()
	if err != nil {
		return err
	}
	var gone []netlink.Route
	for _, h := range have {
		k := routeKey(h)
		if w, planned := want[k]; planned && (w.LinkIndex == 0 || w.LinkIndex == h.LinkIndex) && (w.Src == nil || w.Src.Equal(h.Src)) {
			delete(want, k)
		} else {
			gone = append(gone, h)
		}
	}
	for _, r := range want {
		if err := netlink.RouteReplace(&r); err != nil {
			errs = append(errs, fmt.Errorf("add route %s via %s: %w", r.Dst, r.Gw, err))
		}
	}
	for _, h := range gone {
		// A route whose way changed was replaced just now, and is no longer there to be deleted.
		if err := netlink.RouteDel(&h); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove route %s via %s: %w", h.Dst, h.Gw, err))
		}
	}
	return errors.Join(errs...)
}

func routeKey(r netlink.Route) string { return fmt.Sprint(r.Dst, " ", r.Gw) }

func ownRoutes() ([]netlink.Route, error) {
	list, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	return list, nil
}

// Cleanup removes all that is ours: routes, tunnel, bridge, CNI configuration. The sysctls stay. Not while Run runs.
func (n *Network) Cleanup() error {
	var errs []error
	routes, err := ownRoutes()
	errs = append(errs, err)
	for _, r := range routes {
		if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove route %s: %w", r.Dst, err))
		}
	}
	for name, kind := range map[string]string{n.cfg.Tunnel: "vxlan", n.cfg.Bridge: "bridge"} {
		if l, err := netlink.LinkByName(name); err == nil && l.Type() == kind {
			if err := netlink.LinkDel(l); err != nil {
				errs = append(errs, fmt.Errorf("remove %s: %w", name, err))
			}
		}
	}
	if err := os.Remove(filepath.Join(n.cfg.ConfDir, confName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// onlyAddress gives a link one IPv4 address and takes others.
func onlyAddress(l netlink.Link, want netip.Prefix) error {
	addrs, err := netlink.AddrList(l, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", l.Attrs().Name, err)
	}
	there := false
	for _, a := range addrs {
		if prefix(a.IPNet) == want {
			there = true
		} else if err := netlink.AddrDel(l, &a); err != nil {
			return fmt.Errorf("remove address %s from %s: %w", a.IPNet, l.Attrs().Name, err)
		}
	}
	if there {
		return nil
	}
	b := want.Addr().As4()
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: b[:], Mask: net.CIDRMask(want.Bits(), 32)}}
	if err := netlink.AddrAdd(l, addr); err != nil {
		return fmt.Errorf("add address %s to %s: %w", want, l.Attrs().Name, err)
	}
	return nil
}

func missing(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound)
}

func prefix(n *net.IPNet) netip.Prefix {
	addr, _ := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), bits)
}

func ipNet(p netip.Prefix) *net.IPNet {
	b := p.Masked().Addr().As4()
	return &net.IPNet{IP: b[:], Mask: net.CIDRMask(p.Bits(), 32)}
}
