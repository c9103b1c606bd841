package audit

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"

	authnv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// Act is something that is done, or asked for, past the requests of the API: a write of a part of the daemon, a command over the
// daemon's own socket, a machine that joins.
type Act struct {
	// ID is the audit ID; empty: a new one.
	ID   types.UID
	User user.Info
	Verb string
	// Object is what it is done to. Without a Resource there is none, and Path says what is asked.
	Object auditinternal.ObjectReference
	Path   string
	// Agent names the program that asks, From the address that it asks from. Either may be empty.
	Agent, From string
	// Notes become annotations, with prefix in front of their keys.
	Notes map[string]string
	// Began is when it was asked for; zero: now.
	Began time.Time
}

// Where what is asked beside the API stands in the record, and in a policy's nonResourceURLs: on the daemon's own socket, by a machine that
// joins, and by a member of one that holds the CA's key. All are below /murmur/.
const (
	PathAdmin  = "/murmur/admin/"
	PathJoin   = "/murmur/v1/join"
	PathIssuer = "/murmur/issuer/"
)

// prefix is in front of the keys of annotations that are ours.
const prefix = "audit.murmur.io/"

// cause annotates what follows from another act or request with the audit ID of that one.
const cause = "cause"

// Note annotates the act or request that a context is of.
func Note(ctx context.Context, key, value string) {
	if value != "" {
		audit.AddAuditAnnotation(ctx, prefix+key, value)
	}
}

// apart hides the record of the request that a context is of.
type apart struct{ context.Context }

func (a apart) Value(key any) any {
	v := a.Context.Value(key)
	if _, of := v.(*audit.AuditContext); of {
		return nil
	}
	return v
}

// Apart is the context of something that has a record of its own though it follows from what ctx is of. Without it, what a request
// leads to would write its ID and its annotations over those of the request.
func Apart(ctx context.Context) context.Context {
	from := audit.AuditContextFrom(ctx)
	ctx = audit.WithAuditContext(apart{ctx})
	if from != nil {
		// Only what is in the record can be named. One that no policy has been asked about has no level.
		if level := from.GetEventLevel(); level != "" && level != auditinternal.LevelNone {
			Note(ctx, cause, string(from.AuditID()))
		}
	}
	return ctx
}

// Begin records that an act begins, as far as the policy wants it. What is done is done with the context that it returns, and the function
// is called with its outcome. Until then the act may be changed, to say what was not known before. A Recorder that is nil records nothing.
func (r *Recorder) Begin(ctx context.Context, a *Act) (context.Context, func(error)) {
	if r == nil {
		return ctx, func(error) {}
	}
	attributes := a.attributes()
	rule := r.EvaluatePolicyRule(attributes)
	if rule.Level == auditinternal.LevelNone {
		// What follows is no part of the request that this follows from.
		return apart{ctx}, func(error) {}
	}
	if a.ID == "" {
		a.ID = uuid.NewUUID()
	}
	if a.Began.IsZero() {
		a.Began = time.Now()
	}
	ctx = Apart(ctx)
	ac := audit.AuditContextFrom(ctx)
	audit.WithAuditID(ctx, a.ID)
	if err := ac.Init(rule, act{r.sink, a}); err != nil {
		return ctx, func(error) {} // it is new: this cannot be
	}
	as := &http.Request{URL: &url.URL{Path: a.uri()}, RemoteAddr: a.From, Header: http.Header{"User-Agent": {a.Agent}}}
	audit.LogRequestMetadata(ctx, as, a.Began, attributes)
	ac.ProcessEventStage(ctx, auditinternal.StageRequestReceived)
	return ctx, func(err error) {
		for k, v := range a.Notes {
			Note(ctx, k, v)
		}
		status := outcome(err)
		if err == nil && a.Verb == "create" && a.Object.Resource != "" {
			status.Code = http.StatusCreated
		}
		ac.SetEventResponseStatus(status)
		ac.ProcessEventStage(ctx, auditinternal.StageResponseComplete)
	}
}

func (a *Act) attributes() authorizer.AttributesRecord {
	o := a.Object
	return authorizer.AttributesRecord{
		User: a.User, Verb: a.Verb, Namespace: o.Namespace, APIGroup: o.APIGroup, APIVersion: o.APIVersion, Resource: o.Resource,
		Subresource: o.Subresource, Name: o.Name, ResourceRequest: o.Resource != "", Path: a.uri(),
	}
}

// uri is the path by which a client would ask for the same.
func (a *Act) uri() string {
	o := a.Object
	if a.Path != "" || o.Resource == "" {
		return a.Path
	}
	p := "/apis/" + o.APIGroup + "/" + o.APIVersion
	if o.APIGroup == "" {
		p = "/api/" + o.APIVersion
	}
	if o.Namespace != "" && o.Resource != "namespaces" {
		p += "/namespaces/" + o.Namespace
	}
	p += "/" + o.Resource
	if o.Name != "" && (a.Verb != "create" || o.Subresource != "") {
		p += "/" + o.Name
	}
	if o.Subresource != "" {
		p += "/" + o.Subresource
	}
	return p
}

// outcome is the Status of an error, or of its absence.
func outcome(err error) *metav1.Status {
	var known apierrors.APIStatus
	switch {
	case err == nil:
		return &metav1.Status{Status: metav1.StatusSuccess, Code: http.StatusOK}
	case errors.As(err, &known):
		s := known.Status()
		return &metav1.Status{Status: s.Status, Code: s.Code, Reason: s.Reason, Message: s.Message, Details: s.Details}
	}
	return &metav1.Status{Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Message: err.Error()}
}

// act puts into the events of an act what has become known of it since it began.
type act struct {
	audit.Sink
	of *Act
}

func (s act) ProcessEvents(events ...*auditinternal.Event) bool {
	for _, e := range events {
		if s.of.Object.Resource != "" {
			o := s.of.Object
			e.ObjectRef = &o
		}
		if u := s.of.User; u != nil {
			e.User = authnv1.UserInfo{Username: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups()}
			for k, v := range u.GetExtra() {
				if e.User.Extra == nil {
					e.User.Extra = map[string]authnv1.ExtraValue{}
				}
				e.User.Extra[k] = v
			}
		}
	}
	return s.Sink.ProcessEvents(events...)
}

// Asked records the object that the act of a context asks for, if the policy wants it.
func Asked(ctx context.Context, obj runtime.Object, as schema.GroupVersionResource, sub string, codecs runtime.NegotiatedSerializer) {
	if ac := audit.AuditContextFrom(ctx); ac.Enabled() && !ac.GetEventLevel().Less(auditinternal.LevelRequest) {
		audit.LogRequestObject(ctx, obj, as.GroupVersion(), as, sub, codecs)
	}
}

// Answered records the object that has become of it, if the policy wants it.
func Answered(ctx context.Context, obj runtime.Object, as schema.GroupVersion, codecs runtime.NegotiatedSerializer) {
	if ac := audit.AuditContextFrom(ctx); ac.Enabled() && !ac.GetEventLevel().Less(auditinternal.LevelRequestResponse) {
		audit.LogResponseObject(ctx, obj, as, codecs)
	}
}

// Made says which object an act was about, once it is known.
func (a *Act) Made(obj runtime.Object) {
	if m, err := meta.Accessor(obj); err == nil {
		a.Object.Name, a.Object.UID = m.GetName(), m.GetUID()
	}
}

// maxText bounds what is recorded of the text of a refusal.
const maxText = 512

// Requests records what a handler beside the API is asked. of says what a request is. The handler may say more with Note. What is sent is
// not recorded, nor what is answered but for why it was refused.
func (r *Recorder) Requests(h http.Handler, of func(*http.Request) *Act) http.Handler {
	if r == nil {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		ctx, end := r.Begin(req.Context(), of(req))
		seen := &answer{ResponseWriter: w, code: http.StatusOK}
		defer func() {
			if p := recover(); p != nil {
				end(&apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: http.StatusInternalServerError,
					Reason: metav1.StatusReasonInternalError, Message: "the answer was broken off"}})
				panic(p)
			}
			if seen.code < http.StatusBadRequest {
				end(nil)
				return
			}
			end(&apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: int32(seen.code),
				Message: string(bytes.TrimSpace(seen.text))}})
		}()
		h.ServeHTTP(seen, req.WithContext(ctx))
	})
}

// answer is a ResponseWriter that sees the status, and why a request is refused.
type answer struct {
	http.ResponseWriter
	code int
	text []byte
}

func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *answer) WriteHeader(code int) {
	a.code = code
	a.ResponseWriter.WriteHeader(code)
}

func (a *answer) Write(b []byte) (int, error) {
	if room := maxText - len(a.text); a.code >= http.StatusBadRequest && room > 0 {
		a.text = append(a.text, b[:min(room, len(b))]...)
	}
	return a.ResponseWriter.Write(b)
}
