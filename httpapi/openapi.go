package httpapi

import (
	"net/http"
	"strings"

	"github.com/emicklei/go-restful/v3"
	"github.com/labstack/echo/v4"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiopenapi "k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/kube-openapi/pkg/builder3"
	"k8s.io/kube-openapi/pkg/cached"
	openapicommon "k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/common/restfuladapter"
	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/generated/openapi"
)

// installOpenAPI serves /openapi/v3, one document a version. A document is built when it is first asked for, and
// only its bytes are kept: a daemon that nobody asks to explain anything pays nothing.
func (s *Server) installOpenAPI(e *echo.Echo, services map[schema.GroupVersion]*restful.WebService) error {
	v3 := handler3.NewOpenAPIService()
	for _, ws := range services {
		v3.UpdateGroupVersionLazy(strings.TrimPrefix(ws.RootPath(), "/"), cached.Func(func() (*spec3.OpenAPI, string, error) {
			doc, err := builder3.BuildOpenAPISpecFromRoutes(restfuladapter.AdaptWebServices([]*restful.WebService{ws}), openAPIConfig())
			return doc, "", err
		}))
	}
	e.GET("/openapi/v3", handled(http.HandlerFunc(v3.HandleDiscovery)))
	e.GET("/openapi/v3/*", handled(http.StripPrefix("", http.HandlerFunc(v3.HandleGroupVersion))))
	return nil
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
