package openapi

import (
	"testing"

	"github.com/emicklei/go-restful/v3"
)

// TestParameters: what two routes have in common is kept once, and only that; order and contents stay.
func TestParameters(t *testing.T) {
	service := func() *restful.WebService {
		ws := new(restful.WebService).Path("/api/v1")
		none := func(*restful.Request, *restful.Response) {}
		for _, path := range []string{"/a", "/b"} {
			ws.Route(ws.GET(path).To(none).Param(ws.QueryParameter("pretty", "how").DataType("string")).
				Param(ws.QueryParameter("only", path)).Param(ws.QueryParameter("limit", "how many").DataType("integer").PossibleValues([]string{"1", "2"})))
		}
		return ws
	}
	known := Parameters{}
	first, second := NewService(service(), known), NewService(service(), known)
	if len(known) != 4 {
		t.Errorf("%d are kept, want pretty, limit, and two that differ in what they say", len(known))
	}
	want := service().Routes()
	for _, s := range []*Service{first, second} {
		for i, r := range s.routes {
			if len(r.ParameterDocs) != 3 {
				t.Fatalf("%s has %d", r.Path, len(r.ParameterDocs))
			}
			for j, p := range r.ParameterDocs {
				w, got := want[i].ParameterDocs[j].Data(), p.Data()
				if got.Name != w.Name || got.Description != w.Description || got.DataType != w.DataType || len(got.PossibleValues) != len(w.PossibleValues) {
					t.Errorf("%s: %+v, want %+v", r.Path, got, w)
				}
				if p != first.routes[i].ParameterDocs[j] {
					t.Errorf("%s: %s is there twice", r.Path, got.Name)
				}
			}
		}
	}
}
