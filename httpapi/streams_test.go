package httpapi

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// talking is a kubelet whose containers only talk, behind the streaming server that containerd uses.
type talking struct{ streaming.Server }

func newTalking(t testing.TB) *talking {
	front := httptest.NewUnstartedServer(nil)
	cfg := streaming.DefaultConfig
	cfg.BaseURL = &url.URL{Scheme: "http", Host: front.Listener.Addr().String()}
	s, err := streaming.NewServer(cfg, containers{})
	check(t, err)
	front.Config.Handler = s
	front.Start()
	t.Cleanup(front.Close)
	return &talking{s}
}

type containers struct{}

func (containers) Exec(_ context.Context, id string, cmd []string, in io.Reader, out, errOut io.WriteCloser, _ bool, _ <-chan remotecommand.TerminalSize) error {
	fmt.Fprintf(out, "%s: %s\n", id, strings.Join(cmd, " "))
	if in != nil {
		io.Copy(out, in)
	}
	if errOut != nil {
		fmt.Fprintln(errOut, "on stderr")
	}
	return nil
}

func (containers) Attach(_ context.Context, id string, _ io.Reader, out, _ io.WriteCloser, _ bool, _ <-chan remotecommand.TerminalSize) error {
	fmt.Fprintln(out, "attached to", id)
	return nil
}

func (containers) PortForward(_ context.Context, id string, port int32, stream io.ReadWriteCloser) error {
	if _, err := http.ReadRequest(bufio.NewReader(stream)); err != nil {
		return err
	}
	fmt.Fprintf(stream, "HTTP/1.0 200 OK\r\nConnection: close\r\n\r\n%s:%d", id, port)
	return stream.Close()
}

func (*talking) Logs(ctx context.Context, ns, pod string, opts *corev1.PodLogOptions, w io.Writer) error {
	if opts.Previous {
		return apierrors.NewBadRequest("previous terminated container not found")
	}
	for i := range 3 {
		fmt.Fprintf(w, "%s/%s[%s] line %d\n", ns, pod, opts.Container, i)
	}
	if opts.Follow {
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
			fmt.Fprintln(w, "last")
		}
	}
	return nil
}

func (k *talking) Exec(_ context.Context, ns, pod string, o *corev1.PodExecOptions) (*url.URL, error) {
	r, err := k.GetExec(&runtimeapi.ExecRequest{ContainerId: ns + "/" + pod + "/" + o.Container, Cmd: o.Command, Tty: o.TTY, Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr})
	if err != nil {
		return nil, err
	}
	return url.Parse(r.Url)
}

func (k *talking) Attach(_ context.Context, ns, pod string, o *corev1.PodAttachOptions) (*url.URL, error) {
	r, err := k.GetAttach(&runtimeapi.AttachRequest{ContainerId: ns + "/" + pod + "/" + o.Container, Tty: o.TTY, Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr})
	if err != nil {
		return nil, err
	}
	return url.Parse(r.Url)
}

func (k *talking) PortForward(_ context.Context, ns, pod string, o *corev1.PodPortForwardOptions) (*url.URL, error) {
	r, err := k.GetPortForward(&runtimeapi.PortForwardRequest{PodSandboxId: ns + "/" + pod, Port: o.Ports})
	if err != nil {
		return nil, err
	}
	return url.Parse(r.Url)
}

// TestStreams asks for the streams of a pod on this node and of one on another, which answers over a peer stream.
func TestStreams(t *testing.T) {
	peers, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	kubelet := newTalking(t)
	n := newNode(t, func(c *Config) {
		c.Kubelet = kubelet
		c.Relay = func(ctx context.Context, node string) (net.Conn, error) {
			if node != "n2" {
				return nil, fmt.Errorf("no member %s", node)
			}
			return (&net.Dialer{}).DialContext(ctx, "tcp", peers.Addr().String())
		}
	})
	second, err := New(Config{Store: n.store, Node: "n2", Kubelet: kubelet, Log: n.cfg.Log})
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- second.ServePeers(ctx, peers) }()
	defer func() {
		cancel()
		check(t, <-served)
	}()

	c := n.clientset(false)
	for _, where := range []string{"n1", "n2", "n3"} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "on-" + where},
			Spec: corev1.PodSpec{NodeName: where, Containers: []corev1.Container{{Name: "main", Image: "i"}, {Name: "side", Image: "i", Stdin: true}}}}
		p, err := c.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{})
		check(t, err)
		p.Status.Phase = corev1.PodRunning
		_, err = n.As("admin", "system:masters").UpdateStatus(ctx, p)
		check(t, err)
	}
	for _, bin := range kubectls(t) {
		for _, pod := range []string{"on-n1", "on-n2"} {
			expect := func(stdin, want string, args ...string) {
				t.Helper()
				if out := n.must(bin, stdin, args...); !strings.Contains(out, want) {
					t.Errorf("kubectl %s:\n%s\nwant %q", strings.Join(args, " "), out, want)
				}
			}
			expect("", "default/"+pod+"[side] line 2\n", "logs", pod, "-c", "side")
			expect("", "line 2\nlast\n", "logs", "-f", pod, "-c", "main")
			expect("", "default/"+pod+"/main: echo a b\n", "exec", pod, "-c", "main", "--", "echo", "a", "b")
			expect("typed in", "typed in", "exec", "-i", pod, "-c", "main", "--", "cat")
			expect("", "on stderr", "exec", pod, "-c", "main", "--", "true")
			expect("", "attached to default/"+pod+"/side", "attach", pod, "-c", "side")
			n.forward(bin, pod)
			out, err := n.kubectl(bin, "", "logs", pod, "-c", "main", "--previous")
			if err == nil || !strings.Contains(out, "previous terminated container not found") {
				t.Errorf("logs --previous of %s: %v %s", pod, err, out)
			}
		}
		out, err := n.kubectl(bin, "", "logs", "on-n3", "-c", "main")
		if err == nil || !strings.Contains(out, "node n3, which cannot be reached") {
			t.Errorf("logs of an unreachable node: %v %s", err, out)
		}
		out, err = n.kubectl(bin, "", "exec", "on-n3", "-c", "main", "--", "true")
		if err == nil || !strings.Contains(out, "node n3, which cannot be reached") {
			t.Errorf("exec on an unreachable node: %v %s", err, out)
		}
		out, err = n.kubectl(bin, "", "exec", "on-n2", "-c", "nope", "--", "true")
		if err == nil || !strings.Contains(out, "container nope is not valid for pod on-n2") {
			t.Errorf("exec in no container: %v %s", err, out)
		}
		out, err = n.kubectl(bin, "", "exec", "on-n2", "-c", "main", "--as=nobody", "--", "true")
		if err == nil || !strings.Contains(out, "forbidden") {
			t.Errorf("exec by nobody: %v %s", err, out)
		}
	}

	// Identity headers are believed from peers only.
	req, err := http.NewRequest("GET", n.url+"/api/v1/nodes", nil)
	check(t, err)
	req.Header.Set("X-Remote-User", "admin")
	req.Header.Set("X-Remote-Group", "system:masters")
	resp, err := n.client("").Do(req)
	check(t, err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("identity headers of a client: %s", resp.Status)
	}
}

// forward forwards a port with the real kubectl and asks what is behind it.
func (n *node) forward(bin, pod string) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, "port-forward", pod, ":80", "--kubeconfig", n.admin)
	out, err := cmd.StdoutPipe()
	check(n.t, err)
	check(n.t, cmd.Start())
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	line := make([]byte, 256)
	count, err := out.Read(line)
	check(n.t, err)
	var address string
	if _, err := fmt.Sscanf(string(line[:count]), "Forwarding from %s ->", &address); err != nil {
		n.t.Fatalf("port-forward of %s printed %q", pod, line[:count])
	}
	resp, err := http.Get("http://" + address)
	if err != nil {
		n.t.Errorf("through the port-forward of %s: %v", pod, err)
		return
	}
	defer resp.Body.Close()
	if got := readAll(n.t, resp.Body); got != "default/"+pod+":80" {
		n.t.Errorf("through the port-forward of %s: %q", pod, got)
	}
}
