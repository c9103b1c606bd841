package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// The switch is a bridge in a namespace of its own, so that nothing of a lab shows in the machine's own network. A node
// is plugged in with a pair of interfaces whose end in the node is eth0.
const bridge = "switch"

// runIn calls f on a thread that is in a named network namespace; programs it starts are born there.
func runIn[T any](namespace string, f func() (T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine instead of carrying the namespace elsewhere.
		runtime.LockOSThread()
		var r result
		ns, err := netns.GetFromName(namespace)
		if err == nil {
			err = netns.Set(ns)
			_ = ns.Close()
		}
		if err != nil {
			r.err = fmt.Errorf("enter network namespace %s: %w", namespace, err)
		} else {
			r.v, r.err = f()
		}
		done <- r
	}()
	r := <-done
	return r.v, r.err
}

func in(namespace string, f func() error) error {
	_, err := runIn(namespace, func() (struct{}, error) { return struct{}{}, f() })
	return err
}

// newNamespace makes a named network namespace with lo up.
func newNamespace(name string) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked, see runIn
		done <- func() error {
			ns, err := netns.NewNamed(name)
			if err != nil {
				return fmt.Errorf("make network namespace %s: %w", name, err)
			}
			defer ns.Close()
			return linkUp("lo")
		}()
	}()
	return <-done
}

func linkUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	return netlink.LinkSetUp(link)
}

func (l *lab) makeSwitch() error {
	if err := newNamespace(l.switchNS()); err != nil {
		return err
	}
	return in(l.switchNS(), func() error {
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridge}}); err != nil {
			return fmt.Errorf("make the switch: %w", err)
		}
		return linkUp(bridge)
	})
}

// plugIn makes a node's namespace and connects it to the switch.
func (l *lab) plugIn(n *labNode) error {
	if err := newNamespace(l.netns(n)); err != nil {
		return err
	}
	there, err := netns.GetFromName(l.netns(n))
	if err != nil {
		return err
	}
	defer there.Close()
	mac, err := net.ParseMAC(n.mac())
	if err != nil {
		return err
	}
	err = in(l.switchNS(), func() error {
		port := "port-" + n.Name
		veth := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: port}, PeerName: "eth0", PeerHardwareAddr: mac, PeerNamespace: netlink.NsFd(there),
		}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("plug %s in: %w", n.Name, err)
		}
		sw, err := netlink.LinkByName(bridge)
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetMaster(veth, sw), linkUp(port))
	})
	if err != nil {
		return err
	}
	return in(l.netns(n), func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr(n.address() + "/24")
		if err != nil {
			return err
		}
		return errors.Join(netlink.AddrAdd(link, addr), netlink.LinkSetUp(link))
	})
}

func deleteNamespace(name string) error {
	if err := netns.DeleteNamed(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("delete network namespace %s: %w", name, err)
	}
	return nil
}

// unplug removes a node's namespace and its port. The kernel removes the links of a namespace some time after its last
// user is gone, so the port is deleted by name.
func (l *lab) unplug(n *labNode) error {
	if _, err := os.Stat("/run/netns/" + l.switchNS()); err == nil {
		err := in(l.switchNS(), func() error {
			link, err := netlink.LinkByName("port-" + n.Name)
			if errors.As(err, &netlink.LinkNotFoundError{}) {
				return nil
			}
			if err != nil {
				return err
			}
			return netlink.LinkDel(link)
		})
		if err != nil {
			return err
		}
	}
	return deleteNamespace(l.netns(n))
}

func (l *lab) removeSwitch() error { return deleteNamespace(l.switchNS()) }

// cutChain and lossChain hold a lab's rules in a node's namespace, beside the node's own.
const (
	cutChain  = "LAB-CUT"
	lossChain = "LAB-LOSS"
)

// partition cuts the links between nodes of different groups. Frames are told by their sender's hardware address, since
// packets between pods do not carry the addresses of nodes.
func (l *lab) partition(groups []string) error {
	group := map[string]int{}
	for i, g := range groups {
		for name := range strings.SplitSeq(g, ",") {
			if _, err := l.node(name); err != nil {
				return err
			}
			if _, twice := group[name]; twice {
				return fmt.Errorf("%s stands in two groups", name)
			}
			group[name] = i
		}
	}
	for _, n := range l.Nodes {
		mine, ok := group[n.Name]
		for _, o := range l.Nodes {
			theirs, named := group[o.Name]
			if ok && named && mine != theirs && !slices.Contains(n.CutFrom, o.Name) {
				n.CutFrom = append(n.CutFrom, o.Name)
			}
		}
	}
	return l.rewire()
}

func (l *lab) heal() error {
	for _, n := range l.Nodes {
		n.CutFrom = nil
	}
	return l.rewire()
}

func (l *lab) loss(n *labNode, share float64) error {
	n.Loss = share
	return l.rewire()
}

// rewire makes every node's rules what the record says.
func (l *lab) rewire() error {
	for _, n := range l.Nodes {
		if err := l.rewireNode(n); err != nil {
			return err
		}
	}
	return l.save()
}

func (l *lab) rewireNode(n *labNode) error {
	var cut, lossy []string
	for _, name := range n.CutFrom {
		o, err := l.node(name)
		if err != nil {
			return err
		}
		cut = append(cut, fmt.Sprintf("-A %s -m mac --mac-source %s -j DROP", cutChain, o.mac()))
	}
	if n.Loss > 0 {
		lossy = append(lossy, fmt.Sprintf("-A %s -m statistic --mode random --probability %s -j DROP", lossChain, strconv.FormatFloat(n.Loss, 'f', 6, 64)))
	}
	rules := []string{"*raw", ":" + cutChain + " - [0:0]", ":" + lossChain + " - [0:0]"}
	rules = append(rules, cut...)
	rules = append(rules, lossy...)
	rules = append(rules, "COMMIT", "*mangle", ":"+lossChain+" - [0:0]")
	rules = append(rules, lossy...)
	rules = append(rules, "COMMIT", "")
	return in(l.netns(n), func() error {
		cmd := exec.Command("iptables-restore", "--noflush", "--wait")
		cmd.Stdin = strings.NewReader(strings.Join(rules, "\n"))
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("rules of %s: %w: %s", n.Name, err, out)
		}
		for _, jump := range [][]string{
			{"raw", "PREROUTING", "-i", "eth0", "-j", cutChain},
			{"raw", "PREROUTING", "-i", "eth0", "-j", lossChain},
			{"mangle", "POSTROUTING", "-o", "eth0", "-j", lossChain},
		} {
			rule := append([]string{"--wait", "-t", jump[0], "-C"}, jump[1:]...)
			if exec.Command("iptables", rule...).Run() == nil {
				continue
			}
			rule[3] = "-A"
			if out, err := exec.Command("iptables", rule...).CombinedOutput(); err != nil {
				return fmt.Errorf("rules of %s: %w: %s", n.Name, err, out)
			}
		}
		return nil
	})
}
