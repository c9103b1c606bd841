package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/durable"
	"murmur/gossip"
	"murmur/httpapi"
	"murmur/node/member"
)

// What this node is as a member is package member's; here it meets the parts that go by it.

// settingsOf are the settings of a cluster.
func settingsOf(c member.Cluster) (s Settings, err error) {
	if err := json.Unmarshal(c.Settings, &s); err != nil {
		return s, fmt.Errorf("settings of the cluster: %w", err)
	}
	return s, nil
}

// encode is settings as an identity keeps them.
func (s Settings) encode() (json.RawMessage, error) { return json.Marshal(s) }

// hosts are the names and addresses by which the API of a node is reached.
func hosts(cfg Config, name string, s Settings) []string {
	return append([]string{
		name, "localhost", "127.0.0.1", cfg.NodeIP.String(), cfg.AdvertiseAddress,
		s.ServiceCIDR.Masked().Addr().Next().String(),
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + s.ClusterDomain,
	}, cfg.TLSSANs...)
}

// verifyPeer tells the node name of a peer whose certificates are believed.
func (n *Node) verifyPeer(chain []*x509.Certificate) (string, error) {
	m, err := n.self.Verify(chain)
	return m.Name, err
}

func (n *Node) refusePeer(chain []*x509.Certificate) error { return n.self.Trust().Stands(chain) }

// clientCertificates are those that the API believes.
func (n *Node) clientCertificates() httpapi.ClientCertificates {
	return httpapi.ClientCertificates{
		Roots:   func() *x509.CertPool { return n.self.Trust().Pool() },
		Believe: func(chain []*x509.Certificate) error { return n.self.Trust().Client(chain) },
		Refuse:  func(c *x509.Certificate) error { return n.self.Trust().Refuse(c) },
		Stands:  n.refusePeer,
	}
}

// tokenKeys are the keys of ServiceAccount tokens.
func (n *Node) tokenKeys() httpapi.TokenKeys {
	return httpapi.TokenKeys{Sign: n.self.Signer, Public: func() []httpapi.TokenKey {
		var out []httpapi.TokenKey
		for _, k := range n.self.PublicKeys() {
			out = append(out, httpapi.TokenKey{Key: k.Key, Node: k.Node, Anywhere: k.Anywhere, Retired: k.Retired, Proven: k.Proven})
		}
		return out
	}}
}

// hooks are what package member needs of this node.
func (n *Node) hooks() member.Hooks {
	return member.Hooks{
		Store: n.store,
		Live: func() (ids []string) {
			for _, m := range n.agent.Members() {
				if m.Status == gossip.Alive {
					ids = append(ids, m.ID)
				}
			}
			return ids
		},
		Registered: func() []string { return registered.Of(n.store.Snapshot()).ids() },
		Settled:    func() bool { return n.joining.Load() == nil },
		Ask:        n.askIssuer,
		Changed:    n.membershipChanged,
	}
}

// membershipChanged has the parts go by what this node believes now.
func (n *Node) membershipChanged() {
	if err := n.agent.SetKeys(n.self.Ring()); err != nil {
		n.log.Error("take the gossip keys", "err", err)
	}
	n.agent.Cut()
	n.api.TrustChanged()
	n.control.Poke()
	if signer := n.self.Signer(); n.signed.Swap(signer) != signer {
		n.volumes.RenewTokens()
	}
	if n.joining.Load() == nil {
		if err := n.keepKubeconfig(); err != nil {
			n.log.Error("write the kubeconfig", "err", err)
		}
	}
}

// errNoIssuerInReach is returned while no issuer answers.
var errNoIssuerInReach = errors.New("no issuer is in reach")

// askIssuer asks the issuers that are alive, one after the other: first those that say they are.
func (n *Node) askIssuer(ctx context.Context, path string, in, out any) error {
	issuers := n.self.Issuers(n.store.Snapshot())
	var first, others []string
	for _, m := range n.agent.Members() {
		switch {
		case m.Name == n.id.NodeName || m.Status != gossip.Alive:
		case slices.Contains(issuers, m.Name):
			first = append(first, m.Name)
		default:
			others = append(others, m.Name)
		}
	}
	rand.Shuffle(len(first), func(i, j int) { first[i], first[j] = first[j], first[i] })
	if len(first) > 0 || path == member.PathJoin {
		others = nil // a joiner knows none yet, and asks anybody; but no joiner's token is shown to who is no issuer
	}
	errs := []error{errNoIssuerInReach}
	for _, name := range append(first, others...) {
		err := member.Ask(ctx, func(ctx context.Context) (net.Conn, error) { return n.agent.Dial(ctx, name, member.Service) }, path, in, out)
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", name, err))
	}
	return errors.New(strings.Join(strings.Fields(errors.Join(errs...).Error()), " "))
}

// serveIssuer answers members that ask an issuer.
func (n *Node) serveIssuer(ctx context.Context) error {
	return serveStreams(ctx, n.agent.Listen(member.Service), n.audit.Requests(n.self.Issue(n.door), n.askedIssuer), n.self.WithPeer)
}

// serveRing answers members that have lost the gossip key.
func (n *Node) serveRing(ctx context.Context) error {
	return serveStreams(ctx, n.agent.Listen(gossip.ServiceSide), n.self.AnswerRing(), n.self.WithPeer)
}

// serveStreams serves members until the context ends. What each of them says is known by its connection.
func serveStreams(ctx context.Context, l net.Listener, h http.Handler, conn func(context.Context, net.Conn) context.Context) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, ConnContext: conn}
	return serveUntil(ctx, l, srv)
}

// sideEvery is how often a member that does not answer is asked for its gossip keys.
const sideEvery = 10 * time.Second

// sides remembers when which address was asked.
type sides struct {
	mu sync.Mutex
	at map[netip.Addr]time.Time
}

// due tells whether an address is to be asked now.
func (s *sides) due(a netip.Addr, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at == nil {
		s.at = map[netip.Addr]time.Time{}
	}
	if last, ok := s.at[a]; ok && now.Sub(last) < sideEvery && !now.Before(last) {
		return false
	}
	for k, v := range s.at {
		if now.Sub(v) > time.Hour {
			delete(s.at, k)
		}
	}
	s.at[a] = now
	return true
}

// lost asks a member that does not answer for the gossip keys, past the membership: the one of us that was away while they were replaced
// learns them, and both meet again.
func (n *Node) lost(ctx context.Context, at netip.Addr) {
	if !n.sides.due(at, time.Now()) {
		return
	}
	var got member.RingReply
	err := member.Ask(ctx, func(ctx context.Context) (net.Conn, error) {
		return n.agent.DialSide(ctx, netip.AddrPortFrom(at, n.cfg.StreamPort))
	}, member.PathRing, struct{}{}, &got)
	if err == nil {
		var changed bool
		if changed, err = n.self.Learn(got.Keys); changed {
			n.log.Info("learnt a gossip key", "from", at)
			err = errors.Join(err, n.agent.SetKeys(n.self.Ring()))
		}
	}
	if err != nil {
		n.log.Debug("ask a lost member for its gossip keys", "at", at, "err", err)
	}
}

// follow keeps this node a member, and its kubeconfig good.
func (n *Node) follow(ctx context.Context) error { return n.self.Follow(ctx, n.hooks()) }

// keepKubeconfig writes the administrator's credentials of this node if those there are not good for much longer. At a member that is
// no issuer they are the node's own.
func (n *Node) keepKubeconfig() error {
	pair, bundle := n.admin.Load(), n.self.Trust().Bundle()
	if pair != nil && !n.self.AdminDue(pair) && string(n.bundled.bytes()) == string(bundle) {
		return nil
	}
	certificate, key, err := n.self.AdminPair()
	if err != nil || certificate == nil {
		return err
	}
	made, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": "murmur",
		"clusters": []any{map[string]any{"name": "murmur", "cluster": map[string]any{
			"server": fmt.Sprintf("https://127.0.0.1:%d", n.cfg.HTTPSPort), "certificate-authority-data": bundle}}},
		"users": []any{map[string]any{"name": "murmur", "user": map[string]any{
			"client-certificate-data": certificate, "client-key-data": key}}},
		"contexts": []any{map[string]any{"name": "murmur", "context": map[string]any{"cluster": "murmur", "user": "murmur"}}},
	}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(n.kubeconfig()), 0o755); err != nil {
		return err
	}
	if err := durable.Write(n.kubeconfig(), append(b, '\n'), 0o600); err != nil {
		return err
	}
	n.admin.Store(&made)
	n.bundled.set(bundle)
	return nil
}

func (n *Node) kubeconfig() string { return filepath.Join(n.cfg.ConfigDir, "murmur.yaml") }

// held is bytes that are replaced as a whole.
type held struct {
	mu sync.Mutex
	b  []byte
}

func (h *held) bytes() []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.b
}

func (h *held) set(b []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.b = b
}

// spend marks a token as used, at its primary: of two doors one succeeds.
func (n *Node) spend(ctx context.Context, used *corev1.Secret) error {
	_, err := n.api.System().Update(ctx, used)
	return err
}

// CertificateItem is one key or certificate as `murmur certificate check` lists it.
type CertificateItem = member.Item

// RotateRequest asks for the rotation of a key: ca, service-account or gossip.
type RotateRequest struct {
	What    string        `json:"what"`
	Overlap time.Duration `json:"overlap"`
	// Force rotates though members run a version that cannot follow.
	Force bool `json:"force,omitempty"`
}

// minOverlap is the shortest overlap of a rotation: members need to hear of it.
const minOverlap = 30 * time.Second

// rotate begins a rotation.
func (n *Node) rotate(ctx context.Context, req RotateRequest) (member.Rotated, error) {
	if err := n.settled(); err != nil {
		return member.Rotated{}, err
	}
	if req.Overlap == 0 {
		req.Overlap = member.DefaultOverlap
	}
	if req.Overlap < minOverlap {
		return member.Rotated{}, fmt.Errorf("--overlap %s: want %s at least, for the members to hear of it", req.Overlap, minOverlap)
	}
	snap := n.store.Snapshot()
	r := registered.Of(snap)
	if silent := n.self.Silent(snap, r.ids()); len(silent) > 0 && !req.Force {
		for i, id := range silent {
			silent[i] = r.names[id]
		}
		return member.Rotated{}, fmt.Errorf("these nodes run an older murmur or have not started since, and would be left behind: %s; update them first, `murmur forget` those that are gone, or say --force", strings.Join(silent, ", "))
	}
	switch req.What {
	case "ca":
		r, err := n.self.RotateCA(ctx, n.store, req.Overlap)
		return r, err
	case "gossip":
		return n.self.RotateGossip(ctx, n.store, req.Overlap, false)
	case "service-account":
		return n.self.RotateTokens(ctx, n.store, req.Overlap)
	}
	return member.Rotated{}, fmt.Errorf("rotate %q: want ca, service-account or gossip", req.What)
}

// certificates lists this node's keys and certificates and what is near its end.
func (n *Node) certificates() []member.Item {
	snap := n.store.Snapshot()
	r := registered.Of(snap)
	return n.self.Check(snap, r.ids(), func(id string) string {
		if name := r.names[id]; name != "" {
			return name
		}
		return id
	}, n.admin.Load())
}

// revoke shuts a node out for ever, with whoever has its disk. It may be alive.
func (n *Node) revoke(ctx context.Context, name string) (ForgetReply, error) {
	done, err := n.shutOut(ctx, name)
	reply := ForgetReply{Rotated: done}
	if slices.ContainsFunc(done, func(r member.Rotated) bool { return r.What == "ca" }) {
		snap := n.store.Snapshot()
		r := registered.Of(snap)
		for _, id := range n.self.Silent(snap, r.ids()) {
			reply.Left = append(reply.Left, r.names[id])
		}
	}
	return reply, err
}

func (n *Node) shutOut(ctx context.Context, name string) ([]member.Rotated, error) {
	if name == n.id.NodeName {
		return nil, fmt.Errorf("%s is this node: revoke it on another", name)
	}
	if !n.self.Issuer() {
		return nil, member.ErrOnlyIssuers
	}
	// One that does not know the members cannot say who stays.
	if err := n.settled(); err != nil {
		return nil, err
	}
	snap := n.store.Snapshot()
	named := n.self.Named(snap, name)
	stored, known := store.Get[corev1.Node](snap, nodeKey(name))
	// What a node says where nobody vouches for it is heard only if it says nothing else: one of a version in which all are
	// issuers. It must not name another's ID, nor this node's.
	if trust := n.self.Trust(); !slices.ContainsFunc(slices.Collect(maps.Keys(named)), func(id string) bool { return !trust.Denied(id) }) {
		spoken, again := n.self.Spoken(snap), len(named) > 0
		add := func(id string) {
			if _, ok := named[id]; !ok && id != n.id.NodeID && member.ValidID(id) && spoken[id] == "" {
				named[id] = true
			}
		}
		if known {
			add(stored.Annotations[annotationID])
		}
		for _, m := range n.agent.Members() {
			// One that was revoked may show itself under another ID, with a gossip key and no certificate.
			if m.Name == name && (!again || slices.ContainsFunc(n.agent.Peers(), func(p gossip.Peer) bool { return p.Name == name })) {
				add(m.ID)
			}
		}
	}
	if len(named) == 0 {
		return nil, fmt.Errorf("there is no member %s; `murmur members` lists them", name)
	}
	ids := slices.Sorted(maps.Keys(named))
	done, err := n.self.Revoke(ctx, n.store, name, named, registered.Of(snap).names)
	n.membershipChanged()
	if err != nil {
		return done, err
	}
	// What was open when the disk was copied admits whoever has the copy.
	for _, s := range store.List[corev1.Secret](n.store.Snapshot(), "secrets", metav1.NamespaceSystem) {
		if s.Type != corev1.SecretTypeBootstrapToken {
			continue
		}
		err := n.api.System().Delete(ctx, crdt.Key{Resource: "secrets", Namespace: s.Namespace, Name: s.Name}, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &s.UID}})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return done, fmt.Errorf("delete the join token %s, which %s knew: %w", s.Name, name, err)
		}
	}
	// The others stop waiting for it, as for one that failed.
	for _, id := range ids {
		if err := n.agent.Forget(id); err != nil {
			n.log.Debug("tell the members that a revoked one is gone", "node", name, "err", err)
		}
	}
	if known {
		if err := n.endStore(ctx, name, stored); err != nil {
			return done, err
		}
	}
	if err := n.unregister(ctx, name); err != nil {
		return done, fmt.Errorf("delete the Node object of %s: %w", name, err)
	}
	return done, nil
}
