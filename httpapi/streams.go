package httpapi

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	translator "k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	core "k8s.io/kubernetes/pkg/apis/core"
	corevalidation "k8s.io/kubernetes/pkg/apis/core/validation"
	kubeletclient "k8s.io/kubernetes/pkg/kubelet/client"
	podregistry "k8s.io/kubernetes/pkg/registry/core/pod"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// The streams of a pod, log, exec, attach and portforward, end at the node that runs it. Asked anywhere else, a
// request that has been authenticated, allowed and validated is handed to that node's API as it came, with what its
// caller showed (credential.go); there it is authenticated and allowed again, and served.

// placedOn stands where upstream looks up a kubelet's address. Nothing is dialled by it: the location that comes
// out tells the pod's container, and who serves it is decided here.
type placedOn struct{}

func (placedOn) GetConnectionInfo(_ context.Context, node types.NodeName) (*kubeletclient.ConnectionInfo, error) {
	return &kubeletclient.ConnectionInfo{Scheme: "http", Hostname: string(node), Port: "0", Transport: http.DefaultTransport}, nil
}

type streams struct {
	server *Server
	pods   *genericregistry.Store
}

func (streams) Destroy() {}

// node finds where the pod runs.
func (s streams) node(ctx context.Context, name string) (namespace, node string, err error) {
	obj, err := s.pods.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return "", "", err
	}
	pod := obj.(*core.Pod)
	return pod.Namespace, pod.Spec.NodeName, nil
}

// allowed asks for the create permission, which a WebSocket's GET has not shown.
func (s streams) allowed(ctx context.Context) error {
	attrs, err := filters.GetAuthorizerAttributes(ctx)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	record := authorizer.AttributesRecord{
		User: attrs.GetUser(), Verb: "create", Namespace: attrs.GetNamespace(), APIGroup: attrs.GetAPIGroup(),
		APIVersion: attrs.GetAPIVersion(), Resource: attrs.GetResource(), Subresource: attrs.GetSubresource(),
		Name: attrs.GetName(), ResourceRequest: true, Path: attrs.GetPath(),
	}
	decision, reason, err := s.server.authz.Authorize(ctx, record)
	if decision == authorizer.DecisionAllow {
		return nil
	}
	if err != nil {
		reason = err.Error()
	}
	return responsewriters.ForbiddenStatusError(record, reason)
}

// connect is what exec, attach and portforward share: local is asked for the runtime's address if the pod is here.
func (s streams) connect(ctx context.Context, name string, responder rest.Responder,
	local func(k Kubelet, namespace string) (*url.URL, error), wrap func(location *url.URL, transport http.RoundTripper, h http.Handler) http.Handler) (http.Handler, error) {
	namespace, node, err := s.node(ctx, name)
	if err != nil {
		return nil, err
	}
	if node != s.server.cfg.Node {
		return s.server.relay(ctx, node)
	}
	if s.server.cfg.Kubelet == nil {
		return nil, apierrors.NewServiceUnavailable("this node runs no pods")
	}
	location, err := local(s.server.cfg.Kubelet, namespace)
	if err != nil {
		return nil, streamError(err)
	}
	transport := &http.Transport{}
	h := proxy.NewUpgradeAwareHandler(location, transport, false, true, proxy.NewErrorResponder(responder))
	return wrap(location, transport, h), nil
}

// streamError keeps errors that already are API errors, and gives the others the 500 that a kubelet's would have.
func streamError(err error) error {
	if _, ok := err.(apierrors.APIStatus); ok {
		return err
	}
	return apierrors.NewInternalError(err)
}

// external converts options to the version that drivers know.
func external[T any, P interface {
	*T
	runtime.Object
}](opts runtime.Object) (*T, error) {
	out := new(T)
	return out, legacyscheme.Scheme.Convert(opts, P(out), nil)
}

// container is the last element of upstream's location: the one asked for, or the default.
func container(location *url.URL) string { return path.Base(location.Path) }

type logREST struct{ streams }

var (
	_ rest.GetterWithOptions = (*logREST)(nil)
	_ rest.StorageMetadata   = (*logREST)(nil)
)

func (*logREST) New() runtime.Object { return &core.Pod{} }
func (*logREST) NewGetOptions() (runtime.Object, bool, string) {
	return &core.PodLogOptions{}, false, ""
}
func (*logREST) ProducesMIMETypes(string) []string { return []string{"text/plain"} }
func (*logREST) ProducesObject(string) any         { return "" }

func (l *logREST) Get(ctx context.Context, name string, opts runtime.Object) (runtime.Object, error) {
	o, ok := opts.(*core.PodLogOptions)
	if !ok {
		return nil, fmt.Errorf("log options are a %T", opts)
	}
	if o.Stream == nil {
		all := core.LogStreamAll
		o.Stream = &all
	}
	if errs := corevalidation.ValidatePodLogOptions(o, true); len(errs) > 0 {
		return nil, apierrors.NewInvalid(core.Kind("PodLogOptions"), name, errs)
	}
	location, _, err := podregistry.LogLocation(ctx, l.pods, placedOn{}, name, o)
	if err != nil {
		return nil, err
	}
	if location == nil {
		return &logStream{}, nil
	}
	o.Container = container(location)
	namespace, node, err := l.node(ctx, name)
	if err != nil {
		return nil, err
	}
	return &logStream{streams: l.streams, node: node, namespace: namespace, name: name, opts: o}, nil
}

// logStream is a log that is opened when the response begins. Without a node there is no log yet.
type logStream struct {
	streams
	node, namespace, name string
	opts                  *core.PodLogOptions
}

var _ rest.ResourceStreamer = (*logStream)(nil)

func (*logStream) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }
func (l *logStream) DeepCopyObject() runtime.Object { panic("a log stream is not copied") }

func (l *logStream) InputStream(ctx context.Context, _, _ string) (io.ReadCloser, bool, string, error) {
	if l.node == "" {
		return nil, false, "", nil
	}
	opts, err := external[corev1.PodLogOptions](l.opts)
	if err != nil {
		return nil, false, "", err
	}
	var r io.ReadCloser
	if l.node == l.server.cfg.Node {
		r, err = l.local(ctx, opts)
	} else {
		r, err = l.remote(ctx)
	}
	return r, l.opts.Follow, "text/plain", err
}

// logPatience is how long the first line may take before the response begins without it.
const logPatience = 2 * time.Second

func (l *logStream) local(ctx context.Context, opts *corev1.PodLogOptions) (io.ReadCloser, error) {
	if l.server.cfg.Kubelet == nil {
		return nil, apierrors.NewServiceUnavailable("this node runs no pods")
	}
	ctx, cancel := context.WithCancel(ctx)
	r, w := io.Pipe()
	first := &firstWrite{w: w, seen: make(chan struct{})}
	done := make(chan error, 1)
	go func() {
		err := l.server.cfg.Kubelet.Logs(ctx, l.namespace, l.name, opts, first)
		done <- err
		w.CloseWithError(err)
	}()
	timer := time.NewTimer(logPatience)
	defer timer.Stop()
	select {
	case <-first.seen:
	case <-timer.C:
	case err := <-done:
		if err != nil {
			cancel()
			return nil, streamError(err)
		}
	}
	return &closing{r, cancel}, nil
}

type firstWrite struct {
	w    io.Writer
	seen chan struct{}
	any  bool
}

func (f *firstWrite) Write(p []byte) (int, error) {
	if !f.any {
		f.any = true
		close(f.seen)
	}
	return f.w.Write(p)
}

// closing is a pipe's end that also stops who writes into it.
type closing struct {
	*io.PipeReader
	cancel context.CancelFunc
}

func (c *closing) Close() error {
	c.cancel()
	return c.PipeReader.Close()
}

func (l *logStream) remote(ctx context.Context) (io.ReadCloser, error) {
	query, err := legacyscheme.ParameterCodec.EncodeParameters(l.opts, corev1.SchemeGroupVersion)
	if err != nil {
		return nil, err
	}
	if err := l.server.relayable(ctx, l.node); err != nil {
		return nil, err
	}
	u := url.URL{Scheme: "http", Host: l.node, Path: "/api/v1/namespaces/" + l.namespace + "/pods/" + l.name + "/log", RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	if err := hand(ctx, req.Header); err != nil {
		return nil, err
	}
	resp, err := l.server.peers.RoundTrip(req)
	if err != nil {
		return nil, unreachable(l.node, err)
	}
	if resp.StatusCode == http.StatusOK {
		return &lastBytes{ReadCloser: resp.Body}, nil
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return nil, unreachable(l.node, err)
	}
	obj, _, err := legacyscheme.Codecs.UniversalDeserializer().Decode(body, nil, nil)
	if status, ok := obj.(*metav1.Status); err == nil && ok {
		return nil, &apierrors.StatusError{ErrStatus: *status}
	}
	return nil, apierrors.NewInternalError(fmt.Errorf("node %s answered %s: %s", l.node, resp.Status, strings.TrimSpace(string(body))))
}

// lastBytes gives the end of a stream by itself. A body may end in the same call that brings its last bytes, or all of
// them, and upstream's copier to WebSockets drops what comes with an end.
type lastBytes struct {
	io.ReadCloser
	err error
}

func (l *lastBytes) Read(p []byte) (int, error) {
	if l.err != nil {
		return 0, l.err
	}
	n, err := l.ReadCloser.Read(p)
	if n > 0 {
		l.err, err = err, nil
	}
	return n, err
}

type execREST struct{ streams }

var _ rest.Connecter = (*execREST)(nil)

func (*execREST) New() runtime.Object      { return &core.PodExecOptions{} }
func (*execREST) ConnectMethods() []string { return []string{"GET", "POST"} }
func (*execREST) NewConnectOptions() (runtime.Object, bool, string) {
	return &core.PodExecOptions{}, false, ""
}

func (e *execREST) Connect(ctx context.Context, name string, opts runtime.Object, responder rest.Responder) (http.Handler, error) {
	if err := e.allowed(ctx); err != nil {
		return nil, err
	}
	o := opts.(*core.PodExecOptions)
	location, _, err := podregistry.ExecLocation(ctx, e.pods, placedOn{}, name, o)
	if err != nil {
		return nil, err
	}
	v1, err := external[corev1.PodExecOptions](o)
	if err != nil {
		return nil, err
	}
	v1.Container = container(location)
	return e.connect(ctx, name, responder, func(k Kubelet, namespace string) (*url.URL, error) {
		return k.Exec(ctx, namespace, name, v1)
	}, translated(translator.Options{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Tty: o.TTY}))
}

// translated speaks WebSocket v5 with the client and SPDY with the runtime.
func translated(opts translator.Options) func(*url.URL, http.RoundTripper, http.Handler) http.Handler {
	return func(location *url.URL, transport http.RoundTripper, h http.Handler) http.Handler {
		return translator.NewTranslatingHandler(h, translator.NewStreamTranslatorHandler(location, transport, 0, opts), wsstream.IsWebSocketRequestWithStreamCloseProtocol)
	}
}

type attachREST struct{ streams }

var _ rest.Connecter = (*attachREST)(nil)

func (*attachREST) New() runtime.Object      { return &core.PodAttachOptions{} }
func (*attachREST) ConnectMethods() []string { return []string{"GET", "POST"} }
func (*attachREST) NewConnectOptions() (runtime.Object, bool, string) {
	return &core.PodAttachOptions{}, false, ""
}

func (a *attachREST) Connect(ctx context.Context, name string, opts runtime.Object, responder rest.Responder) (http.Handler, error) {
	if err := a.allowed(ctx); err != nil {
		return nil, err
	}
	o := opts.(*core.PodAttachOptions)
	location, _, err := podregistry.AttachLocation(ctx, a.pods, placedOn{}, name, o)
	if err != nil {
		return nil, err
	}
	v1, err := external[corev1.PodAttachOptions](o)
	if err != nil {
		return nil, err
	}
	v1.Container = container(location)
	return a.connect(ctx, name, responder, func(k Kubelet, namespace string) (*url.URL, error) {
		return k.Attach(ctx, namespace, name, v1)
	}, translated(translator.Options{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Tty: o.TTY}))
}

type portForwardREST struct{ streams }

var _ rest.Connecter = (*portForwardREST)(nil)

func (*portForwardREST) New() runtime.Object      { return &core.PodPortForwardOptions{} }
func (*portForwardREST) ConnectMethods() []string { return []string{"GET", "POST"} }
func (*portForwardREST) NewConnectOptions() (runtime.Object, bool, string) {
	return &core.PodPortForwardOptions{}, false, ""
}

func (p *portForwardREST) Connect(ctx context.Context, name string, opts runtime.Object, responder rest.Responder) (http.Handler, error) {
	if err := p.allowed(ctx); err != nil {
		return nil, err
	}
	o := opts.(*core.PodPortForwardOptions)
	if _, _, err := podregistry.PortForwardLocation(ctx, p.pods, placedOn{}, name, o); err != nil {
		return nil, err
	}
	v1, err := external[corev1.PodPortForwardOptions](o)
	if err != nil {
		return nil, err
	}
	return p.connect(ctx, name, responder, func(k Kubelet, namespace string) (*url.URL, error) {
		return k.PortForward(ctx, namespace, name, v1)
	}, func(_ *url.URL, _ http.RoundTripper, h http.Handler) http.Handler {
		return translator.NewTranslatingHandler(h, translator.NewTunnelingHandler(h), wsstream.IsWebSocketRequestWithTunnelingProtocol)
	})
}

// relayable refuses what would go in a circle or nowhere.
func (s *Server) relayable(ctx context.Context, node string) error {
	switch {
	case ctx.Value(peerKey{}) != nil:
		return apierrors.NewServiceUnavailable(fmt.Sprintf("the pod is on node %s, not here; the nodes do not agree yet", node))
	case s.cfg.Relay == nil:
		return apierrors.NewServiceUnavailable(fmt.Sprintf("the pod is on node %s, which cannot be reached from here", node))
	}
	return nil
}

func unreachable(node string, err error) error {
	return apierrors.NewServiceUnavailable(fmt.Sprintf("the pod is on node %s, which cannot be reached: %v", node, err))
}

// relay hands the request to another node as it came, upgrade and all.
func (s *Server) relay(ctx context.Context, node string) (http.Handler, error) {
	if err := s.relayable(ctx, node); err != nil {
		return nil, err
	}
	return &relayed{peers: s.peers, node: node}, nil
}

// relayed is a request on its way to another node.
type relayed struct {
	peers http.RoundTripper
	node  string
}

func (r *relayed) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	out := req.Clone(req.Context())
	out.URL.Scheme, out.URL.Host, out.RequestURI = "http", r.node, ""
	if out.ContentLength == 0 {
		out.Body = nil // the transport would wait for its end
	}
	if err := hand(req.Context(), out.Header); err != nil {
		r.failed(w, req, err)
		return
	}
	resp, err := r.peers.RoundTrip(out)
	if err != nil {
		r.failed(w, req, err)
		return
	}
	body := resp.Body
	defer body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		resp.Header.Del("Connection")
		maps.Copy(w.Header(), resp.Header)
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, body) // the client went, or the node: there is nobody to tell
		return
	}
	far, ok := body.(duplex)
	if !ok {
		r.failed(w, req, fmt.Errorf("a connection of type %T cannot be written to", body))
		return
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		r.failed(w, req, err)
		return
	}
	resp.Body = nil // the head alone is written
	if resp.Write(buffered) != nil || buffered.Flush() != nil {
		_ = conn.Close()
		return
	}
	near, ok := conn.(duplex)
	if !ok {
		near = undivided{conn}
	}
	join(near, buffered.Reader, far)
}

func (r *relayed) failed(w http.ResponseWriter, req *http.Request, err error) {
	responsewriters.ErrorNegotiated(unreachable(r.node, err), legacyscheme.Codecs, corev1.SchemeGroupVersion, w, req)
}

// duplex is a connection whose directions end one by one.
type duplex interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// undivided is a connection that can only end as a whole.
type undivided struct{ net.Conn }

func (u undivided) CloseWrite() error { return u.Close() }

// lingers is how long a client may take to hang up after the last that it will hear. Until then what it says is read, since
// a connection closed over unread bytes is reset, and takes with it what the client has not read yet.
const lingers = 5 * time.Second

// join carries bytes both ways until the far end has said all and the client has hung up, and closes both. Each direction ends
// by itself: a far end that does not listen any more may still speak, and a client that has nothing more to say may still
// listen. One that broke off, or cannot be written to, is gone.
func join(near duplex, said io.Reader, far duplex) {
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		_, err := io.Copy(far, said)
		if err != nil {
			_, err = io.Copy(io.Discard, said)
		}
		if err != nil || far.CloseWrite() != nil {
			_ = far.Close()
		}
	}()
	if _, err := io.Copy(near, far); err == nil && near.CloseWrite() == nil {
		timer := time.NewTimer(lingers)
		defer timer.Stop()
		select {
		case <-heard:
		case <-timer.C:
		}
	}
	_ = near.Close()
	_ = far.Close()
	<-heard
}

// peerTransport speaks HTTP/1.1 over the streams that Relay opens; hosts are node names.
func peerTransport(relay func(ctx context.Context, node string) (net.Conn, error)) *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			node, _, err := net.SplitHostPort(address)
			if err != nil {
				node = address
			}
			return relay(ctx, node)
		},
		IdleConnTimeout:     30 * time.Second,
		MaxIdleConnsPerHost: 2,
		DisableCompression:  true,
	}
}
