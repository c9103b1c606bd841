package custom

import (
	"context"
	"errors"
	"net/http"
	"slices"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/registry/customresource/tableconvertor"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/endpoints/handlers"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/client-go/scale"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"murmur/httpapi/route"
)

// ScaleKind is the kind of all scales.
var ScaleKind = autoscalingv1.SchemeGroupVersion.WithKind("Scale")

var ageColumn = apiextensionsv1.CustomResourceColumnDefinition{
	Name: "Age", Type: "date", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"], JSONPath: ".metadata.creationTimestamp",
}

// scopes are what upstream's request handlers need to know of a version and its subresources.
func (cs *Kinds) scopes(c *served, name string, cv *version, equivalents runtime.EquivalentResourceMapper,
	statusResets map[fieldpath.APIVersion]*fieldpath.Set) error {
	crd := c.definition
	gv := schema.GroupVersion{Group: crd.Spec.Group, Version: name}
	params := parameters(gv)
	typer := newTyper(params)
	negotiated := newNegotiation(c, typer)
	cv.resource = &handlers.RequestScope{
		Namer:      handlers.ContextBasedNaming{Namer: meta.NewAccessor(), ClusterScoped: !c.kind.Namespaced},
		Serializer: negotiated, StandardSerializers: negotiated.standard(),
		ParameterCodec: runtime.NewParameterCodec(params),
		Creater:        unstructuredCreater{}, Convertor: c.convert, UnsafeConvertor: c.convertOwn, Typer: typer,
		Defaulter:                defaulter{params, c},
		EquivalentResourceMapper: equivalents,
		Resource:                 gv.WithResource(crd.Status.AcceptedNames.Plural),
		Kind:                     gv.WithKind(crd.Status.AcceptedNames.Kind),
		HubGroupVersion:          gv, // in memory an object is of the version that is asked for
		MetaGroupVersion:         metav1.SchemeGroupVersion,
		TableConvertor:           cv.storage.CustomResource,
		Authorizer:               cs.cfg.Authorizer,
		MaxRequestBodyBytes:      cs.cfg.MaxBody,
	}
	if err := manageFields(c, cv.resource, cv.storage.CustomResource.GetResetFields()); err != nil {
		return err
	}
	if cv.storage.Status != nil {
		status := *cv.resource
		status.Subresource = "status"
		if err := manageFields(c, &status, statusResets); err != nil {
			return err
		}
		cv.status = &status
	}
	if cv.storage.Scale != nil {
		sub, err := apihelpers.GetSubresourcesForVersion(crd, name)
		if err != nil {
			return err
		}
		sc := *cv.resource
		sc.Subresource, sc.Kind = "scale", ScaleKind
		sc.Serializer = serializer.NewCodecFactory(scale.NewScaleConverter().Scheme())
		sc.StandardSerializers = nil
		if sc.TableConvertor, err = tableconvertor.New(scaleColumns(sub.Scale)); err != nil {
			return err
		}
		if err := manageFields(c, &sc, nil); err != nil {
			return err
		}
		cv.scale = &sc
	}
	return nil
}

func scaleColumns(s *apiextensionsv1.CustomResourceSubresourceScale) []apiextensionsv1.CustomResourceColumnDefinition {
	var out []apiextensionsv1.CustomResourceColumnDefinition
	if s.SpecReplicasPath != "" {
		out = append(out, apiextensionsv1.CustomResourceColumnDefinition{Name: "Desired", Type: "integer", Description: "Number of desired replicas", JSONPath: ".spec.replicas"})
	}
	if s.StatusReplicasPath != "" {
		out = append(out, apiextensionsv1.CustomResourceColumnDefinition{Name: "Available", Type: "integer", Description: "Number of actual replicas", JSONPath: ".status.replicas"})
	}
	return append(out, ageColumn)
}

func manageFields(c *served, scope *handlers.RequestScope, resets map[fieldpath.APIVersion]*fieldpath.Set) error {
	var err error
	scope.FieldManager, err = managedfields.NewDefaultCRDFieldManager(c.types, scope.Convertor, scope.Defaulter, scope.Creater,
		scope.Kind, scope.HubGroupVersion, scope.Subresource, fieldpath.NewExcludeFilterSetMap(resets))
	return err
}

// patchTypes are the patches that a kind without Go types can be asked for.
var patchTypes = []string{string(types.JSONPatchType), string(types.MergePatchType), string(types.ApplyYAMLPatchType)}

// Serve answers a request for a resource that is not in the table, if it is defined.
func (cs *Kinds) Serve(w http.ResponseWriter, r *http.Request, info *request.RequestInfo, at route.Address) error {
	crd := Definition(cs.cfg.Store.Snapshot(), schema.GroupResource{Group: at.Group, Resource: at.Resource})
	if crd == nil || !Established(crd) || !apihelpers.HasServedCRDVersion(crd, at.Version) || !scoped(crd, at) {
		return route.NotFound()
	}
	c, err := cs.get(crd)
	if err != nil {
		cs.cfg.Log.Error("custom resource", "err", err)
		return apierrors.NewInternalError(err)
	}
	v := c.versions[info.APIVersion]
	if v.warning != "" {
		warning.AddWarning(r.Context(), "", v.warning)
	}
	var h http.HandlerFunc
	if info.Verb == "watch" || at.Named != slices.Contains(unnamed, info.Verb) {
		h = cs.handler(v, info, crd)
	}
	if h == nil {
		err := apierrors.NewMethodNotSupported(c.kind.Resource, info.Verb)
		if info.Subresource != "" && v.status == nil && info.Subresource == "status" || info.Subresource != "" && v.scale == nil && info.Subresource == "scale" ||
			!slices.Contains([]string{"", "status", "scale"}, info.Subresource) {
			err = apierrors.NewNotFound(c.kind.Resource, info.Name)
		}
		return err
	}
	h(w, r)
	return nil
}

// part is upstream's handler of a part of an object, which is read and changed; nil if that is not what is asked.
func part(s rest.Patcher, scope *handlers.RequestScope, verb string, admit admission.Interface) http.HandlerFunc {
	switch verb {
	case "get":
		return handlers.GetResource(s, scope)
	case "update":
		return handlers.UpdateResource(s, scope, admit)
	case "patch":
		return handlers.PatchResource(s, scope, admit, patchTypes)
	}
	return nil
}

// handler is upstream's handler of a request; nil if there is none for it.
func (cs *Kinds) handler(v *version, info *request.RequestInfo, crd *apiextensionsv1.CustomResourceDefinition) http.HandlerFunc {
	admit := cs.cfg.Admission
	creating := admit
	if Terminating(crd) {
		creating = noCreation{admit}
	}
	switch {
	case info.Subresource == "status" && v.status != nil:
		return part(v.storage.Status, v.status, info.Verb, admit)
	case info.Subresource == "scale" && v.scale != nil:
		return part(v.storage.Scale, v.scale, info.Verb, admit)
	case info.Subresource == "":
		s := v.storage.CustomResource
		switch info.Verb {
		case "get":
			return handlers.GetResource(s, v.resource)
		case "list", "watch":
			return handlers.ListResource(s, s, v.resource, info.Verb == "watch", cs.cfg.MinWatch)
		case "create":
			return handlers.CreateResource(s, v.resource, creating)
		case "update":
			return handlers.UpdateResource(s, v.resource, admit)
		case "patch":
			return handlers.PatchResource(s, v.resource, creating, patchTypes)
		case "delete":
			return handlers.DeleteResource(s, true, v.resource, admit)
		case "deletecollection":
			return handlers.DeleteCollection(s, true, v.resource, admit)
		}
	}
	return nil
}

// unnamed are the verbs that are for no single object.
var unnamed = []string{"create", "list", "deletecollection"}

// scoped tells whether a request names a namespace if, and only if, the kind has one, and an object if the verb is for
// one; lists may be of all namespaces.
func scoped(crd *apiextensionsv1.CustomResourceDefinition, at route.Address) bool {
	switch {
	case at.Tail, at.Verb == "proxy":
		return false
	case crd.Spec.Scope != apiextensionsv1.NamespaceScoped:
		return !at.Namespaced
	}
	return at.Namespaced || !at.Named
}

// noCreation is admission while a kind is being taken away.
type noCreation struct{ admission.Interface }

func (n noCreation) Handles(op admission.Operation) bool {
	return op == admission.Create || n.Interface.Handles(op)
}

func (n noCreation) Admit(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	if err := n.refused(a); err != nil {
		return err
	}
	if m, ok := n.Interface.(admission.MutationInterface); ok {
		return m.Admit(ctx, a, o)
	}
	return nil
}

func (n noCreation) Validate(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	if err := n.refused(a); err != nil {
		return err
	}
	if v, ok := n.Interface.(admission.ValidationInterface); ok {
		return v.Validate(ctx, a, o)
	}
	return nil
}

func (noCreation) refused(a admission.Attributes) error {
	if a.GetOperation() != admission.Create {
		return nil
	}
	return apierrors.NewForbidden(a.GetResource().GroupResource(), a.GetName(), errors.New("create not allowed while custom resource definition is terminating"))
}
