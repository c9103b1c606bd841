package member

import (
	"bytes"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"murmur/crdt"
	"murmur/crdt/store"
)

// post sends a join request to a door.
func post(t *testing.T, d *Door, from, secret string, req Request) (int, string) {
	t.Helper()
	b, err := json.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, pathJoin, bytes.NewReader(b))
	r.RemoteAddr = from + ":4711"
	r.Header.Set("Authorization", "Bearer "+secret)
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	return w.Code, strings.TrimSpace(w.Body.String())
}

func request(t *testing.T, name, id string, hosts ...string) Request {
	t.Helper()
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := newRequest(key, hosts)
	if err != nil {
		t.Fatal(err)
	}
	return Request{NodeName: name, NodeID: id, Addr: netip.MustParseAddr("10.0.0.9"), CSR: csr}
}

func TestDoor(t *testing.T) {
	w := found(t, "a")
	d := w.doors["a"]
	token := func(change func(*corev1.Secret)) string {
		t.Helper()
		secret, obj := NewToken(w.at.Add(time.Hour), true, false)
		if change != nil {
			change(obj)
		}
		if err := w.write(obj, true); err != nil {
			t.Fatal(err)
		}
		if obj.Data[dataSecret] != nil {
			secret = string(obj.Data[dataID]) + "." + string(obj.Data[dataSecret])
		}
		return secret
	}
	address := 0
	for what, tt := range map[string]struct {
		change func(*corev1.Secret)
		req    func(*Request)
		status int
		says   string
	}{
		"a good one":           {status: 200, says: `"clusterID"`},
		"expired":              {change: func(s *corev1.Secret) { s.Data[dataExpiration] = []byte(w.at.Format(time.RFC3339)) }, status: 401},
		"never expires":        {change: func(s *corev1.Secret) { delete(s.Data, dataExpiration) }, status: 401},
		"for something else":   {change: func(s *corev1.Secret) { delete(s.Data, dataUsage) }, status: 401},
		"another type":         {change: func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque }, status: 401},
		"a short secret":       {change: func(s *corev1.Secret) { s.Data[dataSecret] = []byte("0123456789abcdef") }, status: 401},
		"used by another":      {change: func(s *corev1.Secret) { s.Data[dataUsedBy] = []byte("other") }, status: 401},
		"another's ID inside":  {change: func(s *corev1.Secret) { s.Name += "x" }, status: 401},
		"an older program":     {req: func(r *Request) { r.CSR = nil }, status: 400, says: "runs an older murmur than the cluster"},
		"no request":           {req: func(r *Request) { r.CSR = []byte("hello") }, status: 400, says: "bad certificate request"},
		"a bad node ID":        {req: func(r *Request) { r.NodeID = "a/b" }, status: 400, says: "the node ID"},
		"a bad name":           {req: func(r *Request) { r.NodeName = "A_b" }, status: 400, says: "the node name"},
		"the ID of a member":   {req: func(r *Request) { r.NodeID = w.all["a"].Identity().NodeID }, status: 409, says: "is that of a member which has another key"},
		"the name of a member": {req: func(r *Request) { r.CSR = request(t, "", "", "a").CSR }, status: 409, says: "which is another node's"},
	} {
		address++
		from := netip.AddrFrom4([4]byte{192, 0, 2, byte(address)}).String()
		req := request(t, "j", "j-id", "j")
		if tt.req != nil {
			tt.req(&req)
		}
		status, text := post(t, d, from, token(tt.change), req)
		if tt.says == "" {
			tt.says = ErrRefused.Error()
		}
		if status != tt.status || !strings.Contains(text, tt.says) {
			t.Errorf("%s: %d %.200s; want %d, %q", what, status, text, tt.status, tt.says)
		}
		if status == 200 && (strings.Contains(text, "PRIVATE") || strings.Contains(text, "caKey")) {
			t.Errorf("%s: a key is in the reply", what)
		}
	}

	// A token admits one, who may ask again; a reusable one admits many.
	once, first := token(nil), request(t, "j1", "j1-id", "j1")
	for _, want := range []int{200, 200} {
		if status, text := post(t, d, "192.0.2.100", once, first); status != want {
			t.Errorf("the first joiner: %d %s", status, text)
		}
	}
	if status, _ := post(t, d, "192.0.2.101", once, request(t, "j2", "j2-id", "j2")); status != 401 {
		t.Errorf("a second joiner was answered %d", status)
	}
	many := token(func(s *corev1.Secret) { s.Data[dataReusable] = []byte("true") })
	for _, name := range []string{"j3", "j4"} {
		if status, text := post(t, d, "192.0.2.102", many, request(t, name, name+"-id", name)); status != 200 {
			t.Errorf("a reusable token: %d %s", status, text)
		}
	}

	// Wrong tokens are delayed, each address by itself.
	for i, want := range []int{401, 401, 401, 429} {
		if status, _ := post(t, d, "192.0.2.200", "abc.def", request(t, "x", "x", "x")); status != want {
			t.Errorf("attempt %d was answered %d, want %d", i, status, want)
		}
	}
	if status, _ := post(t, d, "192.0.2.200", token(nil), request(t, "x1", "x1", "x1")); status != 429 {
		t.Errorf("a good token from there at once: %d", status)
	}
	if status, _ := post(t, d, "192.0.2.201", token(nil), request(t, "x1", "x1", "x1")); status != 200 {
		t.Errorf("from another address: %d", status)
	}
	w.pass(2 * time.Second)
	if status, _ := post(t, d, "192.0.2.200", token(nil), request(t, "x2", "x2", "x2")); status != 200 {
		t.Errorf("after the delay: %d", status)
	}
}

func TestRefusalsAreBounded(t *testing.T) {
	var r refusals
	now := time.Unix(1e9, 0)
	for i := range 10 * maxRefusals {
		from := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}).String()
		for range refusalsFree + 1 {
			r.note(from, now)
		}
	}
	if len(r.of) > maxRefusals {
		t.Errorf("%d addresses are remembered", len(r.of))
	}
	for range 100 {
		r.note("one", now)
	}
	if w := r.wait("one", now); w != refusalMost {
		t.Errorf("after 100 refusals the next waits %s", w)
	}
}

func TestPermanentSecret(t *testing.T) {
	if _, err := Found("a", nil, "x", time.Now()); err == nil || !strings.Contains(err.Error(), "128 bits") {
		t.Errorf("a short secret founds a cluster: %v", err)
	}
	if err := CheckSecret(strings.Repeat("a", 64)); err == nil {
		t.Error("a secret of one letter is taken")
	}
	secret := newSecret(16)
	w := &world{t: t, store: newStore(t), at: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC), all: map[string]*one{}, doors: map[string]*Door{}}
	id, err := Found("a", json.RawMessage("{}"), secret, w.at)
	if err != nil {
		t.Fatal(err)
	}
	w.add(id)
	w.settle()
	b, err := w.knock("b", "b-id", "a", secret, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.add(b)
	w.settle()
	if _, err := w.knock("c", "c-id", "b", secret, nil); err != nil {
		t.Errorf("another issuer does not know the permanent secret: %v", err)
	}
	for name, m := range w.all {
		if on, err := os.ReadFile(identityFile(m.cfg.Dir)); err != nil || strings.Contains(string(on), secret) {
			t.Errorf("the secret is on the disk of %s: %v", name, err)
		}
	}
	for e := range w.store.Snapshot().Range(ResourceSecrets, "", "") {
		if strings.Contains(string(e.JSON()), secret) {
			t.Error("the secret is in the store")
		}
	}
}

func TestTokens(t *testing.T) {
	w := found(t, "a")
	hash, err := w.all["a"].Identity().CAHash()
	if err != nil {
		t.Fatal(err)
	}
	whole := Token(hash, "secret")
	gotHash, secret, err := ParseToken(" " + whole + "\n")
	if err != nil || gotHash != hash || secret != "secret" {
		t.Errorf("token taken apart: %s %s %v", gotHash, secret, err)
	}
	for _, bad := range []string{"", "secret", strings.TrimSuffix(whole, "secret"), whole[3:], whole[:20], strings.Replace(whole, "::", ":", 1), "K10zz::x"} {
		if _, _, err := ParseToken(bad); err == nil {
			t.Errorf("%q is taken for a token", bad)
		}
	}
}

// Whose certificate is a member's is decided by what the CA signed, and the API's signers sign other things.
func TestWhoIsAMember(t *testing.T) {
	w := found(t, "a")
	a, _, err := w.all["a"].Identity().authority()
	if err != nil {
		t.Fatal(err)
	}
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	client, server := x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth
	legacy := []string{"n", "localhost", "kubernetes.default.svc"}
	marks := func(of ...string) (out []*url.URL) {
		for _, m := range of {
			u, err := url.Parse(m)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, u)
		}
		return out
	}
	for what, tt := range map[string]struct {
		template x509.Certificate
		want     Member
	}{
		"a member":                 {x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{client, server}, URIs: marks("murmur://node/x")}, Member{Name: "n", ID: "x"}},
		"an issuer":                {x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{client, server}, URIs: marks("murmur://node/x", "murmur://role/issuer")}, Member{Name: "n", ID: "x", Issuer: true}},
		"one of before":            {x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{client, server}, DNSNames: legacy}, Member{Name: "n", Issuer: true, Legacy: true}},
		"kube-apiserver-client":    {x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{client}, URIs: marks("murmur://node/x", "murmur://role/issuer")}, Member{}},
		"a client of before":       {x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{client}, DNSNames: legacy}, Member{}},
		"a kubelet's server":       {x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{server}, DNSNames: legacy}, Member{}},
		"no mark, no name":         {x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{client, server}, DNSNames: []string{"n"}}, Member{}},
		"two IDs":                  {x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{client, server}, URIs: marks("murmur://node/x", "murmur://node/y")}, Member{}},
		"a role without an ID":     {x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{client, server}, URIs: marks("murmur://role/issuer"), DNSNames: legacy}, Member{}},
		"an ID that is a path":     {x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{client, server}, URIs: marks("murmur://node/x/y")}, Member{}},
		"a mark of nobody of ours": {x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{client, server}, URIs: marks("https://node/x")}, Member{}},
	} {
		tt.template.Subject = pkix.Name{CommonName: "system:node:n", Organization: []string{"system:nodes"}}
		certificate, err := a.sign(&tt.template, key.Public(), nodeLife, w.at)
		if err != nil {
			t.Fatal(err)
		}
		certs, err := decodeCerts(certificate)
		if err != nil {
			t.Fatal(err)
		}
		got, err := w.all["a"].Verify(certs)
		if (err == nil) != (tt.want != Member{}) || err == nil && got != tt.want {
			t.Errorf("%s: %+v, %v; want %+v", what, got, err, tt.want)
		}
	}
}

// A clock that is wrong when the machine starts costs it nothing that it has, and is mended with the clock.
func TestClocks(t *testing.T) {
	w := found(t, "a")
	b := w.join("b", "a", true)
	good, real := b.Certificate().Leaf, w.at
	for _, at := range []time.Time{time.Unix(0, 0), time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC)} {
		w.at = at
		id, err := Load(b.cfg.Dir)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Open(Config{Dir: b.cfg.Dir, Hosts: b.cfg.Hosts, Now: w.now}, id)
		if err != nil {
			t.Fatal(err)
		}
		if !again.Certificate().Leaf.Equal(good) {
			t.Errorf("a start in %d made another certificate", at.Year())
		}
		if _, err := again.Verify(chainOf(w.all["a"].Certificate())); (err == nil) != (at.Year() == 1970) {
			t.Errorf("in %d another member is believed: %v", at.Year(), err)
		}
	}
	// A clock that is a year ahead for a while makes a certificate, and another when it is put back.
	w.at = real.Add(200 * 24 * time.Hour)
	w.turn(b)
	ahead := b.Certificate().Leaf
	if ahead.Equal(good) {
		t.Fatal("half the life is over and the certificate is the old one")
	}
	w.at = real
	w.turn(b)
	if leaf := b.Certificate().Leaf; leaf.Equal(ahead) || due(leaf, real) {
		t.Error("the certificate of a clock that was ahead stays")
	}
}

// The identity that a program of before wrote: every member holds the CA's key and the key for tokens.
func TestIdentityOfBefore(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	a, err := newAuthority("11111111-2222", now)
	if err != nil {
		t.Fatal(err)
	}
	caKey, err := encodeKey(a.Key)
	if err != nil {
		t.Fatal(err)
	}
	k, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	sa, err := encodeKey(k)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, store: newStore(t), at: now, all: map[string]*one{}, doors: map[string]*Door{}}
	for _, name := range []string{"a", "b"} {
		b, err := json.Marshal(map[string]any{"nodeID": name + "-id", "nodeName": name, "opened": true, "cluster": map[string]any{
			"id": "11111111-2222", "caCert": encodeCerts(a.Certificate), "caKey": caKey, "serviceAccountKey": sa, "gossipKey": newGossipKey(),
			"secret": "0123456789abcdef0123456789abcdef", "settings": map[string]any{"clusterDomain": "x"}}})
		if err != nil {
			t.Fatal(err)
		}
		id := &Identity{}
		if err := json.Unmarshal(b, id); err != nil {
			t.Fatal(err)
		}
		if !id.Issuer() {
			t.Error("one of before is no issuer")
		}
		if name == "b" {
			w.register("b", "b-id") // it runs the program of before still
			continue
		}
		w.add(id)
	}
	w.settle()
	m := w.all["a"]
	if !m.Signer().Equal(k) {
		t.Error("it signs with a key that a member of before does not know")
	}
	if _, err := w.knock("c", "c-id", "a", "0123456789abcdef0123456789abcdef", nil); err != nil {
		t.Errorf("the permanent secret of before: %v", err)
	}
	if silent := m.Silent(w.store.Snapshot(), w.ids(m, false)); len(silent) != 1 || silent[0] != "b-id" {
		t.Errorf("of before are %v", silent)
	}
	// Once all have a key of their own they sign with that, and the shared one is believed until it is rotated. What every disk of before holds admits
	// nobody any more.
	w.unregister("b")
	w.settle()
	if _, err := w.knock("d", "d-id", "a", "0123456789abcdef0123456789abcdef", nil); err == nil || !strings.Contains(err.Error(), ErrRefused.Error()) {
		t.Errorf("the permanent secret of before, once all run this version: %v", err)
	}
	if on, err := os.ReadFile(identityFile(m.cfg.Dir)); err != nil || strings.Contains(string(on), "0123456789abcdef") {
		t.Errorf("it is on the disk: %v", err)
	}
	if m.Signer().Equal(k) || m.Identity().shared() == nil {
		t.Error("it signs with the shared key still, or does not believe it")
	}
	w.pass(time.Minute)
	if _, err := m.RotateTokens(t.Context(), w.store, time.Hour); err != nil {
		t.Fatal(err)
	}
	w.settle()
	if m.Identity().shared() == nil {
		t.Error("the shared key is void in the overlap")
	}
	w.pass(2 * time.Hour)
	w.settle()
	if id := m.Identity(); id.shared() != nil || len(id.TokenKeys) != 1 || string(id.Cluster.ServiceAccountKey) != string(id.TokenKeys[0].Key) {
		t.Errorf("after the rotation: shared %v, %d keys", id.shared() != nil, len(id.TokenKeys))
	}
}

func TestRotateTokens(t *testing.T) {
	w := found(t, "a")
	b := w.join("b", "a", false)
	old := map[string]string{"a": string(w.all["a"].Identity().TokenKeys[0].Key), "b": string(b.Identity().TokenKeys[0].Key)}
	signs := func(m *one) string {
		s, err := encodeKey(m.Signer())
		if err != nil {
			t.Fatal(err)
		}
		return string(s)
	}
	w.pass(time.Minute)
	if _, err := w.all["a"].RotateTokens(t.Context(), w.store, time.Hour); err != nil {
		t.Fatal(err)
	}
	w.pass(time.Second)
	w.settle()
	for name, m := range w.all {
		if signs(m) != old[name] || len(m.PublicKeys()) != 4 {
			t.Errorf("%s signs with a key that others may not have, or knows %d keys, want 4", name, len(m.PublicKeys()))
		}
	}
	w.pass(settleTokens)
	w.settle()
	for name, m := range w.all {
		if signs(m) == old[name] || len(m.PublicKeys()) != 4 {
			t.Errorf("%s signs with the old key, or knows %d keys, want 4", name, len(m.PublicKeys()))
		}
	}
	w.pass(time.Hour)
	w.settle()
	for name, m := range w.all {
		if len(m.PublicKeys()) != 2 {
			t.Errorf("%s knows %d keys at the end, want 2", name, len(m.PublicKeys()))
		}
	}
}

func TestRotateGossip(t *testing.T) {
	w := found(t, "a")
	w.join("b", "a", false)
	away := w.join("away", "a", true)
	away.away = true
	old := w.all["a"].Ring()[0]
	if _, err := w.all["a"].RotateGossip(t.Context(), w.store, time.Hour, false); err != nil {
		t.Fatal(err)
	}
	w.turn(w.all["a"])
	if string(w.all["a"].Ring()[0]) != string(old) {
		t.Error("a writes with a key that b has not said it reads")
	}
	w.settle()
	for _, name := range []string{"a", "b"} {
		if r := w.all[name].Ring(); string(r[0]) == string(old) || !r.has(old) {
			t.Errorf("%s writes with the old key, or does not read it", name)
		}
	}
	w.pass(2 * time.Hour)
	w.settle()
	if !w.all["a"].Ring().has(old) {
		t.Error("the old key is gone while a member writes with it")
	}
	// The one that was away learns the new key past the membership, and then what to write with.
	if changed, err := away.Learn(w.all["a"].Ring()); err != nil || !changed {
		t.Fatal(changed, err)
	}
	away.away = false
	w.settle()
	for name, m := range w.all {
		if m.Ring().has(old) {
			t.Errorf("%s reads the old key at the end", name)
		}
	}
}

func FuzzStatement(f *testing.F) {
	f.Add([]byte(`{"statement":"e30="}`))
	f.Add([]byte(`{"statement":1}`))
	s, err := store.Open(store.Config{Cluster: "c"})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { s.Close() })
	id, err := Found("a", nil, "", time.Unix(1e9, 0))
	if err != nil {
		f.Fatal(err)
	}
	trust, err := id.trust(&memo{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		st := &statement{}
		if json.Unmarshal(b, st) != nil {
			return
		}
		if _, err := trust.verify(crdt.Key{Resource: ResourceMembers, Name: "x"}, st); err == nil {
			t.Error("a statement that nobody signed is believed")
		}
	})
}

// TestAdmissionsAreRecorded: who asked to be admitted, by which token and from where, and the outcome; under one ID on the member that was
// asked and on the issuer that it asked. Nothing of it tells a secret, and what a stranger may say without end is not told.
func TestAdmissionsAreRecorded(t *testing.T) {
	w := found(t, "a")
	w.join("b", "a", false)
	seen := map[string][]Admission{}
	for name, d := range w.doors {
		d.cfg.Record = func(_ context.Context, a Admission) { seen[name] = append(seen[name], a) }
	}
	secret, obj := NewToken(w.at.Add(time.Hour), true, false)
	if err := w.write(obj, true); err != nil {
		t.Fatal(err)
	}
	id := TokenID(obj)
	if !strings.HasPrefix(secret, id+".") {
		t.Errorf("the ID of a token is %s", id)
	}
	last := func(door string) Admission {
		t.Helper()
		if len(seen[door]) == 0 {
			t.Fatalf("%s has recorded nothing", door)
		}
		return seen[door][len(seen[door])-1]
	}
	if code, text := post(t, w.doors["b"], "192.0.2.7", secret, request(t, "j", "j-id", "j")); code != 200 {
		t.Fatalf("a good token: %d %s", code, text)
	}
	asked, issued := last("b"), last("a")
	for door, a := range map[string]Admission{"b": asked, "a": issued} {
		if a.Node != "j" || a.NodeID != "j-id" || a.Address != "10.0.0.9" || a.From != "192.0.2.7" || a.Token != id || !a.Issuer || a.Refused != nil || a.Code != 0 {
			t.Errorf("%s has recorded %+v", door, a)
		}
	}
	if asked.ID == "" || asked.ID != issued.ID || asked.ByWayOf != "" || issued.ByWayOf != "b" {
		t.Errorf("by way of another: %+v, %+v", asked, issued)
	}
	for what, tt := range map[string]struct {
		from, secret string
		token        string
		code         int
	}{
		"one that was used":  {"192.0.2.8", secret, id, 401},
		"another secret":     {"192.0.2.9", id + ".0123456789abcdef0123456789abcdef", id, 401},
		"none that is known": {"192.0.2.10", "hunter2.rest", "", 401},
		"none":               {"192.0.2.11", "", "", 401},
	} {
		if code, _ := post(t, w.doors["a"], tt.from, tt.secret, request(t, "x", "x-id", "x")); code != tt.code {
			t.Errorf("%s: %d", what, code)
		}
		a := last("a")
		if a.From != tt.from || a.Token != tt.token || a.Code != tt.code || a.Refused == nil || a.Node != "x" || a.Issuer {
			t.Errorf("%s is recorded as %+v", what, a)
		}
		if text := fmt.Sprintf("%+v", a); strings.Contains(text, "hunter2") || tt.secret != "" && strings.Contains(text, tt.secret) {
			t.Errorf("%s: the record tells the secret: %s", what, text)
		}
	}
	before := len(seen["b"])
	w.all["a"].away = true // no issuer is in reach
	if code, _ := post(t, w.doors["b"], "192.0.2.12", "hunter2.rest", request(t, "x", "x-id", "x")); code != 503 {
		t.Errorf("without an issuer: %d", code)
	}
	if len(seen["b"]) != before {
		t.Error("what a stranger may say without end is recorded")
	}
}
