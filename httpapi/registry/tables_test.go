package registry

import (
	"context"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	core "k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/printers"
	printersinternal "k8s.io/kubernetes/pkg/printers/internalversion"
	printerstorage "k8s.io/kubernetes/pkg/printers/storage"
)

type stored struct{ *registry.Store }

func (stored) New() runtime.Object { return &core.ConfigMap{} }

// TestSharedTables: a registry that shares its printers prints what it printed before, and so does the one of its status; one that has no
// printers of its own, or is no registry, stays as it is.
func TestSharedTables(t *testing.T) {
	own := printers.NewTableGenerator().With(printersinternal.AddHandlers)
	s := &registry.Store{TableConvertor: printerstorage.TableConvertor{TableGenerator: own}}
	status := *s
	obj := &core.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Data: map[string]string{"k": "v"}}
	table := func(c rest.TableConvertor) string {
		t.Helper()
		got, err := c.ConvertToTable(context.Background(), obj, nil)
		if err != nil {
			t.Fatal(err)
		}
		out := ""
		for _, c := range got.ColumnDefinitions {
			out += c.Name + " "
		}
		return out + got.Rows[0].Cells[0].(string)
	}
	want := table(s.TableConvertor)
	if !newTables().share(&stored{s}) {
		t.Error("not shared")
	}
	if got := table(s.TableConvertor); got != want {
		t.Errorf("%s, was %s", got, want)
	}
	if got := table(status.TableConvertor); got != want {
		t.Errorf("status: %s, was %s", got, want)
	}
	// What it had is replaced, and not only added to.
	empty := printers.NewTableGenerator()
	s.TableConvertor = printerstorage.TableConvertor{TableGenerator: empty}
	if !newTables().share(stored{s}) || table(s.TableConvertor) != want {
		t.Error("the printers of all are not there")
	}
	other := &registry.Store{TableConvertor: rest.NewDefaultTableConvertor(schema.GroupResource{Resource: "roles"})}
	for _, s := range []rest.Storage{stored{other}, stored{}, &registry.Store{}, nil} {
		if newTables().share(s) {
			t.Errorf("%T has printers", s)
		}
	}
}
