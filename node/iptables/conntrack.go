package iptables

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"murmur/node/proxy"
)

// staleFlows picks the connections that the rules no longer stand for.
type staleFlows struct{ flows proxy.Flows }

var protocols = map[uint8]corev1.Protocol{
	unix.IPPROTO_TCP:  corev1.ProtocolTCP,
	unix.IPPROTO_UDP:  corev1.ProtocolUDP,
	unix.IPPROTO_SCTP: corev1.ProtocolSCTP,
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (s staleFlows) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	proto, known := protocols[f.Forward.Protocol]
	return known && s.flows.Stale(proxy.Flow{
		Protocol: proto,
		Dst:      addrPort(f.Forward.DstIP, f.Forward.DstPort),
		Backend:  addrPort(f.Reverse.SrcIP, f.Reverse.SrcPort),
	})
}

func addrPort(ip net.IP, port uint16) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(addr.Unmap(), port)
}

// forget deletes the connections that are stale and returns how many.
func forget(flows proxy.Flows) (uint, error) {
	n, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, staleFlows{flows})
	if err != nil && !errors.Is(err, unix.ENOENT) { // ENOENT: it ended by itself
		return n, fmt.Errorf("delete stale connections from conntrack: %w", err)
	}
	return n, nil
}
