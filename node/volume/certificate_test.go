package volume

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	volumeutil "k8s.io/kubernetes/pkg/volume/util"

	"murmur/node/pod"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// answered is a request with a condition; an issued one is to be renewed after 40 minutes and void after an hour.
func answered(condition, reason, message, chain string) *certificatesv1.PodCertificateRequest {
	r := &certificatesv1.PodCertificateRequest{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "req-1", UID: "r1"}}
	if condition != "" {
		r.Status.Conditions = []metav1.Condition{{Type: condition, Status: metav1.ConditionTrue, Reason: reason, Message: message}}
	}
	if condition == certificatesv1.PodCertificateRequestConditionTypeIssued {
		at := func(d time.Duration) *metav1.Time { t := metav1.NewTime(epoch.Add(d)); return &t }
		r.Status.CertificateChain, r.Status.NotBefore, r.Status.BeginRefreshAt, r.Status.NotAfter = chain, at(0), at(40*time.Minute), at(time.Hour)
	}
	return r
}

// TestCertificateStates: what a certificate comes to, state by state.
func TestCertificateStates(t *testing.T) {
	block := func(s string) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(s)}))
	}
	waits := certificate{asked: request{"req-1", "r1"}, askedKey: []byte("key-1")}
	fresh := certificate{key: []byte("key-0"), chain: []byte("chain-0"), refreshAt: epoch.Add(40 * time.Minute), notAfter: epoch.Add(time.Hour)}
	renews := fresh
	renews.asked, renews.askedKey = waits.asked, waits.askedKey
	for name, c := range map[string]struct {
		have certificate
		req  *certificatesv1.PodCertificateRequest
		at   time.Duration
		want string // key, chain, renewal, request, refusal, due
		warn string
	}{
		"nothing yet":          {certificate{}, nil, 0, "due", ""},
		"not answered":         {waits, answered("", "", "", ""), 0, "asked req-1", ""},
		"request gone":         {waits, nil, 0, "due", ""},
		"issued":               {waits, answered("Issued", "", "", "x\n"+block("a")+"y\n"+block("b")), 0, "key-1 a,b renew 42m0s", ""},
		"denied":               {waits, answered("Denied", "UnsupportedKeyType", "use ED25519", ""), 0, "refused PodCertificateRequest was permanently denied: reason=\"UnsupportedKeyType\", message=\"use ED25519\"", "Denied PodCertificateRequest ns/req-1 was denied, reason=\"UnsupportedKeyType\", message=\"use ED25519\""},
		"failed":               {waits, answered("Failed", "R", "m", ""), 0, "refused PodCertificateRequest was permanently failed: reason=\"R\", message=\"m\"", "Failed PodCertificateRequest ns/req-1 failed, reason=\"R\", message=\"m\""},
		"long words":           {waits, answered("Failed", "R", strings.Repeat("m", 5000), ""), 0, "refused PodCertificateRequest was permanently failed: reason=\"R\", message=\"" + strings.Repeat("m", longestReason) + "...\"", "Failed PodCertificateRequest ns/req-1 failed, reason=\"R\", message=\"" + strings.Repeat("m", longestReason) + "...\""},
		"in use":               {fresh, nil, 39 * time.Minute, "key-0 chain-0 renew 40m0s", ""},
		"to be renewed":        {fresh, nil, 40 * time.Minute, "key-0 chain-0 renew 40m0s due", ""},
		"renewal not answered": {renews, answered("", "", "", ""), 45 * time.Minute, "key-0 chain-0 renew 40m0s asked req-1", ""},
		"renewal overdue":      {renews, answered("", "", "", ""), 51 * time.Minute, "key-0 chain-0 renew 40m0s asked req-1", "CertificateOverdueForRefresh PodCertificate refresh overdue"},
		"expired":              {renews, answered("", "", "", ""), 61 * time.Minute, "key-0 chain-0 renew 40m0s asked req-1", "CertificateOverdueForRefresh PodCertificate refresh overdue; CertificateExpired PodCertificate expired"},
		"renewal gone":         {renews, nil, 45 * time.Minute, "key-0 chain-0 renew 40m0s due", ""},
		"renewed":              {renews, answered("Issued", "", "", block("c")), 0, "key-1 c renew 42m0s", ""},
		"renewal denied":       {renews, answered("Denied", "R", "m", ""), 45 * time.Minute, "refused PodCertificateRequest was permanently denied: reason=\"R\", message=\"m\"", "Denied PodCertificateRequest ns/req-1 was denied, reason=\"R\", message=\"m\""},
		"refused for good":     {certificate{refused: "no"}, nil, 90 * time.Minute, "refused no", ""},
	} {
		now := epoch.Add(c.at)
		got, warn := c.have.look(c.req, 2*time.Minute, now)
		var text []string
		if got.key != nil {
			chain := string(got.chain)
			if names := blocks(got.chain); names != "" {
				chain = names
			}
			text = append(text, string(got.key), chain, "renew", got.refreshAt.Sub(epoch).String())
		}
		if got.asked.name != "" {
			text = append(text, "asked", got.asked.name)
		}
		if got.refused != "" {
			text = append(text, "refused", got.refused)
		}
		if got.due(now) {
			text = append(text, "due")
		}
		var said []string
		for _, w := range warn {
			said = append(said, w.reason+" "+w.message)
		}
		if have := strings.Join(text, " "); have != c.want || strings.Join(said, "; ") != c.warn {
			t.Errorf("%s: %s, want %s; says %q, want %q", name, have, c.want, said, c.warn)
		}
		if _, warn := got.look(c.req, 0, now); got.refused == "" && len(warn) > 0 {
			t.Errorf("%s: says it twice: %v", name, warn)
		}
		if again := got.again(now); !again.After(now) || again.After(now.Add(lookAtCertificates)) {
			t.Errorf("%s: looks again %v later", name, again.Sub(now))
		}
	}
	if a, b := (request{"n", "1"}).jitter(), (request{"n", "2"}).jitter(); a == b || min(a, b) < 0 || max(a, b) >= spread {
		t.Errorf("jitters %v %v", a, b)
	}
}

// blocks are the contents of a chain.
func blocks(chain []byte) string {
	var out []string
	for {
		var b *pem.Block
		if b, chain = pem.Decode(chain); b == nil {
			return strings.Join(out, ",")
		}
		out = append(out, string(b.Bytes))
	}
}

// TestKeyTypes: each kind of key is what it says, and the request proves it.
func TestKeyTypes(t *testing.T) {
	for _, kind := range []string{"RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"} {
		key, stub, err := newKey(kind)
		if err != nil {
			t.Fatal(err)
		}
		req, err := x509.ParseCertificateRequest(stub)
		if err != nil {
			t.Fatal(err)
		}
		if err := req.CheckSignature(); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		block, rest := pem.Decode(key)
		if block == nil || block.Type != "PRIVATE KEY" || len(rest) > 0 {
			t.Fatalf("%s: the key is not one block of PKCS#8", kind)
		}
		private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		public := private.(crypto.Signer).Public()
		if !public.(interface{ Equal(crypto.PublicKey) bool }).Equal(req.PublicKey) {
			t.Errorf("%s: the request is for another key", kind)
		}
		got := req.PublicKeyAlgorithm.String()
		switch k := public.(type) {
		case interface{ Size() int }:
			got += fmt.Sprint(k.Size() * 8)
		case *ecdsa.PublicKey:
			got += strings.ReplaceAll(k.Curve.Params().Name, "-", "")
		}
		if !strings.EqualFold(got, kind) {
			t.Errorf("%s: the key is %s", kind, got)
		}
	}
	if _, _, err := newKey("DSA"); err == nil || !strings.Contains(err.Error(), `unknown key type "DSA"`) {
		t.Errorf("a kind that is none: %v", err)
	}
}

// requests are the requests of a test, and who creates and signs them.
type requests struct {
	pod.Objects
	t      *testing.T
	made   map[string]*certificatesv1.PodCertificateRequest
	order  []string
	refuse error
	ca     *ecdsa.PrivateKey
}

func (r *requests) ServiceAccount(_, name string) (*corev1.ServiceAccount, bool) {
	return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "account-1"}}, name == "sa"
}

func (r *requests) Node(name string) (*corev1.Node, bool) {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "node-1"}}, name == "n1"
}

func (r *requests) PodCertificateRequest(_, name string) (*certificatesv1.PodCertificateRequest, bool) {
	got, ok := r.made[name]
	return got, ok
}

func (r *requests) create(_ context.Context, req *certificatesv1.PodCertificateRequest) (*certificatesv1.PodCertificateRequest, error) {
	if r.refuse != nil {
		return nil, r.refuse
	}
	made := req.DeepCopy()
	made.Name = fmt.Sprintf("%s%d", req.GenerateName, len(r.order))
	made.UID = types.UID("uid-of-" + made.Name)
	r.made[made.Name] = made
	r.order = append(r.order, made.Name)
	return made, nil
}

// sign issues the certificate of a request: from, to be renewed at and until, from now.
func (r *requests) sign(name string, renew, until time.Duration) {
	r.t.Helper()
	req := r.made[name]
	asked, err := x509.ParseCertificateRequest(req.Spec.StubPKCS10Request)
	if err != nil {
		r.t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{SerialNumber: big.NewInt(int64(len(r.order))), NotBefore: now.Add(-24 * time.Hour), NotAfter: now.Add(until)}
	der, err := x509.CreateCertificate(rand.Reader, template, &x509.Certificate{SerialNumber: big.NewInt(1)}, asked.PublicKey, r.ca)
	if err != nil {
		r.t.Fatal(err)
	}
	at := func(d time.Duration) *metav1.Time { t := metav1.NewTime(now.Add(d)); return &t }
	req.Status = certificatesv1.PodCertificateRequestStatus{
		CertificateChain: "a word before\n" + string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Headers: map[string]string{"a": "b"}, Bytes: der})),
		NotBefore:        at(-24 * time.Hour), BeginRefreshAt: at(renew), NotAfter: at(until),
		Conditions: []metav1.Condition{{Type: certificatesv1.PodCertificateRequestConditionTypeIssued, Status: metav1.ConditionTrue}},
	}
}

// TestPodCertificate: a volume waits for its certificate, has it with its key in the files that were asked for, keeps it while the next is
// waited for, and after a restart of the daemon; of what was said no there is a word.
func TestPodCertificate(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: what is secret is in a tmpfs")
	}
	ca, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	o := &requests{t: t, made: map[string]*certificatesv1.PodCertificateRequest{}, ca: ca}
	dir, ctx := t.TempDir(), context.Background()
	var said []string
	daemon := func() *Volumes {
		return New(Config{Dir: dir, Node: "n1", Certificates: o.create, Warn: func(p *corev1.Pod, reason, message string) { said = append(said, p.Name+" "+reason+": "+message) }})
	}
	v := daemon()
	seconds := int32(7200)
	p := testPod(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{PodCertificate: &corev1.PodCertificateProjection{SignerName: "example.test/s", KeyType: "ECDSAP256", CredentialBundlePath: "bundle.pem", KeyPath: "key.pem", CertificateChainPath: "chain.pem",
			MaxExpirationSeconds: &seconds, UserAnnotations: map[string]string{"example.test/a": "b"}}},
		{PodCertificate: &corev1.PodCertificateProjection{SignerName: "example.test/t", KeyType: "ED25519", KeyPath: "t/key.pem", CertificateChainPath: "t/chain.pem"}},
	}}}})
	p.Spec.ServiceAccountName = "sa"
	t.Cleanup(func() {
		if err := v.Cleanup(ctx, p.UID, false); err != nil {
			t.Error(err)
		}
	})
	prepare := func(want string) time.Time {
		t.Helper()
		again, err := v.Prepare(ctx, p, o)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Fatalf("prepared: %v, want %s", err, want)
		}
		return again
	}
	read := func(name string) []byte {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(v.path(p.UID, "projected", "v"), name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	// pair is the number of the certificate in the volume, which must be its key's.
	pair := func() int64 {
		t.Helper()
		bundle := read("bundle.pem")
		if !bytes.Equal(bundle, append(read("key.pem"), read("chain.pem")...)) {
			t.Error("the bundle is not the key and its chain")
		}
		if !bytes.HasPrefix(bundle, []byte("-----BEGIN PRIVATE KEY-----\n")) || bytes.Contains(bundle, []byte("a word")) || bytes.Contains(bundle, []byte("a: b")) {
			t.Errorf("there is more in the bundle than a key and certificates:\n%s", bundle)
		}
		got, err := tls.X509KeyPair(read("chain.pem"), read("key.pem"))
		if err != nil {
			t.Fatal(err)
		}
		return got.Leaf.SerialNumber.Int64()
	}

	// Without what a request is made from, or when it is refused, the reason is told and it is tried again.
	p.Spec.ServiceAccountName = "other"
	prepare(`serviceaccount "other" not found`)
	p.Spec.ServiceAccountName = "sa"
	o.refuse = errors.New("no room")
	prepare("while creating PodCertificateRequest: no room")
	o.refuse = nil
	// Both are asked for at once, and not twice.
	prepare(`waits for the signer "example.test/t"`)
	prepare(`MountVolume.SetUp failed for volume "v" : credential bundle is not issued yet: PodCertificateRequest ns/req-0 waits for the signer "example.test/s"; credential bundle`)
	if len(o.order) != 2 {
		t.Fatalf("requests %v", o.order)
	}
	got := o.made["req-0"]
	if s := got.Spec; s.SignerName != "example.test/s" || s.PodName != "p" || s.PodUID != p.UID || s.ServiceAccountName != "sa" || s.ServiceAccountUID != "account-1" ||
		s.NodeName != "n1" || s.NodeUID != "node-1" || *s.MaxExpirationSeconds != 7200 || s.UnverifiedUserAnnotations["example.test/a"] != "b" ||
		got.OwnerReferences[0].UID != p.UID || got.OwnerReferences[0].Controller != nil {
		t.Errorf("request %+v", got)
	}
	// One that was deleted is asked for anew; one of the same name, made by somebody else, is not taken for it.
	another := o.made["req-0"].DeepCopy()
	another.UID = "another"
	o.made["req-0"] = another
	o.sign("req-0", time.Hour, 2*time.Hour)
	prepare("PodCertificateRequest ns/req-2 waits")
	o.sign("req-1", time.Hour, 2*time.Hour)
	prepare("example.test/s")
	o.sign("req-2", time.Hour, 2*time.Hour)
	if again := prepare(""); again.IsZero() || time.Until(again) > lookAtCertificates {
		t.Errorf("looks again at %v", again)
	}
	if pair() != 3 || len(read("t/key.pem")) == 0 || len(o.order) != 3 {
		t.Errorf("certificate %d, requests %v", pair(), o.order)
	}

	// Renewal: what was due long ago, by an earlier daemon.
	v = daemon()
	o.refuse = errors.New("no room")
	if again := prepare(""); time.Until(again) > askAgain || pair() != 3 {
		t.Errorf("looks again at %v, certificate %d", again, pair())
	}
	o.refuse = nil
	prepare("")
	if pair() != 3 || len(o.order) != 5 {
		t.Errorf("certificate %d, requests %v", pair(), o.order)
	}
	o.sign("req-3", -2*time.Hour, -time.Minute)
	prepare("")
	if pair() != 5 {
		t.Errorf("certificate %d", pair())
	}
	if len(o.order) != 6 || strings.Join(said, "; ") != "p CertificateOverdueForRefresh: PodCertificate refresh overdue; p CertificateExpired: PodCertificate expired" {
		t.Errorf("requests %v, said %q", o.order, said)
	}
	said = nil
	o.made["req-5"].Status.Conditions = []metav1.Condition{{Type: "Denied", Status: metav1.ConditionTrue, Reason: "R", Message: "m"}}
	prepare(`PodCertificateRequest was permanently denied: reason="R", message="m"`)
	if pair() != 5 || strings.Join(said, "; ") != `p Denied: PodCertificateRequest ns/req-5 was denied, reason="R", message="m"` {
		t.Errorf("said %q", said)
	}
	prepare("permanently denied")
	if len(said) != 1 || len(o.order) != 6 {
		t.Errorf("said %q, requests %v", said, o.order)
	}

	// It is in memory, and goes with the pod.
	if mounts, err := mountsBelow(v.Dir(p.UID)); err != nil || len(mounts) != 1 {
		t.Errorf("mounts %v %v", mounts, err)
	}
	if err := v.Cleanup(ctx, p.UID, false); err != nil || len(v.certificates) > 0 {
		t.Errorf("left %v, %v", v.certificates, err)
	}
}

// TestCertificateOfOneUser: who runs all containers owns the key, and nobody else reads it; nobody without a group of the pod's.
func TestCertificateOfOneUser(t *testing.T) {
	one, group := int64(1000), int64(2000)
	for _, c := range []struct {
		user, group *int64
		mode        fs.FileMode
	}{{nil, nil, 0o644}, {&one, nil, 0o600}, {nil, &group, 0o600}} {
		p := testPod(corev1.Volume{Name: "v"})
		p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: c.user, FSGroup: c.group}
		f := files{pod: p, payload: map[string]volumeutil.FileProjection{}}
		mode := int32(0o644)
		f.own("key", []byte("k"), &mode)
		if got := f.payload["key"]; fs.FileMode(got.Mode) != c.mode || (got.FsUser == nil) != (c.user == nil) {
			t.Errorf("%v %v: mode %o, user %v", c.user, c.group, got.Mode, got.FsUser)
		}
	}
}
