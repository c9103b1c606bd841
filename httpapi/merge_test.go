package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

var (
	mergeSeed   = flag.Uint64("merge.seed", 1, "the first seed of TestMergedObjectsValidate")
	mergeRounds = flag.Int("merge.rounds", 6, "how many objects of each kind TestMergedObjectsValidate merges")
	mergeKind   = flag.String("merge.kind", "", "the only kind that TestMergedObjectsValidate merges")
)

// TestMergedObjectsValidate: two sides each make edits of one object that the API accepts; what they become when they meet is
// the same on both, and is what the API would accept as new. Its status is not asked: the one who owns that writes it again
// from what it sees.
func TestMergedObjectsValidate(t *testing.T) {
	sides := []*node{newNode(t, nil), newNode(t, nil)}
	judge := newNode(t, nil)
	all := variants(t)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if *mergeKind != "" && name != *mergeKind {
			continue
		}
		t.Run(name, func(t *testing.T) {
			for i := range *mergeRounds {
				seed := *mergeSeed + uint64(i)
				w := &meeting{t: t, r: rand.New(rand.NewPCG(seed, 7)), seed: seed, sides: sides, judge: judge, variants: all[name], name: fmt.Sprintf("%s-%d", strings.ToLower(name), seed)}
				w.run()
			}
		})
	}
}

// meeting is two sides that edit one object and meet.
type meeting struct {
	t        *testing.T
	r        *rand.Rand
	seed     uint64
	sides    []*node
	judge    *node
	variants []map[string]any
	name     string
}

func (w *meeting) of(n *node, u map[string]any) dynamic.ResourceInterface {
	w.t.Helper()
	obj := &unstructured.Unstructured{Object: u}
	for k := range n.registry.Kinds() {
		if k.GVK == obj.GroupVersionKind() {
			c, err := dynamic.NewForConfigAndClient(&rest.Config{Host: "https://here", QPS: -1}, &http.Client{Transport: n.As("admin", "system:masters").RoundTripper()})
			check(w.t, err)
			r := c.Resource(k.GVK.GroupVersion().WithResource(k.Resource.Resource))
			if k.Namespaced {
				return r.Namespace("default")
			}
			return r
		}
	}
	w.t.Fatalf("%s is not served", obj.GroupVersionKind())
	return nil
}

// exchange brings what each side has to the other.
func (w *meeting) exchange() {
	w.t.Helper()
	for i, from := range w.sides {
		to := w.sides[1-i]
		deltas, err := from.store.Delta(to.store.Vector())
		check(w.t, err)
		for d := range deltas {
			_, _, err := to.store.Merge(context.Background(), d)
			check(w.t, err)
		}
	}
}

// meet is what an object has become on each side once they have exchanged all. A side may write by itself, as the status of an
// admission policy; then there is more to exchange.
func (w *meeting) meet(of map[string]any) []*unstructured.Unstructured {
	w.t.Helper()
	for {
		w.exchange()
		var met []*unstructured.Unstructured
		for _, side := range w.sides {
			have, err := w.of(side, of).Get(context.Background(), w.name, metav1.GetOptions{})
			check(w.t, err)
			have.SetResourceVersion("")
			met = append(met, have)
		}
		if bytes.Equal(w.sides[0].store.Vector(), w.sides[1].store.Vector()) {
			return met
		}
	}
}

func (w *meeting) run() {
	ctx := context.Background()
	var base *unstructured.Unstructured
	var refused error
	for range 50 {
		try := &unstructured.Unstructured{Object: runtime.DeepCopyJSON(pick(w.r, w.variants))}
		try.SetName(w.name)
		if made, err := w.of(w.sides[0], try.Object).Create(ctx, try, metav1.CreateOptions{}); err == nil {
			base = made
			break
		} else {
			refused = err
		}
	}
	defer func() { // for what the next is tried with, as the limits of a LimitRange
		if base != nil {
			_ = w.of(w.sides[0], base.Object).Delete(ctx, w.name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)})
		}
	}()
	if base == nil {
		w.t.Fatalf("seed %d: no variant could be created: %v", w.seed, refused)
	}
	w.exchange()
	var history []string
	for i, side := range w.sides {
		for range 1 + w.r.IntN(3) {
			history = append(history, fmt.Sprintf("side %d: %s", i, w.edit(side, base.Object)))
		}
	}
	met := w.meet(base.Object)
	if !equality.Semantic.DeepEqual(met[0], met[1]) {
		w.t.Fatalf("seed %d: the sides differ:\n%s\n%s", w.seed, text(met[0].Object), text(met[1].Object))
	}
	fresh := met[0].DeepCopy()
	fresh.Object["metadata"] = map[string]any{"name": w.name, "namespace": fresh.GetNamespace(), "labels": within(fresh.Object, "metadata", "labels"), "annotations": within(fresh.Object, "metadata", "annotations")}
	if fresh.GetKind() == "Job" && within(fresh.Object, "spec", "manualSelector") != true { // its selector and the labels for it are made by the server for each Job
		for _, path := range [][]string{{"spec", "selector"}, {"spec", "template", "metadata", "labels"}} {
			unstructured.RemoveNestedField(fresh.Object, path...)
		}
	}
	_, err := w.of(w.judge, fresh.Object).Create(ctx, fresh, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict})
	if err != nil {
		w.t.Errorf("seed %d: the merged object is refused: %v\nbase:   %s\n%s\nmerged: %s", w.seed, err, text(base.Object), strings.Join(history, "\n"), text(met[0].Object))
	}
}

// edit makes a change that the side's API accepts.
func (w *meeting) edit(side *node, like map[string]any) string {
	ctx := context.Background()
	client := w.of(side, like)
	for range 200 {
		now, err := client.Get(ctx, w.name, metav1.GetOptions{})
		check(w.t, err)
		next := now.DeepCopy()
		for range 1 + w.r.IntN(3) {
			w.mutate(next.Object, pick(w.r, w.variants), 0)
		}
		if equality.Semantic.DeepEqual(now, next) {
			continue
		}
		var made *unstructured.Unstructured
		if next.Object["status"] != nil && w.r.IntN(3) == 0 {
			made, err = client.UpdateStatus(ctx, next, metav1.UpdateOptions{})
		} else {
			made, err = client.Update(ctx, next, metav1.UpdateOptions{})
		}
		if err == nil && made.GetResourceVersion() != now.GetResourceVersion() {
			return text(made.Object)
		}
	}
	return "nothing" // some kinds can hardly be changed
}

// mutate changes one place of an object, mostly towards another valid one, so that whole unions change as well as their parts.
func (w *meeting) mutate(m, other map[string]any, depth int) {
	keys := slices.Sorted(maps.Keys(m))
	for k := range maps.Keys(other) {
		if _, ok := m[k]; !ok {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	keys = slices.DeleteFunc(keys, func(k string) bool {
		return k == "apiVersion" || k == "kind" || depth == 1 && slices.Contains([]string{"name", "namespace", "uid", "resourceVersion", "creationTimestamp", "managedFields", "generation"}, k)
	})
	if len(keys) == 0 {
		return
	}
	k := pick(w.r, keys)
	theirs, ok := other[k]
	switch mine := m[k].(type) {
	case map[string]any:
		if depth < 2 || w.r.IntN(3) > 0 {
			next, _ := theirs.(map[string]any)
			w.mutate(mine, next, depth+1)
			return
		}
	case []any:
		if w.r.IntN(3) > 0 {
			next, _ := theirs.([]any)
			m[k] = w.list(mine, next, depth+1)
			return
		}
	}
	switch {
	case ok && w.r.IntN(4) > 0:
		m[k] = runtime.DeepCopyJSONValue(theirs)
	case w.r.IntN(2) == 0:
		delete(m, k)
	default:
		m[k] = w.scalar(m[k])
	}
}

func (w *meeting) list(mine, theirs []any, depth int) []any {
	switch w.r.IntN(5) {
	case 0:
		if len(theirs) > 0 {
			return append(mine, runtime.DeepCopyJSONValue(pick(w.r, theirs)))
		}
	case 1:
		i := w.r.IntN(len(mine) + 1)
		if i < len(mine) {
			return slices.Delete(mine, i, i+1)
		}
	case 2:
		w.r.Shuffle(len(mine), func(i, j int) { mine[i], mine[j] = mine[j], mine[i] })
		return mine
	default:
		if len(mine) > 0 {
			i := w.r.IntN(len(mine))
			if m, ok := mine[i].(map[string]any); ok {
				var other map[string]any
				for _, o := range theirs {
					if o, ok := o.(map[string]any); ok && (other == nil || o["name"] == m["name"]) {
						other = o
					}
				}
				w.mutate(m, other, depth+1)
			} else {
				mine[i] = w.scalar(mine[i])
			}
		}
	}
	return mine
}

func (w *meeting) scalar(v any) any {
	switch v := v.(type) {
	case bool:
		return !v
	case int64:
		return v + int64(w.r.IntN(5)) - 2
	case string:
		return v + "x"
	}
	return v
}

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

func within(m map[string]any, path ...string) any {
	v, _, _ := unstructured.NestedFieldNoCopy(m, path...)
	return v
}

func text(m map[string]any) string {
	m = runtime.DeepCopyJSON(m)
	unstructured.RemoveNestedField(m, "metadata", "managedFields")
	b, _ := json.Marshal(m)
	return string(b)
}

// variants are valid objects by kind.
func variants(t *testing.T) map[string][]map[string]any {
	t.Helper()
	docs := func(name string) (out []map[string]any) {
		b, err := os.ReadFile("testdata/variants/" + name)
		check(t, err)
		for doc := range bytes.SplitSeq(b, []byte("\n---\n")) {
			raw, err := yaml.YAMLToJSON(doc)
			check(t, err)
			u := map[string]any{}
			check(t, unstructuredJSON(raw, &u))
			out = append(out, u)
		}
		return out
	}
	specs := docs("podspecs.yaml")
	out := map[string][]map[string]any{}
	for _, o := range docs("objects.yaml") {
		kind := o["kind"].(string)
		for _, spec := range specs {
			with, changed := fill(o, spec)
			out[kind] = append(out[kind], with.(map[string]any))
			if !changed {
				break
			}
		}
	}
	return out
}

func unstructuredJSON(raw []byte, into *map[string]any) error {
	u := &unstructured.Unstructured{}
	if err := json.Unmarshal(raw, &u.Object); err != nil {
		return err
	}
	*into = normal(u.Object).(map[string]any)
	return nil
}

// normal has whole numbers as the API machinery has them.
func normal(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = normal(v[k])
		}
	case []any:
		for i := range v {
			v[i] = normal(v[i])
		}
	case float64:
		return int64(v)
	}
	return v
}

// fill puts a pod spec where an object has a place for one.
func fill(v any, spec map[string]any) (out any, changed bool) {
	switch v := v.(type) {
	case map[string]any:
		m := map[string]any{}
		for k := range v {
			var c bool
			m[k], c = fill(v[k], spec)
			changed = changed || c
		}
		return m, changed
	case []any:
		l := make([]any, len(v))
		for i := range v {
			var c bool
			l[i], c = fill(v[i], spec)
			changed = changed || c
		}
		return l, changed
	case string:
		if v == "POD" || v == "POD-ONCE" {
			s := runtime.DeepCopyJSON(spec)
			if v == "POD-ONCE" {
				s["restartPolicy"] = "Never"
			}
			return s, true
		}
	}
	return v, false
}
