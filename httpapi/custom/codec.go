package custom

import (
	"fmt"

	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/crdserverscheme"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/runtime/serializer/versioning"

	"murmur/crdt"
	"murmur/crdt/store"
)

// form is the form of a defined kind in one of its versions. In the store objects are JSON of the storage version; the
// registry has them converted, pruned, defaulted, and without what no Go type would take in their metadata.
type form struct {
	served  *served
	version string
}

// Internal converts, prunes and defaults.
func (f form) Internal(e *store.Entry, into runtime.Object) error {
	u := &unstructured.Unstructured{}
	if err := e.Into(u); err != nil {
		return err
	}
	delete(u.Object, crdt.ShapeField)
	overFields(u.Object, withNulls)
	c := f.served
	if err := (coercion{served: c, lenient: true}).apply(u); err != nil {
		return fmt.Errorf("decode %s: %w", e.Key, err)
	}
	c.defaults(u)
	out, ok := into.(*unstructured.Unstructured)
	if !ok {
		return fmt.Errorf("decode %s: into %T", e.Key, into)
	}
	want := schema.GroupVersion{Group: c.kind.Version.Group, Version: f.version}
	if u.GroupVersionKind().GroupVersion() != want {
		converted, err := c.convertOwn.ConvertToVersion(u, want)
		if err != nil {
			return fmt.Errorf("convert %s: %w", e.Key, err)
		}
		if u, ok = converted.(*unstructured.Unstructured); !ok {
			return fmt.Errorf("convert %s: to %T", e.Key, converted)
		}
		if err := (coercion{served: c}).apply(u); err != nil {
			return fmt.Errorf("convert %s: %w", e.Key, err)
		}
	}
	out.Object = u.Object
	return nil
}

// Created is as Internal: what is stored was pruned and defaulted, and is not decoded but parsed.
func (f form) Created(_ runtime.Object, e *store.Entry, into runtime.Object) error {
	return f.Internal(e, into)
}

// Stored converts, and notes how the object is merged.
func (f form) Stored(obj runtime.Object, base *store.Entry) (runtime.Object, error) {
	c := f.served
	out, err := c.convert.ConvertToVersion(obj, c.kind.Version)
	if err != nil {
		return nil, err
	}
	u, ok := out.(*unstructured.Unstructured)
	if !ok {
		return nil, fmt.Errorf("store %T", out)
	}
	if err := (coercion{served: c}).apply(u); err != nil {
		return nil, err
	}
	overFields(u.Object, withoutNulls)
	return u, c.note(u, base)
}

// null is how a null stands in the store, where it would be as good as nothing. Where a schema lets a field be null, that
// is something else than its absence, for which there may be a default.
const null = "\x00null"

// overFields changes the fields of an object, but for its metadata.
func overFields(obj map[string]any, change func(any) any) {
	for k, v := range obj {
		if k != "metadata" {
			obj[k] = change(v)
		}
	}
}

func withoutNulls(v any) any {
	switch v := v.(type) {
	case nil:
		return null
	case map[string]any:
		for k, f := range v {
			v[k] = withoutNulls(f)
		}
	case []any:
		for i, e := range v {
			v[i] = withoutNulls(e)
		}
	}
	return v
}

func withNulls(v any) any {
	switch v := v.(type) {
	case string:
		if v == null {
			return nil
		}
	case map[string]any:
		for k, f := range v {
			v[k] = withNulls(f)
		}
	case []any:
		for i, e := range v {
			v[i] = withNulls(e)
		}
	}
	return v
}

// coercion does to an object without a Go type what decoding into one would: unknown fields go, so do nulls where
// none may be, and the metadata is checked.
type coercion struct {
	served *served
	// lenient drops metadata that is malformed, as objects from before it was checked may have.
	lenient bool
	// unknown, if not nil, gets the paths of what is dropped.
	unknown *[]string
}

func (k coercion) apply(u *unstructured.Unstructured) error {
	c := k.served
	m, hasMeta, dropped, err := objectmeta.GetObjectMetaWithOptions(u.Object, objectmeta.ObjectMetaOptions{
		DropMalformedFields: k.lenient, ReturnUnknownFieldPaths: k.unknown != nil})
	if err != nil {
		return err
	}
	for _, name := range []string{"apiVersion", "kind"} {
		if _, _, err := unstructured.NestedString(u.Object, name); err != nil {
			return err
		}
	}
	apiVersion, kind := u.Object["apiVersion"], u.Object["kind"]
	// Options of requests come this way too.
	if gvk := u.GroupVersionKind(); gvk.GroupKind() == c.kind.GVK.GroupKind() {
		s := c.schemas[gvk.Version]
		if !c.definition.Spec.PreserveUnknownFields {
			dropped = append(dropped, pruning.PruneWithOptions(u.Object, s, true,
				structuralschema.UnknownFieldPathOptions{TrackUnknownFieldPaths: k.unknown != nil})...)
			defaulting.PruneNonNullableNullsWithoutDefaults(u.Object, s)
		}
		err, paths := objectmeta.CoerceWithOptions(nil, u.Object, s, false,
			objectmeta.CoerceOptions{DropInvalidFields: k.lenient, ReturnUnknownFieldPaths: k.unknown != nil})
		if err != nil {
			return err
		}
		dropped = append(dropped, paths...)
		if k.lenient && m.Generation == 0 {
			m.Generation = 1
		}
	}
	// Whatever the schema says of them, these are here.
	if apiVersion != nil {
		u.Object["apiVersion"] = apiVersion
	}
	if kind != nil {
		u.Object["kind"] = kind
	}
	if hasMeta {
		if err := objectmeta.SetObjectMeta(u.Object, m); err != nil {
			return err
		}
	}
	if k.unknown != nil {
		*k.unknown = append(*k.unknown, dropped...)
	}
	return nil
}

// defaults fills in what the schema of the object's version has defaults for.
func (c *served) defaults(u runtime.Unstructured) {
	gvk := u.GetObjectKind().GroupVersionKind()
	if gvk.GroupKind() == c.kind.GVK.GroupKind() {
		defaulting.Default(u.UnstructuredContent(), c.schemas[gvk.Version])
	}
}

// defaulter is c.defaults among the options of requests.
type defaulter struct {
	others runtime.ObjectDefaulter
	served *served
}

func (d defaulter) Default(obj runtime.Object) {
	if u, ok := obj.(runtime.Unstructured); ok && u.GetObjectKind().GroupVersionKind().GroupKind() == d.served.kind.GVK.GroupKind() {
		d.served.defaults(u)
		return
	}
	d.others.Default(obj)
}

type unstructuredCreater struct{}

func (unstructuredCreater) New(kind schema.GroupVersionKind) (runtime.Object, error) {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(kind)
	return u, nil
}

// parameters are the options that requests for a version bring.
func parameters(gv schema.GroupVersion) *runtime.Scheme {
	s := runtime.NewScheme()
	s.AddUnversionedTypes(gv, &metav1.ListOptions{}, &metav1.GetOptions{}, &metav1.DeleteOptions{})
	return s
}

// typer knows custom objects by what they say they are, and options by their types.
type typer struct{ options runtime.ObjectTyper }

func newTyper(options *runtime.Scheme) typer { return typer{options} }

var saidKinds = crdserverscheme.NewUnstructuredObjectTyper()

func (t typer) ObjectKinds(obj runtime.Object) ([]schema.GroupVersionKind, bool, error) {
	if _, ok := obj.(runtime.Unstructured); ok {
		return saidKinds.ObjectKinds(obj)
	}
	return t.options.ObjectKinds(obj)
}

func (t typer) Recognizes(gvk schema.GroupVersionKind) bool { return t.options.Recognizes(gvk) }

// besides are the types that requests for custom objects are answered with and bring besides these. They have no version of
// their own: an event of a watch has that of its object.
var besides = func() *runtime.Scheme {
	s, v1 := runtime.NewScheme(), schema.GroupVersion{Version: "v1"}
	metav1.AddToGroupVersion(s, v1)
	s.AddUnversionedTypes(v1, &metav1.Status{}, &metav1.WatchEvent{}, &metav1.APIVersions{}, &metav1.APIGroupList{}, &metav1.APIGroup{}, &metav1.APIResourceList{})
	return s
}()

// negotiation reads and writes custom objects as JSON and YAML. What is no custom object, a Status perhaps, is also
// written as protobuf.
type negotiation struct {
	served *served
	media  []runtime.SerializerInfo
}

func newNegotiation(c *served, typer runtime.ObjectTyper) negotiation {
	js := func(o json.SerializerOptions) runtime.Serializer {
		return json.NewSerializerWithOptions(json.DefaultMetaFactory, unstructuredCreater{}, typer, o)
	}
	return negotiation{c, []runtime.SerializerInfo{
		{
			MediaType: "application/json", MediaTypeType: "application", MediaTypeSubType: "json", EncodesAsText: true,
			Serializer:       js(json.SerializerOptions{StreamingCollectionsEncoding: true}),
			PrettySerializer: js(json.SerializerOptions{Pretty: true}),
			StrictSerializer: js(json.SerializerOptions{Strict: true, StreamingCollectionsEncoding: true}),
			StreamSerializer: &runtime.StreamSerializerInfo{EncodesAsText: true, Serializer: js(json.SerializerOptions{}), Framer: json.Framer},
		},
		{
			MediaType: "application/yaml", MediaTypeType: "application", MediaTypeSubType: "yaml", EncodesAsText: true,
			Serializer:       js(json.SerializerOptions{Yaml: true}),
			StrictSerializer: js(json.SerializerOptions{Yaml: true, Strict: true}),
		},
		{
			MediaType: runtime.ContentTypeProtobuf, MediaTypeType: "application", MediaTypeSubType: "vnd.kubernetes.protobuf",
			Serializer: protobuf.NewSerializerWithOptions(unstructuredCreater{}, typer, protobuf.SerializerOptions{StreamingCollectionsEncoding: true}),
			StreamSerializer: &runtime.StreamSerializerInfo{
				Serializer: protobuf.NewRawSerializer(unstructuredCreater{}, typer), Framer: protobuf.LengthDelimitedFramer,
			},
		},
	}}
}

func (n negotiation) SupportedMediaTypes() []runtime.SerializerInfo { return n.media }

// standard are the media types that objects themselves may have.
func (n negotiation) standard() []runtime.SerializerInfo { return n.media[:2] }

func (n negotiation) EncoderForVersion(encoder runtime.Encoder, gv runtime.GroupVersioner) runtime.Encoder {
	return versioning.NewCodec(encoder, nil, n.served.convert, besides, besides, besides, gv, nil, "custom")
}

func (n negotiation) DecoderToVersion(decoder runtime.Decoder, gv runtime.GroupVersioner) runtime.Decoder {
	s, ok := decoder.(*json.Serializer)
	d := coercingDecoder{decoder, n.served, ok && s.IsStrict()}
	return versioning.NewCodec(nil, d, runtime.UnsafeObjectConvertor(besides), besides, besides,
		defaulter{besides, n.served}, nil, gv, "custom")
}

// coercingDecoder coerces what it decodes, and if it is strict tells of what was dropped.
type coercingDecoder struct {
	runtime.Decoder
	served *served
	strict bool
}

func (d coercingDecoder) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	obj, gvk, err := d.Decoder.Decode(data, defaults, into)
	var wrong []error
	if err != nil {
		strict, ok := runtime.AsStrictDecodingError(err)
		if !ok || obj == nil {
			return nil, gvk, err
		}
		wrong = strict.Errors()
	}
	if u, ok := obj.(*unstructured.Unstructured); ok {
		k := coercion{served: d.served}
		var unknown []string
		if d.strict {
			k.unknown = &unknown
		}
		if err := k.apply(u); err != nil {
			return nil, gvk, err
		}
		for _, path := range unknown {
			wrong = append(wrong, fmt.Errorf("unknown field %q", path))
		}
	}
	if d.strict && len(wrong) > 0 {
		return obj, gvk, runtime.NewStrictDecodingError(wrong)
	}
	return obj, gvk, nil
}
