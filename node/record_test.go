package node

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"murmur/httpapi/audit"
	"murmur/node/member"
)

func recorded(t *testing.T, path string) (out []auditv1.Event) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(strings.TrimSpace(string(b)), "\n") {
		var e auditv1.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

// TestAdminSocketIsRecorded: a command over the admin socket is in the record with the process that gave it, a question is not.
func TestAdminSocketIsRecorded(t *testing.T) {
	log := filepath.Join(t.TempDir(), "audit.log")
	r, err := audit.New(audit.Config{LogPath: log})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "s")
	l, err := listenPrivate(path)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/forget", answered(func(r *http.Request) (any, error) {
		audit.Note(r.Context(), "node", "n3")
		return nil, errors.New("n3 is alive")
	}))
	mux.HandleFunc("GET /v1/status", answered(func(*http.Request) (any, error) { return struct{}{}, nil }))
	mux.HandleFunc("GET /v1/backup", answered(func(*http.Request) (any, error) { return struct{}{}, nil }))
	srv := &http.Server{Handler: r.Requests(mux, administered), ConnContext: withCaller}
	run(t, func(ctx context.Context) error { return serveUntil(ctx, l, srv) })
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
	for _, ask := range []string{"POST /v1/forget", "GET /v1/status", "GET /v1/backup"} {
		method, path, _ := strings.Cut(ask, " ")
		req, err := http.NewRequest(method, "http://murmur"+path, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	events := recorded(t, log)
	if len(events) != 2 {
		t.Fatalf("%d events, want those of forget and backup", len(events))
	}
	for i, want := range []struct {
		uri  string
		code int32
	}{{"/murmur/admin/v1/forget", 422}, {"/murmur/admin/v1/backup", 200}} {
		e := events[i]
		if e.RequestURI != want.uri || e.ResponseStatus.Code != want.code || e.User.Username != userAdmin || e.User.UID != strconv.Itoa(os.Getuid()) ||
			len(e.User.Extra[extraPID]) != 1 || e.User.Extra[extraPID][0] != strconv.Itoa(os.Getpid()) {
			t.Errorf("%+v, want %+v", e, want)
		}
	}
	if events[0].Annotations["audit.murmur.io/node"] != "n3" || events[0].ResponseStatus.Message != "n3 is alive" {
		t.Errorf("%+v", events[0])
	}
}

// TestAdmissionIsRecorded: a joiner is the user of its token, as upstream names one, once the token has proven it.
func TestAdmissionIsRecorded(t *testing.T) {
	log := filepath.Join(t.TempDir(), "audit.log")
	r, err := audit.New(audit.Config{LogPath: log})
	if err != nil {
		t.Fatal(err)
	}
	n := &Node{audit: r}
	n.admission(t.Context(), member.Admission{ID: "one", Began: time.Now(), Node: "n4", NodeID: "id", Address: "10.0.0.4", From: "192.0.2.4", Token: "abc", Issuer: true})
	n.admission(t.Context(), member.Admission{ID: "two", Began: time.Now(), Node: "n5", From: "192.0.2.5", Token: "abc", Refused: member.ErrRefused, Code: 401})
	n.admission(t.Context(), member.Admission{ID: "three", Began: time.Now(), Node: "n5", From: "192.0.2.5", Token: "abc", ByWayOf: "n2", Refused: errors.New("taken"), Code: 409})
	events := recorded(t, log)
	for i, want := range []struct {
		id, user, from string
		code           int32
	}{{"one", "system:bootstrap:abc", "192.0.2.4", 200}, {"two", "system:anonymous", "192.0.2.5", 401}, {"three", "system:bootstrap:abc", "192.0.2.5", 409}} {
		e := events[i]
		if string(e.AuditID) != want.id || e.User.Username != want.user || len(e.SourceIPs) != 1 || e.SourceIPs[0] != want.from || e.ResponseStatus.Code != want.code ||
			e.RequestURI != audit.PathJoin || e.Annotations["audit.murmur.io/token"] != "abc" || e.Annotations["audit.murmur.io/node"] == "" {
			t.Errorf("%+v, want %+v", e, want)
		}
	}
	if events[0].Annotations["audit.murmur.io/issuer"] != "true" || events[2].Annotations["audit.murmur.io/by-way-of"] != "n2" || events[1].ResponseStatus.Message != member.ErrRefused.Error() {
		t.Errorf("%+v", events)
	}
}

// TestRestoreIsRecorded: in the new data directory, as done by who ran it.
func TestRestoreIsRecorded(t *testing.T) {
	cfg := Config{}
	cfg.Audit.LogPath = filepath.Join(t.TempDir(), "audit", "audit.log")
	for range 2 {
		if err := restored(cfg, "n1", true); err != nil {
			t.Fatal(err)
		}
	}
	events := recorded(t, cfg.Audit.LogPath)
	if len(events) != 2 {
		t.Fatalf("%d events", len(events))
	}
	if e := events[0]; e.Verb != "restore" || e.User.Username != userAdmin || e.User.UID != strconv.Itoa(os.Getuid()) || e.Annotations["audit.murmur.io/node"] != "n1" || e.Annotations["audit.murmur.io/alone"] != "true" {
		t.Errorf("%+v", e)
	}
	cfg.Audit.LogPath = ""
	if err := restored(cfg, "n1", true); err != nil {
		t.Errorf("nothing is to be recorded: %v", err)
	}
}
