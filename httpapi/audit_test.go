package httpapi

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	upstreamaudit "k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/user"

	"murmur/crdt"
	"murmur/httpapi/audit"
)

// recording is a recorder with a log of its own, and what has been recorded in it.
func recording(t *testing.T, cfg audit.Config) (*audit.Recorder, func() []auditv1.Event) {
	t.Helper()
	cfg.LogPath = filepath.Join(t.TempDir(), "audit", "audit.log")
	r, err := audit.New(cfg)
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		check(t, <-done)
	})
	return r, func() []auditv1.Event {
		t.Helper()
		b, err := os.ReadFile(cfg.LogPath)
		check(t, err)
		var out []auditv1.Event
		for line := range strings.SplitSeq(strings.TrimSpace(string(b)), "\n") {
			var e auditv1.Event
			if line != "" {
				check(t, json.Unmarshal([]byte(line), &e))
				out = append(out, e)
			}
		}
		return out
	}
}

// TestAudit: what is written, Secrets that are read and streams are recorded with who did it, on both nodes if two serve it; a
// Secret's value never is.
func TestAudit(t *testing.T) {
	peers, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	near, nearly := recording(t, audit.Config{})
	far, farther := recording(t, audit.Config{})
	n := newNode(t, func(c *Config) {
		c.Audit = near
		c.Relay = func(ctx context.Context, node string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", peers.Addr().String())
		}
	})
	second, err := New(Config{Store: n.store, Node: "n2", Kubelet: newTalking(t), Log: n.cfg.Log, TLS: n.cfg.TLS, Audit: far})
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- second.ServePeers(ctx, peers) }()
	defer func() {
		cancel()
		check(t, <-served)
	}()
	c := n.typed()
	_, err = c.CoreV1().Secrets("default").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"password": "hunter2"}}, metav1.CreateOptions{})
	check(t, err)
	_, err = c.CoreV1().Secrets("default").Get(ctx, "s", metav1.GetOptions{})
	check(t, err)
	_, err = c.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{})
	check(t, err)
	check(t, c.CoreV1().Secrets("default").Delete(ctx, "s", metav1.DeleteOptions{}))
	_, err = c.CoreV1().Pods("default").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"},
		Spec: corev1.PodSpec{NodeName: "n2", Containers: []corev1.Container{{Name: "main", Image: "i"}}}}, metav1.CreateOptions{})
	check(t, err)
	for _, bin := range kubectls(t) {
		n.must(bin, "", "exec", "p", "-c", "main", "--", "true")
	}
	stranger, err := n.client("").Get(n.url + "/api/v1/namespaces/default/secrets")
	check(t, err)
	stranger.Body.Close()

	seen := map[string]auditv1.Event{}
	eventually(t, func() error {
		for _, e := range nearly() {
			if e.ObjectRef != nil {
				seen[e.Verb+" "+e.ObjectRef.Resource+"/"+e.ObjectRef.Subresource+" "+e.ObjectRef.Name+" "+e.User.Username] = e
			}
			if e.RequestObject != nil || e.ResponseObject != nil {
				t.Errorf("a body was recorded: %s %s", e.Verb, e.RequestURI)
			}
		}
		return nil
	})
	for _, want := range []string{"create secrets/ s admin", "get secrets/ s admin", "delete secrets/ s admin", "create pods/ p admin", "list secrets/  "} {
		if _, ok := seen[want]; !ok {
			t.Errorf("not recorded: %q", want)
		}
	}
	if _, ok := seen["list configmaps/  admin"]; ok {
		t.Error("a read of what is no secret was recorded")
	}
	relayed := 0
	for key, e := range seen {
		if !strings.Contains(key, "pods/exec p") {
			continue
		}
		for _, there := range farther() {
			if there.AuditID == e.AuditID && there.User.Username == "admin" && there.ObjectRef.Name == "p" && len(there.SourceIPs) > 0 && there.SourceIPs[0] == e.SourceIPs[0] {
				relayed++
				break
			}
		}
	}
	if relayed == 0 {
		t.Error("what was handed to another node is not under one ID in both records")
	}
}

// TestAuditPolicy: a policy of one's own decides, also after it has changed; a broken one stops a start and not a node that runs.
func TestAuditPolicy(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policy.yaml")
	const head = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n"
	check(t, os.WriteFile(file, []byte(head+"- level: Bogus\n"), 0o600))
	if _, err := audit.New(audit.Config{PolicyFile: file, LogPath: filepath.Join(t.TempDir(), "a")}); err == nil || !strings.Contains(err.Error(), file+":4:3: ") {
		t.Errorf("a broken policy: %v", err)
	}
	if _, err := audit.New(audit.Config{PolicyFile: file}); err == nil {
		t.Error("a policy without a backend was accepted")
	}
	check(t, os.WriteFile(file, []byte(head+"- level: RequestResponse\n  resources: [{resources: [configmaps]}]\n"), 0o600))
	var mu sync.Mutex
	var sent []string
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		sent = append(sent, string(b))
	}))
	target := filepath.Join(t.TempDir(), "hook.yaml")
	check(t, os.WriteFile(target, []byte("apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{name: c, cluster: {server: '"+hook.URL+"'}}]\ncontexts: [{name: c, context: {cluster: c}}]\n"), 0o600))
	// The webhook has them in a batch, when the recorder ends at the latest.
	t.Cleanup(func() {
		mu.Lock()
		defer mu.Unlock()
		if !strings.Contains(strings.Join(sent, ""), `"a":"b"`) {
			t.Error("nothing was sent to the webhook")
		}
		hook.Close()
	})
	r, recorded := recording(t, audit.Config{PolicyFile: file, WebhookFile: target})
	n := newNode(t, func(c *Config) { c.Audit = r })
	_, err := n.typed().CoreV1().ConfigMaps("default").Create(context.Background(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Data: map[string]string{"a": "b"}}, metav1.CreateOptions{})
	check(t, err)
	found := false
	for _, e := range recorded() {
		found = found || e.RequestObject != nil && strings.Contains(string(e.RequestObject.Raw), `"a":"b"`)
	}
	if !found {
		t.Error("what the policy asks for was not recorded")
	}
}

// TestAuditInProcess: what parts of the daemon write without a request is recorded as a request of theirs would be, whoever they are; of
// Secrets never more than that, whatever the policy says. What the API asks itself on the way does not touch the record of who asked it.
func TestAuditInProcess(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policy.yaml")
	check(t, os.WriteFile(file, []byte("apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n- level: None\n  verbs: [get, list, watch]\n- level: RequestResponse\n"), 0o600))
	r, recorded := recording(t, audit.Config{PolicyFile: file})
	n := newNode(t, func(c *Config) { c.Audit = r })
	ctx := context.Background()
	robot := n.Server.As("system:serviceaccount:kube-system:token-cleaner", "system:masters")
	made, err := robot.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", GenerateName: "drawn-"}, Data: map[string]string{"a": "b"}})
	check(t, err)
	drawn := made.(*corev1.ConfigMap)
	_, err = n.Server.System().Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s"}, Data: map[string][]byte{"password": []byte("hunter2")}})
	check(t, err)
	check(t, robot.Delete(ctx, crdt.Key{Resource: "configmaps", Namespace: "default", Name: drawn.Name}, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &drawn.UID}}))
	if err := n.Server.As("nobody").Delete(ctx, crdt.Key{Resource: "secrets", Namespace: "default", Name: "s"}, metav1.DeleteOptions{}); err == nil {
		t.Error("nobody may delete Secrets")
	}
	_, end := n.Server.Record(ctx, &user.DefaultInfo{Name: "system:node:n1"}, "delete", crdt.Key{Resource: "pods", Namespace: "default", Name: "p"}, "u")
	end(nil)

	seen := map[string]auditv1.Event{}
	for _, e := range recorded() {
		if e.ObjectRef != nil {
			seen[e.User.Username+" "+e.Verb+" "+e.ObjectRef.Resource+" "+e.ObjectRef.Name] = e
		}
		if b, err := json.Marshal(e); err != nil || strings.Contains(string(b), "hunter2") || strings.Contains(string(b), base64.StdEncoding.EncodeToString([]byte("hunter2"))) {
			t.Errorf("a Secret's value is in the record: %s %v", b, err)
		}
	}
	const cleaner = "system:serviceaccount:kube-system:token-cleaner"
	for key, code := range map[string]int32{
		cleaner + " create configmaps " + drawn.Name: 201, cleaner + " delete configmaps " + drawn.Name: 200, "system:apiserver create secrets s": 201,
		"nobody delete secrets s": 403, "system:node:n1 delete pods p": 200,
	} {
		e, ok := seen[key]
		if !ok || e.ResponseStatus.Code != code || e.AuditID == "" || e.RequestURI == "" {
			t.Errorf("%s: %+v", key, e)
		}
	}
	if e := seen[cleaner+" create configmaps "+drawn.Name]; e.RequestObject == nil || !strings.Contains(string(e.RequestObject.Raw), `"a":"b"`) || e.ResponseObject == nil || e.ObjectRef.UID != drawn.UID {
		t.Errorf("what the policy asks for is not there: %+v", e)
	}
	if e := seen[cleaner+" delete configmaps "+drawn.Name]; e.ObjectRef == nil || e.ObjectRef.UID != drawn.UID {
		t.Errorf("which one was deleted: %+v", e.ObjectRef)
	}

	// A request of which another one follows in this process.
	outer := upstreamaudit.WithAuditContext(ctx)
	upstreamaudit.WithAuditID(outer, "of-the-caller")
	for _, c := range []*Client{n.Server.System(), robot} {
		req, err := http.NewRequestWithContext(outer, "POST", "https://murmur/api/v1/namespaces/default/configmaps", strings.NewReader(`{"metadata":{"generateName":"c-"}}`))
		check(t, err)
		req.Header.Set("Content-Type", "application/json")
		resp, err := c.RoundTripper().RoundTrip(req)
		check(t, err)
		_, err = io.Copy(io.Discard, resp.Body)
		check(t, errors.Join(err, resp.Body.Close()))
		if resp.StatusCode != http.StatusCreated {
			t.Fatalf("create: %d", resp.StatusCode)
		}
		if id, _ := upstreamaudit.AuditIDFrom(outer); id != "of-the-caller" {
			t.Errorf("the request of the caller has become %s", id)
		}
	}
	eventually(t, func() error {
		followed := map[string]bool{}
		for _, e := range recorded() {
			if e.RequestURI == "/api/v1/namespaces/default/configmaps" && e.AuditID != "of-the-caller" && e.Verb == "create" && e.ObjectRef.Name != drawn.Name {
				followed[e.User.Username] = true
			}
		}
		if !followed["system:apiserver"] || !followed[cleaner] {
			return fmt.Errorf("what followed is recorded of %v", followed)
		}
		return nil
	})
}
