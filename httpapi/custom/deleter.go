package custom

import (
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiserver/pkg/registry/rest"
)

// Deleter deletes objects of a definition that is established.
func (cs *Kinds) Deleter(crd *apiextensionsv1.CustomResourceDefinition) (rest.GracefulDeleter, error) {
	c, err := cs.get(crd)
	if err != nil {
		return nil, err
	}
	return c.versions[c.kind.Version.Version].storage.CustomResource, nil
}
