package member

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"murmur/crdt"
	"murmur/crdt/store"
)

// thief is who has the disk of an issuer.
type thief struct {
	t *testing.T
	// disks are what it has copied, each with a key of the CA.
	disks []*Identity
}

func (th *thief) copy(m *one) {
	th.t.Helper()
	id, err := Load(m.cfg.Dir)
	if err != nil {
		th.t.Fatal(err)
	}
	if _, ok, err := id.authority(); err != nil || !ok {
		th.t.Fatalf("no key of the CA is on the disk of %s: %v", id.NodeName, err)
	}
	th.disks = append(th.disks, id)
}

// forge makes the identity of a node, with everything that vouches for its CA.
func (th *thief) forge(disk *Identity, name, id string, now time.Time) *Identity {
	th.t.Helper()
	k, err := newKey()
	if err != nil {
		th.t.Fatal(err)
	}
	forged := disk.clone()
	forged.NodeName, forged.NodeID = name, id
	if forged.Key, err = encodeKey(k); err != nil {
		th.t.Fatal(err)
	}
	if err := forged.selfSign([]string{name}, now); err != nil {
		th.t.Fatal(err)
	}
	forged.Certificate = append(forged.Certificate, disk.Crosses...)
	return forged
}

// believed lists what is believed of all that it can make with the keys that it has.
func (th *thief) believed(w *world) (out []string) {
	th.t.Helper()
	for i, disk := range th.disks {
		a, _, err := disk.authority()
		if err != nil {
			th.t.Fatal(err)
		}
		chains := map[string][]*x509.Certificate{}
		for _, of := range [][2]string{{"new", "new-id"}, {"c", "c-id"}} {
			pair, err := th.forge(disk, of[0], of[1], w.at).pair()
			if err != nil {
				th.t.Fatal(err)
			}
			chains["a member "+of[0]] = chainOf(pair)
		}
		// A CA of its own, for which the stolen one vouches.
		own, err := newAuthority("own", w.at)
		if err != nil {
			th.t.Fatal(err)
		}
		cross, err := a.cross(own.Certificate)
		if err != nil {
			th.t.Fatal(err)
		}
		deeper := disk.clone()
		deeper.Cluster.CACert = encodeCerts(own.Certificate)
		if deeper.Cluster.CAKey, err = encodeKey(own.Key); err != nil {
			th.t.Fatal(err)
		}
		deeper.Crosses = append(encodeCerts(cross), disk.Crosses...)
		pair, err := th.forge(deeper, "deep", "deep-id", w.at).pair()
		if err != nil {
			th.t.Fatal(err)
		}
		chains["a member of a CA of its own"] = chainOf(pair)
		der, err := a.signAdmin(a.Key.Public(), w.at)
		if err != nil {
			th.t.Fatal(err)
		}
		admin, err := tls.X509KeyPair(append(der, disk.Crosses...), disk.Cluster.CAKey)
		if err != nil {
			th.t.Fatal(err)
		}
		for name, m := range w.all {
			for what, chain := range chains {
				if _, err := m.Verify(chain); err == nil {
					out = append(out, fmt.Sprintf("%s believes %s, of disk %d", name, what, i))
				}
				if err := m.Trust().Stands(chain); (err == nil) != (verify(m, chain) == nil || !robbedBy(m, chain)) {
					out = append(out, fmt.Sprintf("%s keeps a connection of %s, of disk %d: %v", name, what, i, err))
				}
			}
			if clientBelieved(m.Trust(), &admin, w.at) == nil {
				out = append(out, fmt.Sprintf("%s believes an administrator, of disk %d", name, i))
			}
		}
	}
	return out
}

func verify(m *one, chain []*x509.Certificate) error { _, err := m.Verify(chain); return err }

// robbedBy tells whether a chain leads to a CA of which this member knows that it was stolen.
func robbedBy(m *one, chain []*x509.Certificate) bool { return errors.Is(verify(m, chain), errRobbed) }

func (w *world) revoke(by, name string, issuer bool) {
	w.t.Helper()
	m := w.all[by]
	if _, err := m.Revoke(w.t.Context(), m.store, name, map[string]bool{name + "-id": issuer}, w.on(m.store).names()); err != nil {
		w.t.Fatal(err)
	}
	delete(w.all, name)
	w.on(m.store).unregister(name)
}

// one CA, nobody's but the members'.
func (w *world) oneCA() {
	w.t.Helper()
	var name string
	for n, m := range w.all {
		roots := m.Trust().roots
		if len(roots) != 1 || name != "" && Hash(roots[0]) != name || m.Trust().robbed[keyName(roots[0])] || len(m.Identity().Crosses) > 0 {
			w.t.Errorf("%s believes %d CAs, want one and the same, that nobody has stolen; %d bytes vouch for it", n, len(roots), len(m.Identity().Crosses))
		}
		if m.Certificate().Leaf.CheckSignatureFrom(roots[0]) != nil {
			w.t.Errorf("the certificate of %s is of another CA", n)
		}
		name = Hash(roots[0])
	}
}

// An issuer that is revoked while the CA is being rotated holds the keys of both, and what either vouches for.
func TestRevokeDuringARotation(t *testing.T) {
	w := found(t, "a")
	w.join("b", "a", true)
	w.join("c", "a", false)
	stolen := w.join("stolen", "a", true)
	th := &thief{t: t}
	th.copy(stolen)
	if _, err := w.all["a"].RotateCA(t.Context(), w.store, time.Hour); err != nil {
		t.Fatal(err)
	}
	w.settle()
	th.copy(stolen)
	if got := th.believed(w); len(got) == 0 {
		t.Fatal("nothing that it makes is believed before it is revoked")
	}
	w.revoke("b", "stolen", true)
	check := func(when string) {
		t.Helper()
		for _, what := range th.believed(w) {
			t.Errorf("%s: %s", when, what)
		}
	}
	w.settle()
	w.talk()
	check("after the revocation")
	w.pass(stolenOverlap + time.Second)
	w.settle()
	check("after its overlap")
	w.pass(2 * time.Hour)
	w.settle()
	check("after that of the rotation")
	w.oneCA()
	w.join("late", "a", true)
	check("for one that joined later")
	// What was heard stays, also over a start without the store.
	for name, m := range w.all {
		id, err := Load(m.cfg.Dir)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Open(m.cfg, id)
		if err != nil {
			t.Fatal(err)
		}
		m.Self = again
		if !m.Trust().Denied("stolen-id") {
			t.Errorf("%s has forgotten the revocation", name)
		}
	}
	check("after a start")
}

// A joiner believes nobody who was shut out before it came, from its first connection on.
func TestJoinerHearsOfRevocations(t *testing.T) {
	w := found(t, "a")
	stolen := w.join("stolen", "a", true)
	th := &thief{t: t}
	th.copy(stolen)
	w.join("away", "a", true) // holds the old CA up
	delete(w.all, "away")
	w.revoke("a", "stolen", true)
	w.settle()
	secret, obj := NewToken(w.at.Add(time.Hour), true, false)
	if err := w.write(obj, true); err != nil {
		t.Fatal(err)
	}
	id, err := w.knock("j", "j-id", "a", secret, nil)
	if err != nil {
		t.Fatal(err)
	}
	j := w.add(id)
	if n := len(j.Trust().roots); n != 2 {
		t.Fatalf("it believes %d CAs, want both", n)
	}
	for _, what := range th.believed(w) {
		t.Error(what)
	}
}

// An identity that an issuer made and that is no node goes with it, and so does what it said in the name of another.
func TestShadowsOfAnIssuer(t *testing.T) {
	w := found(t, "a")
	w.join("b", "a", true)
	c := w.join("c", "a", false)
	stolen := w.join("stolen", "a", true)
	th := &thief{t: t}
	th.copy(stolen)
	var shadows [][]*x509.Certificate
	for _, of := range [][2]string{{"shadow", "shadow-id"}, {"b", "other-id"}, {"c", "c-id"}} {
		forged := th.forge(th.disks[0], of[0], of[1], w.at)
		if err := publish(t.Context(), w.store, forged, crdt.Key{Resource: ResourceMembers, Name: of[1]}, aboutMember{Node: of[0]}); err != nil {
			t.Fatal(err)
		}
		pair, err := forged.pair()
		if err != nil {
			t.Fatal(err)
		}
		shadows = append(shadows, chainOf(pair))
	}
	w.turn(w.all["b"]) // it hears them before c has put its own right
	w.revoke("b", "stolen", true)
	w.settle()
	for _, chain := range shadows {
		for name, m := range w.all {
			if who, err := m.Verify(chain); err == nil {
				t.Errorf("%s believes %+v, which one who was revoked has made", name, who)
			}
		}
	}
	if m := w.all["a"].Identity().members(w.all["a"].Trust(), w.store.Snapshot()); m["c-id"].leaf == nil || !m["c-id"].leaf.Equal(c.Certificate().Leaf) {
		t.Error("c is not who it was")
	}
}

// Two sides of a cut that shut the same issuer out each keep the members that they know, and are one again, whoever was first.
func TestRevokedOnBothSides(t *testing.T) {
	for _, first := range []string{"a", "x"} {
		t.Run("first at "+first, func(t *testing.T) {
			w := found(t, "a")
			w.join("b", "a", true)
			w.join("x", "a", true)
			w.join("y", "a", false)
			stolen := w.join("stolen", "a", true)
			th := &thief{t: t}
			th.copy(stolen)
			delete(w.all, "stolen")
			w.split("x", "y")
			// Each side has one that the other does not know.
			for name, by := range map[string]string{"j1": "a", "j2": "x"} {
				side := w.on(w.all[by].store)
				secret, obj := NewToken(w.at.Add(time.Hour), true, false)
				if err := side.write(obj, true); err != nil {
					t.Fatal(err)
				}
				id, err := side.knock(name, name+"-id", by, secret, nil)
				if err != nil {
					t.Fatal(err)
				}
				side.add(id)
				w.settle()
			}
			w.revoke(first, "stolen", true)
			w.settle()
			w.pass(time.Second)
			w.revoke(map[string]string{"a": "x", "x": "a"}[first], "stolen", true)
			w.settle()
			w.heal()
			for range 3 { // until they have heard who was kept on the other side
				for _, m := range w.all {
					w.turn(m)
				}
			}
			w.settle() // in which all are to believe each other at each step
			for _, what := range th.believed(w) {
				t.Error(what)
			}
			keeps := -1
			for name, m := range w.all {
				d := m.Identity().denial("stolen-id")
				if d == nil || keeps >= 0 && len(d.Keep) != keeps {
					t.Fatalf("%s keeps %+v, others %d", name, d, keeps)
				}
				keeps = len(d.Keep)
			}
			if keeps != 6 {
				t.Errorf("%d members are kept, want those of both sides: 6", keeps)
			}
			w.pass(2 * stolenOverlap)
			w.settle()
			w.oneCA()
			for _, what := range th.believed(w) {
				t.Error(what)
			}
		})
	}
}

// Two issuers that are shut out on two sides each know the CA that replaced what the other knew: it is replaced again. So is one that a
// side has made by an ordinary rotation while it had one of them among it.
func TestTwoRevokedOnTwoSides(t *testing.T) {
	for what, other := range map[string]func(w *world, th *thief){
		"another revocation": func(w *world, th *thief) { w.revoke("x", "stolen2", true) },
		"a rotation": func(w *world, th *thief) {
			if _, err := w.all["x"].RotateCA(th.t.Context(), w.all["x"].store, time.Hour); err != nil {
				th.t.Fatal(err)
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			w := found(t, "a")
			for _, n := range []string{"b", "x", "stolen1", "stolen2"} {
				w.join(n, "a", true)
			}
			w.join("c", "a", false)
			th := &thief{t: t}
			th.copy(w.all["stolen1"])
			one, two := w.all["stolen1"], w.all["stolen2"]
			w.split("x", "stolen1")
			w.pass(time.Second)
			// On the one side the first is revoked, while the second is there and hears the new key.
			onA := w.on(w.store)
			if _, err := w.all["a"].Revoke(t.Context(), w.store, "stolen1", map[string]bool{"stolen1-id": true}, onA.names()); err != nil {
				t.Fatal(err)
			}
			onA.unregister("stolen1")
			w.settle()
			th.copy(two)
			w.pass(time.Second)
			other(w, th)
			w.settle()
			th.copy(one)
			delete(w.all, "stolen1")
			delete(w.all, "stolen2")
			if what == "a rotation" {
				w.all["stolen2"] = two
			}
			w.heal()
			for range 12 {
				for _, m := range w.all {
					w.turn(m)
				}
				w.pass(30 * time.Second)
			}
			w.settle()
			w.pass(2 * time.Hour)
			w.settle()
			w.oneCA()
			if what == "a rotation" {
				th.disks = slices.Delete(th.disks, 1, 2) // nobody has revoked the second
			}
			for _, what := range th.believed(w) {
				t.Error(what)
			}
		})
	}
}

// Of two rotations at once the one that loses goes, too.
func TestTwoRotationsAtOnce(t *testing.T) {
	w := found(t, "a")
	w.join("b", "a", true)
	w.join("c", "a", false)
	w.split("b")
	for _, n := range []string{"a", "b"} {
		if _, err := w.all[n].RotateCA(t.Context(), w.all[n].store, time.Hour); err != nil {
			t.Fatal(err)
		}
		w.pass(time.Second)
	}
	w.settle()
	w.heal()
	w.settle()
	if n := len(w.all["c"].Trust().roots); n != 3 {
		t.Errorf("%d CAs are believed in the overlap, want the old one and both that follow", n)
	}
	w.pass(2 * time.Hour)
	w.settle()
	w.settle()
	w.oneCA()
}

// What issuers have said holds though its document is overwritten, or its author and the CA that vouched for it are gone.
func TestWordsLast(t *testing.T) {
	w := found(t, "a")
	w.join("b", "a", true)
	w.join("c", "a", false)
	garbage := func(k crdt.Key) {
		t.Helper()
		if err := publish(t.Context(), w.store, w.all["c"].Identity(), k, map[string]string{"garbage": "x"}); err != nil {
			t.Fatal(err)
		}
	}
	every := func(resource string) (out []crdt.Key) {
		for e := range w.store.Snapshot().Range(resource, "", "") {
			out = append(out, e.Key)
		}
		return out
	}
	old := w.all["a"].Trust().roots[0]
	w.pass(time.Minute)
	// Before anybody else has heard of it.
	if _, err := w.all["a"].RotateCA(t.Context(), w.store, time.Hour); err != nil {
		t.Fatal(err)
	}
	for _, k := range every(ResourceAuthorities) {
		garbage(k)
	}
	w.settle()
	for name, m := range w.all {
		if m.Certificate().Leaf.CheckSignatureFrom(old) == nil {
			t.Errorf("%s has not heard of the new CA, whose document was overwritten", name)
		}
	}
	token := string(w.all["c"].Identity().TokenKeys[0].Key)
	if _, err := w.all["a"].RotateGossip(t.Context(), w.store, 24*time.Hour, true); err != nil {
		t.Fatal(err)
	}
	if _, err := w.all["a"].RotateTokens(t.Context(), w.store, 24*time.Hour); err != nil {
		t.Fatal(err)
	}
	w.turn(w.all["b"])
	for _, r := range []string{ResourceGossipKeys, ResourceRotations} {
		for _, k := range every(r) {
			garbage(k)
		}
	}
	w.settle()
	if string(w.all["c"].Identity().TokenKeys[0].Key) == token || len(w.all["c"].Ring()) != 2 {
		t.Error("c has not heard of rotations whose documents were overwritten once another had heard of them")
	}
	// Their author goes, then the CA under which it spoke.
	w.unregister("a")
	delete(w.all, "a")
	if _, err := w.all["b"].RotateCA(t.Context(), w.store, time.Minute); err != nil {
		t.Fatal(err)
	}
	w.settle()
	w.pass(2 * time.Hour)
	w.settle()
	w.oneCA()
	b := w.all["b"]
	for _, r := range []string{ResourceAuthorities, ResourceGossipKeys, ResourceRotations} {
		if said := heard[aboutRotation](b.Trust(), w.store.Snapshot(), r); len(said) == 0 {
			t.Errorf("nobody says %s any more", r)
		}
	}
	w.pass(24 * time.Hour)
	w.settle()
	for name, m := range w.all {
		if len(m.Ring()) != 1 || len(m.Identity().TokenKeys) != 1 {
			t.Errorf("%s has %d gossip keys and %d for tokens: the rotations came to no end", name, len(m.Ring()), len(m.Identity().TokenKeys))
		}
	}
}

// Nobody has others vouch for what he made up: who hands a word on says from whom he has it.
func TestWordsOfTheRevoked(t *testing.T) {
	w := found(t, "a")
	w.join("b", "a", true)
	bad := w.join("bad", "a", true)
	forged := aboutGossipKey{Key: newGossipKey(), At: w.at.Add(time.Hour), Overlap: time.Hour}
	k := crdt.Key{Resource: ResourceGossipKeys, Name: gossipName(forged.Key)}
	// It names another as the author, and takes the document away so that others say it.
	if err := publish(t.Context(), w.store, bad.Identity(), k, map[string]any{"key": forged.Key, "at": forged.At, "overlap": forged.Overlap, "by": []string{"b-id"}}); err != nil {
		t.Fatal(err)
	}
	w.settle()
	base, _ := w.store.Snapshot().Get(k)
	if _, err := w.store.Commit(t.Context(), store.Write{Key: k, Base: base}); err != nil {
		t.Fatal(err)
	}
	w.settle()
	if _, ok := heard[aboutGossipKey](w.all["a"].Trust(), w.store.Snapshot(), ResourceGossipKeys)[k.Name]; !ok {
		t.Fatal("nobody says it again")
	}
	w.revoke("a", "bad", true)
	w.settle()
	for name, m := range w.all {
		if _, ok := wordsOf[aboutGossipKey](m.Identity(), ResourceGossipKeys)[k.Name]; ok {
			t.Errorf("%s goes by the word of one that was revoked", name)
		}
	}
}

// What was done for a revocation is not done again, and one that was no issuer stays none.
func TestRevokeAgain(t *testing.T) {
	for _, issuer := range []bool{false, true} {
		w := found(t, "a")
		w.join("b", "a", true)
		w.join("stolen", "a", issuer)
		w.revoke("b", "stolen", issuer)
		w.settle()
		ca := w.all["a"].Trust().roots[0]
		named := w.all["a"].Named(w.store.Snapshot(), "stolen")
		if len(named) != 1 || named["stolen-id"] != issuer {
			t.Errorf("it is known as %v, want an issuer: %v", named, issuer)
		}
		done, err := w.all["a"].Revoke(t.Context(), w.store, "stolen", named, w.names())
		if err != nil || len(done) != 1 || done[0].What != "gossip" {
			t.Errorf("issuer %v, revoked again: %v, %v", issuer, done, err)
		}
		w.settle()
		if !w.all["a"].Trust().roots[0].Equal(ca) {
			t.Error("the CA was replaced again")
		}
	}
}

// A revocation ends what may have admitted the machine: a permanent secret, and that of the version before though members of it are there.
func TestRevokeEndsPermanentSecrets(t *testing.T) {
	secret, before := newSecret(16), newSecret(16)
	w := &world{t: t, store: newStore(t), at: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC), all: map[string]*one{}, doors: map[string]*Door{}}
	id, err := Found("a", []byte("{}"), secret, w.at)
	if err != nil {
		t.Fatal(err)
	}
	id.Cluster.Secret = before
	w.add(id)
	w.register("older", "older-id")
	w.settle()
	for i, s := range []string{secret, before} {
		if _, err := w.knock(fmt.Sprint("j", i), fmt.Sprint("j-id", i), "a", s, nil); err != nil {
			t.Errorf("before a revocation: %v", err)
		}
	}
	w.join("stolen", "a", false)
	w.revoke("a", "stolen", false)
	w.settle()
	for i, s := range []string{secret, before} {
		if _, err := w.knock(fmt.Sprint("k", i), fmt.Sprint("k-id", i), "a", s, nil); err == nil || !strings.Contains(err.Error(), ErrRefused.Error()) {
			t.Errorf("after a revocation: %v", err)
		}
	}
	if on, err := os.ReadFile(identityFile(w.all["a"].cfg.Dir)); err != nil || strings.Contains(string(on), secret) {
		t.Error("the secret is on the disk")
	}
}

// TestStolenGossipKeyGoes: a stolen key is void after the overlap of what replaced it, whatever was published since.
func TestStolenGossipKeyGoes(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	stolen, next, last := newGossipKey(), newGossipKey(), newGossipKey()
	keys := func() []aboutGossipKey {
		return []aboutGossipKey{
			{Key: next, At: now, Overlap: time.Minute, Stolen: true},
			{Key: last, At: now.Add(50 * time.Second), Overlap: time.Hour},
		}
	}
	slow := map[string]*aboutMember{"x": {Gossip: []string{gossipName(stolen)}}} // it never comes along
	for _, c := range []struct {
		name  string
		have  Ring
		after time.Duration
		want  Ring
	}{
		{"in the overlap", Ring{next, stolen}, 55 * time.Second, Ring{next, last, stolen}},
		{"after it", Ring{next, last, stolen}, 61 * time.Second, Ring{last, next}},
		{"one that was away, while the last is new", Ring{stolen}, 61 * time.Second, Ring{last}},
		{"at the end", Ring{last, next}, 2 * time.Hour, Ring{last, next}},
	} {
		got := nextRing(c.have, keys(), slow, slow, now.Add(c.after))
		if !slices.EqualFunc(got, c.want, slices.Equal[[]byte]) {
			t.Errorf("%s: %v, want %v", c.name, got.names(), c.want.names())
		}
	}
	// The last was published a moment ago, and what this node writes with is void.
	soon := []aboutGossipKey{{Key: next, At: now, Overlap: time.Minute, Stolen: true}, {Key: last, At: now.Add(61 * time.Second), Overlap: time.Hour}}
	if got, want := nextRing(Ring{stolen}, soon, slow, slow, now.Add(62*time.Second)), (Ring{next, last}); !slices.EqualFunc(got, want, slices.Equal[[]byte]) {
		t.Errorf("%v, want %v", got.names(), want.names())
	}
}

// An issuer that does not answer keeps nobody from hearing of a revocation.
func TestIssuersAreAskedBeside(t *testing.T) {
	w := found(t, "a")
	b := w.join("b", "a", false)
	w.pass(200 * 24 * time.Hour) // its certificate is due
	h := w.hooks(b)
	asked := make(chan struct{}, 16)
	h.Ask = func(ctx context.Context, _ string, _, _ any) error {
		asked <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}
	changed := make(chan struct{}, 64)
	h.Changed = func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.Follow(ctx, h) }()
	<-asked
	if err := publish(t.Context(), w.store, w.all["a"].Identity(), crdt.Key{Resource: ResourceRevoked, Name: "x-id"}, Denial{ID: "x-id", Node: "x", At: w.at}); err != nil {
		t.Fatal(err)
	}
	for !b.Trust().Denied("x-id") {
		select {
		case <-changed:
		case <-time.After(30 * time.Second):
			t.Fatal("a question that nobody answers holds up the loop")
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A CA that this node makes itself is told to it as one that it hears of: its administrator's credentials are of the old one.
func TestTheNodeIsToldOfItsOwnCA(t *testing.T) {
	w := found(t, "a")
	a := w.all["a"]
	certificate, key, err := a.AdminPair()
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	h := w.hooks(a)
	changed := make(chan struct{}, 64)
	h.Changed = func() { changed <- struct{}{} }
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Follow(ctx, h) }()
	if _, err := a.RotateCA(t.Context(), w.store, time.Hour); err != nil {
		t.Fatal(err)
	}
	for told := false; !told || !a.AdminDue(&pair); {
		select {
		case <-changed:
			told = true
		case <-time.After(30 * time.Second):
			t.Fatalf("nobody is told of a new CA; the administrator's credentials are due: %v", a.AdminDue(&pair))
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// Who claims the key of another has no proof for it, also with the other's: it is the other's as before.
func TestClaimedTokenKeys(t *testing.T) {
	w := found(t, "a")
	b, c := w.join("b", "a", false), w.join("c", "a", false)
	w.settle()
	id := b.Identity()
	claim := aboutMember{Node: id.NodeName, Gossip: id.ring().names()}
	for _, k := range c.Identity().TokenKeys {
		der, err := publicDER(k)
		if err != nil {
			t.Fatal(err)
		}
		claim.TokenKeys, claim.Proofs = append(claim.TokenKeys, der), append(claim.Proofs, k.Proof)
	}
	if err := publish(t.Context(), w.store, id, crdt.Key{Resource: ResourceMembers, Name: id.NodeID}, claim); err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{"a", "c"} {
		m := w.all[at]
		if _, err := m.look(t.Context(), w.hooks(m)); err != nil {
			t.Fatal(err)
		}
		said := map[string]bool{}
		for _, k := range m.PublicKeys() {
			said[fmt.Sprint(k.Node, k.Proven)] = true
		}
		if !said["ctrue"] || !said["bfalse"] || said["btrue"] || said["cfalse"] {
			t.Errorf("%s hears of %v", at, said)
		}
	}
}

// A stolen CA is none the better for another that vouches for it, also if only the certificates that were sent along lead there.
func TestStolenCABetween(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	id, err := Found("a", []byte("{}"), "", now)
	if err != nil {
		t.Fatal(err)
	}
	a, _, err := id.authority()
	if err != nil {
		t.Fatal(err)
	}
	stolen, err := newAuthority("x", now)
	if err != nil {
		t.Fatal(err)
	}
	cross, err := a.cross(stolen.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := newRequest(key, []string{"n"})
	if err != nil {
		t.Fatal(err)
	}
	request, err := parseRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	of := func(m Member) []*x509.Certificate {
		t.Helper()
		leaf, err := stolen.signNode(request, m, now)
		if err != nil {
			t.Fatal(err)
		}
		certs, err := decodeCerts(leaf)
		if err != nil {
			t.Fatal(err)
		}
		return append(certs, cross)
	}
	chain := of(Member{Name: "n", ID: "n-id"})
	pin, _ := pinOf(chain[0])
	trust := func(robbed bool, keep ...[]byte) *Trust {
		return newTrust([]*x509.Certificate{a.Certificate}, nil, map[[32]byte]bool{keyName(stolen.Certificate): robbed}, []Denial{{ID: "t", Issuer: true, Keep: keep}}, &memo{})
	}
	for _, c := range []struct {
		name   string
		trust  *Trust
		chain  []*x509.Certificate
		robbed bool
	}{
		{"not stolen", trust(false), chain, false},
		{"stolen", trust(true), chain, true},
		{"stolen, of a member that was known", trust(true, pin[:]), chain, false},
		{"stolen, in another role", trust(true, pin[:]), of(Member{Name: "n", ID: "n-id", Issuer: true}), true},
		{"stolen, under another ID", trust(true, pin[:]), of(Member{Name: "n", ID: "m-id"}), true},
	} {
		if _, err := c.trust.Member(c.chain, now); errors.Is(err, errRobbed) != c.robbed || (err == nil) == c.robbed {
			t.Errorf("%s: a handshake: %v", c.name, err)
		}
		if err := c.trust.Stands(c.chain); (err != nil) != c.robbed {
			t.Errorf("%s: a connection that stands: %v", c.name, err)
		}
	}
}

// A revocation that names a thousand members is heard.
func TestRevocationOfALargeCluster(t *testing.T) {
	w := found(t, "a")
	b := w.join("b", "a", true)
	w.join("stolen", "a", true)
	const many = 1500
	names := w.names()
	if err := w.all["a"].Update(func(id *Identity) error {
		for i := range many {
			name := fmt.Sprint("m", i)
			k := known{Key: make([]byte, 32), Node: name, Pin: make([]byte, 32)}
			k.Pin[0], k.Pin[1], k.Pin[2] = 1, byte(i), byte(i>>8)
			id.Known[name+"-id"], names[name+"-id"] = k, name
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.all["a"].Revoke(t.Context(), w.store, "stolen", map[string]bool{"stolen-id": true}, names); err != nil {
		t.Fatal(err)
	}
	delete(w.all, "stolen")
	w.unregister("stolen")
	w.turn(b)
	if d := b.Identity().denial("stolen-id"); d == nil || len(d.Keep) != many+2 {
		t.Errorf("b has heard %v of the revocation", d != nil)
	}
}

// An issuer that has the key of a new CA, and has not heard who was shut out before it was made, gives it to nobody.
func TestKeyOfACAThatExcludes(t *testing.T) {
	w := found(t, "a")
	b := w.join("b", "a", true)
	c := w.join("c", "a", true)
	w.join("stolen", "a", true)
	w.revoke("a", "stolen", true)
	k := crdt.Key{Resource: ResourceRevoked, Name: "stolen-id"}
	said, _ := w.store.Snapshot().Get(k)
	statement, err := said.Map()
	if err != nil {
		t.Fatal(err)
	}
	// b hears of the CA first.
	if _, err := w.store.Commit(t.Context(), store.Write{Key: k, Base: said}); err != nil {
		t.Fatal(err)
	}
	w.turn(b)
	w.turn(b)
	ca, _ := w.all["a"].signs()
	if got, _ := b.signs(); got == nil || !got.Equal(ca) || b.Trust().Denied("stolen-id") {
		t.Fatal("b does not hold the new key, or has heard of the revocation")
	}
	ask := func() error {
		m, err := b.Verify(chainOf(c.Certificate()))
		if err != nil {
			t.Fatal(err)
		}
		_, err = b.answerTo(t.Context(), w.doors["b"], m, c.Certificate().Leaf, PathKey, keyRequest{Authority: Hash(ca)})
		return err
	}
	if err := ask(); err == nil || !strings.Contains(err.Error(), "has yet to hear of the revocation of stolen-id") {
		t.Errorf("before it has heard: %v", err)
	}
	if _, err := w.store.Commit(t.Context(), store.Write{Key: k, Object: &unstructured.Unstructured{Object: statement}}); err != nil {
		t.Fatal(err)
	}
	w.settle()
	if err := ask(); err != nil {
		t.Errorf("once it has heard: %v", err)
	}
}

// A machine that joined on another side of a cut, and that the revoker did not know, is shut out with the CA that admitted it: it cannot be told from one
// that the thief made. It comes back with a token.
func TestJoinerOfTheOtherSideComesBack(t *testing.T) {
	w := found(t, "a")
	w.join("x", "a", true)
	stolen := w.join("stolen", "a", true)
	w.split("x", "stolen")
	side := w.on(w.all["x"].store)
	token := func(w *world) string {
		t.Helper()
		secret, obj := NewToken(w.now().Add(time.Hour), false, false)
		if err := w.write(obj, true); err != nil {
			t.Fatal(err)
		}
		return secret
	}
	id, err := side.knock("j", "j-id", "x", token(side), nil)
	if err != nil {
		t.Fatal(err)
	}
	j := side.add(id)
	w.settle()
	if _, err := w.all["a"].Revoke(t.Context(), w.store, "stolen", map[string]bool{"stolen-id": true}, w.names()); err != nil {
		t.Fatal(err)
	}
	delete(w.all, "stolen")
	w.unregister("stolen")
	w.settle()
	w.heal()
	for range 4 {
		for _, n := range []string{"a", "x", "j"} {
			w.turn(w.all[n])
		}
	}
	for _, n := range []string{"a", "x"} {
		if _, err := w.all[n].Verify(chainOf(j.Certificate())); err == nil {
			t.Errorf("%s believes one that the thief could have made", n)
		}
		if _, err := w.all[n].Verify(chainOf(stolen.Certificate())); err == nil {
			t.Errorf("%s believes the thief", n)
		}
	}
	id, err = w.knock("j", "j-id", "a", token(w), j.Identity())
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Update(func(have *Identity) error { *have = *id; return nil }); err != nil {
		t.Fatal(err)
	}
	w.settle() // in which all are to believe each other
	w.pass(2 * stolenOverlap)
	w.settle()
	w.oneCA()
	if j.Issuer() {
		t.Error("it has become an issuer")
	}
}
