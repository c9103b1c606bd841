package store

import (
	"encoding/json"
	"iter"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/btree"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"

	"murmur/crdt"
)

// Whole resources are only walked for who asks for all of them. Whatever else is asked of a snapshot is looked up: an
// object has terms, each of an Index, and beside the tree of objects a second one has the keys of the objects under
// each term. A commit changes both; a term that an object keeps costs a write nothing.
//
// Terms are read from the canonical encoding of what readers see, so that an object which is derived here is found by
// what is derived. They are not stored: a store that is opened makes them anew.

// Index is one way to look objects up.
type Index byte

const (
	// ByOwner has the objects of any resource under the UIDs of those that they name as their owners.
	ByOwner Index = 'o'
	// ByLabel has the objects of any resource under their labels, each as LabelTerm writes it.
	ByLabel Index = 'l'
	// ByNode has pods under the names of the nodes that they are bound to or claimed by (ClaimPrefix). Those that may wait for a node are under
	// "": they are bound to none, and have neither gates nor the mark of a deletion. VolumeAttachments and PodCertificateRequests are under
	// the nodes that they are for.
	ByNode Index = 'n'
	// ByClaim has pods under the names of the PersistentVolumeClaims in their namespace that their volumes are of, those that are made for
	// the pod among them. PersistentVolumes are under the "namespace/name" of the claim that they refer to.
	ByClaim Index = 'c'
	// ByVolume has PersistentVolumeClaims under the name of the volume that they are bound to.
	ByVolume Index = 'v'
	// ByAddress has pods, Services, Endpoints, EndpointSlices and nodes under their addresses.
	ByAddress Index = 'a'
	// ByPort has Services under the ports that they have on every node, in decimal.
	ByPort Index = 'p'
	// BySelector has Services under one of the labels that they select by, as LabelTerm writes it: who has not that label is not selected. Others that
	// select (Selects tells which) are under "" if they ask for the value of no label.
	BySelector Index = 's'
	// BySubject has RoleBindings and ClusterRoleBindings under those whom they bind, each as SubjectTerm writes it.
	BySubject Index = 'b'
	// ByPod has PodCertificateRequests under the UIDs of the pods that they are for.
	ByPod Index = 'u'
	// ByTime has Events under the second in which they were seen last, as TimeTerm writes it.
	ByTime Index = 'w'
	// ByType has Secrets under their types.
	ByType Index = 't'
	// ByTies has, under "", the objects that name an owner, have a finalizer or are being deleted.
	ByTies Index = 'g'
	// ByDone has pods that nobody runs any more: under Ended those that have, and under Unbound those being deleted that no node has.
	ByDone Index = 'd'
	// ByAttributes has PersistentVolumes and PersistentVolumeClaims under the VolumeAttributesClasses that they name.
	ByAttributes Index = 'q'
	// ByAggregation has, under "", the ClusterRoles that are made of others.
	ByAggregation Index = 'r'
)

// ClaimPrefix begins the names of a pod's annotations in which nodes claim it: JSON with the name of the node under "node".
const ClaimPrefix = "placement.murmur.io/claim."

// What ByDone has pods under.
const (
	// Ended are pods whose phase is Succeeded or Failed and that are not being deleted.
	Ended = "ended"
	// Unbound are pods that are being deleted and are bound to no node.
	Unbound = "unbound"
)

// LabelTerm is the term of a label.
func LabelTerm(key, value string) string { return key + "=" + value }

// SubjectTerm is the term of a subject of RBAC. A ServiceAccount's namespace is that of the binding if the subject has none.
func SubjectTerm(kind, namespace, name string) string {
	if namespace != "" {
		name = namespace + "/" + name
	}
	return kind + ":" + name
}

// TimeTerm is the term of a time. Terms of times sort as the times do.
func TimeTerm(t time.Time) string { return t.UTC().Format(time.RFC3339)[:secondsLen] }

// secondsLen is how long a time is in RFC 3339 up to its seconds.
const secondsLen = len("2006-01-02T15:04:05")

// posting says that an object has a term. Postings are shared by all states in which the object has it.
type posting struct {
	term string
	key  *crdt.Key
}

type postings = btree.BTreeG[*posting]

func newPostings() *postings {
	return btree.NewG(16, func(a, b *posting) bool {
		if c := strings.Compare(a.term, b.term); c != 0 {
			return c < 0
		}
		return a.key.Less(*b.key)
	})
}

// post has a slot's terms say what its entry has, in place of those of the slot before it.
func post(p *postings, old, sl *slot) {
	var had []*posting
	if old != nil {
		had = old.postings
	}
	if old != nil && old.entry != nil && sl.entry != nil && sameValue(old.entry, sl.entry) {
		sl.postings = had
		return
	}
	var terms []string
	if sl.entry != nil {
		terms = termsOf(sl.key.Resource, sl.entry.value)
	}
	if slices.EqualFunc(had, terms, func(p *posting, term string) bool { return p.term == term }) {
		sl.postings = had
		return
	}
	sl.postings = nil
	if len(terms) > 0 {
		sl.postings = make([]*posting, 0, len(terms))
	}
	var key *crdt.Key
	for _, term := range terms {
		i := slices.IndexFunc(had, func(p *posting) bool { return p.term == term })
		if i >= 0 {
			sl.postings = append(sl.postings, had[i])
			continue
		}
		if key == nil {
			key = &crdt.Key{Resource: sl.key.Resource, Namespace: sl.key.Namespace, Name: sl.key.Name}
		}
		at := &posting{term: term, key: key}
		// Those who share a term share its text.
		p.AscendGreaterOrEqual(&posting{term: term, key: &crdt.Key{}}, func(other *posting) bool {
			if other.term == term {
				at.term = other.term
			}
			return false
		})
		p.ReplaceOrInsert(at)
		sl.postings = append(sl.postings, at)
	}
	for _, was := range had {
		if !slices.Contains(terms, was.term) {
			p.Delete(was)
		}
	}
}

// sameValue tells whether two entries show the same bytes, at no cost.
func sameValue(a, b *Entry) bool {
	return len(a.value) == len(b.value) && (len(a.value) == 0 || &a.value[0] == &b.value[0])
}

// Indexed walks the objects of a resource that an index has under a value, as Range does all of them: in order of namespace
// and name, in one namespace or ("") in all, behind a "namespace/name" or ("") from the first on.
func (s *Snapshot) Indexed(i Index, value, resource, namespace, after string) iter.Seq[*Entry] {
	return func(yield func(*Entry) bool) {
		for k := range s.indexed(i, value, resource, namespace, after) {
			if e, ok := s.Get(*k); ok && !yield(e) {
				return
			}
		}
	}
}

func (s *Snapshot) indexed(i Index, value, resource, namespace, after string) iter.Seq[*crdt.Key] {
	return func(yield func(*crdt.Key) bool) {
		begin := firstKey(resource, namespace, after)
		from := &posting{term: string(i) + value, key: &begin}
		s.postings.AscendGreaterOrEqual(from, func(p *posting) bool {
			if p.term != from.term || p.key.Resource != resource || namespace != "" && p.key.Namespace != namespace {
				return false
			}
			return yield(p.key)
		})
	}
}

// Owned walks the objects of a resource that name an object as an owner.
func (s *Snapshot) Owned(by types.UID, resource, namespace string) iter.Seq[*Entry] {
	return s.Indexed(ByOwner, string(by), resource, namespace, "")
}

// Under walks the objects of all resources that an index has under a value.
func (s *Snapshot) Under(i Index, value string) iter.Seq[*Entry] {
	return func(yield func(*Entry) bool) {
		from := &posting{term: string(i) + value, key: &crdt.Key{}}
		s.postings.AscendGreaterOrEqual(from, func(p *posting) bool {
			if p.term != from.term {
				return false
			}
			e, ok := s.Get(*p.key)
			return !ok || yield(e)
		})
	}
}

// Terms walks the values that an index has anything under, each once, in order. It takes as many steps as there are values.
func (s *Snapshot) Terms(i Index) iter.Seq[string] {
	return func(yield func(string) bool) {
		for from := string(i); ; {
			next := ""
			s.postings.AscendGreaterOrEqual(&posting{term: from, key: &crdt.Key{}}, func(p *posting) bool {
				next = p.term
				return false
			})
			if next == "" || next[0] != byte(i) || !yield(next[1:]) {
				return
			}
			from = next + "\x00"
		}
	}
}

// Having decodes the objects of a resource that an index has under any value, each once. Read only.
func Having[T any](s *Snapshot, i Index, resource string) (out []*T) {
	seen := map[crdt.Key]bool{}
	s.postings.AscendRange(&posting{term: string(i), key: &crdt.Key{}}, &posting{term: string(i + 1), key: &crdt.Key{}}, func(p *posting) bool {
		if p.key.Resource != resource || seen[*p.key] {
			return true
		}
		seen[*p.key] = true
		if t, ok := Get[T](s, *p.key); ok {
			out = append(out, t)
		}
		return true
	})
	return out
}

// Until walks the objects of a resource that an index has under a value or one that sorts before it, the least first.
func (s *Snapshot) Until(i Index, value, resource string) iter.Seq[*Entry] {
	return func(yield func(*Entry) bool) {
		end := &posting{term: string(i) + value + "\x00", key: &crdt.Key{}}
		s.postings.AscendRange(&posting{term: string(i), key: &crdt.Key{}}, end, func(p *posting) bool {
			if p.key.Resource != resource {
				return true
			}
			e, ok := s.Get(*p.key)
			return !ok || yield(e)
		})
	}
}

// Find decodes the objects of a resource that an index has under a value. Objects that do not decode as T are left out.
// Read only.
func Find[T any](s *Snapshot, i Index, value, resource, namespace string) []*T {
	return decode[T](s.Indexed(i, value, resource, namespace, ""))
}

// Selected walks the objects of a resource whose labels a selector matches, as Range does all of them. If the selector asks
// for the value of a label, only objects that have it are looked at.
func (s *Snapshot) Selected(resource, namespace, after string, by labels.Selector) iter.Seq[*Entry] {
	candidates := s.candidates(resource, namespace, after, by)
	return func(yield func(*Entry) bool) {
		for e := range candidates {
			if by.Matches(e.Labels()) && !yield(e) {
				return
			}
		}
	}
}

// Select decodes the objects of a resource that a selector matches. Read only.
func Select[T any](s *Snapshot, resource, namespace string, by labels.Selector) []*T {
	return decode[T](s.Selected(resource, namespace, "", by))
}

func decode[T any](entries iter.Seq[*Entry]) []*T {
	var out []*T
	for e := range entries {
		if t, err := As[T](e); err == nil {
			out = append(out, t)
		}
	}
	return out
}

// candidates walks what a selector may match: of what it asks for, the label that the fewest objects have.
func (s *Snapshot) candidates(resource, namespace, after string, by labels.Selector) iter.Seq[*Entry] {
	requirements, selectable := by.Requirements()
	if !selectable {
		return func(func(*Entry) bool) {}
	}
	var terms []string
	for _, r := range requirements {
		switch op := r.Operator(); {
		case op == selection.Equals, op == selection.DoubleEquals, op == selection.In && len(r.Values()) == 1:
			for v := range r.Values() {
				terms = append(terms, LabelTerm(r.Key(), v))
			}
		}
	}
	if len(terms) == 0 {
		return s.Range(resource, namespace, after)
	}
	return s.Indexed(ByLabel, s.rarest(terms, resource, namespace), resource, namespace, after)
}

// rarest is the label that the fewest objects have. The lists are counted side by side, so that it takes no longer than a few times the
// shortest.
func (s *Snapshot) rarest(terms []string, resource, namespace string) string {
	for limit := 16; len(terms) > 1; limit *= 4 {
		for _, term := range terms {
			n := 0
			for range s.indexed(ByLabel, term, resource, namespace, "") {
				if n++; n == limit {
					break
				}
			}
			if n < limit {
				return term
			}
		}
	}
	return terms[0]
}

// Labels are the object's, for a selector to match. They are read from its encoding at each call.
func (e *Entry) Labels() labels.Set {
	out := labels.Set{}
	for k, v := range members(member(member(e.value, "metadata"), "labels")) {
		out[k] = text(v)
	}
	return out
}

// Text is the string at a path of names; "" if there is none. It is read from the encoding at each call.
func (e *Entry) Text(path ...string) string {
	return text(at(e.value, path...))
}

// Raw is the canonical encoding of what is at a path of names; nil if nothing is. Read only.
func (e *Entry) Raw(path ...string) []byte { return at(e.value, path...) }

// Owners are the UIDs of those that the object names as its owners. They are read from its encoding at each call.
func (e *Entry) Owners() (uids []types.UID) {
	for _, ref := range elements(member(member(e.value, "metadata"), "ownerReferences")) {
		uids = append(uids, types.UID(text(member(ref, "uid"))))
	}
	return uids
}

// Controller is the object's reference to what controls it. It is read from its encoding at each call.
func (e *Entry) Controller() (ref metav1.OwnerReference, ok bool) {
	for _, r := range elements(member(member(e.value, "metadata"), "ownerReferences")) {
		if string(member(r, "controller")) == "true" {
			return metav1.OwnerReference{
				APIVersion: text(member(r, "apiVersion")), Kind: text(member(r, "kind")), Name: text(member(r, "name")), UID: types.UID(text(member(r, "uid"))),
			}, true
		}
	}
	return ref, false
}

// Claims are the names of the PersistentVolumeClaims that a pod's volumes are of.
func (e *Entry) Claims() (names []string) {
	for _, v := range elements(member(member(e.value, "spec"), "volumes")) {
		if name := claimOf(e.value, v); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// claimOf is the name of the claim that a volume of a pod is of; "" if it is of none.
func claimOf(pod, volume []byte) string {
	if claim := member(volume, "persistentVolumeClaim"); claim != nil {
		return text(member(claim, "claimName"))
	}
	if member(volume, "ephemeral") != nil {
		// As k8s.io/component-helpers/storage/ephemeral names it.
		return text(member(member(pod, "metadata"), "name")) + "-" + text(member(volume, "name"))
	}
	return ""
}

// What follows reads canonical JSON, which crdt.Canonical writes, as far as it must be read to find a member. Nothing is decoded but what is
// asked for. What is no JSON has no members.

// members walks the members of an object with their encodings.
func members(object []byte) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		walk(object, '{', '}', func(name, value []byte) bool { return yield(text(name), value) })
	}
}

// elements walks the elements of a list.
func elements(list []byte) iter.Seq2[int, []byte] {
	return func(yield func(int, []byte) bool) {
		i := -1
		walk(list, '[', ']', func(_, value []byte) bool { i++; return yield(i, value) })
	}
}

// member is the encoding of an object's member; nil if there is none.
func member(object []byte, name string) (value []byte) {
	walk(object, '{', '}', func(n, v []byte) bool {
		if len(n) == len(name)+2 && string(n[1:len(n)-1]) == name {
			value = v
			return false
		}
		return true
	})
	return value
}

// walk calls each with every part of an object or list, until it has enough or what is there is no JSON.
func walk(b []byte, open, end byte, each func(name, value []byte) bool) {
	b = space(b)
	if len(b) < 2 || b[0] != open {
		return
	}
	for b = space(b[1:]); len(b) > 0 && b[0] != end; {
		var name []byte
		if open == '{' {
			n := quoted(b)
			if n == 0 {
				return
			}
			name, b = b[:n], space(b[n:])
			if len(b) == 0 || b[0] != ':' {
				return
			}
			b = space(b[1:])
		}
		n := skip(b)
		if n == 0 || !each(name, b[:n]) {
			return
		}
		if b = space(b[n:]); len(b) > 0 && b[0] == ',' {
			b = space(b[1:])
		}
	}
}

// skip is how long the value is that b begins with; 0 if it is none.
func skip(b []byte) int {
	if len(b) == 0 {
		return 0
	}
	if b[0] == '"' {
		return quoted(b)
	}
	depth := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			n := quoted(b[i:])
			if n == 0 {
				return 0
			}
			i += n - 1
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth < 0 {
				return i
			}
			if depth == 0 {
				return i + 1
			}
		case ',':
			if depth == 0 {
				return i
			}
		}
	}
	if depth > 0 {
		return 0
	}
	return len(b)
}

// quoted is how long the string is that b begins with; 0 if it is none.
func quoted(b []byte) int {
	if len(b) == 0 || b[0] != '"' {
		return 0
	}
	for i := 1; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return 0
}

func space(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\n' || b[0] == '\t' || b[0] == '\r') {
		b = b[1:]
	}
	return b
}

// text is the value of a string's encoding; what is no string is "".
func text(b []byte) string {
	if len(b) < 2 || b[0] != '"' {
		return ""
	}
	if slices.Contains(b, '\\') || !utf8.Valid(b) {
		var s string
		if json.Unmarshal(b, &s) != nil {
			return ""
		}
		return s
	}
	return string(b[1 : len(b)-1])
}
