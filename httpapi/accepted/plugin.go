package accepted

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/warning"
)

// Name of the plugin in the chain of admission.
const Name = "AcceptedFields"

// Refuser is the package whose rows the plugin itself refuses.
const Refuser = "httpapi/accepted"

// Fields finds in objects what rows speak of.
type Fields struct {
	// late looks at what is to be stored, early also at what the API will drop.
	late, early map[reflect.Type]*step
	kinds       map[reflect.Type]string
}

// New compiles the table over the internal types of the kinds.
func New() (*Fields, error) {
	t := newTable()
	f := &Fields{late: map[reflect.Type]*step{}, early: map[reflect.Type]*step{}, kinds: map[reflect.Type]string{}}
	for _, k := range Kinds() {
		late, early := map[string]*Row{}, map[string]*Row{}
		for path, r := range t.said(k.Name) {
			if r.Dropped != "" {
				early[path] = r
			} else {
				late[path] = r
			}
		}
		of := reflect.TypeOf(k.Internal)
		for into, rows := range map[*map[reflect.Type]*step]map[string]*Row{&f.late: late, &f.early: early} {
			if len(rows) == 0 {
				continue
			}
			root, err := compile(reflect.TypeOf(k.External), of, rows)
			if err != nil {
				return nil, fmt.Errorf("fields of %s: %w", k.Name, err)
			}
			(*into)[of] = root
		}
		f.kinds[of] = k.Name
	}
	return f, nil
}

// find lists what an object has that rows speak of.
func find(trees map[reflect.Type]*step, obj runtime.Object) []hit {
	if obj == nil {
		return nil
	}
	root := trees[reflect.TypeOf(obj)]
	if root == nil {
		return nil
	}
	return root.look(reflect.ValueOf(obj), nil)
}

// news are the hits of a write that were not there before.
func news(trees map[reflect.Type]*step, a admission.Attributes) []hit {
	if a.GetSubresource() == "status" {
		return nil
	}
	now := find(trees, a.GetObject())
	if len(now) == 0 || a.GetOperation() != admission.Update {
		return now
	}
	return fresh(now, find(trees, a.GetOldObject()))
}

// Plugin tells who writes a field what happens, and refuses what is to be refused.
func (f *Fields) Plugin() admission.Interface {
	return plugin{admission.NewHandler(admission.Create, admission.Update), f}
}

type plugin struct {
	*admission.Handler
	fields *Fields
}

var (
	_ admission.MutationInterface   = plugin{}
	_ admission.ValidationInterface = plugin{}
)

// Admit speaks of what the API is about to drop.
func (p plugin) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	p.fields.warn(ctx, a.GetObject(), news(p.fields.early, a))
	return nil
}

// Validate speaks of what is about to be stored.
func (p plugin) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	hits := news(p.fields.late, a)
	if len(hits) == 0 {
		return nil
	}
	var errs field.ErrorList
	hits = slices.DeleteFunc(hits, func(h hit) bool {
		// A template makes no pod yet, and may have been there before; its pods are refused.
		refused := h.row.Is == Refused && h.row.By == Refuser && p.fields.kinds[reflect.TypeOf(a.GetObject())] == h.row.Kind
		if refused {
			errs = append(errs, field.Forbidden(field.NewPath(h.path), h.row.Say))
		}
		return refused
	})
	if len(errs) > 0 {
		return apierrors.NewInvalid(a.GetKind().GroupKind(), a.GetName(), errs)
	}
	p.fields.warn(ctx, a.GetObject(), hits)
	return nil
}

func (f *Fields) warn(ctx context.Context, obj runtime.Object, hits []hit) {
	for _, text := range sentences(hits) {
		warning.AddWarning(ctx, "", f.kinds[reflect.TypeOf(obj)]+" "+text)
	}
}

// sentences are the hits as text, one for each row, with the first place at which each of its fields is.
func sentences(hits []hit) []string {
	var out []string
	for i, h := range hits {
		if slices.ContainsFunc(hits[:i], func(before hit) bool { return before.row == h.row }) {
			continue
		}
		var paths, seen []string
		for _, other := range hits[i:] {
			if other.row != h.row {
				continue
			}
			if name := plainPath(other.path); !slices.Contains(seen, name) {
				seen, paths = append(seen, name), append(paths, other.path)
			}
		}
		out = append(out, strings.Join(paths, ", ")+": "+h.row.Say)
	}
	return out
}

// plainPath is a path without indexes.
func plainPath(path string) string {
	var b strings.Builder
	for path != "" {
		before, rest, found := strings.Cut(path, "[")
		b.WriteString(before)
		if !found {
			break
		}
		index, after, _ := strings.Cut(rest, "]")
		if strings.Trim(index, "0123456789") != "" {
			b.WriteString("[" + index + "]")
		}
		path = after
	}
	return b.String()
}
