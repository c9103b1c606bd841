package member

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/crdt"
	"murmur/crdt/store"
)

// world is a cluster in one process: all members share one store, which is what they would have exchanged, and one clock.
type world struct {
	t     *testing.T
	store *store.Store
	at    time.Time
	all   map[string]*one
	doors map[string]*Door
	// of is the world of which this is a side.
	of *world
}

// one is a member of the world.
type one struct {
	*Self
	// away: nothing reaches it, nor does it reach anybody.
	away bool
	// store is what its side has: those with another store are out of reach.
	store *store.Store
}

func newStore(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(store.Config{Cluster: "c"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, s.Close()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// found makes a world of one member.
func found(t *testing.T, name string) *world {
	t.Helper()
	w := &world{t: t, store: newStore(t), at: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC), all: map[string]*one{}, doors: map[string]*Door{}}
	id, err := Found(name, json.RawMessage(`{"x":1}`), "", w.at)
	if err != nil {
		t.Fatal(err)
	}
	w.add(id)
	w.settle()
	return w
}

func (w *world) now() time.Time {
	if w.of != nil {
		return w.of.now()
	}
	return w.at
}

func (w *world) add(id *Identity) *one {
	w.t.Helper()
	dir := w.t.TempDir()
	if err := id.Save(dir); err != nil {
		w.t.Fatal(err)
	}
	s, err := Open(Config{Dir: dir, Hosts: []string{id.NodeName, "127.0.0.1"}, Now: w.now}, id)
	if err != nil {
		w.t.Fatal(err)
	}
	m := &one{Self: s, store: w.store}
	w.all[id.NodeName] = m
	w.register(id.NodeName, id.NodeID)
	w.doors[id.NodeName] = NewDoor(DoorConfig{
		Self: s, Store: w.store, Now: w.now, Inviter: Inviter{NodeName: id.NodeName},
		Taken:  func(Request) error { return nil },
		Others: func(string) []Inviter { return nil },
		Spend:  func(ctx context.Context, used *corev1.Secret) error { return w.write(used, false) },
		Ask:    w.hooks(m).Ask,
	})
	return m
}

func (w *world) write(s *corev1.Secret, fresh bool) error {
	s.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}
	k := crdt.Key{Resource: "secrets", Namespace: s.Namespace, Name: s.Name}
	base, ok := w.store.Snapshot().Get(k)
	if fresh == ok {
		return fmt.Errorf("%s is there: %v", k, ok)
	}
	_, err := w.store.Commit(w.t.Context(), store.Write{Key: k, Object: s, Base: base})
	return err
}

func (w *world) register(name, id string) {
	w.t.Helper()
	k := crdt.Key{Resource: "nodes", Name: name}
	base, _ := w.store.Snapshot().Get(k)
	n := &corev1.Node{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{"id": id}},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0." + fmt.Sprint(len(w.all))}}},
	}
	if _, err := w.store.Commit(w.t.Context(), store.Write{Key: k, Object: n, Base: base}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) unregister(name string) {
	w.t.Helper()
	k := crdt.Key{Resource: "nodes", Name: name}
	base, _ := w.store.Snapshot().Get(k)
	if _, err := w.store.Commit(w.t.Context(), store.Write{Key: k, Base: base}); err != nil {
		w.t.Fatal(err)
	}
}

// split has some members go on by themselves.
func (w *world) split(names ...string) {
	w.t.Helper()
	other := newStore(w.t)
	exchange(w.t, w.store, other)
	for _, n := range names {
		w.all[n].store = other
		w.doors[n].cfg.Store = other
		w.doors[n].cfg.Ask = w.hooks(w.all[n]).Ask
		w.doors[n].cfg.Spend = func(ctx context.Context, used *corev1.Secret) error { return w.on(other).write(used, false) }
	}
}

// on is the world as those see it who have a store.
func (w *world) on(store *store.Store) *world {
	side := *w
	side.store, side.of = store, w
	return &side
}

// heal has all have the same again.
func (w *world) heal() {
	w.t.Helper()
	for name, m := range w.all {
		if m.store != w.store {
			exchange(w.t, w.store, m.store)
			exchange(w.t, m.store, w.store)
		}
		m.store = w.store
		w.doors[name].cfg.Store = w.store
		w.doors[name].cfg.Ask = w.hooks(m).Ask
		w.doors[name].cfg.Spend = func(ctx context.Context, used *corev1.Secret) error { return w.write(used, false) }
	}
}

// exchange has one store take what another has.
func exchange(t *testing.T, from, to *store.Store) {
	t.Helper()
	deltas, err := from.Delta(to.Vector())
	if err != nil {
		t.Fatal(err)
	}
	for d := range deltas {
		if _, _, err := to.Merge(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
}

func (w *world) ids(of *one, live bool) (out []string) {
	for _, n := range store.List[corev1.Node](of.store.Snapshot(), "nodes", "") {
		if m := w.all[n.Name]; !live || m != nil && !m.away && m.store == of.store {
			out = append(out, n.Annotations["id"])
		}
	}
	return out
}

// names are the node names of all registered IDs.
func (w *world) names() map[string]string {
	out := map[string]string{}
	for _, n := range store.List[corev1.Node](w.store.Snapshot(), "nodes", "") {
		out[n.Annotations["id"]] = n.Name
	}
	return out
}

func (w *world) hooks(m *one) Hooks {
	return Hooks{
		Store: m.store, Live: func() []string { return w.ids(m, true) }, Registered: func() []string { return w.ids(m, false) },
		Settled: func() bool { return true }, Changed: func() {},
		Ask: func(ctx context.Context, path string, in, out any) error {
			for _, other := range w.all {
				if other == m || other.away || m.away || other.store != m.store {
					continue
				}
				// Both ends prove themselves, as on a stream.
				asks, err := other.Verify(chainOf(m.Certificate()))
				if err != nil {
					return err
				}
				if _, err := m.Verify(chainOf(other.Certificate())); err != nil {
					return err
				}
				answer, err := other.answerTo(ctx, w.doors[other.Identity().NodeName], asks, chainOf(m.Certificate())[0], path, in)
				if err != nil {
					continue
				}
				b, err := json.Marshal(answer)
				if err != nil {
					return err
				}
				return json.Unmarshal(b, out)
			}
			return errors.New("nobody answers")
		},
	}
}

func chainOf(c *tls.Certificate) (out []*x509.Certificate) {
	for _, der := range c.Certificate {
		x, err := x509.ParseCertificate(der)
		if err != nil {
			panic(err)
		}
		out = append(out, x)
	}
	return out
}

// turn lets a member look, ask and say once.
func (w *world) turn(m *one) bool {
	w.t.Helper()
	h := w.hooks(m)
	changed, err := m.look(w.t.Context(), h)
	if err != nil {
		w.t.Fatal(err)
	}
	if asked, err := m.ask(w.t.Context(), h); err == nil {
		changed = changed || asked
	}
	if err := errors.Join(m.say(w.t.Context(), h), m.replace(w.t.Context(), h)); err != nil {
		w.t.Fatal(err)
	}
	return changed
}

// settle lets all that are not away do what follows from what is there. Between any two steps all of them must be able to talk.
func (w *world) settle() {
	w.t.Helper()
	for round := range 20 {
		changed := round < 2 // what one says wakes the others
		for _, m := range w.all {
			if !m.away {
				changed = w.turn(m) || changed
				w.talk()
			}
		}
		if !changed {
			return
		}
	}
	w.t.Fatal("the members do not come to rest")
}

// talk wants every two members that are there to believe each other, and each other's administrators.
func (w *world) talk() {
	w.t.Helper()
	for a, x := range w.all {
		for b, y := range w.all {
			if x.away || y.away || x.store != y.store {
				continue
			}
			if m, err := x.Verify(chainOf(y.Certificate())); err != nil || m.Name != b {
				w.t.Fatalf("%s does not believe %s: %v", a, b, err)
			}
		}
	}
}

func (w *world) pass(d time.Duration) { w.at = w.at.Add(d) }

// join has a machine join by way of a member.
func (w *world) join(name, by string, issuer bool) *one {
	w.t.Helper()
	secret, obj := NewToken(w.at.Add(time.Hour), issuer, false)
	if err := w.write(obj, true); err != nil {
		w.t.Fatal(err)
	}
	id, err := w.knock(name, name+"-id", by, secret, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	m := w.add(id)
	w.settle()
	return m
}

// knock is Join without the network: what the door of a member makes of a request.
func (w *world) knock(name, id, by, secret string, like *Identity) (*Identity, error) {
	to := &Identity{NodeID: id, NodeName: name}
	if like != nil {
		to = like.clone()
	}
	if _, err := to.ensureKeys(w.at); err != nil {
		return nil, err
	}
	key, err := decodeKey(to.Key)
	if err != nil {
		return nil, err
	}
	req := Request{NodeID: to.NodeID, NodeName: name, Addr: netip.MustParseAddr("10.0.0.9")}
	if req.CSR, err = newRequest(key, []string{name, "127.0.0.1"}); err != nil {
		return nil, err
	}
	r, err := w.doors[by].relayed(w.t.Context(), secret, req, Admission{})
	if err != nil {
		return nil, err
	}
	return to, to.take(r)
}

func TestJoinersHoldNoMoreThanTheyNeed(t *testing.T) {
	w := found(t, "a")
	b := w.join("b", "a", true)
	c := w.join("c", "a", false)
	for m, issuer := range map[*one]bool{w.all["a"]: true, b: true, c: false} {
		id := m.Identity()
		if id.Issuer() != issuer || (len(id.Cluster.CAKey) > 0) != issuer {
			t.Errorf("%s is an issuer: %v, and holds the CA's key: %v; want %v", id.NodeName, id.Issuer(), len(id.Cluster.CAKey) > 0, issuer)
		}
		if got, err := w.all["a"].Verify(chainOf(m.Certificate())); err != nil || got.Issuer != issuer || got.ID != id.NodeID {
			t.Errorf("%s is seen as %+v, %v", id.NodeName, got, err)
		}
		on, err := Load(m.cfg.Dir)
		if err != nil || (len(on.Cluster.CAKey) > 0) != issuer || on.Cluster.Secret != "" {
			t.Errorf("the disk of %s holds the CA's key: %v, a secret: %q, %v", id.NodeName, len(on.Cluster.CAKey) > 0, on.Cluster.Secret, err)
		}
	}
	if b.Identity().TokenKeys[0].Key == nil || string(b.Identity().TokenKeys[0].Key) == string(c.Identity().TokenKeys[0].Key) {
		t.Error("two members share a key for ServiceAccount tokens")
	}
	// What c signs is believed only for its pods, by all.
	for name, m := range w.all {
		for _, k := range m.PublicKeys() {
			if k.Anywhere != (k.Node != "c") {
				t.Errorf("%s believes the tokens of %s anywhere: %v", name, k.Node, k.Anywhere)
			}
		}
		if n := len(m.PublicKeys()); n != 3 {
			t.Errorf("%s knows %d keys, want 3", name, n)
		}
	}
	// One that is no issuer admits by way of one that is in reach.
	w.join("d", "c", false)
	w.all["a"].away, w.all["b"].away = true, true
	secret, obj := NewToken(w.at.Add(time.Hour), true, false)
	if err := w.write(obj, true); err != nil {
		t.Fatal(err)
	}
	if _, err := w.knock("e", "e-id", "c", secret, nil); !errors.Is(err, errOutOfReach) {
		t.Errorf("with no issuer in reach: %v", err)
	}
}

func TestRotateCA(t *testing.T) {
	w := found(t, "a")
	w.join("b", "a", true)
	w.join("c", "a", false)
	w.join("away", "a", true)
	w.all["away"].away = true
	old := w.all["a"].Trust().roots[0]
	adminOf := func(m *one) *tls.Certificate {
		cert, key, err := m.AdminPair()
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return &pair
	}
	before := adminOf(w.all["b"])
	if _, err := w.all["c"].RotateCA(t.Context(), w.store, time.Hour); !errors.Is(err, ErrOnlyIssuers) {
		t.Errorf("one that is no issuer rotates: %v", err)
	}
	if _, err := w.all["b"].RotateCA(t.Context(), w.store, time.Hour); err != nil {
		t.Fatal(err)
	}
	w.talk() // before anybody has heard of it
	w.settle()
	next := w.all["b"].Trust().roots[0]
	if next.Equal(old) {
		t.Fatal("the CA is the old one")
	}
	for _, name := range []string{"a", "b", "c"} {
		m := w.all[name]
		if m.Certificate().Leaf.CheckSignatureFrom(next) != nil {
			t.Errorf("%s has a certificate of the old CA", name)
		}
		if !m.Identity().Knows(Hash(old)) || len(m.Trust().roots) != 2 {
			t.Errorf("%s believes %d CAs in the overlap", name, len(m.Trust().roots))
		}
		if err := clientBelieved(m.Trust(), before, w.at); err != nil {
			t.Errorf("%s refuses a kubeconfig of before in the overlap: %v", name, err)
		}
		if !m.AdminDue(before) && m.Issuer() {
			t.Errorf("%s does not make a new kubeconfig", name)
		}
	}
	// Who knows only the old CA believes those who have a certificate of the new.
	if m, err := w.all["away"].Verify(chainOf(w.all["c"].Certificate())); err != nil || m.Name != "c" {
		t.Errorf("the one that was away does not believe the others: %v", err)
	}
	// The overlap is over; the one that is away holds the old CA up, and comes back by itself.
	w.pass(2 * time.Hour)
	w.settle()
	if n := len(w.all["a"].Trust().roots); n != 2 {
		t.Fatalf("%d CAs are believed while a member has a certificate of the old", n)
	}
	w.all["away"].away = false
	w.settle()
	for name, m := range w.all {
		if n := len(m.Trust().roots); n != 1 || !m.Trust().roots[0].Equal(next) {
			t.Errorf("%s believes %d CAs at the end", name, n)
		}
		if err := clientBelieved(m.Trust(), before, w.at); err == nil {
			t.Errorf("%s believes a kubeconfig of before at the end", name)
		}
		if m.Issuer() != (name != "c") || (len(m.Identity().Cluster.CAKey) > 0) != m.Issuer() {
			t.Errorf("%s: issuer %v, holds the key %v", name, m.Issuer(), len(m.Identity().Cluster.CAKey) > 0)
		}
	}
}

// clientBelieved is what the API does with a client certificate.
func clientBelieved(t *Trust, pair *tls.Certificate, now time.Time) error {
	chain := chainOf(pair)
	o := x509.VerifyOptions{Roots: t.Pool(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, CurrentTime: now}
	for _, c := range chain[1:] {
		o.Intermediates.AddCert(c)
	}
	chains, err := chain[0].Verify(o)
	if err != nil {
		return err
	}
	for _, c := range chains {
		if err = t.Client(c); err == nil {
			return nil
		}
	}
	return err
}

// A member that was away for the whole of a rotation, and forgotten meanwhile so that nobody waited, comes back with a token.
func TestRejoin(t *testing.T) {
	w := found(t, "a")
	away := w.join("away", "a", true)
	away.away = true
	w.unregister("away")
	if _, err := w.all["a"].RotateCA(t.Context(), w.store, time.Hour); err != nil {
		t.Fatal(err)
	}
	w.pass(2 * time.Hour)
	w.settle()
	if _, err := w.all["a"].Verify(chainOf(away.Certificate())); err == nil {
		t.Fatal("a certificate of the old CA is believed")
	}
	secret, obj := NewToken(w.at.Add(time.Hour), true, false)
	if err := w.write(obj, true); err != nil {
		t.Fatal(err)
	}
	// Another machine with its ID does not get in.
	if _, err := w.knock("away", "away-id", "a", secret, nil); err == nil || !strings.Contains(err.Error(), "has another key") {
		t.Errorf("another machine with the ID of a member: %v", err)
	}
	id, err := w.knock("away", "away-id", "a", secret, away.Identity())
	if err != nil {
		t.Fatal(err)
	}
	if err := away.Update(func(have *Identity) error { *have = *id; return nil }); err != nil {
		t.Fatal(err)
	}
	away.away = false
	w.register("away", "away-id")
	w.settle()
	if !away.Identity().Knows(Hash(w.all["a"].Trust().roots[0])) || len(away.Identity().Cluster.CAKey) == 0 {
		t.Error("it is no issuer as it was")
	}
}

func TestRevoke(t *testing.T) {
	for _, issuer := range []bool{false, true} {
		t.Run(fmt.Sprintf("issuer %v", issuer), func(t *testing.T) {
			w := found(t, "a")
			w.join("b", "a", true)
			c := w.join("c", "a", false)
			stolen := w.join("stolen", "a", issuer)
			// What the thief has is its disk.
			loot, err := Load(stolen.cfg.Dir)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Revoke(t.Context(), w.store, "stolen", map[string]bool{"stolen-id": issuer}, w.names()); !errors.Is(err, ErrOnlyIssuers) {
				t.Errorf("one that is no issuer revokes: %v", err)
			}
			ring := w.all["a"].Ring()[0]
			done, err := w.all["b"].Revoke(t.Context(), w.store, "stolen", map[string]bool{"stolen-id": issuer}, w.names())
			if err != nil {
				t.Fatal(err)
			}
			if want := map[bool]int{false: 1, true: 2}[issuer]; len(done) != want {
				t.Errorf("rotated %v", done)
			}
			delete(w.all, "stolen")
			w.unregister("stolen")
			w.settle()
			certificates := map[string][]*x509.Certificate{"its own": chainOf(stolen.Certificate())}
			if a, ok, err := loot.authority(); err != nil {
				t.Fatal(err)
			} else if ok {
				// With the CA's key it makes certificates of a new node, and of one that is there.
				for _, m := range []Member{{Name: "new", ID: "new-id", Issuer: true}, {Name: "c", ID: "c-id", Issuer: true}} {
					forged := loot.clone()
					forged.NodeName, forged.NodeID = m.Name, m.ID
					if err := forged.selfSign([]string{"x"}, w.at); err != nil {
						t.Fatal(err)
					}
					pair, err := forged.pair()
					if err != nil {
						t.Fatal(err)
					}
					certificates["forged of "+m.Name] = chainOf(pair)
				}
				der, err := a.signAdmin(a.Key.Public(), w.at)
				if err != nil {
					t.Fatal(err)
				}
				pair, err := tls.X509KeyPair(der, loot.Cluster.CAKey)
				if err != nil {
					t.Fatal(err)
				}
				for name, m := range w.all {
					if clientBelieved(m.Trust(), &pair, w.at) == nil {
						t.Errorf("%s believes a forged administrator", name)
					}
				}
			}
			check := func() {
				t.Helper()
				for what, chain := range certificates {
					for name, m := range w.all {
						if _, err := m.Verify(chain); err == nil {
							t.Errorf("%s believes a certificate of the thief: %s", name, what)
						}
					}
				}
				for name, m := range w.all {
					for _, k := range m.PublicKeys() {
						if k.Node == "stolen" {
							t.Errorf("%s believes tokens of the thief", name)
						}
					}
				}
			}
			check()
			w.pass(settleGossip + time.Second)
			w.settle()
			w.pass(stolenOverlap)
			w.settle()
			check()
			for name, m := range w.all {
				if m.Ring().has(ring) {
					t.Errorf("%s reads what the stolen gossip key wrote", name)
				}
			}
			// Who joins later hears of it, also when its author is gone.
			w.join("late", "a", true)
			check()
			if _, err := w.knock("stolen", "stolen-id", "a", "x.y", loot); err == nil {
				t.Error("the thief joined")
			}
			secret, obj := NewToken(w.at.Add(time.Hour), true, false)
			if err := w.write(obj, true); err != nil {
				t.Fatal(err)
			}
			var no *refused
			if _, err := w.knock("stolen", "stolen-id", "a", secret, loot); !errors.As(err, &no) || no.Status != 403 {
				t.Errorf("the door admits a revoked ID: %v", err)
			}
		})
	}
}

// A statement that its author may not make is as if it were not there.
func TestStatementsOfOthers(t *testing.T) {
	w := found(t, "a")
	c := w.join("c", "a", false)
	d := w.join("d", "a", true)
	id := c.Identity()
	for what, k := range map[string]crdt.Key{
		"revokes":       {Resource: ResourceRevoked, Name: "d-id"},
		"speaks for d":  {Resource: ResourceMembers, Name: "d-id"},
		"rotates":       {Resource: ResourceRotations, Name: "x"},
		"a gossip key":  {Resource: ResourceGossipKeys, Name: "x"},
		"a join secret": {Resource: ResourceSecrets, Name: permanent},
	} {
		body := map[string]any{"node": "d", "id": "d-id", "at": w.at, "key": newGossipKey(), "hash": hashSecret("s"), "overlap": 1}
		if err := publish(t.Context(), w.store, id, k, body); err != nil {
			t.Fatal(err)
		}
		before := [][]byte(w.all["a"].Ring())
		w.turn(w.all["a"])
		if w.all["a"].Trust().Denied("d-id") || len(w.all["a"].Identity().TokenKeys) != 1 || len(w.all["a"].Ring()) != len(before) {
			t.Errorf("one that is no issuer %s, and is heard", what)
		}
		if _, err := w.doors["a"].accepts("s", "", w.at); err == nil {
			t.Error("a secret of one that is no issuer admits")
		}
	}
	// The statement of another under a name that is not its own.
	e, ok := w.store.Snapshot().Get(crdt.Key{Resource: ResourceMembers, Name: "c-id"})
	if !ok {
		t.Fatal("c says nothing of itself")
	}
	s, err := statementOf(e)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.all["a"].Trust().verify(crdt.Key{Resource: ResourceMembers, Name: "other"}, s); err == nil {
		t.Error("a statement is believed under another name")
	}
	// A revocation that somebody deletes is there again, and holds meanwhile.
	if _, err := d.Revoke(t.Context(), w.store, "c", map[string]bool{"c-id": false}, w.names()); err != nil {
		t.Fatal(err)
	}
	delete(w.all, "c")
	w.unregister("c")
	w.settle()
	k := crdt.Key{Resource: ResourceRevoked, Name: "c-id"}
	base, ok := w.store.Snapshot().Get(k)
	if !ok {
		t.Fatal("no revocation")
	}
	if _, err := w.store.Commit(t.Context(), store.Write{Key: k, Base: base}); err != nil {
		t.Fatal(err)
	}
	w.settle()
	if _, ok := w.store.Snapshot().Get(k); !ok || !w.all["a"].Trust().Denied("c-id") {
		t.Error("a deleted revocation is gone")
	}
}
