package crdt

import (
	"encoding/json"
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
	// fields is merged by key.
	fields
	// keyed is a list merged by the keys of its elements, its order a register of its own.
	keyed
	// set is a list merged by element, its order a register of its own.
	set
)

// node is a place in a schema. The zero node has no schema: maps are merged by key and lists are taken whole.
type node struct {
	schema *schema.Schema
	ref    schema.TypeRef
	atom   schema.Atom
	known  bool
}

// schemas finds the schema of a kind. Kinds that are not built in have the zero node.
type schemas struct {
	mu    sync.Mutex
	roots map[string]node
}

var builtin = sync.OnceValue(func() func(apiVersion, kind string) (node, bool) {
	converter := applyconfigurations.NewTypeConverter(scheme.Scheme)
	return func(apiVersion, kind string) (node, bool) {
		u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": apiVersion, "kind": kind}}
		tv, err := converter.ObjectToTyped(u)
		if err != nil {
			return node{}, false
		}
		return resolve(tv.Schema(), tv.TypeRef()), true
	}
})

func (s *schemas) root(value map[string]any) node {
	apiVersion, _ := value["apiVersion"].(string)
	kind, _ := value["kind"].(string)
	id := apiVersion + "/" + kind
	s.mu.Lock()
	defer s.mu.Unlock()
	if n, ok := s.roots[id]; ok {
		return n
	}
	n, _ := builtin()(apiVersion, kind)
	if s.roots == nil {
		s.roots = map[string]node{}
	}
	s.roots[id] = n
	return n
}

func resolve(s *schema.Schema, ref schema.TypeRef) node {
	atom, ok := s.Resolve(ref)
	if !ok {
		return node{}
	}
	return node{schema: s, ref: ref, atom: atom, known: true}
}

// whole lists the types that must never be mixed from two writers, because only some combinations of their fields
// are valid: unions, and types with rules across fields.
var whole = map[string]bool{
	"io.k8s.api.core.v1.Volume":                                true,
	"io.k8s.api.core.v1.VolumeProjection":                      true,
	"io.k8s.api.core.v1.PersistentVolumeSpec":                  true,
	"io.k8s.api.core.v1.Probe":                                 true,
	"io.k8s.api.core.v1.LifecycleHandler":                      true,
	"io.k8s.api.core.v1.EnvVar":                                true,
	"io.k8s.api.core.v1.EnvFromSource":                         true,
	"io.k8s.api.core.v1.ResourceRequirements":                  true,
	"io.k8s.api.core.v1.SecurityContext":                       true,
	"io.k8s.api.core.v1.PodSecurityContext":                    true,
	"io.k8s.api.core.v1.Toleration":                            true,
	"io.k8s.api.core.v1.ServicePort":                           true,
	"io.k8s.api.core.v1.ContainerPort":                         true,
	"io.k8s.api.apps.v1.DeploymentStrategy":                    true,
	"io.k8s.api.apps.v1.DaemonSetUpdateStrategy":               true,
	"io.k8s.api.apps.v1.StatefulSetUpdateStrategy":             true,
	"io.k8s.apimachinery.pkg.apis.meta.v1.OwnerReference":      true,
	"io.k8s.apimachinery.pkg.apis.meta.v1.ManagedFieldsEntry":  true,
	"io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector":       true,
	"io.k8s.api.autoscaling.v2.MetricSpec":                     true,
	"io.k8s.api.core.v1.TopologySpreadConstraint":              true,
	"io.k8s.api.networking.v1.IngressBackend":                  true,
	"io.k8s.api.discovery.v1.EndpointPort":                     true,
	"io.k8s.api.core.v1.EndpointPort":                          true,
	"io.k8s.api.core.v1.Affinity":                              true,
	"io.k8s.api.core.v1.PodSchedulingGate":                     true,
	"io.k8s.api.admissionregistration.v1.WebhookClientConfig":  true,
	"io.k8s.api.flowcontrol.v1.PriorityLevelConfigurationSpec": true,
}

const (
	statusPath        = "/status"
	managedFieldsPath = "/metadata/managedFields"
)

// managedFieldsKeys identify an entry of managedFields, which upstream's schema calls atomic: each manager owns its own.
var managedFieldsKeys = []string{"manager", "operation", "apiVersion", "subresource"}

// shapeOf says how the values at a path are replicated. A type that the values do not fit, and a keyed list with
// duplicate keys on either side, is a register.
func (n node) shapeOf(path string, values ...any) shape {
	if path == statusPath {
		return register
	}
	if n.ref.NamedType != nil && whole[*n.ref.NamedType] {
		return register
	}
	s := n.declared(path)
	for _, v := range values {
		switch s {
		case fields:
			if v == nil {
				continue
			}
			if _, ok := v.(map[string]any); !ok {
				return register
			}
		case keyed, set:
			if v == nil {
				continue
			}
			l, ok := v.([]any)
			if !ok {
				return register
			}
			if _, unique := n.index(path, l); !unique {
				return register
			}
		}
	}
	if !n.known && s == register {
		for _, v := range values {
			if _, ok := v.(map[string]any); !ok && v != nil {
				return register
			}
		}
		for _, v := range values {
			if v != nil {
				return fields
			}
		}
	}
	return s
}

func (n node) declared(path string) shape {
	if path == managedFieldsPath {
		return keyed
	}
	switch {
	case !n.known:
		return register
	case n.atom.Map != nil && n.atom.Map.ElementRelationship != schema.Atomic:
		return fields
	case n.atom.List != nil && n.atom.List.ElementRelationship == schema.Associative && len(n.atom.List.Keys) > 0:
		return keyed
	case n.atom.List != nil && n.atom.List.ElementRelationship == schema.Associative:
		return set
	}
	return register
}

func (n node) field(name string) node {
	if !n.known || n.atom.Map == nil {
		return node{}
	}
	if f, ok := n.atom.Map.FindField(name); ok {
		return resolve(n.schema, f.Type)
	}
	return resolve(n.schema, n.atom.Map.ElementType)
}

func (n node) element() node {
	if !n.known || n.atom.List == nil {
		return node{}
	}
	return resolve(n.schema, n.atom.List.ElementType)
}

// index names the elements of a keyed list or set in order. It reports false if two have the same name.
func (n node) index(path string, list []any) (names []string, unique bool) {
	seen := make(map[string]bool, len(list))
	names = make([]string, len(list))
	for i, e := range list {
		names[i] = n.elementName(path, e)
		if seen[names[i]] {
			return nil, false
		}
		seen[names[i]] = true
	}
	return names, true
}

func (n node) elementName(path string, e any) string {
	keys := managedFieldsKeys
	if path != managedFieldsPath {
		keys = n.atom.List.Keys
	}
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

func scalarString(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	return escape(string(b))
}

// escape makes a segment safe to stand in a path. JSON Pointer's escapes (RFC 6901).
func escape(segment string) string {
	if !strings.ContainsAny(segment, "~/") {
		return segment
	}
	return strings.ReplaceAll(strings.ReplaceAll(segment, "~", "~0"), "/", "~1")
}
