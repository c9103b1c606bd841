package iptables

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"

	"murmur/crdt"
	"murmur/crdt/store"
)

// lab is two nodes on one wire, with two pods on the first and one on the second:
//
//	p1 10.42.1.11 \                                              / p3 10.42.2.13
//	p2 10.42.1.12 - n1 cni0 10.42.1.1 | 192.168.7.1 - 192.168.7.2 | cni0 10.42.2.1
type lab struct {
	t  *testing.T
	id string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
	l := &lab{t: t, id: fmt.Sprintf("mi%d-", os.Getpid()%100000)}
	for _, ns := range []string{"n1", "n2", "p1", "p2", "p3"} {
		l.host("ip", "netns", "add", l.id+ns)
		t.Cleanup(func() { exec.Command("ip", "netns", "del", l.id+ns).Run() })
		l.sh(ns, "ip link set lo up")
	}
	l.sh("n1", "ip link add eth0 type veth peer name eth0 netns "+l.id+"n2")
	for i, n := range []string{"n1", "n2"} {
		l.sh(n, fmt.Sprintf(`ip addr add 192.168.7.%d/24 dev eth0; ip link set eth0 up
			ip link add cni0 type bridge; ip addr add 10.42.%d.1/24 dev cni0; ip link set cni0 up
			ip route add 10.42.%d.0/24 via 192.168.7.%d
			echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet
			echo 0 > /proc/sys/net/ipv4/conf/all/send_redirects; echo 0 > /proc/sys/net/ipv4/conf/cni0/send_redirects
			ip route add 10.43.0.0/16 dev lo src 192.168.7.%d`, i+1, i+1, 2-i, 2-i, i+1))
	}
	for i, p := range []string{"p1", "p2", "p3"} {
		n := 1
		if p == "p3" {
			n = 2
		}
		l.sh(fmt.Sprint("n", n), fmt.Sprintf("ip link add %s type veth peer name eth0 netns %s; ip link set %s master cni0 up; bridge link set dev %s hairpin on", p, l.id+p, p, p))
		l.sh(p, fmt.Sprintf("ip addr add 10.42.%d.%d/24 dev eth0; ip link set eth0 up; ip route add default via 10.42.%d.1", n, 11+i, n))
	}
	return l
}

func (l *lab) host(name string, args ...string) string {
	l.t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		l.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// sh runs a script in a namespace.
func (l *lab) sh(ns, script string) string {
	l.t.Helper()
	return l.host("nsenter", "--net=/var/run/netns/"+l.id+ns, "sh", "-ec", script)
}

// in runs f with its thread in a namespace. Whatever f does, it does itself, in no other goroutine.
func (l *lab) in(ns string, f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		h, err := netns.GetFromName(l.id + ns)
		if err != nil {
			l.t.Error(err)
			return
		}
		defer h.Close()
		if err := netns.Set(h); err != nil {
			l.t.Error(err)
			return
		}
		f()
	}()
	<-done
}

// serve answers on a port of a namespace, TCP line by line and UDP packet by packet, with its name and the client it sees.
func (l *lab) serve(ns string, port int) {
	l.t.Helper()
	l.in(ns, func() {
		ln, err := net.Listen("tcp4", fmt.Sprintf(":%d", port))
		if err != nil {
			l.t.Error(err)
			return
		}
		l.t.Cleanup(func() { ln.Close() })
		pc, err := net.ListenPacket("udp4", fmt.Sprintf(":%d", port))
		if err != nil {
			l.t.Error(err)
			return
		}
		l.t.Cleanup(func() { pc.Close() })
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					for s := bufio.NewScanner(c); s.Scan(); {
						host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
						fmt.Fprintf(c, "%s %s\n", ns, host)
					}
				}()
			}
		}()
		go func() {
			buf := make([]byte, 1500)
			for {
				_, from, err := pc.ReadFrom(buf)
				if err != nil {
					return
				}
				pc.WriteTo([]byte(ns+" "+from.(*net.UDPAddr).IP.String()), from)
			}
		}()
	})
}

// dial connects from a namespace.
func (l *lab) dial(ns, network, addr string) (c net.Conn, err error) {
	l.in(ns, func() { c, err = net.DialTimeout(network, addr, 5*time.Second) })
	return c, err
}

// say sends one line and returns the answer.
func say(c net.Conn) (string, error) {
	c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := c.Write([]byte("hello\n")); err != nil {
		return "", err
	}
	buf := make([]byte, 200)
	n, err := c.Read(buf)
	return strings.TrimSpace(string(buf[:n])), err
}

// ask is one connection, one question: who answers, and which client does it see.
func (l *lab) ask(ns, network, addr string) (server, client string, err error) {
	c, err := l.dial(ns, network, addr)
	if err != nil {
		return "", "", err
	}
	defer c.Close()
	answer, err := say(c)
	server, client, _ = strings.Cut(answer, " ")
	return server, client, err
}

// world is the store with a few ways to say what is in it.
type world struct {
	t     *testing.T
	store *store.Store
}

func newWorld(t *testing.T) *world {
	t.Helper()
	store, err := store.Open(store.Config{Cluster: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- store.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done; store.Close() })
	return &world{t, store}
}

// put creates or replaces; nil deletes.
func (w *world) put(resource, ns, name string, o kruntime.Object) store.Version {
	w.t.Helper()
	k := crdt.Key{Resource: resource, Namespace: ns, Name: name}
	base, _ := w.store.Snapshot().Get(k)
	e, err := w.store.Commit(context.Background(), store.Write{Key: k, Object: o, Base: base})
	if err != nil {
		w.t.Fatalf("%s: %v", k, err)
	}
	return e.Version
}

func (w *world) pod(name, node, ip string, edit ...func(*corev1.Pod)) store.Version {
	w.t.Helper()
	p := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", Labels: map[string]string{"app": "web", "pod": name}},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "c"}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip,
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
	}
	for _, f := range edit {
		f(p)
	}
	return w.put("pods", "default", name, p)
}

func (w *world) service(name, ip string, edit ...func(*corev1.Service)) store.Version {
	w.t.Helper()
	s := &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: corev1.ServiceSpec{ClusterIP: ip, Selector: map[string]string{"app": "web"}, Type: corev1.ServiceTypeClusterIP,
			Ports: []corev1.ServicePort{
				{Name: "tcp", Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: port(8080)},
				{Name: "udp", Port: 80, Protocol: corev1.ProtocolUDP, TargetPort: port(8080)},
			}},
	}
	for _, f := range edit {
		f(s)
	}
	return w.put("services", "default", name, s)
}
