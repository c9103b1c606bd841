package audit

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"

	authnv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/audit"
	auditlog "k8s.io/apiserver/plugin/pkg/audit/log"
)

// created is the event of a create, as most are.
func created() *auditinternal.Event {
	at := metav1.NewMicroTime(time.Date(2026, 11, 30, 22, 0, 0, 123456789, time.UTC))
	return &auditinternal.Event{
		Level: auditinternal.LevelMetadata, AuditID: "0f5dbba5-0d62-4ee0-94df-84ad0a0d57c1", Stage: auditinternal.StageResponseComplete,
		RequestURI: "/api/v1/namespaces/default/configmaps?fieldManager=<&>", Verb: "create",
		User: authnv1.UserInfo{Username: "admin", Groups: []string{"system:masters", "system:authenticated"},
			Extra: map[string]authnv1.ExtraValue{"authentication.kubernetes.io/credential-id": {"X509SHA256=0123456789abcdef0123456789abcdef"}}},
		SourceIPs: []string{"10.0.0.1"}, UserAgent: "kubectl/v1.37.2 \u2028\x01\xff",
		ObjectRef:      &auditinternal.ObjectReference{Resource: "configmaps", Namespace: "default", Name: "c1", APIVersion: "v1"},
		ResponseStatus: &metav1.Status{Code: 201}, RequestReceivedTimestamp: at, StageTimestamp: at,
		Annotations: map[string]string{"authorization.k8s.io/decision": "allow", "authorization.k8s.io/reason": ""},
	}
}

// TestLines: what is written is what upstream's backend writes, letter by letter, with objects and without, and many at once.
func TestLines(t *testing.T) {
	whole := created()
	whole.Level = auditinternal.LevelRequestResponse
	whole.ImpersonatedUser = &authnv1.UserInfo{Username: "b", UID: "u"}
	whole.AuthenticationMetadata = &auditinternal.AuthenticationMetadata{ImpersonationConstraint: "c"}
	whole.ResponseStatus = &metav1.Status{Status: "Failure", Message: "no", Reason: "Invalid", Code: 422,
		Details: &metav1.StatusDetails{Name: "n", Causes: []metav1.StatusCause{{Field: "spec", Message: "m"}}}}
	whole.RequestObject = &runtime.Unknown{ContentType: runtime.ContentTypeJSON, Raw: []byte(`{ "kind":"ConfigMap","data":{"k":"<v>"} }`)}
	whole.ResponseObject = &runtime.Unknown{ContentType: runtime.ContentTypeJSON, Raw: bytes.Repeat([]byte(" "), 2*maxLineBuffer)}
	whole.ResponseObject.Raw = append([]byte(`{"data":"`), append(bytes.ReplaceAll(whole.ResponseObject.Raw, []byte(" "), []byte("x")), `"}`...)...)
	events := []*auditinternal.Event{created(), {}, whole, created()}
	var want, got bytes.Buffer
	theirs, ours := auditlog.NewBackend(&want, auditlog.FormatJson, auditv1.SchemeGroupVersion), lines{&got}
	if !theirs.ProcessEvents(events...) || !ours.ProcessEvents(events...) {
		t.Fatal("not written")
	}
	if want.Len() == 0 || got.String() != want.String() {
		t.Errorf("written:\n%s\nupstream:\n%s", got.Bytes(), want.Bytes())
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

// TestLinesFailed: an event that the disk does not take, or that is no JSON, is told to who asked.
func TestLinesFailed(t *testing.T) {
	bad := created()
	bad.RequestObject = &runtime.Unknown{ContentType: runtime.ContentTypeJSON, Raw: []byte(`{"kind":`)}
	if (lines{full{}}).ProcessEvents(created()) || (lines{io.Discard}).ProcessEvents(bad) {
		t.Error("said to be written")
	}
	var out bytes.Buffer
	if (lines{&out}).ProcessEvents(bad, created()) || bytes.Count(out.Bytes(), []byte("\n")) != 1 {
		t.Errorf("what follows one that is no JSON: %s", out.Bytes())
	}
}

// BenchmarkLines compares with upstream's backend.
func BenchmarkLines(b *testing.B) {
	for name, l := range map[string]audit.Backend{
		"upstream": auditlog.NewBackend(io.Discard, auditlog.FormatJson, auditv1.SchemeGroupVersion), "lines": lines{io.Discard},
	} {
		b.Run(name, func(b *testing.B) {
			e := created()
			b.ReportAllocs()
			for b.Loop() {
				l.ProcessEvents(e)
			}
		})
	}
}
