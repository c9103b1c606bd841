package registry

import (
	"reflect"

	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/printers"
	printersinternal "k8s.io/kubernetes/pkg/printers/internalversion"
	printerstorage "k8s.io/kubernetes/pkg/printers/storage"
)

// tables prints the objects of all kinds. Each of upstream's registries brings a generator of its own, with the printers of all kinds in it: fifty
// copies of the same, 2 MB of what an idle daemon holds.
type tables struct {
	all *printers.HumanReadableGenerator
}

func newTables() tables {
	return tables{printers.NewTableGenerator().With(printersinternal.AddHandlers)}
}

// share lets go of a registry's own printers for those of all. The registries of its subresources are made of it, and print with the same
// generator, so it is the generator's contents that change.
func (t tables) share(s rest.Storage) bool {
	v := reflect.Indirect(reflect.ValueOf(s))
	if v.Kind() != reflect.Struct {
		return false
	}
	f := v.FieldByName("Store") // embedded
	if !f.IsValid() || !f.CanInterface() {
		return false
	}
	store, ok := f.Interface().(*registry.Store)
	if !ok || store == nil {
		return false
	}
	convertor, ok := store.TableConvertor.(printerstorage.TableConvertor)
	if !ok {
		return false
	}
	own, ok := convertor.TableGenerator.(*printers.HumanReadableGenerator)
	if ok {
		*own = *t.all
	}
	return ok
}
