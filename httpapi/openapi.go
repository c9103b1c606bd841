package httpapi

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/emicklei/go-restful/v3"
	"github.com/labstack/echo/v4"
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
)

// document is the OpenAPI v3 document of one version. It is built when it is first asked for, and what is kept
// is its compressed JSON: a daemon that nobody asks to explain anything pays nothing, one that is asked 200 kB.
type document struct {
	service *restful.WebService
	hash    string

	mu     sync.Mutex
	zipped []byte
}

const (
	openAPIProto    = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf"
	openAPIProtoOld = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf"
)

// installOpenAPI serves /openapi/v3. Clients keep documents by their hash; it names the program and the routes,
// which is what a document is a function of, so that the index can be answered without building any.
func (s *Server) installOpenAPI(e *echo.Echo, services map[schema.GroupVersion]*restful.WebService) {
	documents := map[string]*document{}
	for _, ws := range services {
		documents[strings.TrimPrefix(ws.RootPath(), "/")] = &document{service: ws, hash: documentHash(ws)}
	}
	type path struct {
		URL string `json:"serverRelativeURL"`
	}
	index := map[string]path{}
	for name, d := range documents {
		index[name] = path{"/openapi/v3/" + name + "?hash=" + d.hash}
	}
	e.GET("/openapi/v3", func(c echo.Context) error {
		return c.JSON(http.StatusOK, map[string]any{"paths": index})
	})
	e.GET("/openapi/v3/*", func(c echo.Context) error {
		d := documents[c.Param("*")]
		if d == nil {
			return echo.ErrNotFound
		}
		return d.serve(c)
	})
}

func documentHash(ws *restful.WebService) string {
	h := sha256.New()
	fmt.Fprintln(h, version.GitVersion)
	if info, ok := debug.ReadBuildInfo(); ok {
		fmt.Fprintln(h, info.Main.Version, info.Main.Sum)
		for _, s := range info.Settings {
			if strings.HasPrefix(s.Key, "vcs.") {
				fmt.Fprintln(h, s.Value)
			}
		}
	}
	for _, r := range ws.Routes() {
		fmt.Fprintln(h, r.Method, r.Path, r.Operation)
	}
	return strings.ToUpper(hex.EncodeToString(h.Sum(nil)))
}

func (d *document) serve(c echo.Context) error {
	w, r := c.Response().Writer, c.Request()
	proto := strings.Contains(r.Header.Get("Accept"), "proto-openapi.spec.v3")
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
		w.Write(zipped) // a client that has gone needs no answer
		return nil
	}
	plain, err := unzip(zipped)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	header.Set("Content-Type", "application/json")
	if proto {
		if plain, err = handler3.ToV3ProtoBinary(plain); err != nil {
			return apierrors.NewInternalError(fmt.Errorf("OpenAPI of %s as protobuf: %w", d.service.RootPath(), err))
		}
		header.Set("Content-Type", openAPIProto)
		if strings.Contains(r.Header.Get("Accept"), openAPIProtoOld) {
			header.Set("Content-Type", openAPIProtoOld)
		}
	}
	w.Write(plain)
	return nil
}

func (d *document) zip() ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.zipped != nil {
		return d.zipped, nil
	}
	doc, err := builder3.BuildOpenAPISpecFromRoutes(restfuladapter.AdaptWebServices([]*restful.WebService{d.service}), openAPIConfig())
	if err != nil {
		return nil, fmt.Errorf("OpenAPI of %s: %w", d.service.RootPath(), err)
	}
	var buffer bytes.Buffer
	z := gzip.NewWriter(&buffer)
	if err := json.NewEncoder(z).Encode(doc); err != nil {
		return nil, fmt.Errorf("OpenAPI of %s: %w", d.service.RootPath(), err)
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

func openAPIConfig() *openapicommon.OpenAPIV3Config {
	namer := apiopenapi.NewDefinitionNamer(legacyscheme.Scheme)
	c := &openapicommon.OpenAPIV3Config{
		Info:                  &spec.Info{InfoProps: spec.InfoProps{Title: "Kubernetes", Version: version.GitVersion}},
		DefaultResponse:       &spec3.Response{ResponseProps: spec3.ResponseProps{Description: "Default Response."}},
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
