package httpapi

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"sigs.k8s.io/yaml"

	"murmur/crdt"
)

const widgets = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, shortNames: [wd], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.size, statusReplicasPath: .status.size}
    selectableFields: [{jsonPath: .spec.colour}]
    additionalPrinterColumns: [{name: Colour, type: string, jsonPath: .spec.colour}]
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [colour]
            x-kubernetes-validations: [{rule: "self.colour != 'beige'", message: "no beige"}]
            properties:
              colour: {type: string, maxLength: 20}
              size: {type: integer, default: 1, minimum: 0}
              note: {type: string, nullable: true}
              ports:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [port]
                items: {type: object, required: [port], properties: {port: {type: integer}, name: {type: string}}}
              free: {type: object, x-kubernetes-preserve-unknown-fields: true}
          status:
            type: object
            properties: {size: {type: integer}, phase: {type: string}}
  - name: v1beta1
    served: true
    storage: false
    deprecated: true
    schema:
      openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}
`

// send is one request as an administrator, with YAML for JSON: the code, the decoded body, and the header.
func (n *node) send(method, path, contentType, body string) (int, map[string]any, http.Header) {
	n.t.Helper()
	if contentType == "" {
		contentType = "application/json"
		raw, err := yaml.YAMLToJSON([]byte(body))
		check(n.t, err)
		body = string(raw)
	}
	if n.web == nil {
		n.web = n.client("admin", "system:masters")
	}
	r, err := http.NewRequest(method, n.url+path, bytes.NewBufferString(body))
	check(n.t, err)
	if body != "null" {
		r.Header.Set("Content-Type", contentType)
	} else {
		r.Body = http.NoBody
		r.ContentLength = 0
	}
	res, err := n.web.Do(r)
	check(n.t, err)
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	check(n.t, err)
	out := map[string]any{}
	if json.Unmarshal(raw, &out) != nil {
		out["raw"] = string(raw)
	}
	return res.StatusCode, out, res.Header
}

const crdsPath = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

const widgetsPath = "/apis/example.com/v1/namespaces/default/widgets"

// expect is send whose answer must have a code. With text, the answer must contain it.
func (n *node) expect(code int, method, path, contentType, body string, text ...string) map[string]any {
	n.t.Helper()
	got, out, _ := n.send(method, path, contentType, body)
	raw, err := json.Marshal(out)
	check(n.t, err)
	if got != code {
		n.t.Fatalf("%s %s: %d, want %d: %s", method, path, got, code, raw)
	}
	for _, want := range text {
		if !strings.Contains(string(raw), want) {
			n.t.Errorf("%s %s: no %s in %s", method, path, want, raw)
		}
	}
	return out
}

func widgetYAML(name, spec string) string {
	return fmt.Sprintf("{apiVersion: example.com/v1, kind: Widget, metadata: {name: %s}, spec: {%s}}", name, spec)
}

func at(obj map[string]any, path ...string) any {
	v, _, _ := unstructured.NestedFieldNoCopy(obj, path...)
	return v
}

func TestCustomResourcesAreServed(t *testing.T) {
	n := newNode(t, nil)
	n.expect(404, "GET", widgetsPath, "", "")
	n.expect(201, "POST", crdsPath, "", widgets, `"type":"Established"`)
	// With the answer it is there, and in every kind of discovery.
	n.expect(200, "GET", widgetsPath, "", "", `"kind":"WidgetList"`)
	n.expect(200, "GET", "/apis", "", "", `"example.com/v1beta1"`)
	n.expect(200, "GET", "/apis/example.com", "", "", `"preferredVersion":{"groupVersion":"example.com/v1"`)
	n.expect(200, "GET", "/apis/example.com/v1", "", "", `"widgets/scale"`, `"widgets/status"`, `"shortNames":["wd"]`)
	n.expect(404, "GET", "/apis/example.com/v2", "", "")
	n.expect(404, "GET", "/apis/example.com/v2/namespaces/default/widgets", "", "")
	n.expect(405, "POST", "/apis/apps/v1/deployments", "", "{}")

	// Pruned, defaulted and validated.
	got := n.expect(201, "POST", widgetsPath, "", widgetYAML("a", "colour: red, unknown: 1, note: null, free: {any: [1]}, ports: [{port: 1}]"))
	n.expect(200, "GET", widgetsPath+"/a", "", "", `"note":null`)
	if at(got, "spec", "unknown") != nil || at(got, "spec", "size") != float64(1) || at(got, "spec", "free", "any") == nil {
		t.Errorf("created: %v", got["spec"])
	}
	if _, has := got["spec"].(map[string]any)["note"]; !has {
		t.Errorf("a nullable field that is null went: %v", got["spec"])
	}
	n.expect(422, "POST", widgetsPath, "", widgetYAML("b", "size: -1"), "spec.colour: Required value", "spec.size")
	n.expect(422, "POST", widgetsPath, "", widgetYAML("b", "colour: beige"), "no beige")
	n.expect(422, "POST", widgetsPath, "", widgetYAML("b", "colour: red, ports: [{port: 1}, {port: 1}]"), "Duplicate value")
	n.expect(400, "POST", widgetsPath+"?fieldValidation=Strict", "", widgetYAML("b", "colour: red, unknown: 1"), `unknown field \"spec.unknown\"`)
	n.expect(201, "POST", widgetsPath, "", widgetYAML("b", "colour: green"))
	n.expect(404, "POST", "/apis/example.com/v1/namespaces/nowhere/widgets", "", widgetYAML("b", "colour: green"))

	// Versions, subresources, patches, selectors.
	_, old, header := n.send("GET", strings.Replace(widgetsPath, "v1", "v1beta1", 1)+"/a", "", "")
	if old["apiVersion"] != "example.com/v1beta1" || !strings.Contains(header.Get("Warning"), "use example.com/v1 Widget") {
		t.Errorf("the other version: %v, %v", old, header)
	}
	n.expect(200, "GET", widgetsPath+"/a/scale", "", "", `"replicas":1`)
	n.expect(200, "PATCH", widgetsPath+"/a/scale", "application/merge-patch+json", `{"spec":{"replicas":4}}`)
	n.expect(200, "PATCH", widgetsPath+"/a/status", "application/merge-patch+json", `{"spec":{"size":9},"status":{"size":3}}`)
	got = n.expect(200, "GET", widgetsPath+"/a", "", "")
	if at(got, "spec", "size") != float64(4) || at(got, "status", "size") != float64(3) || at(got, "metadata", "generation") != float64(2) {
		t.Errorf("after scale and status: %v", got)
	}
	n.expect(415, "PATCH", widgetsPath+"/a", "application/strategic-merge-patch+json", `{}`)
	n.expect(200, "PATCH", widgetsPath+"/a", "application/json-patch+json", `[{"op":"replace","path":"/spec/colour","value":"blue"}]`)
	n.expect(200, "PATCH", widgetsPath+"/a?fieldManager=one", "application/apply-patch+yaml", widgetYAML("a", "ports: [{port: 2}]"))
	got = n.expect(200, "PATCH", widgetsPath+"/a?fieldManager=two", "application/apply-patch+yaml", widgetYAML("a", "ports: [{port: 3}]"))
	if ports, _ := at(got, "spec", "ports").([]any); len(ports) != 3 {
		t.Errorf("two managers of a keyed list: %v", ports)
	}
	n.expect(409, "PATCH", widgetsPath+"/a?fieldManager=two", "application/apply-patch+yaml", widgetYAML("a", "colour: pink"))
	got = n.expect(200, "GET", widgetsPath+"?fieldSelector=spec.colour=blue", "", "")
	if items, _ := got["items"].([]any); len(items) != 1 {
		t.Errorf("selected by field: %v", got)
	}
	n.expect(400, "GET", widgetsPath+"?fieldSelector=spec.size=1", "", "")

	// What the store has says how it is merged; nobody is shown that.
	e, ok := n.store.Snapshot().Get(crdt.Key{Resource: "example.com/widgets", Namespace: "default", Name: "a"})
	if !ok {
		t.Fatal("the object is not in the store")
	}
	value, err := e.Map()
	check(t, err)
	if s := crdt.ShapeOf(value); len(s.Lists["/spec/ports"]) != 1 || s.Epoch != 0 {
		t.Errorf("the shape in the store: %+v", s)
	}
	if got[crdt.ShapeField] != nil {
		t.Errorf("shown: %v", got)
	}

	// A definition goes when its objects are gone.
	n.expect(200, "PATCH", widgetsPath+"/b", "application/merge-patch+json", `{"metadata":{"finalizers":["example.com/hold"]}}`)
	n.expect(200, "DELETE", crdsPath+"/widgets.example.com", "", "")
	n.expect(403, "POST", widgetsPath, "", widgetYAML("c", "colour: red"), "terminating")
	n.eventually("the object without a finalizer is gone", func() bool { c, _, _ := n.send("GET", widgetsPath+"/a", "", ""); return c == 404 })
	n.expect(200, "GET", crdsPath+"/widgets.example.com", "", "")
	n.expect(200, "PATCH", widgetsPath+"/b", "application/merge-patch+json", `{"metadata":{"finalizers":null}}`)
	n.eventually("the definition is gone", func() bool {
		c, _, _ := n.send("GET", crdsPath+"/widgets.example.com", "", "")
		return c == 404
	})
	n.expect(404, "GET", widgetsPath, "", "")
	n.expect(404, "GET", "/apis/example.com", "", "")
}

func (n *node) eventually(what string, ok func() bool) {
	n.t.Helper()
	for range 1000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	n.t.Fatalf("never: %s", what)
}

// TestCustomWatchEndsWithItsKind: a client learns that what it watches is not what it was.
func TestCustomWatchEndsWithItsKind(t *testing.T) {
	n := newNode(t, nil)
	n.expect(201, "POST", crdsPath, "", widgets)
	ended := make(chan string, 1)
	go func() {
		res, err := n.client("admin", "system:masters").Get(n.url + widgetsPath + "?watch=true&timeoutSeconds=60")
		if err != nil {
			ended <- err.Error()
			return
		}
		defer res.Body.Close()
		raw, err := io.ReadAll(res.Body)
		ended <- fmt.Sprint(string(raw), err)
	}()
	n.expect(201, "POST", widgetsPath, "", widgetYAML("a", "colour: red"))
	time.Sleep(100 * time.Millisecond)
	n.expect(200, "PATCH", crdsPath+"/widgets.example.com", "application/json-patch+json",
		`[{"op":"add","path":"/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/more","value":{"type":"string"}}]`)
	select {
	case said := <-ended:
		if !strings.Contains(said, `"type":"ADDED"`) || !strings.HasSuffix(said, "<nil>") {
			t.Errorf("the watch said %s", said)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the watch goes on")
	}
	n.expect(200, "PATCH", widgetsPath+"/a", "application/merge-patch+json", `{"spec":{"more":"of it"}}`, `"more":"of it"`)
}

// TestOpenAPIOfCustomResources: both documents have what is defined, and it goes with its definition.
func TestOpenAPIOfCustomResources(t *testing.T) {
	n := newNode(t, nil)
	document := func(path, accept, tag string) (int, string, string) {
		r, err := http.NewRequest("GET", n.url+path, nil)
		check(t, err)
		r.Header.Set("Accept", accept)
		if tag != "" {
			r.Header.Set("If-None-Match", tag)
		}
		res, err := n.web.Do(r)
		check(t, err)
		defer res.Body.Close()
		return res.StatusCode, readAll(t, res.Body), res.Header.Get("Etag")
	}
	n.web = n.client("admin", "system:masters")
	_, before, tag := document("/openapi/v2", "application/json", "")
	if code, _, _ := document("/openapi/v2", "application/json", tag); code != http.StatusNotModified {
		t.Errorf("the same document again: %d", code)
	}
	n.expect(201, "POST", crdsPath, "", widgets)
	code, after, _ := document("/openapi/v2", "application/json", tag)
	var swagger spec.Swagger
	check(t, json.Unmarshal([]byte(after), &swagger))
	have := swagger.Definitions["com.example.v1.Widget"]
	if code != 200 || have.Properties["spec"].Properties["colour"].Type[0] != "string" || len(swagger.Definitions) < 400 {
		t.Errorf("OpenAPI v2: %d, %d storage.Definitions, properties %v", code, len(swagger.Definitions), have.Properties["spec"])
	}
	if _, ok := swagger.Paths.Paths["/apis/example.com/v1/namespaces/{namespace}/widgets/{name}/scale"]; !ok {
		t.Error("no path of a custom subresource")
	}
	clients, err := discovery.NewDiscoveryClientForConfig(&rest.Config{Host: "https://murmur", Transport: n.As("admin", "system:masters").RoundTripper()})
	check(t, err)
	known, err := clients.OpenAPISchema()
	check(t, err)
	found := false
	for _, d := range known.Definitions.AdditionalProperties {
		found = found || d.Name == "com.example.v1.Widget"
	}
	if !found {
		t.Error("client-go does not find the kind in OpenAPI v2")
	}
	versions, err := clients.OpenAPIV3().Paths()
	check(t, err)
	if _, err := versions["apis/example.com/v1"].Schema("application/com.github.proto-openapi.spec.v3@v1.0+protobuf"); err != nil {
		t.Errorf("OpenAPI v3 as protobuf: %v", err)
	}
	index := n.expect(200, "GET", "/openapi/v3", "", "")
	url, _ := at(index, "paths", "apis/example.com/v1", "serverRelativeURL").(string)
	if code, v3, _ := document(url, "application/json", ""); code != 200 || !strings.Contains(v3, "com.example.v1.Widget") {
		t.Errorf("OpenAPI v3 at %q: %d", url, code)
	}
	n.expect(200, "DELETE", crdsPath+"/widgets.example.com", "", "")
	n.eventually("OpenAPI without the definition", func() bool {
		_, now, _ := document("/openapi/v2", "application/json", "")
		return now == before
	})
	n.expect(404, "GET", "/openapi/v3/apis/example.com/v1", "", "")
}

// TestConversionWebhook: objects are stored in one version and shown in another, as a webhook makes one of the other.
func TestConversionWebhook(t *testing.T) {
	n := newNode(t, nil)
	hook := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		review := &apiextensionsv1.ConversionReview{}
		if err := json.NewDecoder(r.Body).Decode(review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		review.Response = &apiextensionsv1.ConversionResponse{UID: review.Request.UID, Result: metav1.Status{Status: metav1.StatusSuccess}}
		for _, raw := range review.Request.Objects {
			u := &unstructured.Unstructured{}
			if err := json.Unmarshal(raw.Raw, u); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			u.SetAPIVersion(review.Request.DesiredAPIVersion)
			from, to := "spec", "was"
			if strings.HasSuffix(review.Request.DesiredAPIVersion, "/v1") {
				from, to = to, from
			}
			u.Object[to] = u.Object[from]
			delete(u.Object, from)
			review.Response.ConvertedObjects = append(review.Response.ConvertedObjects, runtime.RawExtension{Object: u})
		}
		review.Request = nil
		json.NewEncoder(w).Encode(review)
	}))
	defer hook.Close()
	bundle := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: hook.Certificate().Raw}))
	crd := strings.Replace(widgets, "  scope: Namespaced", fmt.Sprintf(`  scope: Namespaced
  conversion:
    strategy: Webhook
    webhook: {conversionReviewVersions: [v1], clientConfig: {url: %q, caBundle: %s}}`, hook.URL+"/convert", bundle), 1)
	n.expect(201, "POST", crdsPath, "", crd)
	n.expect(201, "POST", widgetsPath, "", widgetYAML("a", "colour: red"))
	beta := strings.Replace(widgetsPath, "v1", "v1beta1", 1)
	n.expect(200, "GET", beta+"/a", "", "", `"was":{"colour":"red"`)
	n.expect(201, "POST", beta, "", `{apiVersion: example.com/v1beta1, kind: Widget, metadata: {name: b}, was: {colour: green}}`)
	n.expect(200, "GET", widgetsPath, "", "", `"colour":"green"`, `"colour":"red"`)
	hook.Close()
	n.expect(500, "GET", beta+"/a", "", "", "conversion webhook")
	n.expect(200, "GET", widgetsPath+"/a", "", "")
}
