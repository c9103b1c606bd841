package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/emicklei/go-restful/v3"
	"github.com/labstack/echo/v4"
	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints"
	"k8s.io/apiserver/pkg/endpoints/discovery"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	"k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/filters/impersonation"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	"murmur/httpapi/caller"
	apidiscovery "murmur/httpapi/discovery"
	"murmur/httpapi/filter"
	"murmur/httpapi/openapi"
	"murmur/httpapi/route"
)

// routes builds the router and, around it, the pipeline. Outermost first: room on the stack, recovery, request info, timeout, warnings,
// authentication, audit, impersonation, priority and fairness, authorisation, class of the writes; then the route, which does admission and the registry.
func (s *Server) routes() (*echo.Echo, error) {
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.HTTPErrorHandler = s.statusError
	e.Pre(decoded)
	refused := filters.Unauthorized(legacyscheme.Codecs)
	recorded := func(h http.Handler) http.Handler { return h }
	if s.cfg.Audit != nil {
		refused, recorded = s.cfg.Audit.Failed(refused), s.cfg.Audit.Filter(filter.LongRunning)
	}
	e.Use(pipeline(
		filter.Deep,
		filter.Recovery(s.cfg.Log),
		filter.BodyWithin(filter.JoinBody, isJoin),
		filters.WithAuditInit,
		filters.WithRequestReceivedTimestamp,
		func(h http.Handler) http.Handler { return filters.WithRequestInfo(h, route.Info) },
		s.withShutdown,
		filters.WithCacheControl,
		func(h http.Handler) http.Handler {
			return filters.WithRequestDeadline(h, nil, nil, filter.LongRunning, legacyscheme.Codecs, s.cfg.RequestTimeout)
		},
		filter.Timeout(s.cfg.RequestTimeout),
		filters.WithWarningRecorder,
		caller.LimitPeers,
		unlessJoin(caller.WithCredential),
		unlessJoin(s.standing.Prove),
		unlessJoin(func(h http.Handler) http.Handler {
			return filters.WithAuthentication(h, s.authn.Request, refused, s.authn.Audiences, nil)
		}),
		unlessJoin(s.standing.Keep),
		unlessJoin(recorded),
		unlessJoin(func(h http.Handler) http.Handler {
			return impersonation.WithImpersonation(h, s.authz, legacyscheme.Codecs)
		}),
		unlessJoin(unlessSelf(s.fair.Filter(filter.LongRunning))),
		unlessJoin(func(h http.Handler) http.Handler { return filters.WithAuthorization(h, s.authz, legacyscheme.Codecs) }),
		filter.WriteClass(s.kind, s.backend.Here, maxBody),
	))
	if err := s.installKinds(e); err != nil {
		return nil, err
	}
	s.installHealth(e)
	if s.cfg.Join != nil {
		e.Any(joinPath, handled((&filter.Joins{}).Limit(s.cfg.Join)))
	}
	return e, nil
}

const joinPath = "/murmur/v1/*"

// unlessSelf leaves a filter out for what is asked in this process.
func unlessSelf(with func(http.Handler) http.Handler) func(http.Handler) http.Handler {
	return unless(with, func(r *http.Request) bool {
		_, inside := caller.Self(r.Context())
		return inside
	})
}

func unless(which func(http.Handler) http.Handler, out func(*http.Request) bool) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		with := which(h)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if out(r) {
				h.ServeHTTP(w, r)
				return
			}
			with.ServeHTTP(w, r)
		})
	}
}

// decoded has a path read in one spelling only, the decoded one: Echo would route by the encoded one, if there is
// one, while all others read what it means.
func decoded(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		c.Request().URL.RawPath = ""
		return next(c)
	}
}

// routed is where Echo's router sends a request, copied: a request that times out leaves its handler running, and
// Echo uses a context again as soon as the request is answered.
type routed struct {
	echo          *echo.Echo
	path          string
	names, values []string
	next          echo.HandlerFunc
}

type routedKey struct{}

// pipeline makes filters of net/http, outermost first, one middleware. They are built once: Echo applies its
// middleware anew to every request, and limits in flight must outlive one.
func pipeline(filters ...func(http.Handler) http.Handler) echo.MiddlewareFunc {
	var h http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to := r.Context().Value(routedKey{}).(*routed)
		c := to.echo.NewContext(r, w)
		c.SetPath(to.path)
		c.SetParamNames(to.names...)
		c.SetParamValues(to.values...)
		if err := to.next(c); err != nil {
			to.echo.HTTPErrorHandler(err, c)
		}
	})
	for _, filter := range slices.Backward(filters) {
		h = filter(h)
	}
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			to := &routed{c.Echo(), c.Path(), slices.Clone(c.ParamNames()), slices.Clone(c.ParamValues()), next}
			r := c.Request()
			h.ServeHTTP(c.Response().Writer, r.WithContext(context.WithValue(r.Context(), routedKey{}, to)))
			return nil
		}
	}
}

// unlessJoin leaves a filter out for the join endpoint, which proves its clients itself.
func unlessJoin(with func(http.Handler) http.Handler) func(http.Handler) http.Handler {
	return unless(with, isJoin)
}

func isJoin(r *http.Request) bool { return r.Context().Value(routedKey{}).(*routed).path == joinPath }

func (s *Server) withShutdown(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r.WithContext(request.WithServerShutdownSignal(r.Context(), s)))
	})
}

// ShuttingDown ends watches when the server stops.
func (s *Server) ShuttingDown() <-chan struct{} { return s.stopping }

// statusError answers with the metav1.Status of an error, also for what the router itself refuses.
func (s *Server) statusError(err error, c echo.Context) {
	r := c.Request()
	var refused *echo.HTTPError
	if errors.As(err, &refused) {
		what := schema.GroupResource{}
		if info, ok := request.RequestInfoFrom(r.Context()); ok {
			what = schema.GroupResource{Group: info.APIGroup, Resource: info.Resource}
		}
		switch refused.Code {
		case http.StatusNotFound:
			err = route.NotFound()
		case http.StatusMethodNotAllowed:
			err = apierrors.NewMethodNotSupported(what, strings.ToLower(r.Method))
		default:
			err = apierrors.NewGenericServerResponse(refused.Code, strings.ToLower(r.Method), what, "", fmt.Sprint(refused.Message), 0, true)
		}
	}
	responsewriters.ErrorNegotiated(err, legacyscheme.Codecs, schema.GroupVersion{Version: "v1"}, c.Response().Writer, r)
}

// installKinds gives every version of the table its routes and its discovery. Upstream's installer derives the
// routes of a kind from what its storage can do; here they become Echo's.
func (s *Server) installKinds(e *echo.Echo) error {
	equivalents := runtime.NewEquivalentResourceRegistry()
	groups := map[string]*apidiscovery.Group{}
	var names []string
	s.table = &route.Table[restful.RouteFunction]{}
	legacy := aggregated.NewResourceManager("api")
	var services []*openapi.Service
	parameters := openapi.Parameters{}
	for _, gv := range s.registry.Versions() {
		container := restful.NewContainer()
		resources, _, err := s.version(gv, equivalents).InstallREST(container)
		if err != nil {
			return fmt.Errorf("routes of %s: %w", gv, err)
		}
		for _, ws := range container.RegisteredWebServices() {
			services = append(services, openapi.NewService(ws, parameters))
			for _, r := range ws.Routes() {
				if of, err := s.table.Add(r.Method, r.Path, r.Function); err != nil {
					return err
				} else if !of {
					get(e, strings.TrimSuffix(r.Path, "/"), routeFunction(r.Function))
				}
			}
		}
		v := metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: gv.Version}
		if gv.Group == "" {
			legacy.AddGroupVersion("", apidiscoveryv2.APIVersionDiscovery{
				Version: gv.Version, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent, Resources: resources})
			continue
		}
		g := groups[gv.Group]
		if g == nil {
			g = &apidiscovery.Group{Group: metav1.APIGroup{Name: gv.Group, PreferredVersion: v}, Resources: map[string][]apidiscoveryv2.APIResourceDiscovery{}}
			groups[gv.Group] = g
			names = append(names, gv.Group)
		}
		g.Group.Versions = append(g.Group.Versions, v)
		g.Resources[gv.Version] = resources
	}

	var table []apidiscovery.Group
	for _, name := range names {
		table = append(table, *groups[name])
		get(e, "/apis/"+name, discovery.NewAPIGroupHandler(legacyscheme.Codecs, groups[name].Group))
	}
	s.discovery = apidiscovery.New(s.cfg.Store, table)
	get(e, "/apis", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.discovery.Now().Root.ServeHTTP(w, r) }))
	for _, prefix := range []string{"/api/*", "/apis/*"} {
		e.RouteNotFound(prefix, s.dispatch)
	}
	core := discovery.NewLegacyRootAPIHandler(discovery.DefaultAddresses{}, legacyscheme.Codecs, "/api")
	get(e, "/api", aggregated.WrapAggregatedDiscoveryToHandler(routeFunction(core.WebService().Routes()[0].Function), legacy, nil))
	openapi.Install(e, version.GitVersion, s.cfg.Store, services)
	return nil
}

// version is what upstream's installer needs to know of a version of the table.
func (s *Server) version(gv schema.GroupVersion, equivalents runtime.EquivalentResourceRegistry) *endpoints.APIGroupVersion {
	root, options := "/apis", schema.GroupVersion{Version: "v1"}
	if gv.Group == "" {
		root = "/api"
	}
	return &endpoints.APIGroupVersion{
		Storage: s.registry.Storages(gv), Root: root, GroupVersion: gv, OptionsExternalVersion: &options,
		Serializer: legacyscheme.Codecs, ParameterCodec: legacyscheme.ParameterCodec,
		Typer: legacyscheme.Scheme, Creater: filter.DeepCreater{ObjectCreater: legacyscheme.Scheme}, Convertor: legacyscheme.Scheme,
		ConvertabilityChecker: legacyscheme.Scheme, Defaulter: legacyscheme.Scheme, Namer: runtime.Namer(meta.NewAccessor()),
		UnsafeConvertor: runtime.UnsafeObjectConvertor(legacyscheme.Scheme), TypeConverter: s.converter,
		EquivalentResourceRegistry: equivalents, Authorizer: s.authz, Admit: s.admit,
		MinRequestTimeout: minWatch, MaxRequestBodyBytes: maxBody,
		AllServedVersionsByResource: map[string][]string{},
	}
}

// routeFunction is what answers a go-restful route.
type routeFunction restful.RouteFunction

func (f routeFunction) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f(restful.NewRequest(r), restful.NewResponse(w))
}

// get serves a path, with a slash at its end or without.
func get(e *echo.Echo, path string, h http.Handler) {
	e.GET(path, handled(h))
	e.GET(path+"/", handled(h))
}

func handled(h http.Handler) echo.HandlerFunc {
	return func(c echo.Context) error {
		h.ServeHTTP(c.Response().Writer, c.Request())
		return nil
	}
}

// dispatch finds what answers a request for a resource: a row of the table, or what a definition defines. Upstream's
// handlers take names from the request's description too.
func (s *Server) dispatch(c echo.Context) error {
	r, w := c.Request(), c.Response().Writer
	info, ok := request.RequestInfoFrom(r.Context())
	if !ok {
		return errors.New("a request without its description")
	}
	if !info.IsResourceRequest {
		h := s.discovery.Now().At(info.Path)
		if h == nil || r.Method != http.MethodGet {
			return echo.ErrNotFound
		}
		h.ServeHTTP(w, r)
		return nil
	}
	address, ok := route.Parse(info)
	if !ok {
		return echo.ErrNotFound
	}
	answer, there, known := s.table.Find(address, r.Method)
	switch {
	case there:
		routeFunction(answer).ServeHTTP(w, r)
		return nil
	case known:
		return echo.ErrMethodNotAllowed
	}
	return s.customs.Serve(w, r, info, address)
}
