package httpapi

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"murmur/crdt"
	"murmur/httpapi/admit"
	"murmur/httpapi/audit"
	"murmur/httpapi/caller"
	"murmur/httpapi/custom"
	"murmur/httpapi/storage"
)

// Client writes as one user without leaving the process: the same authorisation, admission, defaulting and
// validation as over HTTP, and nothing encoded in between. Objects are typed ones of the kind's storage version
// (TypeMeta need not be set) and come back new, with TypeMeta. Errors are upstream's Status errors. Reads are what
// the store is for.
type Client struct {
	server *Server
	user   user.Info
	// own: what it writes goes past policies and webhooks.
	own bool
}

// As is the client of a user in groups; system:authenticated is added.
func (s *Server) As(name string, groups ...string) *Client {
	return &Client{server: s, user: &user.DefaultInfo{Name: name, Groups: append(groups[:len(groups):len(groups)], user.AllAuthenticated)}}
}

// Own is As for what a daemon writes for itself. Policies and webhooks are not asked: nothing that somebody has stored
// keeps an API from coming up, or a pod from getting its token.
func (s *Server) Own(name string, groups ...string) *Client {
	c := s.As(name, groups...)
	c.own = true
	return c
}

// System is the client of the API itself.
func (s *Server) System() *Client { return s.Own(user.APIServerUser, user.SystemPrivilegedGroup) }

// RoundTripper answers requests as the client's user, without a connection: for client-go's typed clients.
func (c *Client) RoundTripper() http.RoundTripper { return inProcess{c.server, c.user, c.own} }

// call is one write on its way through the pipeline.
type call struct {
	kind      *storage.Kind
	path      string // "pods", "pods/status"
	sub       string
	namespace string
	name      string
	user      user.Info
	own       bool
}

func (c *Client) call(obj runtime.Object, sub string) (*call, runtime.Object, error) {
	gvks, _, err := legacyscheme.Scheme.ObjectKinds(obj)
	if err != nil {
		return nil, nil, err
	}
	for k := range c.server.registry.Kinds() {
		if k.Decode == nil || k.GVK.GroupVersion() != gvks[0].GroupVersion() || k.GVK.Kind != gvks[0].Kind {
			continue
		}
		m, err := meta.Accessor(obj)
		if err != nil {
			return nil, nil, err
		}
		// Neither the caller's object nor what a snapshot shares is ever changed.
		versioned := obj.DeepCopyObject()
		legacyscheme.Scheme.Default(versioned)
		internal, err := legacyscheme.Scheme.ConvertToVersion(versioned, runtime.InternalGroupVersioner)
		if err != nil {
			return nil, nil, err
		}
		namespace := m.GetNamespace()
		if k.Resource == (schema.GroupResource{Resource: "namespaces"}) {
			namespace = m.GetName()
		}
		return c.at(k, sub, namespace, m.GetName()), internal, nil
	}
	return nil, nil, fmt.Errorf("%s is not a stored kind of this API", gvks[0])
}

func (c *Client) at(k *storage.Kind, sub, namespace, name string) *call {
	path := k.Resource.Resource
	if sub != "" {
		path += "/" + sub
	}
	return &call{kind: k, path: path, sub: sub, namespace: namespace, name: name, user: c.user, own: c.own}
}

func (s *Server) serving(k *call) rest.Storage { return s.registry.Storage(k.kind, k.path) }

// allow prepares the context as the HTTP pipeline does, and asks whether the user may.
func (s *Server) allow(ctx context.Context, k *call, verb string) (context.Context, error) {
	ctx = request.WithUser(request.WithNamespace(caller.WithSelf(ctx, k.user), k.namespace), k.user)
	if k.own {
		ctx = admit.Own(ctx)
	}
	ctx = request.WithRequestInfo(ctx, &request.RequestInfo{
		IsResourceRequest: true, Verb: verb, APIPrefix: "apis", APIGroup: k.kind.Version.Group, APIVersion: k.kind.Version.Version,
		Namespace: k.namespace, Resource: k.kind.Resource.Resource, Subresource: k.sub, Name: k.name,
	})
	attrs := authorizer.AttributesRecord{
		User: k.user, Verb: verb, Namespace: k.namespace, APIGroup: k.kind.Version.Group, APIVersion: k.kind.Version.Version,
		Resource: k.kind.Resource.Resource, Subresource: k.sub, Name: k.name, ResourceRequest: true,
	}
	decision, reason, err := s.authz.Authorize(ctx, attrs)
	if decision == authorizer.DecisionAllow {
		return ctx, nil
	}
	if err != nil {
		reason = err.Error()
	}
	return nil, responsewriters.ForbiddenStatusError(attrs, reason)
}

// attributes are what admission sees of a call: the kind is that of what is written, which for a subresource may be
// another than the resource's.
func (s *Server) attributes(k *call, obj, old runtime.Object, op admission.Operation, opts runtime.Object) admission.Attributes {
	gvk := k.kind.GVK
	if k.sub != "" {
		// The installer has found the kinds of all subresources, or the server would not have started.
		if of, err := endpoints.GetResourceKind(k.kind.Version, s.serving(k), legacyscheme.Scheme); err == nil {
			gvk = of
		}
	}
	return admission.NewAttributesRecord(obj, old, gvk, k.namespace, k.name,
		k.kind.Version.WithResource(k.kind.Resource.Resource), k.sub, op, opts, false, k.user)
}

var objectInterfaces = admission.NewObjectInterfacesFromScheme(legacyscheme.Scheme)

func (s *Server) mutate(ctx context.Context, a admission.Attributes) error {
	if m, ok := s.admit.(admission.MutationInterface); ok && m.Handles(a.GetOperation()) {
		return m.Admit(ctx, a, objectInterfaces)
	}
	return nil
}

// external gives the typed object of the storage version.
func (k *call) external(internal runtime.Object) (runtime.Object, error) {
	return legacyscheme.Scheme.ConvertToVersion(internal, k.kind.Version)
}

// Cover creates a pod that stands in for one out of sight. Webhooks that cannot be called are not waited for: the pod
// out of sight may be what answers them.
func (c *Client) Cover(ctx context.Context, pod *corev1.Pod) (runtime.Object, error) {
	return c.Create(admit.Cover(ctx), pod)
}

// Create makes an object. With a generateName and no name it gets one.
func (c *Client) Create(ctx context.Context, obj runtime.Object) (made runtime.Object, err error) {
	k, internal, err := c.call(obj, "")
	if err != nil {
		return nil, err
	}
	ctx, end := c.server.begin(ctx, k, "create", "")
	defer func() { end(made, err) }()
	ctx, err = c.server.allow(ctx, k, "create")
	if err != nil {
		return nil, err
	}
	creater, ok := c.server.serving(k).(rest.Creater)
	if !ok {
		return nil, apierrors.NewMethodNotSupported(k.kind.Resource, "create")
	}
	m, err := meta.Accessor(internal)
	if err != nil {
		return nil, err
	}
	rest.WipeObjectMetaSystemFields(m)
	opts := &metav1.CreateOptions{FieldManager: c.user.GetName()}
	live, err := legacyscheme.Scheme.New(k.kind.GVK)
	if err != nil {
		return nil, err
	}
	if internal, err = c.server.manage(k, live, internal); err != nil {
		return nil, err
	}
	a := c.server.attributes(k, internal, nil, admission.Create, opts)
	if err := c.server.mutate(ctx, a); err != nil {
		return nil, err
	}
	c.server.asked(ctx, k, internal)
	out, err := creater.Create(ctx, internal, rest.AdmissionToValidateObjectFunc(c.server.admit, a, objectInterfaces), opts)
	if err != nil {
		return nil, err
	}
	return k.external(out)
}

// Update replaces an object. A resourceVersion in it must be the current one; without one the last writer wins.
func (c *Client) Update(ctx context.Context, obj runtime.Object) (runtime.Object, error) {
	return c.update(ctx, obj, "")
}

// UpdateStatus replaces an object's status and leaves the rest.
func (c *Client) UpdateStatus(ctx context.Context, obj runtime.Object) (runtime.Object, error) {
	return c.update(ctx, obj, "status")
}

// Approve replaces the conditions of a certificate signing request that say whether it is approved.
func (c *Client) Approve(ctx context.Context, request *certificatesv1.CertificateSigningRequest) (runtime.Object, error) {
	return c.update(ctx, request, "approval")
}

// Finalize replaces a namespace's spec.finalizers; without any, a terminating namespace goes.
func (c *Client) Finalize(ctx context.Context, namespace *corev1.Namespace) (*corev1.Namespace, error) {
	obj, err := c.update(ctx, namespace, "finalize")
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Namespace), nil
}

// Token issues a token of a ServiceAccount. A node must bind it to a pod of its own.
func (c *Client) Token(ctx context.Context, namespace, account string, want *authenticationv1.TokenRequest) (made *authenticationv1.TokenRequest, err error) {
	k := c.at(c.server.registry.Kind(corev1.Resource("serviceaccounts")), "token", namespace, account)
	ctx, end := c.server.begin(ctx, k, "create", "")
	defer func() { end(nil, err) }()
	ctx, err = c.server.allow(ctx, k, "create")
	if err != nil {
		return nil, err
	}
	creater, ok := c.server.serving(k).(rest.NamedCreater)
	if !ok {
		return nil, apierrors.NewServiceUnavailable("this cluster issues no tokens")
	}
	request := want.DeepCopy()
	legacyscheme.Scheme.Default(request)
	internal, err := legacyscheme.Scheme.ConvertToVersion(request, runtime.InternalGroupVersioner)
	if err != nil {
		return nil, err
	}
	opts := &metav1.CreateOptions{}
	a := c.server.attributes(k, internal, nil, admission.Create, opts)
	if err := c.server.mutate(ctx, a); err != nil {
		return nil, err
	}
	obj, err := creater.Create(ctx, account, internal, rest.AdmissionToValidateObjectFunc(c.server.admit, a, objectInterfaces), opts)
	if err != nil {
		return nil, err
	}
	out := &authenticationv1.TokenRequest{}
	return out, legacyscheme.Scheme.Convert(obj, out, nil)
}

func (c *Client) update(ctx context.Context, obj runtime.Object, sub string) (made runtime.Object, err error) {
	k, internal, err := c.call(obj, sub)
	if err != nil {
		return nil, err
	}
	ctx, end := c.server.begin(ctx, k, "update", "")
	defer func() { end(made, err) }()
	ctx, err = c.server.allow(ctx, k, "update")
	if err != nil {
		return nil, err
	}
	updater, ok := c.server.serving(k).(rest.Updater)
	if !ok {
		return nil, apierrors.NewMethodNotSupported(k.kind.Resource, "update")
	}
	c.server.asked(ctx, k, internal)
	opts := &metav1.UpdateOptions{FieldManager: c.user.GetName()}
	info := rest.DefaultUpdatedObjectInfo(internal,
		func(_ context.Context, now, old runtime.Object) (runtime.Object, error) {
			return c.server.manage(k, old, now)
		},
		func(ctx context.Context, now, old runtime.Object) (runtime.Object, error) {
			return now, c.server.mutate(ctx, c.server.attributes(k, now, old, admission.Update, opts))
		})
	out, _, err := updater.Update(ctx, k.name, info,
		rest.AdmissionToValidateObjectFunc(c.server.admit, c.server.attributes(k, nil, nil, admission.Create, opts), objectInterfaces),
		rest.AdmissionToValidateObjectUpdateFunc(c.server.admit, c.server.attributes(k, nil, nil, admission.Update, opts), objectInterfaces),
		false, opts)
	if err != nil {
		return nil, err
	}
	return k.external(out)
}

// Delete deletes an object, or marks it if it has finalizers or time to end in. NotFound if there is none.
func (c *Client) Delete(ctx context.Context, key crdt.Key, opts metav1.DeleteOptions) (err error) {
	row := c.server.kind(resourceOf(key))
	if row == nil || row.Decode == nil {
		return fmt.Errorf("%s is not a stored kind of this API", key.Resource)
	}
	namespace := key.Namespace
	if row.Resource == (schema.GroupResource{Resource: "namespaces"}) {
		namespace = key.Name
	}
	k := c.at(row, "", namespace, key.Name)
	var uid types.UID
	if opts.Preconditions != nil && opts.Preconditions.UID != nil {
		uid = *opts.Preconditions.UID
	}
	ctx, end := c.server.begin(ctx, k, "delete", uid)
	defer func() { end(nil, err) }()
	ctx, err = c.server.allow(ctx, k, "delete")
	if err != nil {
		return err
	}
	deleter, ok := c.server.serving(k).(rest.GracefulDeleter)
	if crd := custom.Definition(c.server.cfg.Store.Snapshot(), row.Resource); crd != nil {
		if !custom.Established(crd) {
			return c.server.customs.Discard(ctx, key)
		}
		if deleter, err = c.server.customs.Deleter(crd); err != nil {
			return err
		}
		ok = true
	}
	if !ok {
		return apierrors.NewMethodNotSupported(row.Resource, "delete")
	}
	a := c.server.attributes(k, nil, nil, admission.Delete, &opts)
	if err := c.server.mutate(ctx, a); err != nil {
		return err
	}
	_, _, err = deleter.Delete(ctx, key.Name, rest.AdmissionToValidateObjectDeleteFunc(c.server.admit, a, objectInterfaces), &opts)
	return err
}

// resourceOf is the resource in a key.
func resourceOf(k crdt.Key) schema.GroupResource {
	group, resource, ok := strings.Cut(k.Resource, "/")
	if !ok {
		return schema.GroupResource{Resource: k.Resource}
	}
	return schema.GroupResource{Group: group, Resource: resource}
}

// managers are the field managers of kinds and subresources that were written in-process, made when first used.
type managers struct {
	mu sync.Mutex
	of map[string]*managedfields.FieldManager
}

// manage writes into an object who owns which of its fields after this write.
func (s *Server) manage(k *call, old, now runtime.Object) (runtime.Object, error) {
	s.managers.mu.Lock()
	id := k.kind.Key() + "/" + k.sub
	m := s.managers.of[id]
	if m == nil {
		var err error
		if m, err = s.newManager(k); err != nil {
			s.managers.mu.Unlock()
			return nil, fmt.Errorf("field manager of %s: %w", id, err)
		}
		s.managers.of[id] = m
	}
	s.managers.mu.Unlock()
	return m.UpdateNoErrors(old, now, k.user.GetName()), nil
}

func (s *Server) newManager(k *call) (*managedfields.FieldManager, error) {
	var resets map[fieldpath.APIVersion]fieldpath.Filter
	if strategy, ok := s.serving(k).(rest.ResetFieldsStrategy); ok {
		resets = fieldpath.NewExcludeFilterSetMap(strategy.GetResetFields())
	}
	return managedfields.NewDefaultFieldManager(s.converter, runtime.UnsafeObjectConvertor(legacyscheme.Scheme), legacyscheme.Scheme,
		legacyscheme.Scheme, k.kind.GVK, schema.GroupVersion{Group: k.kind.Version.Group, Version: runtime.APIVersionInternal}, k.sub, resets)
}

// inProcess is a transport into this process's own pipeline, as one user.
type inProcess struct {
	server *Server
	user   user.Info
	own    bool
}

func (t inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	// What a request leads to is another request: nothing of who asked the first, or how, counts for it.
	ctx := storage.WithRequest(caller.WithSelf(r.Context(), t.user), storage.Request{})
	if ctx = admit.Common(ctx); t.own {
		ctx = admit.Own(ctx)
	}
	in := r.Clone(audit.Apart(ctx))
	in.RequestURI, in.RemoteAddr, in.Host = r.URL.RequestURI(), "127.0.0.1:0", r.URL.Host
	if in.Body == nil {
		in.Body = http.NoBody
	}
	body, w := io.Pipe()
	rw := &pipeWriter{header: http.Header{}, body: w, begun: make(chan struct{})}
	go func() {
		defer func() {
			if p := recover(); p != nil {
				w.CloseWithError(fmt.Errorf("request aborted: %v", p))
			}
			rw.WriteHeader(http.StatusOK)
			w.Close()
		}()
		t.server.handler.ServeHTTP(rw, in)
	}()
	select {
	case <-rw.begun:
	case <-ctx.Done():
		body.CloseWithError(ctx.Err())
		return nil, ctx.Err()
	}
	return &http.Response{
		Status: http.StatusText(rw.code), StatusCode: rw.code, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: rw.sent, Body: body, ContentLength: -1, Request: r,
	}, nil
}

// pipeWriter is a ResponseWriter whose body is read while it is written.
type pipeWriter struct {
	header, sent http.Header
	body         *io.PipeWriter
	code         int
	once         sync.Once
	begun        chan struct{}
}

func (w *pipeWriter) Header() http.Header { return w.header }
func (w *pipeWriter) Flush()              { w.WriteHeader(http.StatusOK) }

// CloseNotify is what upstream's watch handler asks of a writer; the request's context says more.
func (w *pipeWriter) CloseNotify() <-chan bool { return nil }
func (w *pipeWriter) WriteHeader(code int) {
	w.once.Do(func() {
		w.code, w.sent = code, w.header.Clone()
		close(w.begun)
	})
}
func (w *pipeWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(p)
}
