package httpapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestStatus sends raw requests. A directive is a method; its arguments are the path, and optionally user=NAME (the
// admin without it, user=none without a certificate), type= and accept= for the headers, and size=N for a body of N bytes;
// the input is the body. The answer is shown as code, reason and message, or the body if it is no Status.
func TestStatus(t *testing.T) {
	n := newNode(t, nil)
	admin := n.client("admin", "system:masters")
	datadriven.RunTest(t, "testdata/status", func(t *testing.T, d *datadriven.TestData) string {
		client, body := admin, d.Input
		header := http.Header{}
		path := ""
		for _, a := range d.CmdArgs {
			v := ""
			if len(a.Vals) > 0 {
				v = a.Vals[0]
			}
			switch a.Key {
			case "user":
				client = n.client(strings.TrimPrefix(v, "none"))
			case "type":
				header.Set("Content-Type", v)
			case "accept":
				header.Set("Accept", v)
			case "token":
				header.Set("Authorization", "Bearer "+v)
			case "size":
				count := 0
				fmt.Sscan(v, &count)
				body = `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"big"},"data":{"a":"` + strings.Repeat("x", count) + `"}}`
			case "path":
				path = v
			}
		}
		if body != "" && header.Get("Content-Type") == "" {
			header.Set("Content-Type", "application/json")
		}
		req, err := http.NewRequest(strings.ToUpper(d.Cmd), n.url+path, strings.NewReader(body))
		check(t, err)
		req.Header = header
		resp, err := client.Do(req)
		check(t, err)
		defer resp.Body.Close()
		text := readAll(t, resp.Body)
		var status metav1.Status
		if json.Unmarshal([]byte(text), &status) == nil && status.Kind == "Status" {
			text = fmt.Sprintf("%s: %s", status.Reason, status.Message)
		}
		if len(text) > 400 {
			text = text[:400] + "..."
		}
		out := fmt.Sprintf("%d %s\n", resp.StatusCode, resp.Header.Get("Content-Type"))
		for _, w := range resp.Header.Values("Warning") {
			out += w + "\n"
		}
		return out + still(text)
	})
}
