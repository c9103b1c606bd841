package audit

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/user"
)

// recorder is one with a log of its own, and what is in it.
func recorder(t *testing.T, policy string) (*Recorder, func() []auditv1.Event) {
	t.Helper()
	cfg := Config{LogPath: filepath.Join(t.TempDir(), "audit.log")}
	if policy != "" {
		cfg.PolicyFile = filepath.Join(t.TempDir(), "policy.yaml")
		if err := os.WriteFile(cfg.PolicyFile, []byte("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n"+policy), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r, func() (out []auditv1.Event) {
		t.Helper()
		b, err := os.ReadFile(cfg.LogPath)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.SplitSeq(strings.TrimSpace(string(b)), "\n") {
			var e auditv1.Event
			if line == "" {
				continue
			}
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatal(err)
			}
			out = append(out, e)
		}
		return out
	}
}

func by(name string) user.Info { return &user.DefaultInfo{Name: name, UID: "7", Groups: []string{"g"}} }

// TestActs: an act is an event as a request over HTTP would be, with its outcome; one that follows from another names it and changes
// nothing of it.
func TestActs(t *testing.T) {
	r, events := recorder(t, "")
	parent := &Act{User: by("system:admin-socket"), Verb: "post", Path: PathAdmin + "v1/forget", Notes: map[string]string{"node": "n3"}}
	ctx, end := r.Begin(context.Background(), parent)
	child := &Act{User: by("system:node:n1"), Verb: "delete", Object: auditinternal.ObjectReference{APIVersion: "v1", Resource: "nodes", Name: "n3", UID: "u"}}
	inner, ended := r.Begin(ctx, child)
	Note(inner, "of", "the child")
	ended(apierrors.NewNotFound(schema.GroupResource{Resource: "nodes"}, "n3"))
	status, done := r.Begin(ctx, &Act{User: by("system:serviceaccount:kube-system:job-controller"), Verb: "update",
		Object: auditinternal.ObjectReference{APIGroup: "batch", APIVersion: "v1", Resource: "jobs", Subresource: "status", Namespace: "a", Name: "j"}})
	Note(status, "of", "nobody")
	done(nil)
	made := &Act{User: by("system:apiserver"), Verb: "create", Object: auditinternal.ObjectReference{APIGroup: "apps", APIVersion: "v1", Resource: "deployments", Namespace: "a"}}
	_, done = r.Begin(context.Background(), made)
	made.Made(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "drawn", UID: "v"}})
	done(nil)
	_, done = r.Begin(context.Background(), &Act{User: by("a"), Verb: "post", Path: PathIssuer + "v1/sign"})
	done(errors.New("no"))
	end(nil)

	got := events()
	if len(got) != 4 {
		t.Fatalf("%d events, want 4: what keeps statuses is not recorded", len(got))
	}
	for i, want := range []struct {
		user, verb, uri string
		code            int32
	}{
		{"system:node:n1", "delete", "/api/v1/nodes/n3", 404},
		{"system:apiserver", "create", "/apis/apps/v1/namespaces/a/deployments", 201},
		{"a", "post", "/murmur/issuer/v1/sign", 500},
		{"system:admin-socket", "post", "/murmur/admin/v1/forget", 200},
	} {
		e := got[i]
		if e.User.Username != want.user || e.User.UID != "7" || e.Verb != want.verb || e.RequestURI != want.uri || e.ResponseStatus.Code != want.code ||
			e.Level != auditv1.LevelMetadata || e.Stage != auditv1.StageResponseComplete || e.AuditID == "" {
			t.Errorf("%+v, want %+v", e, want)
		}
	}
	first, last := got[0], got[3]
	if first.Annotations["audit.murmur.io/cause"] != string(last.AuditID) || first.AuditID == last.AuditID || first.Annotations["audit.murmur.io/of"] == "" {
		t.Errorf("what follows from %s: %s %v", last.AuditID, first.AuditID, first.Annotations)
	}
	if first.ObjectRef == nil || first.ObjectRef.Name != "n3" || first.ObjectRef.UID != "u" {
		t.Errorf("of what: %+v", first.ObjectRef)
	}
	if len(last.Annotations) != 1 || last.Annotations["audit.murmur.io/node"] != "n3" || last.ObjectRef != nil {
		t.Errorf("what the first says: %v %v", last.Annotations, last.ObjectRef)
	}
	if got[1].ObjectRef.Name != "drawn" || got[1].ObjectRef.UID != "v" {
		t.Errorf("a name that was drawn: %+v", got[1].ObjectRef)
	}
	var none *Recorder
	if same, end := none.Begin(ctx, parent); same != ctx {
		t.Error("nobody to record, and another context")
	} else {
		end(nil)
	}
}

// TestApart: the ID of a request stays its own, whatever it leads to in this process.
func TestApart(t *testing.T) {
	ctx := audit.WithAuditContext(context.Background())
	audit.WithAuditID(ctx, "first")
	in := Apart(ctx)
	audit.WithAuditID(in, "second")
	audit.AddAuditAnnotation(in, "k", "v")
	if id, _ := audit.AuditIDFrom(ctx); id != "first" {
		t.Errorf("the first is %s now", id)
	}
	if id, _ := audit.AuditIDFrom(in); id != "second" {
		t.Errorf("the second is %s", id)
	}
	if v, ok := audit.AuditContextFrom(ctx).GetEventAnnotation("k"); ok {
		t.Errorf("the first is annotated %s", v)
	}
}

// TestRequests: what a handler beside the API was asked is recorded with what it says of it, and why it refused; not what was sent.
func TestRequests(t *testing.T) {
	r, events := recorder(t, "- level: RequestResponse\n")
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/token", func(w http.ResponseWriter, r *http.Request) {
		Note(r.Context(), "token", "abc")
		_, _ = io.WriteString(w, "the secret")
	})
	mux.HandleFunc("POST /v1/forget", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "there is no such member", http.StatusUnprocessableEntity)
	})
	mux.HandleFunc("GET /v1/backup", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	srv := httptest.NewServer(r.Requests(mux, func(r *http.Request) *Act {
		return &Act{User: by("a"), Verb: strings.ToLower(r.Method), Path: PathAdmin + strings.TrimPrefix(r.URL.Path, "/"), Agent: r.UserAgent(), From: r.RemoteAddr}
	}))
	defer srv.Close()
	for _, path := range []string{"/v1/token", "/v1/forget"} {
		resp, err := http.Post(srv.URL+path, "text/plain", strings.NewReader("another secret"))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	if _, err := http.Get(srv.URL + "/v1/backup"); err == nil {
		t.Error("an answer that was broken off came whole")
	}
	got := map[string]auditv1.Event{}
	for _, e := range events() {
		if b, err := json.Marshal(e); err != nil || strings.Contains(string(b), "secret") {
			t.Errorf("recorded: %s %v", b, err)
		}
		if e.Stage == auditv1.StageResponseComplete {
			got[e.RequestURI] = e
		}
	}
	for path, want := range map[string]struct {
		code int32
		says string
	}{"v1/token": {200, ""}, "v1/forget": {422, "there is no such member"}, "v1/backup": {500, "the answer was broken off"}} {
		e, ok := got[PathAdmin+path]
		if !ok || e.ResponseStatus.Code != want.code || e.ResponseStatus.Message != want.says || len(e.SourceIPs) != 1 || e.UserAgent == "" {
			t.Errorf("%s: %+v", path, e)
		}
	}
	if got[PathAdmin+"v1/token"].Annotations["audit.murmur.io/token"] != "abc" {
		t.Error("what a handler says is not there")
	}
}
