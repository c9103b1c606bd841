package stream

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	core "k8s.io/kubernetes/pkg/apis/core"
	corevalidation "k8s.io/kubernetes/pkg/apis/core/validation"
	podregistry "k8s.io/kubernetes/pkg/registry/core/pod"

	"murmur/httpapi/relay"
)

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
	location, _, err := podregistry.LogLocation(ctx, l.pods, PlacedOn{}, name, o)
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
	if l.node == l.Node {
		r, err = l.local(ctx, opts)
	} else {
		r, err = l.remote(ctx)
	}
	return r, l.opts.Follow, "text/plain", err
}

// logPatience is how long the first line may take before the response begins without it.
const logPatience = 2 * time.Second

func (l *logStream) local(ctx context.Context, opts *corev1.PodLogOptions) (io.ReadCloser, error) {
	if l.Kubelet == nil {
		return nil, apierrors.NewServiceUnavailable("this node runs no pods")
	}
	ctx, cancel := context.WithCancel(ctx)
	r, w := io.Pipe()
	first := &firstWrite{w: w, seen: make(chan struct{})}
	done := make(chan error, 1)
	go func() {
		err := l.Kubelet.Logs(ctx, l.namespace, l.name, opts, first)
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
	u := url.URL{Path: "/api/v1/namespaces/" + l.namespace + "/pods/" + l.name + "/log", RawQuery: query.Encode()}
	resp, err := l.Relay.Get(ctx, l.node, u.String(), "")
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return &lastBytes{ReadCloser: resp.Body}, nil
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return nil, relay.Unreachable(l.node, err)
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
