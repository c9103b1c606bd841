package custom

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/conversion"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apiextensions-apiserver/pkg/controller/openapi/builder"
	"k8s.io/apiextensions-apiserver/pkg/registry/customresource"
	"k8s.io/apiextensions-apiserver/pkg/registry/customresource/tableconvertor"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	kubeversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/handlers"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/kube-openapi/pkg/spec3"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	smd "sigs.k8s.io/structured-merge-diff/v6/typed"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/httpapi/admit"
	"murmur/httpapi/storage"
)

// Config is what defined kinds take.
type Config struct {
	Store *store.Store
	// Backend is where their objects are.
	Backend *storage.Backend
	// Node is this node's name.
	Node string
	// Webhooks finds those that convert between versions, and WebhookClients says how they are called.
	Webhooks       webhook.ServiceResolver
	WebhookClients webhook.AuthenticationInfoResolverWrapper

	Authorizer authorizer.Authorizer
	Admission  admission.Interface
	// MinWatch is the least time a watch without timeoutSeconds lives, MaxBody the largest request body.
	MinWatch time.Duration
	MaxBody  int64

	// API writes definitions as the API itself.
	API interface {
		Update(ctx context.Context, obj runtime.Object) (runtime.Object, error)
		UpdateStatus(ctx context.Context, obj runtime.Object) (runtime.Object, error)
	}
	// Record is told of each object that is deleted because its definition is, and what it returns of the outcome.
	Record func(ctx context.Context, k *storage.Kind, e *store.Entry) (context.Context, func(error))
	Log    *slog.Logger
}

// Kinds are the kinds that CustomResourceDefinitions define.
type Kinds struct {
	cfg         Config
	conversions *conversion.CRConverterFactory

	mu sync.Mutex
	// made is by the definition's name.
	made map[string]*making
}

// making is a defined kind that is made once, for one state of its definition.
type making struct {
	uid      types.UID
	spec     *apiextensionsv1.CustomResourceDefinitionSpec
	accepted *apiextensionsv1.CustomResourceDefinitionNames
	once     sync.Once
	served   *served
	err      error
	// life ends when the definition changes; its watches end with it, as the clients must learn of that.
	life context.Context
	end  context.CancelFunc
}

// served is one defined kind as it is served.
type served struct {
	definition *apiextensionsv1.CustomResourceDefinition
	kind       *storage.Kind
	life       context.Context
	versions   map[string]*version
	// schemas are structural, by version; nil for a version without a schema.
	schemas map[string]*structuralschema.Structural
	// convert leaves what it is given as it is, convertOwn may change it.
	convert, convertOwn runtime.ObjectConvertor
	types               managedfields.TypeConverter
	// shape is how its objects are merged.
	shape crdt.Shape
}

// version is a version of a defined kind.
type version struct {
	storage                 customresource.CustomResourceStorage
	resource, status, scale *handlers.RequestScope
	// warning is told to whoever uses a deprecated version.
	warning string
}

// New is ready for whatever is defined. It starts nothing; Run does.
func New(cfg Config) (*Kinds, error) {
	conversions, err := conversion.NewCRConverterFactory(cfg.Webhooks, cfg.WebhookClients)
	if err != nil {
		return nil, fmt.Errorf("conversion of custom resources: %w", err)
	}
	return &Kinds{cfg: cfg, conversions: conversions, made: map[string]*making{}}, nil
}

// Definition finds what defines a resource. Of the store's own documents nothing does, whatever an older node let in.
func Definition(snap *store.Snapshot, resource schema.GroupResource) *apiextensionsv1.CustomResourceDefinition {
	if admit.Reserved(resource.Group) {
		return nil
	}
	crd, _ := store.Get[apiextensionsv1.CustomResourceDefinition](snap, crdt.Key{Resource: storage.Definitions, Name: resource.String()})
	return crd
}

// KindOf is how the objects that a definition defines are stored.
func KindOf(crd *apiextensionsv1.CustomResourceDefinition) (*storage.Kind, error) {
	stored, err := apihelpers.GetCRDStorageVersion(crd)
	if err != nil {
		return nil, err
	}
	k := &storage.Kind{
		Resource:   schema.GroupResource{Group: crd.Spec.Group, Resource: crd.Spec.Names.Plural},
		Version:    schema.GroupVersion{Group: crd.Spec.Group, Version: stored},
		Namespaced: crd.Spec.Scope == apiextensionsv1.NamespaceScoped,
		Decode: func(e *store.Entry) (runtime.Object, error) {
			u := &unstructured.Unstructured{}
			return u, e.Into(u)
		},
	}
	k.GVK = k.Version.WithKind(crd.Spec.Names.Kind)
	return k, nil
}

// get is the kind that a definition defines, as it now does.
func (cs *Kinds) get(crd *apiextensionsv1.CustomResourceDefinition) (*served, error) {
	cs.mu.Lock()
	m := cs.made[crd.Name]
	if m == nil || !m.of(crd) {
		if m != nil {
			m.end()
		}
		m = &making{uid: crd.UID, spec: &crd.Spec, accepted: &crd.Status.AcceptedNames}
		m.life, m.end = context.WithCancel(context.Background())
		cs.made[crd.Name] = m
	}
	cs.mu.Unlock()
	m.once.Do(func() {
		if m.served, m.err = cs.make(crd, m.life); m.err != nil {
			m.err = fmt.Errorf("serve %s: %w", crd.Name, m.err)
		}
	})
	return m.served, m.err
}

func (m *making) of(crd *apiextensionsv1.CustomResourceDefinition) bool {
	return m.uid == crd.UID && (m.spec == &crd.Spec || equality.Semantic.DeepEqual(m.spec, &crd.Spec)) &&
		equality.Semantic.DeepEqual(m.accepted, &crd.Status.AcceptedNames)
}

// prune lets go of what the snapshot no longer defines.
func (cs *Kinds) prune(snap *store.Snapshot) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for name, m := range cs.made {
		crd, ok := store.Get[apiextensionsv1.CustomResourceDefinition](snap, crdt.Key{Resource: storage.Definitions, Name: name})
		if !ok || !Established(crd) || !m.of(crd) {
			m.end()
			delete(cs.made, name)
		}
	}
}

func (cs *Kinds) make(crd *apiextensionsv1.CustomResourceDefinition, life context.Context) (*served, error) {
	k, err := KindOf(crd)
	if err != nil {
		return nil, err
	}
	c := &served{definition: crd, kind: k, life: life, versions: map[string]*version{}, schemas: map[string]*structuralschema.Structural{}}
	if c.convert, c.convertOwn, err = cs.conversions.NewConverter(crd); err != nil {
		return nil, err
	}
	c.types = &fieldTypes{crd: crd}
	replicas := managedfields.ResourcePathMappings{}
	equivalents := runtime.NewEquivalentResourceRegistry()
	for _, v := range crd.Spec.Versions {
		if c.schemas[v.Name], err = structural(crd, v.Name); err != nil {
			return nil, fmt.Errorf("schema of version %s: %w", v.Name, err)
		}
		gv := schema.GroupVersion{Group: crd.Spec.Group, Version: v.Name}
		resource, of := gv.WithResource(crd.Status.AcceptedNames.Plural), gv.WithKind(crd.Status.AcceptedNames.Kind)
		equivalents.RegisterKindFor(resource, "", of)
		replicas[gv.String()] = nil
		if sub := v.Subresources; sub != nil {
			if sub.Status != nil {
				equivalents.RegisterKindFor(resource, "status", of)
			}
			if sub.Scale != nil {
				equivalents.RegisterKindFor(resource, "scale", ScaleKind)
				for name := range strings.SplitSeq(strings.TrimPrefix(sub.Scale.SpecReplicasPath, "."), ".") {
					replicas[gv.String()] = append(replicas[gv.String()], fieldpath.PathElement{FieldName: &name})
				}
			}
		}
	}
	c.shape = shapeOf(c.schemas[k.Version.Version])
	resets := map[fieldpath.APIVersion]*fieldpath.Set{}
	for i := range crd.Spec.Versions {
		v := &crd.Spec.Versions[i]
		if !v.Served && !v.Storage {
			continue
		}
		cv := &version{}
		if cv.storage, err = cs.storage(c, v, replicas); err != nil {
			return nil, fmt.Errorf("version %s: %w", v.Name, err)
		}
		if v.Deprecated {
			cv.warning = deprecation(crd, v)
		}
		if cv.storage.Status != nil {
			for version, fields := range cv.storage.Status.GetResetFields() {
				resets[version] = fields
			}
		}
		c.versions[v.Name] = cv
	}
	// A write to one version's status must not own the spec of any.
	for name, cv := range c.versions {
		if err := cs.scopes(c, name, cv, equivalents, resets); err != nil {
			return nil, fmt.Errorf("version %s: %w", name, err)
		}
	}
	return c, nil
}

// internalSchema is the schema of a version as upstream's validation has it; nil if there is none.
func internalSchema(crd *apiextensionsv1.CustomResourceDefinition, version string) (*apiextensions.JSONSchemaProps, error) {
	v, err := apihelpers.GetSchemaForVersion(crd, version)
	if err != nil || v == nil {
		return nil, err
	}
	out := &apiextensions.CustomResourceValidation{}
	if err := apiextensionsv1.Convert_v1_CustomResourceValidation_To_apiextensions_CustomResourceValidation(v, out, nil); err != nil {
		return nil, err
	}
	return out.OpenAPIV3Schema, nil
}

func structural(crd *apiextensionsv1.CustomResourceDefinition, version string) (*structuralschema.Structural, error) {
	props, err := internalSchema(crd, version)
	if err != nil || props == nil {
		return nil, err
	}
	s, err := structuralschema.NewStructural(props)
	switch {
	case err != nil && crd.Spec.PreserveUnknownFields:
		return nil, nil // nothing is pruned or defaulted by it
	case err != nil:
		return nil, err
	case crd.Spec.PreserveUnknownFields:
		return s, nil
	}
	s = s.DeepCopy()
	return s, defaulting.PruneDefaults(s)
}

// storage is upstream's registry of one version.
func (cs *Kinds) storage(c *served, v *apiextensionsv1.CustomResourceDefinitionVersion, replicas managedfields.ResourcePathMappings) (customresource.CustomResourceStorage, error) {
	none := customresource.CustomResourceStorage{}
	crd := c.definition
	names := crd.Status.AcceptedNames
	gv := schema.GroupVersion{Group: crd.Spec.Group, Version: v.Name}
	props, err := internalSchema(crd, v.Name)
	if err != nil {
		return none, err
	}
	validator, _, err := validation.NewSchemaValidator(props)
	if err != nil {
		return none, err
	}
	var (
		status          *apiextensions.CustomResourceSubresourceStatus
		statusValidator validation.SchemaValidator
		scale           *apiextensions.CustomResourceSubresourceScale
	)
	if v.Subresources != nil && v.Subresources.Status != nil {
		status = &apiextensions.CustomResourceSubresourceStatus{}
		if props != nil {
			if s, ok := props.Properties["status"]; ok {
				if statusValidator, _, err = validation.NewSchemaValidator(&s); err != nil {
					return none, err
				}
			}
		}
	}
	if v.Subresources != nil && v.Subresources.Scale != nil {
		scale = &apiextensions.CustomResourceSubresourceScale{}
		if err := apiextensionsv1.Convert_v1_CustomResourceSubresourceScale_To_apiextensions_CustomResourceSubresourceScale(v.Subresources.Scale, scale, nil); err != nil {
			return none, err
		}
	}
	// Columns that cannot be read are left out, as upstream does: New returns the default ones with the error.
	table, err := tableconvertor.New(columns(v.AdditionalPrinterColumns))
	if err != nil {
		cs.cfg.Log.Warn("columns of a custom resource", "definition", crd.Name, "version", v.Name, "err", err)
	}
	return customresource.NewStorage(
		gv.WithResource(names.Plural).GroupResource(), gv.WithResource(names.Singular).GroupResource(),
		gv.WithKind(names.Kind), gv.WithKind(names.ListKind),
		customresource.NewStrategy(newTyper(parameters(gv)), c.kind.Namespaced, gv.WithKind(names.Kind), validator, statusValidator,
			c.schemas[v.Name], status, scale, v.SelectableFields),
		options{kinds: cs, served: c, version: v.Name}, names.Categories, table, replicas)
}

// options is how upstream's registry of a version of a defined kind finds its storage.
type options struct {
	kinds   *Kinds
	served  *served
	version string
}

func (o options) GetRESTOptions(schema.GroupResource, runtime.Object) (generic.RESTOptions, error) {
	return o.kinds.cfg.Backend.Options(o.served.life, o.served.kind, form{o.served, o.version}, unstructured.UnstructuredJSONScheme), nil
}

// columns are those of a version, or the age.
func columns(declared []apiextensionsv1.CustomResourceColumnDefinition) []apiextensionsv1.CustomResourceColumnDefinition {
	if len(declared) > 0 {
		return declared
	}
	return []apiextensionsv1.CustomResourceColumnDefinition{ageColumn}
}

// deprecation is what users of a deprecated version are told.
func deprecation(crd *apiextensionsv1.CustomResourceDefinition, v *apiextensionsv1.CustomResourceDefinitionVersion) string {
	if v.DeprecationWarning != nil {
		return *v.DeprecationWarning
	}
	said := fmt.Sprintf("%s/%s %s is deprecated", crd.Spec.Group, v.Name, crd.Spec.Names.Kind)
	var better []string
	for _, other := range crd.Spec.Versions {
		if other.Served && !other.Deprecated && kubeversion.CompareKubeAwareVersionStrings(other.Name, v.Name) > 0 {
			better = append(better, other.Name)
		}
	}
	if len(better) == 0 {
		return said
	}
	return fmt.Sprintf("%s; use %s/%s %s", said, crd.Spec.Group, slices.MaxFunc(better, kubeversion.CompareKubeAwareVersionStrings), crd.Spec.Names.Kind)
}

// fieldTypes is the schema by which the ownership of a custom object's fields is kept. It is made with the first write.
type fieldTypes struct {
	crd   *apiextensionsv1.CustomResourceDefinition
	once  sync.Once
	types managedfields.TypeConverter
}

func (t *fieldTypes) converter() managedfields.TypeConverter {
	t.once.Do(func() {
		t.types = managedfields.NewDeducedTypeConverter()
		var specs []*spec3.OpenAPI
		for _, v := range t.crd.Spec.Versions {
			s, err := builder.BuildOpenAPIV3(t.crd, v.Name, builder.Options{})
			if err != nil {
				return
			}
			specs = append(specs, s)
		}
		merged, err := builder.MergeSpecsV3(specs...)
		if err != nil || merged.Components == nil {
			return
		}
		if known, err := managedfields.NewTypeConverter(merged.Components.Schemas, t.crd.Spec.PreserveUnknownFields); err == nil {
			t.types = known
		}
	})
	return t.types
}

func (t *fieldTypes) ObjectToTyped(obj runtime.Object, opts ...smd.ValidationOptions) (*smd.TypedValue, error) {
	return t.converter().ObjectToTyped(obj, opts...)
}

func (t *fieldTypes) TypedToObject(tv *smd.TypedValue) (runtime.Object, error) {
	return t.converter().TypedToObject(tv)
}
