package openapi

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"runtime/debug"
	"slices"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/controller/openapi/builder"
	apiopenapi "k8s.io/apiserver/pkg/endpoints/openapi"
	openapibuilder "k8s.io/kube-openapi/pkg/builder"
	openapicommon "k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/generated/openapi"
)

// customDocuments are the OpenAPI v3 documents of defined versions, by path.
func customDocuments(release string, crds []*apiextensionsv1.CustomResourceDefinition) map[string]*document {
	by := map[string][]*apiextensionsv1.CustomResourceDefinition{}
	version := map[string]string{}
	for _, crd := range crds {
		for _, v := range crd.Spec.Versions {
			if path := "apis/" + crd.Spec.Group + "/" + v.Name; v.Served {
				by[path], version[path] = append(by[path], crd), v.Name
			}
		}
	}
	out := map[string]*document{}
	for path, crds := range by {
		out[path] = v3Document(path, definitionsHash(release, crds), func() (*spec3.OpenAPI, error) {
			var specs []*spec3.OpenAPI
			for _, crd := range crds {
				s, err := builder.BuildOpenAPIV3(crd, version[path], builder.Options{IncludeSelectableFields: true})
				if err != nil {
					return nil, fmt.Errorf("%s: %w", crd.Name, err)
				}
				specs = append(specs, s)
			}
			return builder.MergeSpecsV3(specs...)
		})
	}
	return out
}

func definitionsHash(release string, crds []*apiextensionsv1.CustomResourceDefinition) string {
	h := newHash(release)
	enc := json.NewEncoder(h)
	for _, crd := range crds {
		_ = enc.Encode([]any{crd.Name, crd.Spec, crd.Status.AcceptedNames}) // plain values into a hash: neither fails
	}
	return strings.ToUpper(hex.EncodeToString(h.Sum(nil)))
}

// wholeHash names the OpenAPI v2 document of the table and some definitions.
func (o *documents) wholeHash(crds []*apiextensionsv1.CustomResourceDefinition) string {
	h := newHash(o.release)
	for _, name := range slices.Sorted(maps.Keys(o.table)) {
		fmt.Fprintln(h, name, o.table[name].hash)
	}
	fmt.Fprintln(h, definitionsHash(o.release, crds))
	return strings.ToUpper(hex.EncodeToString(h.Sum(nil)))
}

// fixedV2 is what of the OpenAPI v2 document comes from the table: the inside of its paths and of its definitions,
// compressed, and the names of the latter.
type fixedV2 struct {
	paths, definitions []byte
	names              map[string]bool
}

// wholeDocument is the OpenAPI v2 document of everything. What the table says is put together with what the definitions say as text:
// megabytes of it are never taken apart.
func (o *documents) wholeDocument(hash string, crds []*apiextensionsv1.CustomResourceDefinition) *document {
	return &document{about: "all groups", hash: hash, protoType: openAPIv2Proto, proto: handler.ToProtoBinary,
		build: func(w io.Writer) error {
			fixed, err := o.fixedPart()
			if err != nil {
				return err
			}
			added, err := customSwagger(crds)
			if err != nil {
				return err
			}
			maps.DeleteFunc(added.Definitions, func(name string, _ spec.Schema) bool { return fixed.names[name] })
			var paths map[string]spec.PathItem
			if added.Paths != nil {
				paths = added.Paths.Paths
			}
			info, err := json.Marshal(swaggerInfo(o.release))
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintf(w, `{"swagger":"2.0","info":%s,"paths":{`, info); err != nil {
				return err
			}
			if err := members(w, fixed.paths, paths); err != nil {
				return err
			}
			if _, err := io.WriteString(w, `},"definitions":{`); err != nil {
				return err
			}
			if err := members(w, fixed.definitions, map[string]spec.Schema(added.Definitions)); err != nil {
				return err
			}
			_, err = io.WriteString(w, `}}`)
			return err
		}}
}

// members writes the inside of a JSON object: what zipped has, and more.
func members[T any](w io.Writer, zipped []byte, more map[string]T) error {
	z, err := gzip.NewReader(bytes.NewReader(zipped))
	if err != nil {
		return err
	}
	if _, err := io.Copy(w, z); err != nil || len(more) == 0 {
		return err
	}
	inner, err := json.Marshal(more)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, ",%s", inner[1:len(inner)-1])
	return err
}

func swaggerInfo(release string) *spec.Info {
	return &spec.Info{InfoProps: spec.InfoProps{Title: "Kubernetes", Version: release}}
}

// fixedPart builds the table's part when it is first needed.
func (o *documents) fixedPart() (*fixedV2, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.fixed != nil {
		return o.fixed, nil
	}
	namer := apiopenapi.NewDefinitionNamer(legacyscheme.Scheme)
	services := slices.SortedFunc(slices.Values(o.services), func(a, b *Service) int { return strings.Compare(a.root, b.root) })
	containers := make([]openapicommon.RouteContainer, len(services))
	for i, d := range services {
		containers[i] = d
	}
	doc, err := openapibuilder.BuildOpenAPISpecFromRoutes(containers, &openapicommon.Config{
		ProtocolList:    []string{"https"},
		Info:            swaggerInfo(o.release),
		DefaultResponse: &spec.Response{ResponseProps: spec.ResponseProps{Description: "Default Response."}},
		//lint:ignore SA1019 upstream gives it in this form
		GetOperationIDAndTags: apiopenapi.GetOperationIDAndTags,
		GetDefinitionName:     namer.GetDefinitionName,
		GetDefinitions:        openapi.GetOpenAPIDefinitions,
	})
	if err != nil {
		return nil, err
	}
	fixed := &fixedV2{names: map[string]bool{}}
	for name := range doc.Definitions {
		fixed.names[name] = true
	}
	if fixed.paths, err = inside(doc.Paths.Paths); err != nil {
		return nil, err
	}
	if fixed.definitions, err = inside(handler.PruneDefaults(doc.Definitions)); err != nil {
		return nil, err
	}
	o.fixed = fixed
	doc = nil
	debug.FreeOSMemory() // this took tens of megabytes, for a moment and only once
	return fixed, nil
}

// inside is the compressed inside of an object's JSON.
func inside(object any) ([]byte, error) {
	plain, err := json.Marshal(object)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(plain[1 : len(plain)-1]); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return bytes.Clone(b.Bytes()), nil
}

// customSwagger is what definitions add to the OpenAPI v2 document.
func customSwagger(crds []*apiextensionsv1.CustomResourceDefinition) (*spec.Swagger, error) {
	out := &spec.Swagger{}
	for _, crd := range crds {
		for _, v := range crd.Spec.Versions {
			if !v.Served {
				continue
			}
			s, err := builder.BuildOpenAPIV2(crd, v.Name, builder.Options{V2: true, IncludeSelectableFields: true})
			if err != nil {
				return nil, fmt.Errorf("%s: %w", crd.Name, err)
			}
			s.Definitions = handler.PruneDefaults(s.Definitions)
			if out, err = builder.MergeSpecs(out, s); err != nil {
				return nil, fmt.Errorf("%s: %w", crd.Name, err)
			}
		}
	}
	return out, nil
}
