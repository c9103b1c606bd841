// Package route says which handler a request for a resource is for.
//
// Its one law: what is served is what was authorised. Both are read from one parse of the path, upstream's
// RequestInfo. A handler is found by the attributes that authorisation sees, never by matching the path a second time,
// so no spelling of a path can mean one thing to RBAC and another to a handler.
//
// RequestInfo is generous: it skips slashes at either end, takes empty segments for names, and ignores what follows a
// subresource. Parse accepts only a path that the attributes spell back; every other one has no address, and the
// answer is 404.
package route

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// Info is the one parse of a request's path.
var Info = &request.RequestInfoFactory{
	APIPrefixes:          sets.NewString("api", "apis"),
	GrouplessAPIPrefixes: sets.NewString("api"),
}

// Address is where a request for a resource goes: the attributes that authorisation sees, without the names.
type Address struct {
	Group, Version, Resource, Subresource string
	// Verb is the verb that stands before the resource in old paths, "watch" or "proxy".
	Verb string
	// Namespaced: the path is below a namespace. Named: it names an object. Tail: something follows the subresource.
	Namespaced, Named, Tail bool
}

// Parse is the address of a request. It is false if the path says more, or less, than the attributes do.
func Parse(info *request.RequestInfo) (Address, bool) {
	if !info.IsResourceRequest || len(info.Parts) == 0 {
		return Address{}, false
	}
	a := Address{
		Group: info.APIGroup, Version: info.APIVersion, Resource: info.Resource, Subresource: info.Subresource,
		Named: len(info.Parts) > 1, Tail: len(info.Parts) > 3,
	}
	before := []string{info.APIPrefix}
	if info.APIPrefix != "api" {
		before = append(before, info.APIGroup)
	}
	before = append(before, info.APIVersion)
	// One slash at the end says nothing, to upstream's router neither.
	segments := strings.Split(strings.TrimSuffix(strings.TrimPrefix(info.Path, "/"), "/"), "/")
	if len(segments) > len(before) && (segments[len(before)] == "watch" || segments[len(before)] == "proxy") {
		a.Verb = segments[len(before)]
		before = append(before, a.Verb)
	}
	if len(segments) == len(before)+2+len(info.Parts) {
		a.Namespaced = true
		before = append(before, "namespaces", info.Namespace)
	}
	if !strings.HasPrefix(info.Path, "/") || !slices.Equal(segments, append(before, info.Parts...)) {
		return Address{}, false
	}
	// What follows a subresource is for who is behind a proxy to read.
	for _, s := range segments[:min(len(segments), len(before)+3)] {
		if !plain(s) {
			return Address{}, false
		}
	}
	if a.Named && info.Name != info.Parts[1] {
		return Address{}, false
	}
	return a, true
}

// plain tells whether a segment can be a name: no object has one that cannot be written into a path, or read.
func plain(segment string) bool {
	return segment != "" && utf8.ValidString(segment) && !strings.ContainsFunc(segment, unicode.IsControl) && len(content.IsPathSegmentName(segment)) == 0
}

// Table finds what answers a request by its address and method.
type Table[T any] struct {
	rows map[Address]map[string]T
}

// parameter is one of go-restful's, "{name}" or "{path:*}".
var parameter = regexp.MustCompile(`\{([^}:]+)(:\*)?\}`)

// Add puts what answers a method on a path of go-restful's into the table. It is false if the path is not a resource's.
func (t *Table[T]) Add(method, template string, what T) (bool, error) {
	spelled := parameter.ReplaceAllString(strings.TrimSuffix(template, "/"), "$1")
	info, err := Info.NewRequestInfo(&http.Request{Method: http.MethodGet, URL: &url.URL{Path: spelled}})
	if err != nil {
		return false, fmt.Errorf("route %s: %w", template, err)
	}
	if !info.IsResourceRequest {
		return false, nil
	}
	a, ok := Parse(info)
	if !ok {
		return false, fmt.Errorf("route %s: its attributes do not spell its path", template)
	}
	if t.rows == nil {
		t.rows = map[Address]map[string]T{}
	}
	if t.rows[a] == nil {
		t.rows[a] = map[string]T{}
	}
	if _, twice := t.rows[a][method]; twice {
		return false, fmt.Errorf("route %s %s: its address is another's too", method, template)
	}
	t.rows[a][method] = what
	return true, nil
}

// Find is what answers a method at an address, and whether any method is answered there.
func (t *Table[T]) Find(a Address, method string) (what T, there, known bool) {
	methods, known := t.rows[a]
	what, there = methods[method]
	return what, there, known
}

// NotFound is upstream's answer where nothing is served.
func NotFound() error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: http.StatusNotFound,
		Reason: metav1.StatusReasonNotFound, Message: "the server could not find the requested resource", Details: &metav1.StatusDetails{}}}
}
