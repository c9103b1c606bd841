package httpapi

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/emicklei/go-restful/v3"
	"github.com/labstack/echo/v4"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	apistorage "k8s.io/apiserver/pkg/storage"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/capabilities"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"murmur/crdt/store"
	"murmur/httpapi/accepted"
	"murmur/httpapi/allocator"
	"murmur/httpapi/audit"
	"murmur/httpapi/authn"
	"murmur/httpapi/authz"
	"murmur/httpapi/caller"
	"murmur/httpapi/custom"
	"murmur/httpapi/discovery"
	"murmur/httpapi/fairness"
	"murmur/httpapi/filter"
	"murmur/httpapi/informers"
	"murmur/httpapi/inprocess"
	"murmur/httpapi/issuers"
	"murmur/httpapi/policy"
	"murmur/httpapi/quota"
	"murmur/httpapi/registry"
	"murmur/httpapi/relay"
	"murmur/httpapi/route"
	"murmur/httpapi/standing"
	"murmur/httpapi/storage"
	"murmur/httpapi/stream"
)

// Config is what the API of one node is made of. Store and Node are required.
type Config struct {
	Store *store.Store
	// Primary makes the writes that must not happen on two nodes at once. Nil: the store does.
	Primary storage.Primary
	// Node is this node's name: pods bound to it are answered here, all others are relayed.
	Node string

	// Listener accepts API clients. If nil, Run listens on Address (":6443").
	Listener net.Listener
	Address  string
	// TLS is the server's side. Its ClientCAs prove client certificates; nil means that none are accepted. Run
	// serves without TLS only if TLS is nil, which is for tests and for a socket behind something else.
	TLS *tls.Config

	// ServiceAccountKey signs and proves ServiceAccount tokens: *rsa.PrivateKey or *ecdsa.PrivateKey, the same on
	// every node. Nil: no such tokens.
	ServiceAccountKey any
	// TokenKeys are there instead where every node has its own key.
	TokenKeys authn.TokenKeys
	// ClientCertificates says which are believed beside what TLS says.
	ClientCertificates authn.ClientCertificates
	// Issuer is the tokens' issuer and default audience ("https://kubernetes.default.svc.cluster.local").
	Issuer string
	// MaxTokenLife bounds the life of every ServiceAccount token; 0 means a year.
	MaxTokenLife time.Duration
	// Issuers proves the tokens of other issuers. May be nil.
	Issuers *issuers.Issuers

	// ServiceCIDR (10.43.0.0/16) and NodePorts (30000-32767) are the ranges Services draw from.
	ServiceCIDR netip.Prefix
	NodePorts   utilnet.PortRange
	// Port is the one the kubernetes Service points at (6443).
	Port int32
	// TolerationSeconds is how long a pod without a word on it stays bound to a node that is not ready or not
	// reachable (15).
	TolerationSeconds int64
	// ExternalIPs lets Services have spec.externalIPs: whoever may write a Service may then draw the traffic of any address to
	// it, on every node.
	ExternalIPs bool

	// Arbiter gives the annotations that every new pod gets: its record of who places it. May be nil.
	Arbiter func() map[string]string
	// Kubelet answers for pods on this node; nil: none run here.
	Kubelet stream.Kubelet
	// Usage is what this node and its pods use: CPU as a rate, memory as the working set. Of their metadata only the names count. Nil: nobody
	// measures it.
	Usage func() (*metricsv1beta1.NodeMetrics, []metricsv1beta1.PodMetrics)
	// Relay opens a stream to the API of another node, on which ServePeers answers. Nil: pods of other nodes cannot
	// be reached.
	Relay func(ctx context.Context, node string) (net.Conn, error)

	// Event writes an Event of type Warning about an object, without waiting. Nil: none are written.
	Event func(about *corev1.ObjectReference, reason, message string)
	// Audit records requests. May be nil.
	Audit *audit.Recorder
	// Join answers /murmur/v1/, without authentication. Metrics answers /metrics. Both may be nil.
	Join, Metrics http.Handler
	// Ready is asked by /readyz; nil means ready.
	Ready func() error

	// ReadsInFlight (400) and WritesInFlight (200) are together the seats that API priority and fairness shares among
	// the requests served at once. Streams do not count, and watches only while they begin.
	ReadsInFlight, WritesInFlight int
	// RequestTimeout (60 s) bounds one request; watches and streams have their own.
	RequestTimeout time.Duration
	Log            *slog.Logger
}

const (
	// maxBody is the largest request body, as upstream's.
	maxBody = 3 << 20
	// minWatch is the least time a watch without timeoutSeconds lives; at most twice that.
	minWatch = 30 * time.Minute
	// eventLife is how long Events are kept.
	eventLife = time.Hour
)

func (c Config) withDefaults() Config {
	if c.Address == "" {
		c.Address = ":6443"
	}
	if c.Port == 0 {
		c.Port = 6443
	}
	c.MaxTokenLife = cmp.Or(c.MaxTokenLife, authn.ExtendedTokenLife)
	if c.Issuer == "" {
		c.Issuer = "https://kubernetes.default.svc.cluster.local"
	}
	if !c.ServiceCIDR.IsValid() {
		c.ServiceCIDR = netip.MustParsePrefix("10.43.0.0/16")
	}
	if c.NodePorts.Size == 0 {
		c.NodePorts = utilnet.PortRange{Base: 30000, Size: 2768}
	}
	if c.TolerationSeconds == 0 {
		c.TolerationSeconds = 15
	}
	if c.ReadsInFlight == 0 {
		c.ReadsInFlight = 400
	}
	if c.WritesInFlight == 0 {
		c.WritesInFlight = 200
	}
	if c.RequestTimeout == 0 {
		c.RequestTimeout = time.Minute
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}

// Server is the Kubernetes API of one node.
type Server struct {
	cfg Config

	authn *authn.Authenticator
	authz authorizer.Authorizer
	// roles is what authz goes by.
	roles     *authz.Authorizer
	admit     admission.Interface
	fields    *accepted.Fields
	followers informers.Followers
	policies  *policy.Policies
	quotas    *quota.Quotas
	numbers   *allocator.Services
	backend   *storage.Backend
	registry  *registry.Registry
	fair      *fairness.Fairness
	table     *route.Table[restful.RouteFunction]
	customs   *custom.Kinds
	discovery *discovery.Discovery
	standing  *standing.Requests
	handler   *echo.Echo
	relay     *relay.Relay
	converter managedfields.TypeConverter
	// own is the client of upstream's plugins and registries, into this process.
	own   kubernetes.Interface
	local inprocess.API

	// stopping is closed when Run ends, so that watches end too.
	stopping chan struct{}
	stopOnce sync.Once
}

// New makes the API of a node. It starts nothing; Run does.
func New(cfg Config) (*Server, error) {
	if cfg.Store == nil || cfg.Node == "" {
		return nil, errors.New("httpapi: Store and Node are required")
	}
	// Whether a container may be privileged is for admission to say, as in every distribution; validation alone would refuse all.
	capabilities.Setup(true, 0)
	registry.AddToScheme()
	s := &Server{cfg: cfg.withDefaults(), stopping: make(chan struct{})}
	s.backend = storage.New(s.cfg.Store, s.cfg.Primary)
	s.numbers = allocator.New(allocator.Config{
		Store: s.cfg.Store, Commit: s.backend.Commit, Addresses: s.cfg.ServiceCIDR, Ports: s.cfg.NodePorts, Log: s.cfg.Log,
	})
	s.relay = relay.New(s.cfg.Relay)
	s.converter = fieldTypes{applyconfigurations.NewTypeConverter(legacyscheme.Scheme), managedfields.NewDeducedTypeConverter()}
	var err error
	if s.authn, err = s.authentication(); err != nil {
		return nil, err
	}
	s.standing = &standing.Requests{Long: filter.LongRunning, Stands: s.authn.Stands, Log: s.cfg.Log}
	if s.roles, err = authz.New(s.cfg.Store, usageReader().Rules); err != nil {
		return nil, err
	}
	s.authz = s.roles
	if s.own, err = kubernetes.NewForConfig(s.ownConfig()); err != nil {
		return nil, fmt.Errorf("httpapi: client of its own: %w", err)
	}
	s.fair = fairness.New(fairness.Config{
		Informers: informers.Factory{Store: s.cfg.Store, Followers: &s.followers}, Client: s.own.FlowcontrolV1(),
		Seats: s.cfg.ReadsInFlight + s.cfg.WritesInFlight, Patience: s.cfg.RequestTimeout / 4, Count: s.count,
	})
	if s.fields, err = accepted.New(); err != nil {
		return nil, fmt.Errorf("httpapi: %w", err)
	}
	if s.admit, err = s.admission(); err != nil {
		return nil, err
	}
	if s.registry, err = s.tableOfKinds(); err != nil {
		return nil, err
	}
	if s.customs, err = s.defined(); err != nil {
		return nil, err
	}
	if s.handler, err = s.routes(); err != nil {
		return nil, err
	}
	s.local.Serve(inprocess.Config{
		Store: s.cfg.Store, Registry: s.registry, Custom: s.customs, Kind: s.kind, Authorizer: s.authz, Admission: s.admit,
		FieldTypes: s.converter, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }),
		Audit: s.cfg.Audit, MaxBody: maxBody,
	})
	return s, nil
}

// ownConfig is that of clients into this process.
func (s *Server) ownConfig() *rest.Config {
	return &rest.Config{
		Host: "https://murmur", QPS: -1, // what is asked in this process needs no limit
		Transport: s.System().RoundTripper(),
	}
}

// Numbers gives Services their addresses and node ports.
func (s *Server) Numbers() *allocator.Services { return s.numbers }

// Handler is the whole pipeline, for callers that bring their own listener.
func (s *Server) Handler() http.Handler { return s.handler }

// Run serves API clients until ctx ends, then closes watches and waits for what is in flight.
func (s *Server) Run(ctx context.Context) error {
	l := s.cfg.Listener
	if l == nil {
		var err error
		if l, err = (&net.ListenConfig{}).Listen(ctx, "tcp", s.cfg.Address); err != nil {
			return fmt.Errorf("API: %w", err)
		}
	}
	if s.cfg.TLS != nil {
		t := s.cfg.TLS.Clone()
		t.NextProtos = []string{"h2", "http/1.1"}
		t.ClientAuth = tls.VerifyClientCertIfGiven
		if s.cfg.ClientCertificates.Roots != nil {
			t.ClientAuth = tls.RequestClientCert // proven with each request, as upstream's are
		}
		l = tls.NewListener(l, t)
	}
	shown := map[string]*apiregistrationv1.APIService{}
	if err := s.deriveAPIServices(ctx, shown); err != nil {
		return errors.Join(fmt.Errorf("API: %w", err), l.Close())
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.keepAPIServices(ctx, shown) })
	group.Go(func() error {
		s.expireEvents(ctx)
		return nil
	})
	group.Go(func() error {
		s.followers.Run(ctx, s.cfg.Store)
		return nil
	})
	group.Go(func() error { return s.fair.Run(ctx) })
	group.Go(func() error {
		s.customs.Run(ctx)
		return nil
	})
	group.Go(func() error {
		s.policies.Run(ctx)
		return nil
	})
	group.Go(func() error { return s.serve(ctx, l, nil) })
	return group.Wait()
}

// ServePeers serves other nodes, which hand on what callers have shown to them. The listener must accept nobody else,
// and the address of a connection's other end must be the name of the node, proven by its certificate.
func (s *Server) ServePeers(ctx context.Context, l net.Listener) error {
	return s.serve(ctx, l, func(ctx context.Context, conn net.Conn) context.Context {
		return caller.WithPeer(ctx, conn.RemoteAddr().String())
	})
}

func (s *Server) serve(ctx context.Context, l net.Listener, conn func(context.Context, net.Conn) context.Context) error {
	server := &http.Server{
		Handler: s.handler,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if conn != nil {
				ctx = conn(ctx, c)
			}
			return standing.On(ctx, c)
		},
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       3 * time.Minute,
		MaxHeaderBytes:    1 << 20,
		ErrorLog:          slog.NewLogLogger(quiet{s.cfg.Log.Handler()}, slog.LevelDebug),
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		s.stopOnce.Do(func() { close(s.stopping) })
		// Streams that outlive the grace, an exec perhaps, are cut.
		grace, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if server.Shutdown(grace) != nil {
			_ = server.Close()
		}
	}()
	err := server.Serve(l)
	if ctx.Err() == nil {
		return fmt.Errorf("serve API on %s: %w", l.Addr(), err)
	}
	<-stopped
	return nil
}

// quiet drops what clients do to their own connections to a debug line.
type quiet struct{ slog.Handler }

func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	r.Level = slog.LevelDebug
	if !q.Enabled(ctx, r.Level) {
		return nil
	}
	return q.Handler.Handle(ctx, r)
}

// count is how many objects a resource has, "deployments.apps" say, and how large they are on average.
func (s *Server) count(resource string) (apistorage.Stats, bool) {
	snap, of := s.cfg.Store.Snapshot(), schema.ParseGroupResource(resource)
	if s.kind(of) == nil && custom.Definition(snap, of) == nil {
		return apistorage.Stats{}, false
	}
	n, bytes := snap.Count(storage.Key(of))
	return apistorage.Stats{ObjectCount: int64(n), EstimatedAverageObjectSizeBytes: bytes / max(int64(n), 1)}, true
}

// Resources lists what is stored, as in crdt.Key.Resource.
func (s *Server) Resources() []string {
	var out []string
	for _, k := range registry.Stored() {
		out = append(out, k.Key())
	}
	return out
}

// QuotaUsage counts what the objects of a snapshot use of a quota.
func (s *Server) QuotaUsage(snap *store.Snapshot, q *corev1.ResourceQuota) (corev1.ResourceList, error) {
	return s.quotas.Usage(snap, q)
}
