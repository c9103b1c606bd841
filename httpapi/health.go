package httpapi

import (
	"errors"
	"fmt"
	"net/http"
	"runtime"

	"github.com/labstack/echo/v4"
	apiversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/kubernetes/pkg/serviceaccount"
)

// Version is the Kubernetes release whose API this is.
func Version() apiversion.Info { return version }

// version is what clients are told. The Makefile tells upstream's packages the same.
var version = apiversion.Info{
	Major: "1", Minor: "37", GitVersion: "v1.37.2+murmur", GitTreeState: "clean",
	GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH,
}

// errWithheld stands for a reason that is not told.
var errWithheld = errors.New("reason withheld")

func (s *Server) installHealth(e *echo.Echo) {
	e.GET("/version", func(c echo.Context) error { return c.JSON(http.StatusOK, version) })
	alive := func(c echo.Context) error { return c.String(http.StatusOK, "ok") }
	e.GET("/livez", alive)
	ready := func(c echo.Context) error {
		if s.cfg.Ready != nil {
			if err := s.cfg.Ready(); err != nil {
				// Why is told to those who may read it anyhow; nobody needs only know that.
				if u, ok := request.UserFrom(c.Request().Context()); !ok || u.GetName() == user.Anonymous {
					err = errWithheld
				}
				return c.String(http.StatusInternalServerError, fmt.Sprintf("not ready: %v\n", err))
			}
		}
		return alive(c)
	}
	e.GET("/readyz", ready)
	e.GET("/healthz", ready)
	if s.authn.OpenID != nil {
		described := func(contentType string, document func() ([]byte, int)) echo.HandlerFunc {
			return func(c echo.Context) error {
				b, maxAge := document()
				c.Response().Header().Set("Cache-Control", fmt.Sprintf("public, max-age=%d", maxAge))
				return c.Blob(http.StatusOK, contentType, b)
			}
		}
		e.GET(serviceaccount.OpenIDConfigPath, described("application/json", s.authn.OpenID.GetConfigJSON))
		e.GET(serviceaccount.JWKSPath, described("application/jwk-set+json", s.authn.OpenID.GetKeysetJSON))
	}
	if s.cfg.Metrics != nil {
		e.GET("/metrics", handled(s.cfg.Metrics))
	}
}
