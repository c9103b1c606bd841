package member

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
)

// Admission is a joiner's request and what became of it, for the record.
type Admission struct {
	// ID is the same on the member that was asked and on the issuer that it asked.
	ID    string
	Began time.Time
	// Node, NodeID and Address are what the joiner says of itself, From where it asked from.
	Node, NodeID, Address, From string
	// Token is the ID of the token that was shown, "permanent" if it is the one that does not end; empty: it is none that is known.
	Token string
	// ByWayOf is the member that asked this one for a joiner; empty: the joiner asked itself.
	ByWayOf string
	// Issuer tells what the joiner was admitted as. Refused is why it was not, Code as HTTP says it: 401 if the token was none that
	// admits.
	Issuer  bool
	Refused error
	Code    int
}

// permanentToken stands for the secret of a cluster, which has no ID.
const permanentToken = "permanent"

// TokenID is the public half of a join token that NewToken made.
func TokenID(s *corev1.Secret) string { return strings.TrimPrefix(s.Name, tokenName) }

// admission is what is known of a joiner before its token is looked at. Of what it shows nothing is kept but the name of a token that
// exists: the rest may be a secret.
func (d *Door) admission(secret string, req Request, from string) Admission {
	a := Admission{ID: uuid.NewString(), Began: d.cfg.Now(), Node: short(req.NodeName), NodeID: short(req.NodeID), From: short(from)}
	if req.Addr.IsValid() {
		a.Address = req.Addr.String()
	}
	if name, _, ok := strings.Cut(secret, "."); ok {
		if _, ok := d.cfg.Store.Snapshot().Get(TokenKey(name)); ok {
			a.Token = name
		}
	}
	return a
}

// short bounds what a stranger says of itself.
func short(s string) string {
	const most = 253
	return s[:min(len(s), most)]
}

// record tells what became of a joiner. That nobody could look at its token is not told: a stranger could say it without end.
func (d *Door) record(ctx context.Context, a Admission, reply *Reply, err error) {
	if d.cfg.Record == nil || errors.Is(err, errOutOfReach) {
		return
	}
	var no *refused
	switch {
	case errors.As(err, &no):
		a.Refused, a.Code = err, no.Status
	case err != nil:
		a.Refused, a.Code = err, http.StatusServiceUnavailable
	default:
		if certs, err := decodeCerts(reply.Certificate); err == nil {
			if m, err := memberOf(certs[0]); err == nil {
				a.Issuer = m.Issuer
			}
		}
		if a.Token == "" {
			a.Token = permanentToken
		}
	}
	d.cfg.Record(ctx, a)
}
