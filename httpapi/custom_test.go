package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
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

// send is one request as an administrator: the code, and the decoded body.
func (n *node) send(method, path, contentType, body string) (int, map[string]any, http.Header) {
	n.t.Helper()
	if strings.Contains(contentType, "yaml") || contentType == "" {
		if contentType == "" {
			contentType = "application/json"
			raw, err := yaml.YAMLToJSON([]byte(body))
			check(n.t, err)
			body = string(raw)
		}
	}
	if n.web == nil {
		n.web = n.client("admin", "system:masters")
	}
	r, err := http.NewRequest(method, n.url+path, bytes.NewBufferString(body))
	check(n.t, err)
	if body != "null" && body != "" {
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

func TestCustomResourcesAreServed(t *testing.T) {
	n := newNode(t, nil)
	if code, _, _ := n.send("GET", "/apis/example.com/v1/widgets", "", ""); code != 404 {
		t.Fatalf("before there is a definition: %d", code)
	}
	code, crd, _ := n.send("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", "", widgets)
	if code != 201 {
		t.Fatalf("create: %d %v", code, crd)
	}
	fmt.Println(crd["status"])
	for _, path := range []string{"/apis/example.com", "/apis/example.com/v1", "/apis/example.com/v1beta1"} {
		code, got, _ := n.send("GET", path, "", "")
		fmt.Println(path, code, got)
	}
	code, w, _ := n.send("POST", "/apis/example.com/v1/namespaces/default/widgets", "", `{apiVersion: example.com/v1, kind: Widget, metadata: {name: a}, spec: {colour: red, unknown: 1, ports: [{port: 1}]}}`)
	fmt.Println(code, w)
	code, w, h := n.send("GET", "/apis/example.com/v1beta1/namespaces/default/widgets/a", "", "")
	fmt.Println(code, w, h)
	rv := w["metadata"].(map[string]any)["resourceVersion"].(string)
	go func() {
		time.Sleep(300 * time.Millisecond)
		n.send("DELETE", "/apis/example.com/v1/namespaces/default/widgets/a", "", "")
	}()
	code, w, h = n.send("GET", "/apis/example.com/v1/namespaces/default/widgets?watch=true&timeoutSeconds=1&resourceVersion="+rv, "", "")
	fmt.Println("WATCH", code, w, h)
	code, w, h = n.send("GET", "/apis/example.com/v1/namespaces/default/widgets/a/scale", "", "")
	fmt.Println(code, w, h)
	code, w, _ = n.send("DELETE", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.example.com", "", "")
	fmt.Println(code, w)
	time.Sleep(time.Second)
	code, w, _ = n.send("GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.example.com", "", "")
	fmt.Println(code, w)
	_ = context.Background
}
