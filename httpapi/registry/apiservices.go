package registry

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration"
	apiservicestore "k8s.io/kube-aggregator/pkg/registry/apiservice/etcd"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
)

// APIServices: there is one for each group version that is served here. None is stored: each node derives them from the table and
// from the definitions, as it does what it sees of nodes. No request is forwarded to the API server of another, so an
// APIService that asks for it is refused, and the derived ones cannot be written.

func newAPIServices(r *Registry) (map[string]rest.Storage, error) {
	s := apiservicestore.NewREST(legacyscheme.Scheme, r)
	s.CreateStrategy = derivedAPIServices{s.CreateStrategy}
	return map[string]rest.Storage{"": s, "status": apiservicestore.NewStatusREST(legacyscheme.Scheme, s)}, nil
}

// derivedAPIServices says why nobody makes an APIService.
type derivedAPIServices struct{ rest.RESTCreateStrategy }

func (d derivedAPIServices) Validate(ctx context.Context, obj runtime.Object) field.ErrorList {
	errs := d.RESTCreateStrategy.Validate(ctx, obj)
	if obj.(*apiregistration.APIService).Spec.Service != nil {
		return append(errs, field.Forbidden(field.NewPath("spec", "service"),
			"API servers are not aggregated: nothing here forwards requests to a Service; a CustomResourceDefinition defines kinds that are served here"))
	}
	return append(errs, field.Forbidden(field.NewPath("spec"), "APIServices are derived from what is served here, and nobody makes them"))
}
