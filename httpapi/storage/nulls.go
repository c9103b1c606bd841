package storage

import (
	"encoding/json"
	"reflect"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// nullsOf makes the function that looks in objects of a type for nulls that JSON would show: the values of maps that are nil, and whatever may
// be in values of any shape. Nil: the type has no place for them. A field that is nil is none: it means the same as one that is absent. above
// are the types that it is asked in.
func nullsOf(t reflect.Type, above []reflect.Type) func(reflect.Value) bool {
	some := func(v reflect.Value) bool { return !v.IsZero() }
	for _, a := range above {
		if a == t {
			return some // it has itself in it, to any depth
		}
	}
	above = append(above, t)
	switch t {
	case reflect.TypeFor[runtime.RawExtension](), reflect.TypeFor[apiextensionsv1.JSON](), reflect.TypeFor[json.RawMessage]():
		return some
	}
	switch t.Kind() {
	case reflect.Interface:
		return some
	case reflect.Pointer:
		if of := nullsOf(t.Elem(), above); of != nil {
			return func(v reflect.Value) bool { return !v.IsNil() && of(v.Elem()) }
		}
	case reflect.Slice, reflect.Array:
		if of := nullsOf(t.Elem(), above); of != nil {
			return func(v reflect.Value) bool {
				for i := range v.Len() {
					if of(v.Index(i)) {
						return true
					}
				}
				return false
			}
		}
	case reflect.Map:
		return nullsOfMap(t, nullsOf(t.Elem(), above))
	case reflect.Struct:
		return nullsOfStruct(t, above)
	}
	return nil
}

func nullsOfMap(t reflect.Type, of func(reflect.Value) bool) func(reflect.Value) bool {
	nilable := false
	switch t.Elem().Kind() {
	case reflect.Interface, reflect.Pointer, reflect.Slice, reflect.Map:
		nilable = true
	}
	if !nilable && of == nil {
		return nil
	}
	return func(v reflect.Value) bool {
		for all := v.MapRange(); all.Next(); {
			if e := all.Value(); nilable && e.IsNil() || of != nil && of(e) {
				return true
			}
		}
		return false
	}
}

func nullsOfStruct(t reflect.Type, above []reflect.Type) func(reflect.Value) bool {
	type field struct {
		at int
		of func(reflect.Value) bool
	}
	var fields []field
	for i := range t.NumField() {
		if !t.Field(i).IsExported() {
			continue
		}
		if of := nullsOf(t.Field(i).Type, above); of != nil {
			fields = append(fields, field{i, of})
		}
	}
	if fields == nil {
		return nil
	}
	return func(v reflect.Value) bool {
		for _, f := range fields {
			if f.of(v.Field(f.at)) {
				return true
			}
		}
		return false
	}
}
