package crdt

import (
	"encoding/json"
	"maps"
	"strconv"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/structured-merge-diff/v6/schema"
)

// shape says how a value at some path is replicated.
type shape int

const (
	// register is taken whole: scalars, atomic lists and maps, unions.
	register shape = iota
	// fields is merged by key. An empty one is as good as none.
	fields
	// keyed is a list merged by the keys of its elements, its order a register of its own.
	keyed
	// set is a list merged by element, its order a register of its own.
	set
)

// schemaNode is a place in a schema. One without a schema, the zero node, merges maps by key and takes all else whole, but for
// what the object itself has noted of the place.
type schemaNode struct {
	noted  *shapeNode
	schema *schema.Schema
	ref    schema.TypeRef
	atom   schema.Atom
	known  bool
	// metadata is the place of the object's, at the top of one without a schema.
	metadata *schemaNode
}

// Schemas finds the schema of a kind. Kinds that are not built in have the zero node.
type Schemas struct {
	mu    sync.Mutex
	roots map[string]schemaNode
}

var builtin = sync.OnceValue(func() func(apiVersion, kind string) (schemaNode, bool) {
	converter := applyconfigurations.NewTypeConverter(scheme.Scheme)
	return func(apiVersion, kind string) (schemaNode, bool) {
		u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": apiVersion, "kind": kind}}
		tv, err := converter.ObjectToTyped(u)
		if err != nil {
			return schemaNode{}, false
		}
		return resolve(tv.Schema(), tv.TypeRef()), true
	}
})

// PrepareSchemas reads the schemas of the kinds that are built in, which takes longer than a first write should. Without it the first merge does.
func PrepareSchemas() { builtin() }

func (s *Schemas) root(value map[string]any) schemaNode {
	apiVersion, _ := value["apiVersion"].(string)
	kind, _ := value["kind"].(string)
	id := apiVersion + "/" + kind
	s.mu.Lock()
	defer s.mu.Unlock()
	if n, ok := s.roots[id]; ok {
		return n.shaped(value)
	}
	n, _ := builtin()(apiVersion, kind)
	if s.roots == nil {
		s.roots = map[string]schemaNode{}
	}
	s.roots[id] = n
	return n.shaped(value)
}

// Diff lists the registers in which two values of an object differ.
func (s *Schemas) Diff(from, to map[string]any) []edit { return changed(s.root(to), "", from, to, nil) }

// Rebase makes the change from one value to another on a third.
func (s *Schemas) Rebase(from, to, onto map[string]any) map[string]any {
	out, _ := graft(s.root(to), "", from, to, onto).(map[string]any)
	return out
}

// shaped is the root of a kind without a schema for an object that says how it is merged. Whatever it says, its metadata is
// as that of any object.
func (n schemaNode) shaped(value map[string]any) schemaNode {
	if n.known {
		return n
	}
	n.noted = ShapeOf(value).noted()
	n.noted.below = maps.Clone(n.noted.below)
	delete(n.noted.below, "metadata")
	delete(n.noted.below, ShapeField)
	typical, _ := builtin()("v1", "ConfigMap")
	metadata := typical.field("metadata")
	n.metadata = &metadata
	return n
}

func resolve(s *schema.Schema, ref schema.TypeRef) schemaNode {
	atom, ok := s.Resolve(ref)
	if !ok {
		return schemaNode{}
	}
	return schemaNode{schema: s, ref: ref, atom: atom, known: true}
}

// whole lists the types that must never be mixed from two writers, because only some combinations of their fields
// are valid: unions, and types with rules across fields.
var whole = map[string]bool{
	"io.k8s.api.core.v1.Volume":                                                true,
	"io.k8s.api.core.v1.VolumeProjection":                                      true,
	"io.k8s.api.core.v1.PersistentVolumeSpec":                                  true,
	"io.k8s.api.core.v1.Probe":                                                 true,
	"io.k8s.api.core.v1.LifecycleHandler":                                      true,
	"io.k8s.api.core.v1.EnvVar":                                                true,
	"io.k8s.api.core.v1.EnvFromSource":                                         true,
	"io.k8s.api.core.v1.ResourceRequirements":                                  true,
	"io.k8s.api.core.v1.SecurityContext":                                       true,
	"io.k8s.api.core.v1.PodSecurityContext":                                    true,
	"io.k8s.api.core.v1.Toleration":                                            true,
	"io.k8s.api.core.v1.ContainerPort":                                         true,
	"io.k8s.api.apps.v1.DeploymentStrategy":                                    true,
	"io.k8s.api.apps.v1.DaemonSetUpdateStrategy":                               true,
	"io.k8s.api.apps.v1.StatefulSetUpdateStrategy":                             true,
	"io.k8s.apimachinery.pkg.apis.meta.v1.OwnerReference":                      true,
	"io.k8s.apimachinery.pkg.apis.meta.v1.ManagedFieldsEntry":                  true,
	"io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector":                       true,
	"io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerSpec":                    true,
	"io.k8s.api.core.v1.TopologySpreadConstraint":                              true,
	"io.k8s.api.networking.v1.IngressBackend":                                  true,
	"io.k8s.api.networking.v1.IngressClassSpec":                                true,
	"io.k8s.api.policy.v1.PodDisruptionBudgetSpec":                             true,
	"io.k8s.api.core.v1.ServiceSpec":                                           true,
	"io.k8s.api.discovery.v1.EndpointPort":                                     true,
	"io.k8s.api.core.v1.EndpointPort":                                          true,
	"io.k8s.api.core.v1.Affinity":                                              true,
	"io.k8s.api.core.v1.PodSchedulingGate":                                     true,
	"io.k8s.api.admissionregistration.v1.WebhookClientConfig":                  true,
	"io.k8s.api.flowcontrol.v1.PriorityLevelConfigurationSpec":                 true,
	"io.k8s.api.coordination.v1.LeaseSpec":                                     true,
	"io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicySpec":          true,
	"io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicyBindingSpec":   true,
	"io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicySpec":        true,
	"io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyBindingSpec": true,
}

// secretData is not mixed either: a key of one writer and a certificate of another are no pair.
const secretData = "io.k8s.api.core.v1.Secret.data"

const (
	statusPath        = "/status"
	managedFieldsPath = "/metadata/managedFields"
)

// managedFieldsKeys identify an entry of managedFields, which upstream's schema calls atomic: each manager owns its own.
var managedFieldsKeys = []string{"manager", "operation", "apiVersion", "subresource"}

// shape says how what is at a path is replicated, whatever is there.
func (n schemaNode) shape(path string) shape {
	if path == statusPath || n.ref.NamedType != nil && whole[*n.ref.NamedType] {
		return register
	}
	return n.declared(path)
}

// structured tells whether a value at a path is taken apart. A value that does not fit its type, and an empty one, is a
// register.
func (n schemaNode) structured(path string, v any) bool {
	switch v := v.(type) {
	case map[string]any:
		return len(v) > 0 && n.shape(path) == fields
	case []any:
		s := n.shape(path)
		return len(v) > 0 && (s == keyed || s == set)
	}
	return false
}

func (n schemaNode) declared(path string) shape {
	if path == managedFieldsPath {
		return keyed
	}
	switch {
	case !n.known && n.noted != nil:
		return n.noted.shape
	case !n.known:
		return fields
	case n.atom.Map != nil && n.atom.Map.ElementRelationship != schema.Atomic:
		return fields
	case n.atom.List != nil && n.atom.List.ElementRelationship == schema.Associative && len(n.atom.List.Keys) > 0:
		return keyed
	case n.atom.List != nil && n.atom.List.ElementRelationship == schema.Associative:
		return set
	}
	return register
}

func (n schemaNode) field(name string) schemaNode {
	if n.metadata != nil && name == "metadata" {
		return *n.metadata
	}
	if below := n.noted.under(name); below != nil {
		return schemaNode{noted: below}
	}
	if !n.known || n.atom.Map == nil {
		return schemaNode{}
	}
	if f, ok := n.atom.Map.FindField(name); ok {
		next := resolve(n.schema, f.Type)
		if n.ref.NamedType != nil && *n.ref.NamedType+"."+name == secretData {
			next.atom = schema.Atom{Map: &schema.Map{ElementType: next.atom.Map.ElementType, ElementRelationship: schema.Atomic}}
		}
		return next
	}
	return resolve(n.schema, n.atom.Map.ElementType)
}

func (n schemaNode) element() schemaNode {
	if below := n.noted.under("*"); below != nil {
		return schemaNode{noted: below}
	}
	if !n.known || n.atom.List == nil {
		return schemaNode{}
	}
	return resolve(n.schema, n.atom.List.ElementType)
}

// index names the elements of a keyed list or set in order.
func (n schemaNode) index(path string, list []any) []string { return index(n.keys(path), list) }

// index names the elements of a list by their keys; without any, by all they are. The second of two with the same keys is told
// from the first by its number, so that every list has its elements by name.
func index(keys []string, list []any) []string {
	seen := make(map[string]int, len(list))
	names := make([]string, len(list))
	for i, e := range list {
		name := elementName(keys, e)
		seen[name]++
		if k := seen[name]; k > 1 {
			name += "," + strconv.Itoa(k)
		}
		names[i] = name
	}
	return names
}

func elementName(keys []string, e any) string {
	if len(keys) == 0 {
		return "[" + scalarString(e) + "]"
	}
	m, _ := e.(map[string]any)
	parts := make([]string, len(keys))
	for i, k := range keys {
		parts[i] = k + "=" + scalarString(m[k])
	}
	return "[" + strings.Join(parts, ",") + "]"
}

// keys are those of a keyed list.
func (n schemaNode) keys(path string) []string {
	switch {
	case path == managedFieldsPath:
		return managedFieldsKeys
	case n.noted != nil:
		return n.noted.keys
	}
	return n.atom.List.Keys
}

func scalarString(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	return escape(string(b))
}

// Segment is a field's name as it stands in a path.
func Segment(name string) string { return escape(name) }

// escape makes a segment safe to stand in a path. JSON Pointer's escapes (RFC 6901).
func escape(segment string) string {
	if !strings.ContainsAny(segment, "~/") {
		return segment
	}
	return strings.ReplaceAll(strings.ReplaceAll(segment, "~", "~0"), "/", "~1")
}

func unescape(segment string) string {
	if !strings.Contains(segment, "~") {
		return segment
	}
	return strings.ReplaceAll(strings.ReplaceAll(segment, "~1", "/"), "~0", "~")
}
