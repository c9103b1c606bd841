package member

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"murmur/crdt"
	"murmur/crdt/store"
)

// Overlaps of rotations for which nothing else was said.
const (
	// DefaultOverlap is how long what was rotated is believed beside what follows it. ServiceAccount tokens of pods are made anew
	// within minutes; those that people asked for die with the key that signed them.
	DefaultOverlap = time.Hour
	// stolenOverlap is for what is in wrong hands: as long as members need to come along.
	stolenOverlap = time.Minute
)

// ErrOnlyIssuers is returned for what a member that is no issuer was told to do.
var ErrOnlyIssuers = errors.New("this node is no issuer, and what it says of others is not believed: run this on an issuer")

// Rotated is what a rotation has begun.
type Rotated struct {
	// What is ca, service-account or gossip, Name tells the new key from others.
	What    string        `json:"what"`
	Name    string        `json:"name"`
	Overlap time.Duration `json:"overlap"`
}

// RotateCA makes a new CA beside the old one. The members get new certificates within seconds; the old is believed until all
// have, and at least as long as the overlap. None of those that were shut out can know its key.
func (s *Self) RotateCA(ctx context.Context, store *store.Store, overlap time.Duration) (Rotated, error) {
	now := s.now()
	var made aboutAuthority
	var k crdt.Key
	err := s.Update(func(id *Identity) error {
		old, ok, err := id.authority()
		if err != nil || !ok {
			return errors.Join(err, ErrOnlyIssuers)
		}
		next, err := newAuthority(id.Cluster.ID, now)
		if err != nil {
			return err
		}
		cross, err := old.cross(next.Certificate)
		if err != nil {
			return err
		}
		made = aboutAuthority{Certificate: encodeCerts(next.Certificate), Cross: encodeCerts(cross), Previous: Hash(old.Certificate), At: now.UTC(), Overlap: overlap}
		for _, a := range wordsOf[aboutAuthority](id, ResourceAuthorities) {
			made.At = after(made.At, a.At)
		}
		for _, d := range id.Denied {
			if d.Issuer {
				made.Without = append(made.Without, d.ID)
			}
		}
		if id.Cluster.CAKey, err = encodeKey(next.Key); err != nil {
			return err
		}
		id.Cluster.CACert = append(encodeCerts(next.Certificate), id.Cluster.CACert...)
		id.Crosses = append(slices.Clip(id.Crosses), encodeCerts(cross)...)
		if err := id.selfSign(s.cfg.Hosts, now); err != nil {
			return err
		}
		// The key is on disk before anybody hears of it: one that nobody has could not be taken back. So is the word, which is said until it is heard.
		k = crdt.Key{Resource: ResourceAuthorities, Name: Hash(next.Certificate)}
		return id.keepOwn(k, made)
	})
	if err != nil {
		return Rotated{}, err
	}
	s.log.Warn("the cluster has a new CA", "ca", k.Name[:12], "old", made.Previous[:12], "without", made.Without)
	err = publish(ctx, store, s.id.Load(), k, made)
	return Rotated{What: "ca", Name: k.Name[:12], Overlap: overlap}, err
}

// after is a time, and later than another: what follows something is known by that, whatever the clock here says.
func after(t, before time.Time) time.Time {
	if t.After(before) {
		return t
	}
	return before.Add(time.Millisecond)
}

// RotateGossip makes a new gossip key.
func (s *Self) RotateGossip(ctx context.Context, store *store.Store, overlap time.Duration, stolen bool) (Rotated, error) {
	if !s.Issuer() {
		return Rotated{}, ErrOnlyIssuers
	}
	k := aboutGossipKey{Key: newGossipKey(), At: s.now().UTC(), Overlap: overlap, Stolen: stolen}
	for _, before := range wordsOf[aboutGossipKey](s.id.Load(), ResourceGossipKeys) {
		k.At = after(k.At, before.At)
	}
	name := gossipName(k.Key)
	err := publish(ctx, store, s.id.Load(), crdt.Key{Resource: ResourceGossipKeys, Name: name}, k)
	s.Poke()
	return Rotated{What: "gossip", Name: name, Overlap: overlap}, err
}

// RotateTokens has every member make a new key for ServiceAccount tokens.
func (s *Self) RotateTokens(ctx context.Context, store *store.Store, overlap time.Duration) (Rotated, error) {
	if !s.Issuer() {
		return Rotated{}, ErrOnlyIssuers
	}
	r := aboutRotation{At: s.now().UTC(), Overlap: overlap}
	name := strings.ToLower(r.At.Format("20060102t150405.000000000"))
	err := publish(ctx, store, s.id.Load(), crdt.Key{Resource: ResourceRotations, Name: name}, r)
	s.Poke()
	return Rotated{What: "service-account", Name: name, Overlap: overlap}, err
}

// Named lists the members of a node name, by ID, with whether they are issuers. A name may have had several.
func (s *Self) Named(snap *store.Snapshot, node string) map[string]bool {
	out := map[string]bool{}
	for id, m := range s.id.Load().members(s.Trust(), snap) {
		if m.by.Name == node {
			out[id] = m.by.Issuer
		}
	}
	for _, d := range s.id.Load().Denied {
		if d.Node == node {
			out[d.ID] = d.Issuer // it was shut out before: what is not done yet is done now
		}
	}
	return out
}

// Spoken names the nodes of all IDs for which a certificate vouches.
func (s *Self) Spoken(snap *store.Snapshot) map[string]string {
	out := map[string]string{}
	for id, m := range s.id.Load().members(s.Trust(), snap) {
		out[id] = m.by.Name
	}
	return out
}

// ValidID tells whether a text can be the ID of a node.
func ValidID(id string) bool { return validID.MatchString(id) }

// Revoke shuts nodes out for ever and rotates what they knew: the gossip key, and the CA, if one of them held its key. named are
// the IDs of one node, with whether it was an issuer, or of a program of before. names are the node names of all IDs that are
// registered: with an issuer goes whatever its key can have made, and these stay. A CA that was replaced before is not replaced again.
func (s *Self) Revoke(ctx context.Context, store *store.Store, node string, named map[string]bool, names map[string]string) (done []Rotated, err error) {
	if !s.Issuer() {
		return nil, ErrOnlyIssuers
	}
	ids := sortedKeys(named)
	if err := s.Update(func(id *Identity) error { id.know(id.members(s.Trust(), store.Snapshot())); return nil }); err != nil {
		return nil, err
	}
	me := s.id.Load()
	at := s.now().UTC()
	var keep [][]byte
	for id, k := range me.Known {
		if names[id] == k.Node && !slices.Contains(ids, id) {
			keep = append(keep, k.Pin)
		}
	}
	if pin, ok := pinOf(s.pair.Load().Leaf); ok {
		keep = append(keep, pin[:])
	}
	for _, id := range ids {
		if id == me.NodeID {
			return nil, errors.New("this is the node that is to be revoked: run this on another")
		}
		if !validID.MatchString(id) {
			return nil, fmt.Errorf("the node ID %q of %s is none", id, node)
		}
	}
	// On the disk first: what is made from here on they cannot know.
	if err := s.Update(func(next *Identity) error {
		for _, id := range ids {
			switch d := next.denial(id); {
			case named[id] && (d == nil || !d.Issuer):
				next.deny(Denial{ID: id, Node: node, At: at, Issuer: true, Keep: keep})
			case d == nil:
				next.deny(Denial{ID: id, Node: node, At: at})
			}
		}
		return nil
	}); err != nil {
		return nil, err
	}
	me = s.id.Load()
	for _, id := range ids {
		if err := publish(ctx, store, me, crdt.Key{Resource: ResourceRevoked, Name: id}, me.denial(id)); err != nil {
			return nil, fmt.Errorf("publish that %s is revoked: %w", node, err)
		}
	}
	s.log.Warn("revoked", "node", node, "ids", ids)
	r, err := s.RotateGossip(ctx, store, stolenOverlap, true)
	if err != nil {
		return done, fmt.Errorf("rotate the gossip key: %w", err)
	}
	done = append(done, r)
	if s.id.Load().shared() != nil {
		if r, err = s.RotateTokens(ctx, store, stolenOverlap); err != nil {
			return done, fmt.Errorf("rotate the keys of ServiceAccount tokens: %w", err)
		}
		done = append(done, r)
	}
	if ca, robbed := s.signs(); robbed && ca != nil {
		if r, err = s.RotateCA(ctx, store, stolenOverlap); err != nil {
			return done, fmt.Errorf("rotate the CA: %w", err)
		}
		done = append(done, r)
	}
	return done, nil
}

// signs is the CA that is to sign now, if this node holds its key, and whether somebody who was shut out may hold it too.
func (s *Self) signs() (ca *x509.Certificate, robbed bool) {
	id, t := s.id.Load(), s.trust.Load()
	next := newest(t, wordsOf[aboutAuthority](id, ResourceAuthorities))
	robbed = t.robbed[keyName(next)]
	if a, ok, err := id.authority(); err == nil && ok && (robbed || a.Certificate.Equal(next)) {
		return a.Certificate, robbed
	}
	return nil, robbed
}

// replaceAfter is how long an issuer waits for another to replace a CA whose key was stolen. Who revokes does so; but of two that were
// revoked on two sides of a cut each may know the CA that replaced what the other knew.
const replaceAfter = 30 * time.Second

// replace makes a CA that nobody can know who was shut out, if there is none and no issuer before this one has made any.
func (s *Self) replace(ctx context.Context, h Hooks) error {
	ca, robbed := s.signs()
	if !robbed {
		s.robbedSince = time.Time{}
		return nil
	}
	now := s.now()
	if s.robbedSince.IsZero() || now.Before(s.robbedSince) {
		s.robbedSince = now
	}
	if ca == nil {
		return nil
	}
	id := s.id.Load()
	issuers, place := id.members(s.Trust(), h.Store.Snapshot()), 1
	for _, live := range h.Live() {
		if m, ok := issuers[live]; ok && m.by.Issuer && live < id.NodeID {
			place++
		}
	}
	if now.Sub(s.robbedSince) < time.Duration(place)*replaceAfter {
		return nil
	}
	_, err := s.RotateCA(ctx, h.Store, stolenOverlap)
	return err
}

// Silent lists the registered members that publish nothing about themselves: they run a program of before.
func (s *Self) Silent(snap *store.Snapshot, registered []string) (out []string) {
	members := s.id.Load().members(s.Trust(), snap)
	for _, id := range registered {
		if _, ok := members[id]; !ok {
			out = append(out, id)
		}
	}
	return out
}

// Item is one key or certificate as `murmur certificate check` lists it.
type Item struct {
	Name string `json:"name"`
	// Detail tells what it is and what it waits for.
	Detail string `json:"detail"`
	// Until is when it expires, Renewal when it is replaced without being asked; zero if it does not or is not.
	Until   time.Time `json:"until,omitzero"`
	Renewal time.Time `json:"renewal,omitzero"`
	// Problem is what somebody should do about it.
	Problem string `json:"problem,omitempty"`
}

const (
	// authorityNear is how long before its end a CA is to be rotated by hand.
	authorityNear = 2 * 365 * 24 * time.Hour
	// leafLate is how long after the time of its renewal a certificate is complained about.
	leafLate = 24 * time.Hour
)

// Check lists what this node has and knows, with what is near its end. names tells the node name of an ID.
func (s *Self) Check(snap *store.Snapshot, registered []string, names func(id string) string, admin *tls.Certificate) (out []Item) {
	id, t, now := s.id.Load(), s.trust.Load(), s.now()
	members := id.members(t, snap)
	named := func(ids []string) string {
		all := make([]string, len(ids))
		for i, one := range ids {
			all[i] = names(one)
		}
		slices.Sort(all)
		return strings.Join(all, ", ")
	}
	next := newest(t, wordsOf[aboutAuthority](id, ResourceAuthorities))
	for i, c := range t.roots {
		it := Item{Name: "CA " + Hash(c)[:12], Until: c.NotAfter, Detail: "signs"}
		switch {
		case c.Equal(next) && t.robbed[keyName(c)]:
			it.Problem = "somebody who was revoked may hold its key: an issuer replaces it within minutes"
		case c.Equal(next) && c.NotAfter.Sub(now) < authorityNear:
			it.Problem = "it ends: `murmur certificate rotate ca`"
		case !c.Equal(next):
			it.Detail = "is believed for the overlap of a rotation"
			if t.robbed[keyName(c)] {
				it.Detail = "was stolen: of it only the members are believed that were there then"
			}
			if w := waitFor(c, members, registered); len(w) > 0 {
				it.Detail += ", and until these have a certificate of the next: " + named(w)
			}
		case i > 0 || len(id.Cluster.CAKey) == 0:
			it.Detail = "signs, at issuers"
		}
		out = append(out, it)
	}
	leaf := func(name string, c *tls.Certificate) {
		if c == nil || c.Leaf == nil {
			return
		}
		it := Item{Name: name, Until: c.Leaf.NotAfter, Renewal: renewAt(c.Leaf), Detail: c.Leaf.Subject.CommonName}
		if id.Issuer() && name == "node certificate" {
			it.Detail += ", issuer"
		}
		switch {
		case now.After(c.Leaf.NotAfter):
			it.Problem = "it has expired: put an issuer in reach, or `murmur join --rejoin` with a new token"
		case now.After(renewAt(c.Leaf).Add(leafLate)):
			it.Problem = "it could not be renewed: put an issuer in reach"
		}
		out = append(out, it)
	}
	leaf("node certificate", s.pair.Load())
	leaf("admin kubeconfig", admin)
	for i, k := range id.TokenKeys {
		it := Item{Name: "ServiceAccount key", Detail: "this node signs with it since " + k.Since.Format(time.RFC3339)}
		if i > 0 {
			it.Detail = "is believed for the overlap of a rotation"
		}
		out = append(out, it)
	}
	if id.shared() != nil {
		it := Item{Name: "ServiceAccount key, shared", Detail: "all members hold it",
			Problem: "every member can speak for every account: `murmur certificate rotate service-account` once all run this version"}
		if w := s.Silent(snap, registered); len(w) > 0 {
			it.Detail += "; these know no other: " + named(w)
		}
		out = append(out, it)
	}
	if id.Cluster.Secret != "" {
		it := Item{Name: "join secret of before", Detail: "it is on every member's disk, and admits issuers until all members run this version",
			Problem: "update all members, then it is gone; `murmur token create` makes tokens meanwhile"}
		if w := s.Silent(snap, registered); len(w) > 0 {
			it.Detail += "; these do not: " + named(w)
		}
		out = append(out, it)
	}
	for i, name := range s.Ring().names() {
		it := Item{Name: "gossip key " + name, Detail: "this node writes with it"}
		if i > 0 {
			it.Detail = "is only read"
		}
		out = append(out, it)
	}
	for _, d := range id.Denied {
		out = append(out, Item{Name: "revoked " + d.Node, Detail: d.ID + " since " + d.At.Format(time.RFC3339)})
	}
	return out
}
