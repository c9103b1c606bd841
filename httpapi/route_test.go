package httpapi

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/emicklei/go-restful/v3"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"murmur/crdt/store"
	"murmur/httpapi/caller"
	"murmur/httpapi/route"
)

// meant is what a request was taken for, by authorisation or by who serves it.
type meant struct{ Verb, Group, Version, Resource, Subresource, Namespace, Name string }

// recorded is an API whose routes say what they are, and do nothing.
type recorded struct {
	*Server
	// upstream is the same routes in upstream's own router.
	upstream *restful.Container
	// routes are "METHOD template".
	routes []string

	mu      sync.Mutex
	allowed meant
}

// Authorize allows everything and keeps what it was asked.
func (r *recorded) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.allowed = meant{}
	if a.IsResourceRequest() {
		r.allowed = meant{a.GetVerb(), a.GetAPIGroup(), a.GetAPIVersion(), a.GetResource(), a.GetSubresource(), a.GetNamespace(), a.GetName()}
	}
	return authorizer.DecisionAllow, "", nil
}

func (r *recorded) ConditionsAwareAuthorize(ctx context.Context, a authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(r.Authorize(ctx, a))
}

func (r *recorded) EvaluateConditions(context.Context, authorizer.ConditionsAwareDecision, authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", authorizer.ErrorConditionEvaluationNotSupported
}

func newRecorded(t testing.TB) *recorded {
	t.Helper()
	store, err := store.Open(store.Config{Cluster: "test"})
	check(t, err)
	t.Cleanup(func() { store.Close() })
	s, err := New(Config{Store: store, Node: "n1"})
	check(t, err)
	r := &recorded{Server: s, upstream: restful.NewContainer()}
	s.authz = r
	if s.handler, err = s.routes(); err != nil {
		t.Fatal(err)
	}
	r.upstream.Router(restful.CurlyRouter{}) // as upstream's API server has it
	s.table = &route.Table[restful.RouteFunction]{}
	for _, gv := range s.registry.Versions() {
		container := restful.NewContainer()
		_, _, err := s.version(gv, runtime.NewEquivalentResourceRegistry()).InstallREST(container)
		check(t, err)
		for _, ws := range container.RegisteredWebServices() {
			spoken := new(restful.WebService).Path(ws.RootPath()).Produces("*/*").Consumes("*/*")
			for _, one := range ws.Routes() {
				template := strings.TrimSuffix(one.Path, "/")
				say := func(_ *restful.Request, w *restful.Response) { fmt.Fprint(w, template) }
				of, err := s.table.Add(one.Method, one.Path, say)
				check(t, err)
				if !of {
					continue
				}
				r.routes = append(r.routes, one.Method+" "+template)
				b := spoken.Method(one.Method).Path(strings.TrimPrefix(one.Path, ws.RootPath()))
				spoken.Route(b.To(func(q *restful.Request, w *restful.Response) {
					_ = json.NewEncoder(w).Encode([]string{template, q.PathParameter("namespace"), q.PathParameter("name")})
				}))
			}
			r.upstream.Add(spoken)
		}
	}
	slices.Sort(r.routes)
	return r
}

// ask is what a request was allowed as, and the template of the route that served it; none if nothing did.
func (r *recorded) ask(method, target string, serve func(method, target string) (int, string)) (allowed meant, template string) {
	r.mu.Lock()
	r.allowed = meant{}
	r.mu.Unlock()
	code, body := serve(method, target)
	if code != http.StatusOK || !strings.HasPrefix(body, "/api") {
		return meant{}, ""
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.allowed, body
}

// inMemory serves a request without a connection, as somebody who may do everything.
func (r *recorded) inMemory(method, target string) (int, string) {
	q, err := http.NewRequest(method, "https://here/", http.NoBody)
	if err != nil {
		return http.StatusBadRequest, ""
	}
	if q.URL, err = url.ParseRequestURI(target); err != nil {
		return http.StatusBadRequest, ""
	}
	q.RequestURI = target
	w := httptest.NewRecorder()
	r.handler.ServeHTTP(w, q.WithContext(caller.WithSelf(q.Context(), &user.DefaultInfo{Name: "x"})))
	return w.Code, w.Body.String()
}

// of is what a method on a template with these names is about, read off its text.
func of(method, template, namespace, name string) meant {
	segments := strings.Split(strings.TrimPrefix(template, "/"), "/")
	m := meant{Version: segments[1]}
	rest := segments[2:]
	if segments[0] == "apis" {
		m.Group, m.Version, rest = segments[1], segments[2], segments[3:]
	}
	verbs := map[string]string{"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
	m.Verb = verbs[method]
	if rest[0] == "watch" {
		m.Verb, rest = "watch", rest[1:]
	}
	if len(rest) > 2 && rest[0] == "namespaces" && rest[1] == "{namespace}" {
		m.Namespace, rest = namespace, rest[2:]
	}
	m.Resource = rest[0]
	switch {
	case len(rest) > 1:
	case m.Verb == "get":
		m.Verb = "list"
	case m.Verb == "delete":
		m.Verb = "deletecollection"
	}
	if len(rest) > 1 {
		m.Name = name
		if m.Group == "" && m.Resource == "namespaces" {
			m.Namespace = name // upstream authorises a namespace in itself
		}
	}
	if len(rest) > 2 {
		m.Subresource = rest[2]
	}
	return m
}

// compare says how what is served differs from what was allowed, or from what upstream's router would have served.
func (r *recorded) compare(method, target string, serve func(method, target string) (int, string)) error {
	allowed, template := r.ask(method, target, serve)
	u, err := url.ParseRequestURI(target)
	if err != nil {
		if template != "" {
			return fmt.Errorf("%s %q is no request and was served as %s", method, target, template)
		}
		return nil
	}
	u.RawPath = ""
	q := &http.Request{Method: method, URL: u, Header: http.Header{}, Body: http.NoBody}
	w := httptest.NewRecorder()
	r.upstream.Dispatch(w, q)
	var want []string
	if w.Code == http.StatusOK {
		if err := json.Unmarshal(w.Body.Bytes(), &want); err != nil {
			return err
		}
	}
	if template == "" {
		if want == nil || !tidy(u.Path) || method == http.MethodHead {
			return nil
		}
		return fmt.Errorf("%s %q is %s to upstream's router, and was not served", method, target, want[0])
	}
	if want == nil {
		return fmt.Errorf("%s %q was served as %s, and upstream's router has nothing", method, target, template)
	}
	if want[0] != template {
		return fmt.Errorf("%s %q was served as %s, and is %s to upstream's router", method, target, template, want[0])
	}
	info, err := route.Info.NewRequestInfo(q)
	if err != nil {
		return err
	}
	served := of(method, template, want[1], want[2])
	if served.Verb == "list" && info.Verb == "watch" {
		served.Verb = "watch" // a list that is asked to go on
	}
	if served.Name == "" && !strings.Contains(template, "{name}") {
		served.Name = info.Name // a field selector may name the one that is listed
	}
	if served != allowed {
		return fmt.Errorf("%s %q was allowed as %+v and served as %+v", method, target, allowed, served)
	}
	return nil
}

// tidy tells whether a path is one that a client would write.
func tidy(path string) bool {
	for s := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		if s == "" || s == "." || s == ".." || strings.ContainsFunc(s, func(c rune) bool { return c < '!' || c > '~' || c == '%' }) {
			return false
		}
	}
	return !strings.HasPrefix(path, "//") && !strings.HasSuffix(path, "//")
}

// spellings are other ways to write a path, most of which mean something else.
func spellings(path string) []string {
	out := []string{path, path + "/", path + "//", "/" + path, path + "/..", path + "/.", path + "/%2e%2e", path + "/x/y/z", path + "%00", path + "/%c0%af", path + "?watch=1", path + "%3Fwatch=1"}
	for i := 1; i < len(path); i++ {
		if path[i] == '/' {
			for _, slash := range []string{"%2F", "%2f", "//", "/./", "/../", "%2F%2F", "/%2e/", "%2E%2E/", "%c0%af", "%00/", "%5c", "%252F"} {
				out = append(out, path[:i]+slash+path[i+1:])
			}
		}
	}
	return out
}

// instance is a path that a template stands for.
func instance(template string) string {
	return strings.NewReplacer("{namespace}", "foo", "{name}", "bar", "{path:*}", "a/b").Replace(template)
}

// TestOneMeaning: what serves a request is what the request was authorised for, for every route and every spelling of its
// path; most of them are for nothing.
func TestOneMeaning(t *testing.T) {
	r := newRecorded(t)
	if len(r.routes) < 700 {
		t.Fatalf("only %d routes", len(r.routes))
	}
	for _, one := range r.routes {
		method, template, _ := strings.Cut(one, " ")
		if _, served := r.ask(method, instance(template), r.inMemory); served != template {
			t.Errorf("%s was served as %q", one, served)
		}
		for _, target := range spellings(instance(template)) {
			if err := r.compare(method, target, r.inMemory); err != nil {
				t.Error(err)
			}
		}
		// A list that spells a way from one kind to another.
		for _, detour := range []string{"configmaps%2F%2F", "configmaps%2Fx%2F", "configmaps", "configmaps//", "configmaps/x/", "configmaps%2f"} {
			for _, target := range []string{strings.Replace(instance(template), "/foo/", "/foo%2F"+detour+"/", 1), strings.Replace(instance(template), "/bar", "/foo%2F"+detour, 1)} {
				if err := r.compare(method, target, r.inMemory); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

// TestOneMeaningOnTheWire: the same over both protocols, for one route of each shape.
func TestOneMeaningOnTheWire(t *testing.T) {
	r := newRecorded(t)
	// Who asks does not matter; the pipeline is the real one.
	as := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.handler.ServeHTTP(w, q.WithContext(caller.WithSelf(q.Context(), &user.DefaultInfo{Name: "x"})))
	})
	s := httptest.NewUnstartedServer(as)
	s.EnableHTTP2 = true
	s.StartTLS()
	defer s.Close()
	shapes := map[string]string{}
	for _, one := range r.routes {
		method, template, _ := strings.Cut(one, " ")
		m := of(method, template, "n", "x")
		shapes[fmt.Sprint(method, strings.Count(template, "/"), m.Namespace != "", m.Name != "", m.Subresource, strings.Contains(template, "watch"))] = one
	}
	for major, client := range map[int]*http.Client{2: s.Client(), 1: {Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}, TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}}}} {
		serve := func(method, target string) (int, string) {
			u, err := url.ParseRequestURI(target)
			if err != nil {
				return http.StatusBadRequest, ""
			}
			base, err := url.Parse(s.URL)
			check(t, err)
			u.Scheme, u.Host = base.Scheme, base.Host
			// Opaque keeps the spelling as it is.
			u.Opaque = "//" + base.Host + strings.SplitN(target, "?", 2)[0]
			resp, err := client.Do(&http.Request{Method: method, URL: u, Header: http.Header{}})
			if err != nil {
				return http.StatusBadRequest, ""
			}
			defer resp.Body.Close()
			if resp.ProtoMajor != major {
				t.Fatalf("HTTP/%d, want %d", resp.ProtoMajor, major)
			}
			return resp.StatusCode, readAll(t, resp.Body)
		}
		for _, one := range shapes {
			method, template, _ := strings.Cut(one, " ")
			for _, target := range spellings(instance(template)) {
				if err := r.compare(method, target, serve); err != nil {
					t.Errorf("HTTP/%d: %v", major, err)
				}
			}
		}
		client.CloseIdleConnections()
	}
}

// TestOneMeaningOfDefined: defined kinds have no routes; no spelling of their paths, relayed, impersonated or plain, reaches past
// what a tenant may.
func TestOneMeaningOfDefined(t *testing.T) {
	n := newNode(t, nil)
	ctx, c := context.Background(), n.typed()
	for _, scope := range []apiextensionsv1.ResourceScope{apiextensionsv1.NamespaceScoped, apiextensionsv1.ClusterScoped} {
		name := map[apiextensionsv1.ResourceScope]string{apiextensionsv1.NamespaceScoped: "thing", apiextensionsv1.ClusterScoped: "globe"}[scope]
		_, err := n.As("admin", "system:masters").Create(ctx, &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: name + "s.example.com"}, Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "example.com", Scope: scope, Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: name + "s", Singular: name, Kind: strings.ToUpper(name[:1]) + name[1:]},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{Name: "v1", Served: true, Storage: true,
				Subresources: &apiextensionsv1.CustomResourceSubresources{Status: &apiextensionsv1.CustomResourceSubresourceStatus{},
					Scale: &apiextensionsv1.CustomResourceSubresourceScale{SpecReplicasPath: ".spec.replicas", StatusReplicasPath: ".status.replicas"}},
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: new(true)}}}}}})
		check(t, err)
	}
	for _, ns := range []string{"foo", "other"} {
		_, err := c.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{})
		check(t, err)
	}
	for path, kind := range map[string]string{"namespaces/foo/things": "Thing", "namespaces/other/things": "Thing", "globes": "Globe"} {
		n.expect(http.StatusCreated, "POST", "/apis/example.com/v1/"+path, "", `{"apiVersion":"example.com/v1","kind":"`+kind+`","metadata":{"name":"bar"},"spec":{"replicas":1}}`)
	}
	// The tenant may do everything with ConfigMaps of foo, and read its things by name.
	_, err := c.RbacV1().Roles("foo").Create(ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "tenant"}, Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"*"}, APIGroups: []string{""}, Resources: []string{"configmaps"}},
		{Verbs: []string{"*"}, APIGroups: []string{"example.com"}, Resources: []string{"configmaps", "bar"}},
		{Verbs: []string{"get"}, APIGroups: []string{"example.com"}, Resources: []string{"things"}, ResourceNames: []string{"bar"}}}}, metav1.CreateOptions{})
	check(t, err)
	_, err = c.RbacV1().RoleBindings("foo").Create(ctx, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "tenant"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "tenant"},
		Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: "tenant"}}}, metav1.CreateOptions{})
	check(t, err)
	cert := n.ca.issue(t, "tenant")
	masters := &user.DefaultInfo{Name: "admin", Groups: []string{user.SystemPrivilegedGroup}}
	ask := map[string]func(*http.Request) *http.Request{
		"plain": func(r *http.Request) *http.Request {
			return r.WithContext(caller.WithSelf(r.Context(), &user.DefaultInfo{Name: "tenant", Groups: []string{user.AllAuthenticated}}))
		},
		"impersonated": func(r *http.Request) *http.Request {
			r.Header.Set("Impersonate-User", "tenant")
			return r.WithContext(caller.WithSelf(r.Context(), masters))
		},
		"relayed": func(r *http.Request) *http.Request {
			r.Header.Set(caller.HeaderCaller, caller.Client)
			r.Header.Set(caller.HeaderCertificate, base64.StdEncoding.EncodeToString(cert.Certificate[0]))
			return r.WithContext(caller.WithPeer(r.Context(), "n2"))
		},
	}
	for how, as := range ask {
		served := map[string]bool{}
		for _, path := range []string{"namespaces/foo/things", "namespaces/foo/things/bar", "namespaces/foo/things/bar/status", "namespaces/foo/things/bar/scale",
			"namespaces/other/things/bar", "globes", "globes/bar", "globes/bar/status", "watch/namespaces/foo/things/bar"} {
			for _, target := range append(spellings("/apis/example.com/v1/"+path), strings.Replace("/apis/example.com/v1/"+path, "/foo/", "/foo%2Fconfigmaps%2F%2F/", 1),
				strings.Replace("/apis/example.com/v1/"+path, "/foo/", "/foo%2Fbar/", 1)) {
				for _, method := range []string{"GET", "DELETE"} {
					u, err := url.ParseRequestURI(target)
					if err != nil || strings.Contains(target, "watch") {
						continue
					}
					r := httptest.NewRequest(method, "https://here/", nil)
					r.URL = u
					w := httptest.NewRecorder()
					n.handler.ServeHTTP(w, as(r))
					if w.Code < 300 {
						served[method+" "+strings.TrimSuffix(u.Path, "/")] = true
					}
				}
			}
		}
		want := map[string]bool{"GET /apis/example.com/v1/namespaces/foo/things/bar": true}
		if how == "relayed" {
			want = map[string]bool{} // no node asks this of another
		}
		if !maps.Equal(served, want) {
			t.Errorf("%s: served %v, want %v", how, served, want)
		}
	}
}

// FuzzOneMeaning looks for a path that is allowed as one thing and served as another, or is not what upstream's router
// takes it for.
func FuzzOneMeaning(f *testing.F) {
	r := newRecorded(f)
	for _, one := range r.routes {
		method, template, _ := strings.Cut(one, " ")
		f.Add(method, instance(template))
	}
	for _, target := range []string{"/api/v1/namespaces/foo%2Fconfigmaps%2F%2F/secrets", "/api/v1/namespaces/foo%2Fconfigmaps%2Fproduction", "/api/v1//pods", "/apis/apps/v1/watch/deployments?fieldSelector=metadata.name%3Dx"} {
		f.Add("GET", target)
		f.Add("DELETE", target)
	}
	f.Fuzz(func(t *testing.T, method, target string) {
		if method == "" {
			return // net/http makes a GET of it; no request on the wire is like that
		}
		if err := r.compare(method, target, r.inMemory); err != nil {
			t.Fatal(err)
		}
	})
}
