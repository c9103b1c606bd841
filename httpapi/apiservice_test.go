package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// TestAPIServicesFollowDefinitions: whoever watches APIServices sees one come with a definition, stay while another definition has
// the version, and go with the last.
func TestAPIServicesFollowDefinitions(t *testing.T) {
	n := newNode(t, nil)
	ctx := context.Background()
	c, err := dynamic.NewForConfigAndClient(&rest.Config{Host: "https://here", QPS: -1}, &http.Client{Transport: n.As("admin", "system:masters").RoundTripper()})
	check(t, err)
	services := c.Resource(schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"})
	crds := c.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})

	var all *unstructured.UnstructuredList
	eventually(t, func() (err error) {
		if all, err = services.List(ctx, metav1.ListOptions{}); err != nil {
			return err
		}
		if want := len(n.registry.Versions()); len(all.Items) != want {
			return fmt.Errorf("%d APIServices, %d versions are served", len(all.Items), want)
		}
		for _, s := range all.Items {
			if created := s.GetCreationTimestamp(); created.IsZero() {
				return fmt.Errorf("%s is of no age", s.GetName())
			}
		}
		return nil
	})
	w, err := services.Watch(ctx, metav1.ListOptions{ResourceVersion: all.GetResourceVersion()})
	check(t, err)
	defer w.Stop()
	define := func(plural string) {
		_, err := crds.Create(ctx, &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{"name": plural + ".example.com"},
			"spec": map[string]any{"group": "example.com", "scope": "Cluster", "names": map[string]any{"plural": plural, "kind": "K" + plural},
				"versions": []any{map[string]any{"name": "v1", "served": true, "storage": true, "schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object"}}}}},
		}}, metav1.CreateOptions{})
		check(t, err)
	}
	see := func(want watch.EventType) {
		t.Helper()
		e := <-w.ResultChan()
		u, ok := e.Object.(*unstructured.Unstructured)
		if !ok || e.Type != want || u.GetName() != "v1.example.com" {
			t.Fatalf("%s of %v, want %s of v1.example.com", e.Type, e.Object, want)
		}
	}
	define("as")
	see(watch.Added)
	define("bs")
	check(t, crds.Delete(ctx, "as.example.com", metav1.DeleteOptions{}))
	eventually(t, func() error {
		if _, err := crds.Get(ctx, "as.example.com", metav1.GetOptions{}); err == nil {
			return fmt.Errorf("the definition is still there")
		}
		return nil
	})
	if _, err := services.Get(ctx, "v1.example.com", metav1.GetOptions{}); err != nil {
		t.Errorf("with one of two definitions gone: %v", err)
	}
	check(t, crds.Delete(ctx, "bs.example.com", metav1.DeleteOptions{}))
	for e := range w.ResultChan() { // its creation time is that of the elder definition, which has gone
		if e.Type == watch.Deleted {
			break
		}
		if e.Type != watch.Modified {
			t.Fatalf("%s of %v", e.Type, e.Object)
		}
	}
}
