package httpapi

import (
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

// fieldTypes are the schemas by which the ownership of fields is kept. They are the ones of client-go's apply
// configurations, which the store merges by as well; what has none there, reviews and other requests that nobody
// applies, is taken field by field as it comes.
type fieldTypes struct {
	known, deduced managedfields.TypeConverter
}

func (f fieldTypes) ObjectToTyped(obj runtime.Object, opts ...typed.ValidationOptions) (*typed.TypedValue, error) {
	tv, err := f.known.ObjectToTyped(obj, opts...)
	if err != nil && strings.Contains(err.Error(), "no type found matching") {
		return f.deduced.ObjectToTyped(obj, opts...)
	}
	return tv, err
}

func (f fieldTypes) TypedToObject(tv *typed.TypedValue) (runtime.Object, error) {
	return f.known.TypedToObject(tv)
}
