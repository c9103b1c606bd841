package member

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"murmur/crdt"
	"murmur/crdt/store"
)

// What issuers say that all go by stands in the store under the signature of who said it, and neither lasts: any member can write over the
// document, and the CA that signed for its author goes with the next rotation. So every member keeps such words on its own disk, and an
// issuer that finds one missing says it again. Whoever hands a word on tells from whom he has it: it is void once any of those is shut out,
// so that nobody can have others vouch for what he made up.

// word is one of them.
type word struct {
	Resource string `json:"resource"`
	Name     string `json:"name"`
	// By are the IDs of those who said it, the author first.
	By   []string        `json:"by"`
	Body json.RawMessage `json:"body"`
}

// lasting are the resources whose statements are kept. Revocations are too, as Identity.Denied.
var lasting = []string{ResourceAuthorities, ResourceGossipKeys, ResourceRotations, ResourceSecrets}

// handedOn is what a statement says of those from whom its author has it.
type handedOn struct {
	By []string `json:"by,omitempty"`
}

// sayers are all who have said a statement.
func (h heardOf[T]) sayers() []string {
	var on handedOn
	_ = json.Unmarshal(h.body, &on)
	return append(slices.DeleteFunc(on.By, func(id string) bool { return id == h.by.ID }), h.by.ID)
}

// wordsOf reads the words of one resource, by name.
func wordsOf[T any](id *Identity, resource string) map[string]T {
	out := map[string]T{}
	for _, w := range id.Words {
		var v T
		if w.Resource == resource && json.Unmarshal(w.Body, &v) == nil {
			out[w.Name] = v
		}
	}
	return out
}

// listen keeps the words that are new, and lets go of those of which a sayer was shut out. Of two of one name the first that was heard
// stays: a word does not change.
func (id *Identity) listen(t *Trust, snap *store.Snapshot) {
	void := func(by []string) bool { return slices.ContainsFunc(by, t.Denied) }
	words := slices.DeleteFunc(slices.Clone(id.Words), func(w word) bool { return void(w.By) })
	for _, resource := range lasting {
		all := heard[json.RawMessage](t, snap, resource)
		for _, name := range sortedKeys(all) {
			h := all[name]
			if by := h.sayers(); !void(by) && !slices.ContainsFunc(words, func(w word) bool { return w.Resource == resource && w.Name == name }) {
				words = append(words, word{resource, name, by, slices.Clone(h.body)})
			}
		}
	}
	id.setWords(words)
}

// keepWords lets go of the words that have had their effect.
func (id *Identity) keepWords(roots []*x509.Certificate) {
	rotations, gossip := wordsOf[aboutRotation](id, ResourceRotations), wordsOf[aboutGossipKey](id, ResourceGossipKeys)
	last := ""
	for name, r := range rotations {
		if last == "" || cmp.Or(r.At.Compare(rotations[last].At), cmp.Compare(name, last)) > 0 {
			last = name
		}
	}
	id.setWords(slices.DeleteFunc(slices.Clone(id.Words), func(w word) bool {
		switch w.Resource {
		case ResourceAuthorities:
			return !slices.ContainsFunc(roots, func(c *x509.Certificate) bool { return Hash(c) == w.Name })
		case ResourceGossipKeys:
			return !id.ring().has(gossip[w.Name].Key)
		case ResourceRotations:
			return w.Name != last
		case ResourceSecrets:
			return w.Name != permanent
		}
		return true
	}))
}

// setWords has them in one order, so that an identity that says the same is the same.
func (id *Identity) setWords(words []word) {
	slices.SortFunc(words, func(a, b word) int { return cmp.Or(cmp.Compare(a.Resource, b.Resource), cmp.Compare(a.Name, b.Name)) })
	id.Words = words
}

// keepOwn makes what this node says one of the words.
func (id *Identity) keepOwn(k crdt.Key, body any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	id.setWords(append(slices.Clone(id.Words), word{k.Resource, k.Name, []string{id.NodeID}, b}))
	return nil
}

// handOn says again the words that no believed statement says any more.
func (s *Self) handOn(ctx context.Context, store *store.Store, id *Identity, t *Trust) error {
	snap := store.Snapshot()
	for _, w := range id.Words {
		if _, ok := heardIn[json.RawMessage](t, snap, w.Resource, w.Name); ok {
			continue
		}
		body := map[string]json.RawMessage{}
		if err := json.Unmarshal(w.Body, &body); err != nil {
			return fmt.Errorf("%s %s: %w", w.Resource, w.Name, err)
		}
		by, err := json.Marshal(slices.DeleteFunc(slices.Clone(w.By), func(one string) bool { return one == id.NodeID }))
		if err != nil {
			return err
		}
		delete(body, "by")
		if !bytes.Equal(by, []byte("[]")) {
			body["by"] = by
		}
		if err := publish(ctx, store, id, crdt.Key{Resource: w.Resource, Name: w.Name}, body); err != nil {
			return fmt.Errorf("say %s %s again: %w", w.Resource, w.Name, err)
		}
	}
	return nil
}

// deny takes in a revocation. What several say of one node holds together: on two sides of a cut it may have been revoked twice, and each side
// names the members that it knew.
func (id *Identity) deny(d Denial) {
	i := slices.IndexFunc(id.Denied, func(have Denial) bool { return have.ID == d.ID })
	if i < 0 {
		d.Keep = mergedKeep(nil, d.Keep)
		id.Denied = append(slices.Clip(id.Denied), d)
		return
	}
	have := id.Denied[i]
	have.Issuer, have.Keep = have.Issuer || d.Issuer, mergedKeep(have.Keep, d.Keep)
	if d.At.Before(have.At) {
		have.At = d.At
	}
	id.Denied = slices.Clone(id.Denied)
	id.Denied[i] = have
}

// says tells whether one revocation says all that another does.
func (d Denial) says(other Denial) bool {
	return (d.Issuer || !other.Issuer) && len(mergedKeep(d.Keep, other.Keep)) == len(mergedKeep(d.Keep, nil))
}

func mergedKeep(a, b [][]byte) [][]byte {
	out := slices.Concat(a, b)
	slices.SortFunc(out, slices.Compare[[]byte])
	return slices.CompactFunc(out, slices.Equal[[]byte])
}

// robbed names the keys of the CAs that somebody may hold who was shut out: of each that was not made without all of them.
func (id *Identity) robbed(roots []*x509.Certificate) map[[32]byte]bool {
	out := map[[32]byte]bool{}
	for _, k := range id.Robbed {
		if len(k) == 32 {
			out[[32]byte(k)] = true
		}
	}
	authorities := wordsOf[aboutAuthority](id, ResourceAuthorities)
	for _, c := range roots {
		without := authorities[Hash(c)].Without
		if slices.ContainsFunc(id.Denied, func(d Denial) bool { return d.Issuer && !slices.Contains(without, d.ID) }) {
			out[keyName(c)] = true
		}
	}
	return out
}

// standing compares CAs: one whose key was stolen stands behind all others, and else what was made later is before what it follows.
func (t *Trust) standing(authorities map[string]aboutAuthority) func(a, b *x509.Certificate) int {
	at := func(c *x509.Certificate) time.Time { return authorities[Hash(c)].At }
	return func(a, b *x509.Certificate) int {
		ra, rb := t.robbed[keyName(a)], t.robbed[keyName(b)]
		switch {
		case ra != rb && rb:
			return 1
		case ra != rb:
			return -1
		case at(a).Equal(at(b)) && at(a).IsZero():
			return 0
		}
		return cmp.Or(at(a).Compare(at(b)), cmp.Compare(Hash(a), Hash(b)))
	}
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
