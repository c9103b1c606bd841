package openapi

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/emicklei/go-restful/v3"
	"github.com/labstack/echo/v4"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiopenapi "k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/kube-openapi/pkg/builder3"
	openapicommon "k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/common/restfuladapter"
	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/generated/openapi"

	"murmur/crdt/store"
	"murmur/httpapi/custom"
	"murmur/httpapi/storage"
)

// document is an OpenAPI document. It is built when it is first asked for, and what is kept
// is its compressed JSON: a daemon that nobody asks to explain anything pays nothing, one that is asked 200 kB.
type document struct {
	// about is what it describes, for errors.
	about string
	hash  string
	build func(w io.Writer) error
	// protoType is the media type of its protobuf, and proto encodes it so. It may be asked for by an older name, with an @, but
	// that is no media type that an answer could have.
	protoType string
	proto     func([]byte) ([]byte, error)

	mu     sync.Mutex
	zipped []byte
}

const (
	openAPIv2Proto = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
	openAPIv3Proto = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf"
)

// Install serves /openapi/v3 and /openapi/v2. Clients keep documents by their hash; it names the program and the routes,
// or the definitions, which is what a document is a function of, so that the index can be answered without building any.
func Install(e *echo.Echo, release string, store *store.Store, services []*Service) {
	o := &documents{store: store, release: release, table: map[string]*document{}, custom: map[string]*document{}}
	for _, d := range services {
		name := strings.TrimPrefix(d.root, "/")
		o.table[name] = v3Document(name, documentHash(release, d), func() (*spec3.OpenAPI, error) {
			return builder3.BuildOpenAPISpecFromRoutes([]openapicommon.RouteContainer{d}, openAPIConfig(release))
		})
		o.services = append(o.services, d)
	}
	e.GET("/openapi/v3", func(c echo.Context) error {
		type path struct {
			URL string `json:"serverRelativeURL"`
		}
		index := map[string]path{}
		for _, documents := range []map[string]*document{o.table, o.defined()} {
			for name, d := range documents {
				index[name] = path{"/openapi/v3/" + name + "?hash=" + d.hash}
			}
		}
		return c.JSON(http.StatusOK, map[string]any{"paths": index})
	})
	e.GET("/openapi/v3/*", func(c echo.Context) error {
		d := o.table[c.Param("*")]
		if d == nil {
			d = o.defined()[c.Param("*")]
		}
		if d == nil {
			return echo.ErrNotFound
		}
		return d.serve(c)
	})
	e.GET("/openapi/v2", func(c echo.Context) error { return o.v2().serve(c) })
}

func v3Document(name, hash string, build func() (*spec3.OpenAPI, error)) *document {
	return &document{about: name, hash: hash, protoType: openAPIv3Proto, proto: handler3.ToV3ProtoBinary,
		build: func(w io.Writer) error {
			doc, err := build()
			if err != nil {
				return err
			}
			return json.NewEncoder(w).Encode(doc)
		}}
}

// documents are those of the table, and of what is defined.
type documents struct {
	store    *store.Store
	release  string
	services []*Service
	table    map[string]*document

	mu sync.Mutex
	// custom are the documents of the definitions in state; whole is that of everything.
	state  store.Version
	custom map[string]*document
	whole  *document
	fixed  *fixedV2
}

// refresh forgets documents that the definitions no longer make. One that they still make stays as it is.
func (o *documents) refresh() {
	snap := o.store.Snapshot()
	if now := snap.Changed(storage.Definitions); o.whole == nil || now != o.state {
		o.state = now
		var crds []*apiextensionsv1.CustomResourceDefinition
		for _, bare := range custom.Definitions(snap) {
			crd := custom.Definition(snap, schema.ParseGroupResource(bare.Name))
			if crd != nil && custom.Established(crd) {
				crds = append(crds, crd)
			}
		}
		have := o.custom
		o.custom = customDocuments(o.release, crds)
		for name, d := range o.custom {
			if was := have[name]; was != nil && was.hash == d.hash {
				o.custom[name] = was
			}
		}
		if hash := o.wholeHash(crds); o.whole == nil || o.whole.hash != hash {
			o.whole = o.wholeDocument(hash, crds)
		}
	}
}

func (o *documents) defined() map[string]*document {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.refresh()
	return o.custom
}

func (o *documents) v2() *document {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.refresh()
	return o.whole
}

// Service is what a document says of go-restful's service. The service itself also has, for each route, the regular expression by which it would be
// found if Echo did not do so: a fifth of all that an idle daemon holds.
type Service struct {
	root       string
	parameters []openapicommon.Parameter
	routes     []restful.Route
}

// Parameters are those of many routes, each kept once: nearly every route has the same dozen, and go-restful makes them anew for each.
type Parameters map[string]*restful.Parameter

// of is the list with each parameter that is known already in the place of its copy.
func (p Parameters) of(list []*restful.Parameter) []*restful.Parameter {
	out := make([]*restful.Parameter, len(list))
	for i, one := range list {
		name := fmt.Sprintf("%#v", one.Data())
		if p[name] == nil {
			p[name] = one
		}
		out[i] = p[name]
	}
	return out
}

// NewService describes one. What its routes have in common with others is kept in known.
func NewService(ws *restful.WebService, known Parameters) *Service {
	d := &Service{root: ws.RootPath(), parameters: (&restfuladapter.WebServiceAdapter{WebService: ws}).PathParameters()}
	for _, r := range ws.Routes() {
		d.routes = append(d.routes, restful.Route{Method: r.Method, Path: r.Path, Operation: r.Operation, Doc: r.Doc, Consumes: r.Consumes, Produces: r.Produces,
			Metadata: r.Metadata, ParameterDocs: known.of(r.ParameterDocs), ResponseErrors: r.ResponseErrors, ReadSample: r.ReadSample, WriteSample: r.WriteSample})
	}
	return d
}

// RootPath is where its routes are.
func (d *Service) RootPath() string { return d.root }

// PathParameters are those of all its routes.
func (d *Service) PathParameters() []openapicommon.Parameter { return d.parameters }

// Routes are what it serves.
func (d *Service) Routes() []openapicommon.Route {
	routes := make([]openapicommon.Route, len(d.routes))
	for i := range d.routes {
		routes[i] = &restfuladapter.RouteAdapter{Route: &d.routes[i]}
	}
	return routes
}

func documentHash(release string, d *Service) string {
	h := newHash(release)
	for _, r := range d.routes {
		fmt.Fprintln(h, r.Method, r.Path, r.Operation)
	}
	return strings.ToUpper(hex.EncodeToString(h.Sum(nil)))
}

// newHash is a hash that the program has gone into.
func newHash(release string) hash.Hash {
	h := sha256.New()
	fmt.Fprintln(h, release)
	if info, ok := debug.ReadBuildInfo(); ok {
		fmt.Fprintln(h, info.Main.Version, info.Main.Sum)
		for _, s := range info.Settings {
			if strings.HasPrefix(s.Key, "vcs.") {
				fmt.Fprintln(h, s.Value)
			}
		}
	}
	return h
}

func (d *document) serve(c echo.Context) error {
	w, r := c.Response().Writer, c.Request()
	proto := strings.Contains(r.Header.Get("Accept"), "proto-openapi.spec.v")
	header := w.Header()
	header.Set("Vary", "Accept, Accept-Encoding")
	header.Set("Etag", `"`+d.hash+`"`)
	if asked := r.URL.Query().Get("hash"); asked == d.hash {
		header.Set("Cache-Control", "public, immutable")
		header.Set("Expires", time.Now().AddDate(1, 0, 0).UTC().Format(http.TimeFormat))
	} else if asked != "" {
		u := *r.URL
		u.RawQuery = "hash=" + d.hash
		http.Redirect(w, r, u.String(), http.StatusMovedPermanently)
		return nil
	}
	if strings.Contains(r.Header.Get("If-None-Match"), d.hash) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	zipped, err := d.zip()
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	if !proto && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		header.Set("Content-Type", "application/json")
		header.Set("Content-Encoding", "gzip")
		_, _ = w.Write(zipped) // a client that has gone needs no answer
		return nil
	}
	plain, err := unzip(zipped)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	header.Set("Content-Type", "application/json")
	if proto {
		if plain, err = d.proto(plain); err != nil {
			return apierrors.NewInternalError(fmt.Errorf("OpenAPI of %s as protobuf: %w", d.about, err))
		}
		header.Set("Content-Type", d.protoType)
	}
	_, _ = w.Write(plain)
	return nil
}

func (d *document) zip() ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.zipped != nil {
		return d.zipped, nil
	}
	var buffer bytes.Buffer
	z := gzip.NewWriter(&buffer)
	if err := d.build(z); err != nil {
		return nil, fmt.Errorf("OpenAPI of %s: %w", d.about, err)
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	d.zipped = bytes.Clone(buffer.Bytes())
	return d.zipped, nil
}

func unzip(zipped []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(zipped))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}

func openAPIConfig(release string) *openapicommon.OpenAPIV3Config {
	namer := apiopenapi.NewDefinitionNamer(legacyscheme.Scheme)
	c := &openapicommon.OpenAPIV3Config{
		Info:            &spec.Info{InfoProps: spec.InfoProps{Title: "Kubernetes", Version: release}},
		DefaultResponse: &spec3.Response{ResponseProps: spec3.ResponseProps{Description: "Default Response."}},
		//lint:ignore SA1019 upstream gives it in this form
		GetOperationIDAndTags: apiopenapi.GetOperationIDAndTags,
		GetDefinitionName:     namer.GetDefinitionName,
		GetDefinitions:        openapi.GetOpenAPIDefinitions,
	}
	c.Definitions = openapi.GetOpenAPIDefinitions(func(name string) spec.Ref {
		defined, _ := namer.GetDefinitionName(name)
		return spec.MustCreateRef("#/components/schemas/" + openapicommon.EscapeJsonPointer(defined))
	})
	return c
}
