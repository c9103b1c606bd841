package member

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"murmur/crdt"
	"murmur/crdt/store"
)

// Config is what a Self is made of.
type Config struct {
	// Dir is the data directory: the identity in it is kept up to date.
	Dir string
	// Hosts are the names and addresses by which this node's API is reached.
	Hosts []string
	// Now may be nil.
	Now func() time.Time
	Log *slog.Logger
}

// Self is this node as a member: its identity and what it believes. Its values are read without a lock at any time; Follow
// keeps them up to date with what the other members publish.
type Self struct {
	// learnt is when gossip keys were told by a member, by their names.
	learnt sync.Map
	cfg    Config
	now    func() time.Time
	log    *slog.Logger

	// saving is held by the one who makes the next identity. It holds up nobody who reads.
	saving chan struct{}
	id     atomic.Pointer[Identity]
	// updates counts how often somebody else than Follow's look has made one.
	updates atomic.Uint64
	trust   atomic.Pointer[Trust]
	pair    atomic.Pointer[tls.Certificate]
	signer  atomic.Pointer[ecdsa.PrivateKey]
	keys    atomic.Pointer[tokenKeys]
	wake    chan struct{}
	memo    memo
	// proofs is of the one who holds saving.
	proofs proofs

	// robbedSince is when Follow saw first that no CA is left that nobody can know who was shut out.
	robbedSince time.Time
}

// Open makes a Self of an identity, which may be one of a program of before. A node that was given no certificate and can make
// none is refused.
func Open(cfg Config, id *Identity) (*Self, error) {
	s := &Self{cfg: cfg, now: cfg.Now, log: cfg.Log, saving: make(chan struct{}, 1), wake: make(chan struct{}, 1)}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	next := id.clone()
	changed, err := next.ensureKeys(s.now())
	if err != nil {
		return nil, err
	}
	pair, err := next.pair()
	if err != nil {
		return nil, err
	}
	a, issuer, err := next.authority()
	if err != nil {
		return nil, err
	}
	if pair == nil || issuer && a.plausible(s.now()) && (!covers(pair.Leaf, cfg.Hosts) || due(pair.Leaf, s.now())) {
		if err := next.selfSign(cfg.Hosts, s.now()); errors.Is(err, errNoIssuer) && pair == nil {
			return nil, fmt.Errorf("this node was restored from the backup of a member that is no issuer, and has no certificate of its own: remove %s and join again, or restore the backup of an issuer", cfg.Dir)
		} else if err != nil {
			return nil, err
		}
		changed = true
	}
	if changed {
		if err := next.Save(cfg.Dir); err != nil {
			return nil, err
		}
	}
	return s, s.set(next)
}

// covers tells whether a certificate has all names and addresses.
func covers(leaf *x509.Certificate, hosts []string) bool {
	return !slices.ContainsFunc(hosts, func(h string) bool {
		if ip := net.ParseIP(h); ip != nil {
			return !slices.ContainsFunc(leaf.IPAddresses, ip.Equal)
		}
		return h != "" && !slices.Contains(leaf.DNSNames, h)
	})
}

// set makes an identity that is on disk the one in use.
func (s *Self) set(id *Identity) error {
	t, err := id.trust(&s.memo)
	if err != nil {
		return err
	}
	pair, err := id.pair()
	if err != nil {
		return err
	}
	key, err := decodeKey(signing(id.TokenKeys, s.now()).Key)
	if err != nil {
		return fmt.Errorf("key of ServiceAccount tokens: %w", err)
	}
	s.id.Store(id)
	s.trust.Store(t)
	s.pair.Store(pair)
	s.signer.Store(key)
	return nil
}

// Identity is this node's. It is not to be changed.
func (s *Self) Identity() *Identity { return s.id.Load() }

// Trust is what this node believes now.
func (s *Self) Trust() *Trust { return s.trust.Load() }

// Certificate is this node's, as a client and a server.
func (s *Self) Certificate() *tls.Certificate { return s.pair.Load() }

// Ring is the gossip keys: this node writes with the first and reads all.
func (s *Self) Ring() Ring { return s.id.Load().ring() }

// Issuer tells whether this node is one.
func (s *Self) Issuer() bool { return s.id.Load().Issuer() }

// Verify checks the certificate chain of a peer, now.
func (s *Self) Verify(chain []*x509.Certificate) (Member, error) {
	return s.trust.Load().Member(chain, s.now())
}

// Update makes the next identity, on disk first.
func (s *Self) Update(change func(*Identity) error) error {
	s.saving <- struct{}{}
	defer func() { <-s.saving }()
	next := s.id.Load().clone()
	if err := change(next); err != nil {
		return err
	}
	if err := next.Save(s.cfg.Dir); err != nil {
		return err
	}
	if err := s.set(next); err != nil {
		return err
	}
	s.updates.Add(1)
	s.Poke()
	return nil
}

// Poke has Follow look again.
func (s *Self) Poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Hooks are what Follow needs of the node.
type Hooks struct {
	Store *store.Store
	// Live and Registered list the node IDs of the members that are alive, and of all that are registered with this node among
	// them. A registered one of which no ID is known stands as its name.
	Live, Registered func() []string
	// Settled tells whether this node has the cluster's state. Before, it takes in what it hears and drops nothing.
	Settled func() bool
	// Ask asks an issuer in reach over the streams; path is one that Issue answers.
	Ask func(ctx context.Context, path string, in, out any) error
	// Changed is called after what this node believes, its certificate or its keys have changed.
	Changed func()
}

// unknown stands for the registered members of which a node that has not the cluster's state cannot know.
const unknown = "?"

const (
	// lookEvery is how often Follow looks without being woken: for clocks that were set, and for overlaps that end.
	lookEvery = 5 * time.Second
	// askAgain is the pause after a question to the issuers that nobody answered, doubled up to askAtMost. Said it is once it is askSaid.
	askAgain  = 100 * time.Millisecond
	askAtMost = time.Minute
	askSaid   = 5 * time.Second
)

// Follow keeps this node's certificate, its keys and what it believes up to date until the context ends: with what the
// members publish, and with the time.
func (s *Self) Follow(ctx context.Context, h Hooks) error {
	wake := h.Store.Subscribe(append([]string{"nodes"}, Resources...)...)
	defer wake.Close()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	pause := time.Duration(0)
	var failed time.Time
	// Issuers are asked beside, one question at a time: one that does not answer must not keep a revocation from being heard.
	type answered struct {
		changed bool
		err     error
	}
	answers, asking, due := make(chan answered, 1), false, true
	missed := false // something has changed since what is asked now was begun
	// The identity changes also by what others do with s, and by replace: how often it had when the node was told last.
	told := s.updates.Load()
	tell := func() {
		told = s.updates.Load()
		h.Changed()
	}
	defer func() {
		if asking {
			<-answers
		}
	}()
	for {
		seen := sceneOf(h)
		changed, err := s.look(ctx, h)
		if err != nil && ctx.Err() == nil {
			s.log.Error("keep up with the members", "err", err)
		}
		missed = missed || due && asking
		if now := s.now(); due && !asking && (pause == 0 || now.Sub(failed) >= pause || now.Before(failed)) {
			asking, missed = true, false
			go func() {
				changed, err := s.ask(ctx, h)
				answers <- answered{changed, err}
			}()
		}
		if !h.Settled() {
			// It acts for nobody yet.
		} else if err := errors.Join(s.say(ctx, h), s.replace(ctx, h)); err != nil && ctx.Err() == nil {
			s.log.Error("publish what this node is", "err", err)
		}
		if changed || s.updates.Load() != told {
			tell()
			due = true
			continue // what follows from it
		}
		var again <-chan time.Time
		if pause > 0 && pause < lookEvery {
			again = time.After(pause)
		}
		due = true
		for idle := true; idle; {
			idle = false
			select {
			case <-ctx.Done():
				return nil
			case a := <-answers:
				asking, due = false, a.changed || missed
				switch {
				case a.err == nil:
					pause = 0
				case ctx.Err() == nil:
					pause, failed = min(max(2*pause, askAgain), askAtMost), s.now()
					if pause >= askSaid {
						s.log.Warn("no issuer is in reach, which this node needs for its certificate", "again in", pause, "err", a.err)
					}
				}
				if a.changed {
					tell()
				}
			case <-wake.C:
				idle = sceneOf(h).same(seen) // most of what becomes of nodes has nothing to do with who is a member
			case <-s.wake:
			case <-again:
			case <-tick.C:
			}
		}
	}
}

// scene is what look goes by beside the identity and the time.
type scene struct {
	said             store.Version
	registered, live []string
	settled          bool
}

func sceneOf(h Hooks) scene {
	out := scene{registered: h.Registered(), live: h.Live(), settled: h.Settled()}
	snap := h.Store.Snapshot()
	for _, r := range Resources {
		out.said = max(out.said, snap.Changed(r))
	}
	return out
}

func (a scene) same(b scene) bool {
	return a.said == b.said && a.settled == b.settled && slices.Equal(a.registered, b.registered) && slices.Equal(a.live, b.live)
}

// Look takes in once what Follow goes on to, so that what was heard before the daemon ended holds from the first connection on.
func (s *Self) Look(ctx context.Context, h Hooks) error {
	_, err := s.look(ctx, h)
	return err
}

// look takes in what the members publish, and lets go of what is over.
func (s *Self) look(ctx context.Context, h Hooks) (changed bool, err error) {
	s.saving <- struct{}{}
	defer func() { <-s.saving }()
	snap, now := h.Store.Snapshot(), s.now()
	old, trust := s.id.Load(), s.trust.Load()
	next := old.clone()
	registered := h.Registered()
	if !h.Settled() {
		registered = append(registered, unknown)
	}

	for id, d := range heard[Denial](trust, snap, ResourceRevoked) {
		if id != next.NodeID && d.value.ID == id {
			next.deny(d.value)
		}
	}
	t, err := next.trust(&s.memo)
	if err != nil {
		return false, err
	}
	next.listen(t, snap)
	if err := next.follow(); err != nil {
		return false, err
	}
	if t, err = next.trust(&s.memo); err != nil {
		return false, err
	}
	for c := range t.robbed {
		if !trust.robbed[c] {
			// Who was shut out may have spoken in the name of another.
			maps.DeleteFunc(next.Known, func(_ string, k known) bool { return len(k.Pin) != 32 || !t.pins[[32]byte(k.Pin)] })
		}
	}
	members := next.members(t, snap)
	next.know(members)
	authorities := wordsOf[aboutAuthority](next, ResourceAuthorities)
	kept := keepRoots(t, trust, authorities, members, registered, now)
	for _, c := range t.roots {
		if !slices.Contains(kept, c) {
			next.Former = append(next.Former, Hash(c))
			if key := keyName(c); t.robbed[key] {
				next.Robbed = mergedKeep(next.Robbed, [][]byte{key[:]})
			}
			s.log.Warn("a CA is not believed any more", "ca", Hash(c)[:12])
		}
	}
	next.Cluster.CACert = encodeCerts(kept...)
	if err := next.pruneCrosses(kept); err != nil {
		return false, err
	}

	about := func(ids []string) map[string]*aboutMember {
		out := map[string]*aboutMember{}
		for _, id := range ids {
			if t.denied[id] {
				continue
			}
			out[id] = nil
			if m, ok := members[id]; ok {
				out[id] = &m.value
			}
		}
		return out
	}
	var gossip []aboutGossipKey
	for _, g := range wordsOf[aboutGossipKey](next, ResourceGossipKeys) {
		if len(g.Key) == 32 {
			gossip = append(gossip, g)
		}
	}
	ring := s.withLearnt(nextRing(next.ring(), gossip, about(h.Live()), about(registered), now), next.ring(), now)
	next.Cluster.GossipKey, next.GossipKeys = ring[0], ring[1:]

	var rotations []aboutRotation
	for _, r := range wordsOf[aboutRotation](next, ResourceRotations) {
		rotations = append(rotations, r)
	}
	tokens, _, err := nextTokenKeys(next.TokenKeys, rotations, now)
	if err != nil {
		return false, err
	}
	over := slices.ContainsFunc(rotations, func(r aboutRotation) bool { return now.Sub(r.At) > r.Overlap })
	if next.shared() == nil || over {
		next.Cluster.ServiceAccountKey = nil
	}
	next.TokenKeys = tokens
	next.keepWords(kept)
	if next.Cluster.Secret != "" && !silent(members, registered, next.NodeID) {
		next.Cluster.Secret = ""
		s.log.Warn("the permanent join secret of the version before is gone, for all members run this one: make tokens with murmur token create")
	}
	if _, err := next.ensureKeys(now); err != nil {
		return false, err
	}

	saved, _ := json.Marshal(old)
	if b, _ := json.Marshal(next); string(b) != string(saved) {
		if err := next.Save(s.cfg.Dir); err != nil {
			return false, err
		}
		changed = true
	}
	was := s.signer.Load()
	if err := s.set(next); err != nil {
		return changed, err
	}
	changed = s.publicKeys(next, members, registered) || changed || !was.Equal(s.signer.Load())
	return changed, nil
}

// follow takes in the CAs that were published since: the one whose key this node holds stands first, then the newest.
func (id *Identity) follow() error {
	roots, err := id.roots()
	if err != nil {
		return err
	}
	holds := ""
	if len(id.Cluster.CAKey) > 0 {
		holds = Hash(roots[0])
	}
	known := map[string]*x509.Certificate{}
	for _, c := range roots {
		known[Hash(c)] = c
	}
	authorities := wordsOf[aboutAuthority](id, ResourceAuthorities)
	for _, hash := range inOrder(authorities) {
		a := authorities[hash]
		cs, err1 := decodeCerts(a.Certificate)
		xs, err2 := decodeCerts(a.Cross)
		if err1 != nil || err2 != nil || Hash(cs[0]) != hash || slices.Contains(id.Former, hash) {
			continue
		}
		previous, ok := known[a.Previous]
		key, isKey := cs[0].PublicKey.(*ecdsa.PublicKey)
		if !ok || !isKey || xs[0].CheckSignatureFrom(previous) != nil || !key.Equal(xs[0].PublicKey) {
			continue
		}
		if known[hash] == nil {
			known[hash] = cs[0]
			roots = append(roots, cs[0])
		}
		if cross := encodeCerts(xs[0]); !strings.Contains(string(id.Crosses), string(cross)) {
			id.Crosses = append(slices.Clip(id.Crosses), cross...)
		}
	}
	standing := (&Trust{robbed: id.robbed(roots)}).standing(authorities)
	slices.SortStableFunc(roots, func(a, b *x509.Certificate) int {
		switch {
		case Hash(a) == holds:
			return -1
		case Hash(b) == holds:
			return 1
		}
		return standing(b, a)
	})
	id.Cluster.CACert = encodeCerts(roots...)
	return nil
}

// pruneCrosses lets go of the certificates by which a CA vouches for another where one of the two is not believed any more.
func (id *Identity) pruneCrosses(roots []*x509.Certificate) error {
	if len(id.Crosses) == 0 {
		return nil
	}
	crosses, err := decodeCerts(id.Crosses)
	if err != nil {
		return fmt.Errorf("certificates of one CA by another: %w", err)
	}
	id.Crosses = encodeCerts(slices.DeleteFunc(crosses, func(x *x509.Certificate) bool {
		return !slices.ContainsFunc(roots, func(c *x509.Certificate) bool { return keyName(c) == keyName(x) }) ||
			!slices.ContainsFunc(roots, func(c *x509.Certificate) bool { return x.CheckSignatureFrom(c) == nil })
	})...)
	return nil
}

// trust is what an identity believes.
func (id *Identity) trust(m *memo) (*Trust, error) {
	roots, err := id.roots()
	if err != nil {
		return nil, err
	}
	var chains []*x509.Certificate
	if len(id.Crosses) > 0 {
		if chains, err = decodeCerts(id.Crosses); err != nil {
			return nil, fmt.Errorf("certificates of one CA by another: %w", err)
		}
	}
	return newTrust(roots, chains, id.robbed(roots), id.Denied, m), nil
}

// members are the statements of members about themselves, by ID: of each the ones under the key that it had when it was first heard of. With a
// stolen key of the CA a certificate can be made in the name of another.
func (id *Identity) members(t *Trust, snap *store.Snapshot) map[string]heardOf[aboutMember] {
	out := heard[aboutMember](t, snap, ResourceMembers)
	maps.DeleteFunc(out, func(name string, m heardOf[aboutMember]) bool {
		k, ok := id.Known[name]
		key := keyName(m.leaf)
		return ok && !slices.Equal(k.Key, key[:])
	})
	return out
}

// know remembers the keys of members.
func (id *Identity) know(members map[string]heardOf[aboutMember]) {
	for name, m := range members {
		pin, ok := pinOf(m.leaf)
		if !ok {
			continue
		}
		if id.Known == nil {
			id.Known = map[string]known{}
		}
		key := keyName(m.leaf)
		id.Known[name] = known{Key: key[:], Node: m.by.Name, Pin: pin[:]}
	}
}

// denial is the revocation of a node; nil if there is none.
func (id *Identity) denial(of string) *Denial {
	for i := range id.Denied {
		if id.Denied[i].ID == of {
			return &id.Denied[i]
		}
	}
	return nil
}

// inOrder lists CAs as they followed each other.
func inOrder(authorities map[string]aboutAuthority) []string {
	out := sortedKeys(authorities)
	slices.SortStableFunc(out, func(a, b string) int { return authorities[a].At.Compare(authorities[b].At) })
	return out
}

// keepRoots drops a CA beside which a better one stands, once the overlap of that one is over and no registered member has a certificate of
// the CA itself. So it is if its key was stolen too: only the members that were known then are believed by it (Trust.keeps), and to drop it
// earlier would shut out those that could not ask for another certificate yet, all of them if the new key is out of reach. was is what was
// believed before: a CA is not dropped in the moment in which this node hears that it was stolen, for what stands by it has to be cut first.
func keepRoots(t, was *Trust, authorities map[string]aboutAuthority, members map[string]heardOf[aboutMember], registered []string, now time.Time) []*x509.Certificate {
	standing := t.standing(authorities)
	return slices.DeleteFunc(slices.Clone(t.roots), func(c *x509.Certificate) bool {
		over := slices.ContainsFunc(t.roots, func(next *x509.Certificate) bool {
			a, ok := authorities[Hash(next)]
			return ok && standing(next, c) > 0 && now.Sub(a.At) > a.Overlap
		})
		return over && t.robbed[keyName(c)] == was.robbed[keyName(c)] && len(waitFor(c, members, registered)) == 0
	})
}

// waitFor lists the registered members that have a certificate of a CA, or none that is known.
func waitFor(old *x509.Certificate, members map[string]heardOf[aboutMember], registered []string) (out []string) {
	for _, id := range registered {
		m, ok := members[id]
		if !ok || m.leaf.CheckSignatureFrom(old) == nil {
			out = append(out, id)
		}
	}
	return out
}

// newest is the CA that is to sign: the last that was made, of those whose key nobody holds who was shut out.
func newest(t *Trust, authorities map[string]aboutAuthority) *x509.Certificate {
	standing, out := t.standing(authorities), t.roots[0]
	for _, c := range t.roots[1:] {
		if standing(c, out) > 0 {
			out = c
		}
	}
	return out
}

// silent tells whether a registered member says nothing of itself: it runs a program of before.
func silent(members map[string]heardOf[aboutMember], registered []string, self string) bool {
	return slices.ContainsFunc(registered, func(id string) bool {
		_, ok := members[id]
		return !ok && id != self
	})
}

// crosses are the certificates by which others vouch for a CA.
func crosses(t *Trust, ca *x509.Certificate) (out []*x509.Certificate) {
	for _, c := range t.chains {
		if key, ok := ca.PublicKey.(*ecdsa.PublicKey); ok && key.Equal(c.PublicKey) {
			out = append(out, c)
		}
	}
	return out
}

// say publishes what this node is, if that has changed, and, at an issuer, what nobody else who is believed says any more.
func (s *Self) say(ctx context.Context, h Hooks) error {
	id, t, snap := s.id.Load(), s.trust.Load(), h.Store.Snapshot()
	if t.Denied(id.NodeID) {
		return nil
	}
	want := aboutMember{Node: id.NodeName, Gossip: id.ring().names()}
	for _, k := range id.TokenKeys {
		der, err := publicDER(k)
		if err != nil {
			return err
		}
		want.TokenKeys, want.Proofs = append(want.TokenKeys, der), append(want.Proofs, k.Proof)
	}
	if a, ok, err := id.authority(); err == nil && ok {
		want.Authority = Hash(a.Certificate)
	}
	k := crdt.Key{Resource: ResourceMembers, Name: id.NodeID}
	have, ok := heardIn[aboutMember](t, snap, ResourceMembers, id.NodeID)
	leaf := s.pair.Load().Leaf
	wb, _ := json.Marshal(want)
	if hb, _ := json.Marshal(have.value); !ok || string(hb) != string(wb) || !have.leaf.Equal(leaf) {
		if err := publish(ctx, h.Store, id, k, want); err != nil {
			return fmt.Errorf("statement about this node: %w", err)
		}
	}
	if !s.Issuer() {
		return nil
	}
	// A revocation holds for who joins later, too: also if its author was shut out since, or its CA is gone.
	for _, d := range id.Denied {
		if there, ok := heardIn[Denial](t, snap, ResourceRevoked, d.ID); !ok || !there.value.says(d) {
			if err := publish(ctx, h.Store, id, crdt.Key{Resource: ResourceRevoked, Name: d.ID}, d); err != nil {
				return fmt.Errorf("revocation of %s: %w", d.Node, err)
			}
		}
	}
	if err := s.handOn(ctx, h.Store, id, t); err != nil {
		return err
	}
	if _, ok := heardIn[aboutSecret](t, snap, ResourceSecrets, permanent); !ok && id.PermanentSecret != "" {
		if err := publish(ctx, h.Store, id, crdt.Key{Resource: ResourceSecrets, Name: permanent}, aboutSecret{id.PermanentSecret}); err != nil {
			return fmt.Errorf("hash of the permanent join secret: %w", err)
		}
	}
	return nil
}

// permanent names the statement with the permanent join secret.
const permanent = "permanent"

func publicDER(k tokenKey) ([]byte, error) {
	key, err := decodeKey(k.Key)
	if err != nil {
		return nil, err
	}
	return x509.MarshalPKIXPublicKey(key.Public())
}

// ask gets from an issuer what this node cannot make itself: a certificate that is due or of an earlier CA, and, for an issuer, the key
// of the CA. An issuer that holds the newest CA makes its own certificate.
func (s *Self) ask(ctx context.Context, h Hooks) (changed bool, err error) {
	id, t := s.id.Load(), s.trust.Load()
	ca := newest(t, wordsOf[aboutAuthority](id, ResourceAuthorities))
	if a, ok, err := id.authority(); err == nil && id.Issuer() && (!ok || Hash(a.Certificate) != Hash(ca)) {
		var got keyReply
		if err := h.Ask(ctx, PathKey, keyRequest{Authority: Hash(ca)}, &got); err != nil {
			return false, fmt.Errorf("the key of the CA %.12s: %w", Hash(ca), err)
		}
		key, err := decodeKey(got.Key)
		if err != nil || !key.PublicKey.Equal(ca.PublicKey) {
			return false, fmt.Errorf("the key of the CA %.12s that an issuer sent is not that: %w", Hash(ca), err)
		}
		if err := s.Update(func(id *Identity) error {
			roots, err := id.roots()
			if err != nil {
				return err
			}
			slices.SortStableFunc(roots, func(a, b *x509.Certificate) int {
				switch {
				case a.Equal(ca):
					return -1
				case b.Equal(ca):
					return 1
				}
				return 0
			})
			id.Cluster.CAKey, id.Cluster.CACert = got.Key, encodeCerts(roots...)
			_, err = id.ensureKeys(s.now())
			return err
		}); err != nil {
			return false, err
		}
		s.log.Info("this node holds the CA's key", "ca", Hash(ca)[:12])
		id, changed = s.id.Load(), true
	}
	leaf := s.pair.Load().Leaf
	if !due(leaf, s.now()) && leaf.CheckSignatureFrom(ca) == nil && covers(leaf, s.cfg.Hosts) {
		return changed, nil
	}
	if a, ok, err := id.authority(); err != nil || ok && !a.plausible(s.now()) {
		return changed, err // what it would make was of no use
	} else if ok {
		return true, s.Update(func(id *Identity) error {
			return id.selfSign(s.cfg.Hosts, s.now())
		})
	}
	key, err := decodeKey(id.Key)
	if err != nil {
		return changed, err
	}
	req, err := newRequest(key, s.cfg.Hosts)
	if err != nil {
		return changed, err
	}
	var got signReply
	if err := h.Ask(ctx, PathSign, signRequest{Request: req}, &got); err != nil {
		return changed, fmt.Errorf("a new certificate: %w", err)
	}
	certs, err := decodeCerts(got.Certificate)
	if err != nil {
		return changed, fmt.Errorf("the certificate that an issuer sent: %w", err)
	}
	if m, err := t.Member(certs, s.now()); err != nil || m.ID != id.NodeID || m.Name != id.NodeName {
		return changed, fmt.Errorf("the certificate that an issuer sent is of %q: %w", m.Name, err)
	}
	s.log.Info("this node has a new certificate", "until", certs[0].NotAfter)
	return true, s.Update(func(id *Identity) error { id.Certificate = got.Certificate; return nil })
}

// Signer is the key that signs the ServiceAccount tokens of this node. As long as a registered member does not know such keys, it
// is the one that all of them share.
func (s *Self) Signer() *ecdsa.PrivateKey {
	if k := s.keys.Load(); k != nil && k.shared != nil && k.others {
		return k.shared
	}
	return s.signer.Load()
}

// PublicKey is one by which ServiceAccount tokens are proven.
type PublicKey struct {
	Key crypto.PublicKey
	// Node and ID are the member that signs with it, none for the one that all members share.
	Node, ID string
	// Anywhere tells that its tokens are believed whatever they are for; else only for pods that run on Node.
	Anywhere bool
	// Retired tells that Node has a newer one, which it signs with as soon as all can have it.
	Retired bool
	// Proven tells that Node has shown that it holds the private half. A member of an earlier version shows nothing.
	Proven bool
}

type tokenKeys struct {
	public []PublicKey
	shared *ecdsa.PrivateKey
	// others tells that there is a registered member which knows only the shared key.
	others bool
	name   string
}

// others tells that a registered member runs a program of before, as far as this node knows.
func (s *Self) others() bool {
	k := s.keys.Load()
	return k != nil && k.others
}

// PublicKeys are those that are believed now.
func (s *Self) PublicKeys() []PublicKey {
	if k := s.keys.Load(); k != nil {
		return k.public
	}
	return s.ownKeys(s.id.Load())
}

func (s *Self) ownKeys(id *Identity) (out []PublicKey) {
	for i, k := range id.TokenKeys {
		if key, err := decodeKey(k.Key); err == nil {
			out = append(out, PublicKey{Key: key.Public(), Node: id.NodeName, ID: id.NodeID, Anywhere: id.Issuer(), Retired: i > 0, Proven: true})
		}
	}
	if k := id.shared(); k != nil {
		out = append(out, PublicKey{Key: k.Public(), Anywhere: true})
	}
	return out
}

// maxTokenKeys bounds how many keys of one member are believed.
const maxTokenKeys = 4

// publicKeys takes the keys that members publish: those of the kind that a member makes.
func (s *Self) publicKeys(id *Identity, members map[string]heardOf[aboutMember], registered []string) (changed bool) {
	k := &tokenKeys{public: s.ownKeys(id), shared: id.shared()}
	for name, m := range members {
		if name == id.NodeID {
			continue
		}
		for i, der := range m.value.TokenKeys[:min(len(m.value.TokenKeys), maxTokenKeys)] {
			parsed, err := x509.ParsePKIXPublicKey(der)
			if key, ok := parsed.(*ecdsa.PublicKey); err == nil && ok && key.Curve == elliptic.P256() {
				var proof []byte
				if i < len(m.value.Proofs) {
					proof = m.value.Proofs[i]
				}
				k.public = append(k.public, PublicKey{Key: key, Node: m.by.Name, ID: name, Anywhere: m.by.Issuer, Retired: i > 0, Proven: s.proofs.hold(name, der, key, proof)})
			}
		}
	}
	k.others = silent(members, slices.DeleteFunc(slices.Clone(registered), func(r string) bool { return r == unknown }), id.NodeID)
	names := make([]string, 0, len(k.public))
	for _, p := range k.public {
		der, _ := x509.MarshalPKIXPublicKey(p.Key)
		names = append(names, fmt.Sprintf("%x %s %v %v %v", der, p.Node, p.Anywhere, p.Retired, p.Proven))
	}
	slices.Sort(names)
	k.name = fmt.Sprint(names, k.others)
	old := s.keys.Swap(k)
	return old == nil || old.name != k.name
}

// AdminPair makes the credentials of this node's administrator: those of the cluster's, where the CA's key is; the node's own, where it is
// not and is not to be. An issuer that has yet to get the key has none.
func (s *Self) AdminPair() (certificate, key []byte, err error) {
	id := s.id.Load()
	a, ok, err := id.authority()
	switch {
	case err != nil:
		return nil, nil, err
	case !ok && id.Issuer():
		return nil, nil, nil
	case !ok:
		return id.Certificate, id.Key, nil
	}
	k, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	if certificate, err = a.signAdmin(k.Public(), s.now()); err != nil {
		return nil, nil, err
	}
	key, err = encodeKey(k)
	return append(certificate, encodeCerts(crosses(s.trust.Load(), a.Certificate)...)...), key, err
}

// AdminDue tells whether credentials that AdminPair made are to be made anew.
func (s *Self) AdminDue(pair *tls.Certificate) bool {
	id := s.id.Load()
	a, ok, err := id.authority()
	if err != nil {
		return false
	}
	if !ok {
		return !id.Issuer() && !pair.Leaf.Equal(s.pair.Load().Leaf)
	}
	return pair.Leaf.Subject.CommonName != adminUser || pair.Leaf.CheckSignatureFrom(a.Certificate) != nil || due(pair.Leaf, s.now()) && a.plausible(s.now())
}

// Renewal is when this node's certificate is replaced.
func (s *Self) Renewal() time.Time { return renewAt(s.pair.Load().Leaf) }
