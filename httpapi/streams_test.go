package httpapi

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"murmur/httpapi/caller"
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
	second, err := New(Config{Store: n.store, Node: "n2", Kubelet: kubelet, Log: n.cfg.Log, TLS: n.cfg.TLS, ServiceAccountKey: n.cfg.ServiceAccountKey})
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

	for _, pod := range []string{"on-n1", "on-n2"} {
		if got, want := n.overWebSocket("/api/v1/namespaces/default/pods/"+pod+"/log?container=main"),
			fmt.Sprintf("default/%[1]s[main] line 0\ndefault/%[1]s[main] line 1\ndefault/%[1]s[main] line 2\n", pod); got != want {
			t.Errorf("logs of %s over a WebSocket:\n%q\nwant\n%q", pod, got, want)
		}
	}

	// A ServiceAccount's token goes along, whoever it acts as; and what a client says in the headers of nodes counts for nothing.
	account, err := n.As("admin", "system:masters").Token(ctx, "default", "default", &authenticationv1.TokenRequest{})
	check(t, err)
	ask := func(client *http.Client, pod string, headers http.Header) int {
		t.Helper()
		req, err := http.NewRequest("GET", n.url+"/api/v1/namespaces/default/pods/"+pod+"/log?container=main", nil)
		check(t, err)
		req.Header = headers
		resp, err := client.Do(req)
		check(t, err)
		readAll(t, resp.Body)
		resp.Body.Close()
		return resp.StatusCode
	}
	bearer := http.Header{"Authorization": {"Bearer " + account.Status.Token}}
	for _, pod := range []string{"on-n1", "on-n2"} {
		if got := ask(n.client(""), pod, bearer.Clone()); got != http.StatusForbidden {
			t.Errorf("logs of %s by an account without a role: %d", pod, got)
		}
	}
	_, err = c.RbacV1().RoleBindings("default").Create(ctx, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "viewer"},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "default", Namespace: "default"}}}, metav1.CreateOptions{})
	check(t, err)
	for _, pod := range []string{"on-n1", "on-n2"} {
		if got := ask(n.client(""), pod, bearer.Clone()); got != http.StatusOK {
			t.Errorf("logs of %s by an account that may view: %d", pod, got)
		}
		acting := http.Header{"Impersonate-User": {"system:serviceaccount:default:default"}, caller.HeaderCaller: {caller.Node}}
		if got := ask(n.client("admin", "system:masters"), pod, acting); got != http.StatusOK {
			t.Errorf("logs of %s by an administrator that acts as the account: %d", pod, got)
		}
		made := http.Header{"X-Remote-User": {"admin"}, "X-Remote-Group": {"system:masters"}, caller.HeaderCaller: {caller.Node}}
		if got := ask(n.client(""), pod, made); got != http.StatusUnauthorized {
			t.Errorf("logs of %s by nobody with the headers of nodes: %d", pod, got)
		}
	}
}

// TestPeers: a node hands on what callers have shown, and speaks for itself; a name that it makes up is refused, and so is
// what nodes do not hand on.
func TestPeers(t *testing.T) {
	n := newNode(t, nil)
	admin := n.ca.issue(t, "admin", "system:masters")
	stranger := newAuthority(t).issue(t, "admin", "system:masters")
	encoded := func(c tls.Certificate) string { return base64.StdEncoding.EncodeToString(c.Certificate[0]) }
	peer := func(ctx context.Context) context.Context {
		return caller.WithPeer(ctx, "n2")
	}
	for _, c := range []struct {
		name, path string
		headers    http.Header
		want       int
	}{
		{"a certificate", "/api/v1/namespaces/default/pods/none/log", http.Header{caller.HeaderCaller: {caller.Client}, caller.HeaderCertificate: {encoded(admin)}}, 404},
		{"one of another CA", "/api/v1/namespaces/default/pods/none/log", http.Header{caller.HeaderCaller: {caller.Client}, caller.HeaderCertificate: {encoded(stranger)}}, 401},
		{"a damaged one", "/api/v1/namespaces/default/pods/none/log", http.Header{caller.HeaderCaller: {caller.Client}, caller.HeaderCertificate: {"AAAA"}}, 401},
		{"too many", "/api/v1/namespaces/default/pods/none/log", http.Header{caller.HeaderCaller: {caller.Client}, caller.HeaderCertificate: slices.Repeat([]string{encoded(admin)}, 9)}, 401},
		{"a name", "/api/v1/namespaces/default/pods/none/log", http.Header{"X-Remote-User": {"admin"}, "X-Remote-Group": {"system:masters"}}, 401},
		{"nothing", "/api/v1/namespaces/default/pods/none/log", http.Header{caller.HeaderCaller: {caller.Client}}, 401},
		{"a bad token", "/api/v1/namespaces/default/pods/none/log", http.Header{caller.HeaderCaller: {caller.Client}, "Authorization": {"Bearer x.y.z"}}, 401},
		{"itself, for logs", "/api/v1/namespaces/default/pods/none/log", http.Header{caller.HeaderCaller: {caller.Node}}, 403},
		{"itself, for what is used", "/apis/metrics.k8s.io/v1beta1/nodes", http.Header{caller.HeaderCaller: {caller.Node}}, 200},
		{"a certificate, for Secrets", "/api/v1/secrets", http.Header{caller.HeaderCaller: {caller.Client}, caller.HeaderCertificate: {encoded(admin)}}, 403},
		{"a certificate, for what is no resource", "/metrics", http.Header{caller.HeaderCaller: {caller.Client}, caller.HeaderCertificate: {encoded(admin)}}, 403},
	} {
		r := httptest.NewRequest("GET", c.path, nil)
		r.Header = c.headers
		w := httptest.NewRecorder()
		n.handler.ServeHTTP(w, r.WithContext(peer(r.Context())))
		if w.Code != c.want {
			t.Errorf("%s: %d %s, want %d", c.name, w.Code, w.Body, c.want)
		}
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

// overWebSocket is all that the node says over a WebSocket until it hangs up.
func (n *node) overWebSocket(path string) string {
	n.t.Helper()
	conn, in := n.upgrade(path, "websocket", "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: binary.k8s.io\r\n")
	defer conn.Close()
	var out strings.Builder
	for {
		var head [2]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return out.String()
		}
		if head[1] > 125 {
			n.t.Fatalf("a frame with length byte %d", head[1])
		}
		payload := make([]byte, head[1])
		_, err := io.ReadFull(in, payload)
		check(n.t, err)
		if opcode := head[0] & 15; opcode < 8 {
			out.Write(payload)
		}
	}
}

// upgrade asks for another protocol, and is past the answer that switches to it.
func (n *node) upgrade(path, protocol, headers string) (*tls.Conn, *bufio.Reader) {
	n.t.Helper()
	conf := n.client("admin", "system:masters").Transport.(*http.Transport).TLSClientConfig.Clone()
	conf.NextProtos = nil
	conn, err := tls.Dial("tcp", strings.TrimPrefix(n.url, "https://"), conf)
	check(n.t, err)
	check(n.t, conn.SetDeadline(time.Now().Add(time.Minute)))
	_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: %s\r\n%s\r\n", path, protocol, headers)
	check(n.t, err)
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	check(n.t, err)
	if resp.StatusCode != http.StatusSwitchingProtocols {
		n.t.Fatalf("upgrade to %s: %s %s", protocol, resp.Status, readAll(n.t, resp.Body))
	}
	return conn, in
}

// TestRelayedEnds: through the node that was asked, a client that has nothing more to say still hears everything that the
// other node says, the last bytes before it hangs up too.
func TestRelayedEnds(t *testing.T) {
	peers := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: talk\r\n\r\nhello")
		said, err := io.ReadAll(buffered)
		if err != nil {
			t.Error(err)
		}
		fmt.Fprintf(conn, "%s heard %d bytes of %s%s", callerOf(t, r), len(said), r.URL.Path, strings.Repeat(".", 1<<20))
	}))
	defer peers.Close()
	n := newNode(t, func(c *Config) {
		c.Relay = func(ctx context.Context, node string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", peers.Listener.Addr().String())
		}
	})
	_, err := n.clientset(false).CoreV1().Pods("default").Create(context.Background(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"},
		Spec: corev1.PodSpec{NodeName: "n2", Containers: []corev1.Container{{Name: "main", Image: "i"}}}}, metav1.CreateOptions{})
	check(t, err)
	path := "/api/v1/namespaces/default/pods/p/attach"
	conn, in := n.upgrade(path+"?stdin=true&stdout=true", "talk", "X-Remote-User: somebody else\r\nMurmur-Caller: node\r\n")
	defer conn.Close()
	_, err = conn.Write(make([]byte, 1<<20))
	check(t, err)
	check(t, conn.CloseWrite())
	if got, want := readAll(t, in), "helloadmin heard 1048576 bytes of "+path+strings.Repeat(".", 1<<20); got != want {
		t.Errorf("heard %d bytes, %.80q..., want %d", len(got), got, len(want))
	}
}

// callerOf is whose certificate a relayed request carries.
func callerOf(t *testing.T, r *http.Request) string {
	if r.Header.Get(caller.HeaderCaller) != caller.Client {
		return "no client"
	}
	der, err := base64.StdEncoding.DecodeString(r.Header.Get(caller.HeaderCertificate))
	if err != nil {
		t.Error(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Error(err)
		return ""
	}
	return cert.Subject.CommonName
}
