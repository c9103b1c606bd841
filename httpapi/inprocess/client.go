package inprocess

import (
	"context"
	"fmt"
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
	"murmur/crdt/store"
	"murmur/httpapi/admit"
	"murmur/httpapi/audit"
	"murmur/httpapi/caller"
	"murmur/httpapi/custom"
	"murmur/httpapi/registry"
	"murmur/httpapi/storage"
)

// Config is what clients in this process write through.
type Config struct {
	Store *store.Store
	// Registry serves the kinds that are built in, Custom those that are defined, and Kind finds either.
	Registry *registry.Registry
	Custom   *custom.Kinds
	Kind     func(schema.GroupResource) *storage.Kind

	Authorizer authorizer.Authorizer
	Admission  admission.Interface
	// FieldTypes are the schemas by which the ownership of fields is kept.
	FieldTypes managedfields.TypeConverter
	// Handler is the whole pipeline.
	Handler http.Handler
	// Audit records. May be nil.
	Audit *audit.Recorder
	// MaxBody is the largest answer that is read.
	MaxBody int64
}

// API makes clients. They can be made before it serves, and not be used.
type API struct {
	cfg      Config
	managers managers
}

// Serve has clients write through what it is given. It is called once, before any client is used.
func (a *API) Serve(cfg Config) { a.cfg = cfg }

// Client writes as one user without leaving the process: the same authorisation, admission, defaulting and
// validation as over HTTP, and nothing encoded in between. Objects are typed ones of the kind's storage version
// (TypeMeta need not be set) and come back new, with TypeMeta. Errors are upstream's Status errors. Reads are what
// the store is for.
type Client struct {
	api  *API
	user user.Info
	// own: what it writes goes past policies and webhooks.
	own bool
}

// As is the client of a user in groups; system:authenticated is added.
func (a *API) As(name string, groups ...string) *Client {
	return &Client{api: a, user: &user.DefaultInfo{Name: name, Groups: append(groups[:len(groups):len(groups)], user.AllAuthenticated)}}
}

// Own is As for what a daemon writes for itself. Policies and webhooks are not asked: nothing that somebody has stored
// keeps an API from coming up, or a pod from getting its token.
func (a *API) Own(name string, groups ...string) *Client {
	c := a.As(name, groups...)
	c.own = true
	return c
}

// System is the client of the API itself.
func (a *API) System() *Client { return a.Own(user.APIServerUser, user.SystemPrivilegedGroup) }

// RoundTripper answers requests as the client's user, without a connection: for client-go's typed clients.
func (c *Client) RoundTripper() http.RoundTripper { return transport{c.api, c.user, c.own} }

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
	for k := range c.api.cfg.Registry.Kinds() {
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

func (a *API) serving(k *call) rest.Storage { return a.cfg.Registry.Storage(k.kind, k.path) }

// allow prepares the context as the HTTP pipeline does, and asks whether the user may.
func (a *API) allow(ctx context.Context, k *call, verb string) (context.Context, error) {
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
	decision, reason, err := a.cfg.Authorizer.Authorize(ctx, attrs)
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
func (a *API) attributes(k *call, obj, old runtime.Object, op admission.Operation, opts runtime.Object) admission.Attributes {
	gvk := k.kind.GVK
	if k.sub != "" {
		// The installer has found the kinds of all subresources, or the server would not have started.
		if of, err := endpoints.GetResourceKind(k.kind.Version, a.serving(k), legacyscheme.Scheme); err == nil {
			gvk = of
		}
	}
	return admission.NewAttributesRecord(obj, old, gvk, k.namespace, k.name,
		k.kind.Version.WithResource(k.kind.Resource.Resource), k.sub, op, opts, false, k.user)
}

var objectInterfaces = admission.NewObjectInterfacesFromScheme(legacyscheme.Scheme)

func (a *API) mutate(ctx context.Context, of admission.Attributes) error {
	if m, ok := a.cfg.Admission.(admission.MutationInterface); ok && m.Handles(of.GetOperation()) {
		return m.Admit(ctx, of, objectInterfaces)
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
	ctx, end := c.api.begin(ctx, k, "create", "")
	defer ended(end, &made, &err)
	ctx, err = c.api.allow(ctx, k, "create")
	if err != nil {
		return nil, err
	}
	creater, ok := c.api.serving(k).(rest.Creater)
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
	if internal, err = c.api.manage(k, live, internal); err != nil {
		return nil, err
	}
	a := c.api.attributes(k, internal, nil, admission.Create, opts)
	if err := c.api.mutate(ctx, a); err != nil {
		return nil, err
	}
	c.api.asked(ctx, k, internal)
	out, err := creater.Create(ctx, internal, rest.AdmissionToValidateObjectFunc(c.api.cfg.Admission, a, objectInterfaces), opts)
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
	k := c.at(c.api.cfg.Registry.Kind(corev1.Resource("serviceaccounts")), "token", namespace, account)
	ctx, end := c.api.begin(ctx, k, "create", "")
	defer ended(end, nil, &err)
	ctx, err = c.api.allow(ctx, k, "create")
	if err != nil {
		return nil, err
	}
	creater, ok := c.api.serving(k).(rest.NamedCreater)
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
	a := c.api.attributes(k, internal, nil, admission.Create, opts)
	if err := c.api.mutate(ctx, a); err != nil {
		return nil, err
	}
	obj, err := creater.Create(ctx, account, internal, rest.AdmissionToValidateObjectFunc(c.api.cfg.Admission, a, objectInterfaces), opts)
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
	ctx, end := c.api.begin(ctx, k, "update", "")
	defer ended(end, &made, &err)
	ctx, err = c.api.allow(ctx, k, "update")
	if err != nil {
		return nil, err
	}
	updater, ok := c.api.serving(k).(rest.Updater)
	if !ok {
		return nil, apierrors.NewMethodNotSupported(k.kind.Resource, "update")
	}
	c.api.asked(ctx, k, internal)
	opts := &metav1.UpdateOptions{FieldManager: c.user.GetName()}
	info := rest.DefaultUpdatedObjectInfo(internal,
		func(_ context.Context, now, old runtime.Object) (runtime.Object, error) {
			return c.api.manage(k, old, now)
		},
		func(ctx context.Context, now, old runtime.Object) (runtime.Object, error) {
			return now, c.api.mutate(ctx, c.api.attributes(k, now, old, admission.Update, opts))
		})
	out, _, err := updater.Update(ctx, k.name, info,
		rest.AdmissionToValidateObjectFunc(c.api.cfg.Admission, c.api.attributes(k, nil, nil, admission.Create, opts), objectInterfaces),
		rest.AdmissionToValidateObjectUpdateFunc(c.api.cfg.Admission, c.api.attributes(k, nil, nil, admission.Update, opts), objectInterfaces),
		false, opts)
	if err != nil {
		return nil, err
	}
	return k.external(out)
}

// Delete deletes an object, or marks it if it has finalizers or time to end in. NotFound if there is none.
func (c *Client) Delete(ctx context.Context, key crdt.Key, opts metav1.DeleteOptions) (err error) {
	row := c.api.cfg.Kind(resourceOf(key))
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
	ctx, end := c.api.begin(ctx, k, "delete", uid)
	defer ended(end, nil, &err)
	ctx, err = c.api.allow(ctx, k, "delete")
	if err != nil {
		return err
	}
	deleter, ok := c.api.serving(k).(rest.GracefulDeleter)
	if crd := custom.Definition(c.api.cfg.Store.Snapshot(), row.Resource); crd != nil {
		if !custom.Established(crd) {
			return c.api.cfg.Custom.Discard(ctx, key)
		}
		if deleter, err = c.api.cfg.Custom.Deleter(crd); err != nil {
			return err
		}
		ok = true
	}
	if !ok {
		return apierrors.NewMethodNotSupported(row.Resource, "delete")
	}
	a := c.api.attributes(k, nil, nil, admission.Delete, &opts)
	if err := c.api.mutate(ctx, a); err != nil {
		return err
	}
	_, _, err = deleter.Delete(ctx, key.Name, rest.AdmissionToValidateObjectDeleteFunc(c.api.cfg.Admission, a, objectInterfaces), &opts)
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
func (a *API) manage(k *call, old, now runtime.Object) (runtime.Object, error) {
	a.managers.mu.Lock()
	if a.managers.of == nil {
		a.managers.of = map[string]*managedfields.FieldManager{}
	}
	id := k.kind.Key() + "/" + k.sub
	m := a.managers.of[id]
	if m == nil {
		var err error
		if m, err = a.newManager(k); err != nil {
			a.managers.mu.Unlock()
			return nil, fmt.Errorf("field manager of %s: %w", id, err)
		}
		a.managers.of[id] = m
	}
	a.managers.mu.Unlock()
	return m.UpdateNoErrors(old, now, k.user.GetName()), nil
}

func (a *API) newManager(k *call) (*managedfields.FieldManager, error) {
	var resets map[fieldpath.APIVersion]fieldpath.Filter
	if strategy, ok := a.serving(k).(rest.ResetFieldsStrategy); ok {
		resets = fieldpath.NewExcludeFilterSetMap(strategy.GetResetFields())
	}
	return managedfields.NewDefaultFieldManager(a.cfg.FieldTypes, runtime.UnsafeObjectConvertor(legacyscheme.Scheme), legacyscheme.Scheme,
		legacyscheme.Scheme, k.kind.GVK, schema.GroupVersion{Group: k.kind.Version.Group, Version: runtime.APIVersionInternal}, k.sub, resets)
}
