package accepted

import (
	"maps"
	"strings"
)

// Disposition is what becomes of a field.
type Disposition string

const (
	// Acted: something here reads the field and does what it says.
	Acted Disposition = "acted on"
	// Kept: it is for others, a status or a word between third parties, or says what the object is; the API keeps it and that is all of it.
	Kept Disposition = "kept"
	// Warned: nothing here does what it says; who sets it is told so.
	Warned Disposition = "warned"
	// Refused: who sets it gets an error, or the pod gets it where a node decides.
	Refused Disposition = "refused"
)

// Row says what becomes of some fields of a kind, and of all below them, unless another row says it of a longer path.
type Row struct {
	// Kind of the object; of a StatefulSet's claims and of pod templates it is that of what they are templates of (see mounts).
	Kind string
	// Paths of the fields, by their names in JSON, without indexes. a.b[k] is the entry k of the map a.b, a.b[k*] those that begin so.
	Paths []string
	Is    Disposition
	// By is the package that acts or refuses.
	By string
	// Test shows it, as PACKAGE.TestName.
	Test string
	// Say tells who sets the field what happens instead. Rows that are refused by a node have it, too: a pod is made before a node sees it.
	Say string
	// Unless lists values that ask for nothing.
	Unless []string
	// Dropped is the feature gate without which the API takes the field away before it is stored, so that it must be looked for before that.
	Dropped string
	// asks tells of a value, as a pointer to one of the internal type, whether it asks for something; nil: every value does that is not empty.
	asks func(internal any) bool
	// leaf is the field below that is meant, where asks looks at more than it.
	leaf string
}

// mount is a place in a kind at which the fields of another kind, or of another place, are again.
type mount struct {
	kind, at string
	as, from string
}

func mounts() []mount {
	out := []mount{
		{"Pod", "spec.initContainers", "Pod", "spec.containers"},
		{"Pod", "spec.ephemeralContainers", "Pod", "spec.containers"},
		{"Pod", "spec.containers.readinessProbe", "Pod", "spec.containers.livenessProbe"},
		{"Pod", "spec.containers.startupProbe", "Pod", "spec.containers.livenessProbe"},
		{"Pod", "spec.containers.lifecycle.preStop", "Pod", "spec.containers.lifecycle.postStart"},
		{"PodTemplate", "template", "Pod", ""},
		{"CronJob", "spec.jobTemplate", "Job", ""},
		{"StatefulSet", "spec.volumeClaimTemplates", "PersistentVolumeClaim", ""},
	}
	for _, workload := range []string{"Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "ReplicationController", "Job"} {
		out = append(out, mount{workload, "spec.template", "Pod", ""})
	}
	return out
}

// every is the kind of rows that all kinds have.
const every = "*"

// below tells whether a path is another or below it.
func below(path, of string) bool {
	if of == "" {
		return true
	}
	rest, ok := strings.CutPrefix(path, of)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

func join(path, rest string) string {
	switch {
	case path == "":
		return strings.TrimPrefix(rest, ".")
	case rest == "" || rest[0] == '.' || rest[0] == '[':
		return path + rest
	}
	return path + "." + rest
}

// table is the rows, found by path.
type table struct {
	rows   []Row
	by     map[string]map[string]*Row // by kind and path
	mounts []mount
}

func newTable() *table {
	t := &table{rows: Rows(), by: map[string]map[string]*Row{}, mounts: mounts()}
	for i := range t.rows {
		r := &t.rows[i]
		if t.by[r.Kind] == nil {
			t.by[r.Kind] = map[string]*Row{}
		}
		for _, p := range r.Paths {
			t.by[r.Kind][p] = r
		}
	}
	return t
}

// find is the row of a field, the one with the longest path; nil if there is none.
func (t *table) find(kind, path string) *Row {
	for p := path; ; {
		if r := t.by[kind][p]; r != nil {
			return r
		}
		for _, m := range t.mounts {
			if m.kind == kind && m.at == p {
				return t.find(m.as, join(m.from, path[len(p):]))
			}
		}
		cut := strings.LastIndexAny(p, ".[")
		if cut < 0 {
			break
		}
		p = p[:cut]
	}
	if kind != every {
		return t.find(every, path)
	}
	return nil
}

// said are the rows that say something, by each path at which the kind has them.
func (t *table) said(kind string) map[string]*Row {
	out := map[string]*Row{}
	for p, r := range t.by[kind] {
		if r.Say != "" {
			out[p] = r
		}
	}
	// repeat adds the rows of a place at which they are again.
	repeat := func(m mount, rows map[string]*Row) (more bool) {
		for p, r := range maps.Clone(rows) {
			if !below(p, m.from) || p == m.from {
				continue
			}
			if at := join(m.at, p[len(m.from):]); out[at] == nil && t.find(kind, at) == r {
				out[at], more = r, true
			}
		}
		return more
	}
	for _, m := range t.mounts {
		if m.kind == kind && m.as != kind {
			repeat(m, t.said(m.as))
		}
	}
	for more := true; more; { // what is repeated may be in what is repeated
		more = false
		for _, m := range t.mounts {
			if m.kind == kind && m.as == kind && repeat(m, out) {
				more = true
			}
		}
	}
	return out
}
