package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"murmur/crdt/store"
	"murmur/node/member"
	"murmur/node/secrecy"
)

// ErrNoDaemon is returned to a CLI that finds nobody at the socket.
var ErrNoDaemon = errors.New("no murmur daemon runs here: start one with `murmur up`")

// Admin speaks to a daemon: to the one here at its socket, or to that of another member.
type Admin struct {
	socket string
	client *http.Client
}

// over is a client of the admin service of another member.
func over(dial func(context.Context) (net.Conn, error)) *Admin {
	return &Admin{client: &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
	}}}
}

// NewAdmin is a client of the daemon whose run directory is given.
func NewAdmin(runDir string) *Admin {
	socket := Socket(runDir)
	return &Admin{socket: socket, client: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}}
}

// Bounds of what is read of an answer, which may be another member's.
const (
	maxAnswer  = 64 << 20
	maxRefusal = 64 << 10
)

// call asks the daemon for path; body, if not nil, is posted as JSON; out, if not nil, takes the answer.
func (a *Admin) call(ctx context.Context, path string, body, out any) error {
	method := http.MethodGet
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		method, r = http.MethodPost, bytes.NewReader(b)
	}
	return a.do(ctx, method, path, r, out)
}

func (a *Admin) do(ctx context.Context, method, path string, body io.Reader, out any) error {
	resp, err := a.send(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return err
	}
	if len(b) > maxAnswer {
		return fmt.Errorf("%s: an answer of more than %d bytes", path, maxAnswer)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(b, out)
}

// send asks the daemon and returns the answer to be read. One that is a refusal is an error.
func (a *Admin) send(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://murmur"+path, body)
	if err != nil {
		return nil, err
	}
	resp, err := a.client.Do(req)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "dial" {
			return nil, fmt.Errorf("%w (%s: %w)", ErrNoDaemon, a.socket, op.Err)
		}
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxRefusal))
	if err != nil {
		return nil, err
	}
	return nil, errors.New(strings.TrimSpace(string(b)))
}

// stream copies the answer for path. The daemon ends it with a broken connection if it fails on the way.
func (a *Admin) stream(ctx context.Context, path string, w io.Writer) error {
	resp, err := a.send(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(w, resp.Body)
	return err
}

// Status asks for the daemon's status.
func (a *Admin) Status(ctx context.Context) (Status, error) {
	var s Status
	err := a.call(ctx, "/v1/status", nil, &s)
	return s, err
}

// Members asks for the members as the daemon sees them.
func (a *Admin) Members(ctx context.Context) ([]MemberStatus, error) {
	var m []MemberStatus
	err := a.call(ctx, "/v1/members", nil, &m)
	return m, err
}

// CreateToken makes a join token.
func (a *Admin) CreateToken(ctx context.Context, req TokenRequest) (TokenReply, error) {
	var t TokenReply
	err := a.call(ctx, "/v1/token", req, &t)
	return t, err
}

// CreateUser has a client certificate signed.
func (a *Admin) CreateUser(ctx context.Context, req UserRequest) (UserReply, error) {
	var u UserReply
	err := a.call(ctx, "/v1/user", req, &u)
	return u, err
}

// Leave tells the daemon to leave the cluster and end.
func (a *Admin) Leave(ctx context.Context) error { return a.call(ctx, "/v1/leave", struct{}{}, nil) }

// Import loads an image archive into the node's runtime and returns the names in it.
func (a *Admin) Import(ctx context.Context, archive io.Reader) ([]string, error) {
	var names []string
	err := a.do(ctx, http.MethodPost, "/v1/images", archive, &names)
	return names, err
}

// Explain asks why a pod is where it is, or is nowhere.
func (a *Admin) Explain(ctx context.Context, namespace, name string) (json.RawMessage, error) {
	var out json.RawMessage
	err := a.call(ctx, "/v1/explain?"+url.Values{"namespace": {namespace}, "name": {name}}.Encode(), nil, &out)
	return out, err
}

// Join tells a daemon with no state of its own to join the cluster of another member. When it returns, the daemon has been
// admitted there and has stopped acting for the cluster it was in.
func (a *Admin) Join(ctx context.Context, req JoinRequest) (JoinReply, error) {
	var r JoinReply
	err := a.call(ctx, "/v1/join", req, &r)
	return r, err
}

// Forget tells the cluster that a failed member is not coming back.
func (a *Admin) Forget(ctx context.Context, node string) error {
	return a.call(ctx, "/v1/forget", ForgetRequest{Node: node}, nil)
}

// Revoke shuts a member out for ever, with whoever has its disk. It returns what was rotated because it knew it.
func (a *Admin) Revoke(ctx context.Context, node string) (out ForgetReply, err error) {
	err = a.call(ctx, "/v1/forget", ForgetRequest{Node: node, Revoke: true}, &out)
	return out, err
}

// Rotate begins the rotation of a key of the cluster.
func (a *Admin) Rotate(ctx context.Context, req RotateRequest) (member.Rotated, error) {
	var out member.Rotated
	err := a.call(ctx, "/v1/rotate", req, &out)
	return out, err
}

// Secrets asks how what is secret is encrypted on the daemon's disk.
func (a *Admin) Secrets(ctx context.Context) (out SecretsStatus, err error) {
	err = a.call(ctx, "/v1/secrets", nil, &out)
	return out, err
}

// RotateSecrets has the daemon encrypt its disk with a new data key, or as its configuration file says now.
func (a *Admin) RotateSecrets(ctx context.Context) (out SecretsStatus, err error) {
	err = a.call(ctx, "/v1/secrets/rotate", struct{}{}, &out)
	return out, err
}

// Certificates asks for the daemon's keys and certificates.
func (a *Admin) Certificates(ctx context.Context) ([]member.Item, error) {
	var out []member.Item
	err := a.call(ctx, "/v1/certificates", nil, &out)
	return out, err
}

// Reachability asks every other member for an answer.
func (a *Admin) Reachability(ctx context.Context) ([]Answer, error) {
	var out []Answer
	err := a.call(ctx, "/v1/reachability", nil, &out)
	return out, err
}

// Conflicts asks for the latest fields in which a concurrent write lost.
func (a *Admin) Conflicts(ctx context.Context) ([]Conflict, error) {
	var out []Conflict
	err := a.call(ctx, "/v1/conflicts", nil, &out)
	return out, err
}

// Debug asks for the inside of a part: store, gossip or bids.
func (a *Admin) Debug(ctx context.Context, part string) (json.RawMessage, error) {
	var out json.RawMessage
	err := a.call(ctx, "/debug/"+part, nil, &out)
	return out, err
}

// vector asks a member that has the cluster's state what it has.
func (a *Admin) vector(ctx context.Context) ([]byte, error) {
	var out []byte
	err := a.call(ctx, "/v1/vector", nil, &out)
	return out, err
}

// report asks a member what it has and what it has let go of.
func (a *Admin) report(ctx context.Context) (out store.Report, err error) {
	err = a.call(ctx, "/v1/report", nil, &out)
	return out, err
}

// settle tells a member what is certain.
func (a *Admin) settle(ctx context.Context, c store.Certainty) error {
	return a.call(ctx, "/v1/settle", c, nil)
}

// check sends a member one message of a comparison of stores and returns its answer.
func (a *Admin) check(ctx context.Context, msg []byte) (out []byte, err error) {
	err = a.call(ctx, "/v1/check", msg, &out)
	return out, err
}

// Backup writes a backup of the daemon's node, encrypted to public keys of age if any are given.
func (a *Admin) Backup(ctx context.Context, w io.Writer, recipients []string) error {
	if len(recipients) == 0 {
		return a.stream(ctx, "/v1/backup", w)
	}
	to, err := secrecy.ParseRecipients(recipients)
	if err != nil {
		return err
	}
	sealed, err := to.Seal(w)
	if err != nil {
		return err
	}
	if err := a.stream(ctx, "/v1/backup", sealed); err != nil {
		return err // not closed: what is there cannot be read
	}
	return sealed.Close()
}

// Release takes in the writes that are held aside because they were stamped too far in the future. It returns how many.
func (a *Admin) Release(ctx context.Context) (n int, err error) {
	err = a.call(ctx, "/v1/release", struct{}{}, &n)
	return n, err
}
