package stream

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"path"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
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
	kubeletclient "k8s.io/kubernetes/pkg/kubelet/client"
	podregistry "k8s.io/kubernetes/pkg/registry/core/pod"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"murmur/httpapi/relay"
)

// PlacedOn stands where upstream looks up a kubelet's address. Nothing is dialled by it: the location that comes
// out tells the pod's container, and who serves it is decided here.
type PlacedOn struct{}

// GetConnectionInfo names the node as the host.
func (PlacedOn) GetConnectionInfo(_ context.Context, node types.NodeName) (*kubeletclient.ConnectionInfo, error) {
	return &kubeletclient.ConnectionInfo{Scheme: "http", Hostname: string(node), Port: "0", Transport: http.DefaultTransport}, nil
}

// Kubelet is what this node's running pods can be asked for. Exec, Attach and PortForward answer the address of
// the runtime's streaming server, on loopback, where the upgraded connection goes on.
type Kubelet interface {
	Logs(ctx context.Context, namespace, pod string, opts *corev1.PodLogOptions, w io.Writer) error
	Exec(ctx context.Context, namespace, pod string, opts *corev1.PodExecOptions) (*url.URL, error)
	Attach(ctx context.Context, namespace, pod string, opts *corev1.PodAttachOptions) (*url.URL, error)
	PortForward(ctx context.Context, namespace, pod string, opts *corev1.PodPortForwardOptions) (*url.URL, error)
}

// Config is what streams take.
type Config struct {
	// Node is this node's name.
	Node string
	// Kubelet answers for pods on this node; nil: none run here.
	Kubelet    Kubelet
	Authorizer authorizer.Authorizer
	// Relay reaches the other nodes.
	Relay *relay.Relay
}

// New makes the subresources of pods that are streams, by name.
func New(cfg Config, pods *genericregistry.Store) map[string]rest.Storage {
	s := streams{cfg, pods}
	return map[string]rest.Storage{"log": &logREST{s}, "exec": &execREST{s}, "attach": &attachREST{s}, "portforward": &portForwardREST{s}}
}

type streams struct {
	Config
	pods *genericregistry.Store
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
	decision, reason, err := s.Authorizer.Authorize(ctx, record)
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
	if node != s.Node {
		return s.Relay.Handler(ctx, node)
	}
	if s.Kubelet == nil {
		return nil, apierrors.NewServiceUnavailable("this node runs no pods")
	}
	location, err := local(s.Kubelet, namespace)
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
	location, _, err := podregistry.ExecLocation(ctx, e.pods, PlacedOn{}, name, o)
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
	location, _, err := podregistry.AttachLocation(ctx, a.pods, PlacedOn{}, name, o)
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
	if _, _, err := podregistry.PortForwardLocation(ctx, p.pods, PlacedOn{}, name, o); err != nil {
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
