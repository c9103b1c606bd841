package node

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"murmur/crdt/store"
	"murmur/httpapi/audit"
	"murmur/node/member"
)

// MemberStatus is one member as `murmur members` lists it.
type MemberStatus struct {
	Name    string    `json:"name"`
	Address string    `json:"address"`
	Status  string    `json:"status"`
	Since   time.Time `json:"since"`
	// RTT is in milliseconds; 0 if it is not known.
	RTT float64 `json:"rttMillis"`
	ID  string  `json:"id"`
}

// PeerStatus is the connection to one member.
type PeerStatus struct {
	Name    string    `json:"name"`
	Synced  time.Time `json:"synced"`
	Queued  int       `json:"queued"`
	Dropped uint64    `json:"dropped"`
}

// Status is what a daemon says of itself.
type Status struct {
	Node    string    `json:"node"`
	Address string    `json:"address"`
	Cluster string    `json:"cluster"`
	Started time.Time `json:"started"`
	// Joining names the member that invited this node, while it waits for the state of the cluster.
	Joining string `json:"joining,omitempty"`
	// Missing says why something that every cluster has is not there yet.
	Missing  string         `json:"missing,omitempty"`
	Digest   string         `json:"digest"`
	Members  []MemberStatus `json:"members"`
	Peers    []PeerStatus   `json:"peers"`
	Store    StoreStatus    `json:"store"`
	Settings Settings       `json:"settings"`
	// CertificateRotation is when this node's certificate is replaced.
	CertificateRotation time.Time `json:"certificateRotation"`
	// Issuer tells whether this node admits others.
	Issuer      bool   `json:"issuer"`
	MemoryBytes uint64 `json:"memoryBytes"`
}

// StoreStatus is the size and health of the store.
type StoreStatus struct {
	Objects    int   `json:"objects"`
	Tombstones int   `json:"tombstones"`
	DiskBytes  int64 `json:"diskBytes"`
	// Quota is how much of the objects' bytes the store may hold.
	Quota store.Quota `json:"quota"`
	// Held lists writes that are held aside because they were stamped too far in the future.
	Held map[string]time.Time `json:"held,omitempty"`
	// Failed lists objects that could not be merged, with the reasons.
	Failed map[string]string `json:"failed,omitempty"`
	// Settling is how far stamps and tombstones are let go of.
	Settling Settling `json:"settling"`
	// Conflicts counts fields in which a concurrent write lost, since the daemon started.
	Conflicts int `json:"conflicts"`
}

// TokenRequest asks for a join token. It admits one machine, unless Reusable is true, and makes it an issuer, unless NoIssuer is.
type TokenRequest struct {
	TTL      time.Duration `json:"ttl"`
	Reusable bool          `json:"reusable,omitempty"`
	NoIssuer bool          `json:"noIssuer,omitempty"`
}

// TokenReply is a token and the line that uses it.
type TokenReply struct {
	Token   string `json:"token"`
	Command string `json:"command"`
}

// maxTTL bounds the life of a join token.
const maxTTL = 365 * 24 * time.Hour

func (n *Node) status() Status {
	st := n.store.Status()
	digest := n.store.Digest()
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	out := Status{
		Node: n.id.NodeName, Address: n.cfg.NodeIP.String(), Cluster: n.id.Cluster.ID, Started: n.started,
		Digest: fmt.Sprintf("%x", digest[:]), Members: n.members(), Settings: n.settings,
		CertificateRotation: n.self.Renewal(), Issuer: n.self.Issuer(),
		MemoryBytes: mem.Sys - mem.HeapReleased,
		Store:       StoreStatus{Objects: st.Objects, Tombstones: st.Tombstones, DiskBytes: st.DiskBytes, Quota: st.Quota, Conflicts: len(st.Losses)},
	}
	if inv := n.joining.Load(); inv != nil {
		out.Joining = inv.NodeName
	}
	if err := n.basics.missing(); err != nil {
		out.Missing = err.Error()
	}
	for k, s := range st.Held {
		if out.Store.Held == nil {
			out.Store.Held = map[string]time.Time{}
		}
		out.Store.Held[k.String()] = s.Time()
	}
	for k, reason := range st.Failed {
		if out.Store.Failed == nil {
			out.Store.Failed = map[string]string{}
		}
		out.Store.Failed[k.String()] = reason
	}
	if s := n.settling.Load(); s != nil {
		out.Store.Settling = *s
	}
	for _, p := range n.agent.Peers() {
		out.Peers = append(out.Peers, PeerStatus{Name: p.Name, Synced: p.Synced, Queued: p.Queued, Dropped: p.Dropped})
	}
	return out
}

func (n *Node) members() []MemberStatus {
	out := []MemberStatus{}
	for _, m := range n.agent.Members() {
		out = append(out, MemberStatus{
			Name: m.Name, ID: m.ID, Address: m.Addr.String(), Status: string(m.Status), Since: m.Since,
			RTT: float64(m.RTT.Microseconds()) / 1000,
		})
	}
	return out
}

// createToken makes a join token, and the line to paste on the joiner.
func (n *Node) createToken(ctx context.Context, req TokenRequest) (TokenReply, error) {
	if err := n.settled(); err != nil {
		return TokenReply{}, err
	}
	id := n.self.Identity()
	hash, err := id.CAHash()
	if err != nil {
		return TokenReply{}, err
	}
	switch {
	case req.TTL <= 0 || req.TTL > maxTTL:
		return TokenReply{}, fmt.Errorf("--ttl %s: want more than 0 and at most %s; a token that never expires is made of the secret that `murmur up --token-file` was given when the cluster was founded: %s and that secret",
			req.TTL, maxTTL, member.Token(hash, ""))
	case !req.NoIssuer && !id.Issuer():
		return TokenReply{}, fmt.Errorf("this node is no issuer, and makes no issuers: say --no-issuer, or run this on an issuer")
	}
	secret, obj := member.NewToken(time.Now().Add(req.TTL), !req.NoIssuer, req.Reusable)
	if _, err := n.api.System().Create(ctx, obj); err != nil {
		return TokenReply{}, fmt.Errorf("store the token: %w", err)
	}
	audit.Note(ctx, "token", member.TokenID(obj))
	t := member.Token(hash, secret)
	host := n.cfg.AdvertiseAddress
	if n.cfg.HTTPSPort != 6443 {
		host = net.JoinHostPort(host, fmt.Sprint(n.cfg.HTTPSPort))
	}
	return TokenReply{Token: t, Command: fmt.Sprintf("MURMUR_TOKEN=%s murmur join %s", t, host)}, nil
}

func (n *Node) listenAdmin() (net.Listener, error) {
	if err := os.MkdirAll(n.cfg.RunDir, 0o711); err != nil {
		return nil, fmt.Errorf("make the run directory: %w", err)
	}
	l, err := listenPrivate(Socket(n.cfg.RunDir))
	if err != nil {
		return nil, fmt.Errorf("open the admin socket: %w", err)
	}
	return l, nil
}

// listenPrivate opens a socket that root alone can open, at every moment: it is made where nobody else comes, and appears with
// the mode that it is to have, whatever the umask. The lock on the data directory says that one found at its path is nobody's.
func listenPrivate(path string) (net.Listener, error) {
	dir := filepath.Join(filepath.Dir(path), ".new")
	if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	made := filepath.Join(dir, "s")
	l, err := net.Listen("unix", made)
	if err != nil {
		return nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // what it would remove is elsewhere by then
	if err := errors.Join(os.Chmod(made, 0o600), os.Rename(made, path)); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &privateListener{Listener: l, path: path}, nil
}

// privateListener takes its socket away when it is closed.
type privateListener struct {
	net.Listener
	path   string
	closed sync.Once
}

func (l *privateListener) Close() error {
	err := l.Listener.Close()
	l.closed.Do(func() { err = errors.Join(err, os.Remove(l.path)) })
	return err
}

// serveAdmin answers the CLI. Whoever can open the socket is root here.
func (n *Node) serveAdmin(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	answer := func(pattern string, f func(*http.Request) (any, error)) { mux.HandleFunc(pattern, answered(f)) }
	answer("GET /v1/status", func(*http.Request) (any, error) { return n.status(), nil })
	answer("GET /v1/members", func(*http.Request) (any, error) { return n.members(), nil })
	answer("POST /v1/token", func(r *http.Request) (any, error) {
		var req TokenRequest
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
			return nil, err
		}
		audit.Note(r.Context(), "ttl", req.TTL.String())
		audit.Note(r.Context(), "issuer", strconv.FormatBool(!req.NoIssuer))
		audit.Note(r.Context(), "reusable", strconv.FormatBool(req.Reusable))
		return n.createToken(r.Context(), req)
	})
	answer("POST /v1/user", func(r *http.Request) (any, error) {
		var req UserRequest
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
			return nil, err
		}
		if asked, err := x509.ParseCertificateRequest(req.Request); err == nil {
			audit.Note(r.Context(), "user", asked.Subject.CommonName)
			audit.Note(r.Context(), "groups", strings.Join(asked.Subject.Organization, ","))
		}
		return n.createUser(r.Context(), req)
	})
	answer("POST /v1/leave", func(*http.Request) (any, error) {
		select {
		case <-n.leaving:
		default:
			close(n.leaving)
		}
		return struct{}{}, nil
	})
	mux.HandleFunc("GET /v1/backup", func(w http.ResponseWriter, _ *http.Request) {
		if err := n.settled(); err != nil {
			http.Error(w, err.Error(), http.StatusUnprocessableEntity)
			return
		}
		if err := n.backup(w); err != nil {
			n.log.Error("backup", "err", err)
			panic(http.ErrAbortHandler)
		}
	})
	answer("POST /v1/release", func(*http.Request) (any, error) { return n.store.Release(), nil })
	answer("POST /v1/images", func(r *http.Request) (any, error) { return n.runtime.Import(r.Context(), r.Body) })
	answer("POST /v1/join", func(r *http.Request) (any, error) {
		var req JoinRequest
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
			return nil, err
		}
		audit.Note(r.Context(), "host", req.Host)
		audit.Note(r.Context(), "rejoin", strconv.FormatBool(req.Rejoin))
		return n.join(r.Context(), req)
	})
	answer("POST /v1/forget", func(r *http.Request) (any, error) {
		var req ForgetRequest
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
			return nil, err
		}
		audit.Note(r.Context(), "node", req.Node)
		audit.Note(r.Context(), "revoke", strconv.FormatBool(req.Revoke))
		if !req.Revoke {
			return ForgetReply{}, n.forget(r.Context(), req.Node)
		}
		return n.revoke(r.Context(), req.Node)
	})
	answer("POST /v1/rotate", func(r *http.Request) (any, error) {
		var req RotateRequest
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
			return nil, err
		}
		audit.Note(r.Context(), "what", req.What)
		return n.rotate(r.Context(), req)
	})
	answer("GET /v1/secrets", func(*http.Request) (any, error) { return n.secrets() })
	answer("POST /v1/secrets/rotate", func(r *http.Request) (any, error) { return n.rotateSecrets(r.Context()) })
	answer("GET /v1/certificates", func(*http.Request) (any, error) { return n.certificates(), nil })
	answer("GET /v1/reachability", func(r *http.Request) (any, error) { return n.reachability(r.Context()), nil })
	answer("GET /v1/conflicts", func(*http.Request) (any, error) { return n.conflicts(), nil })
	answer("GET /v1/explain", func(r *http.Request) (any, error) {
		return n.explain(r.Context(), r.FormValue("namespace"), r.FormValue("name"))
	})
	answer("GET /debug/bids", func(*http.Request) (any, error) { return n.sched.Explanations(), nil })
	answer("GET /debug/store", func(*http.Request) (any, error) { return n.store.Status(), nil })
	answer("GET /debug/gossip", func(*http.Request) (any, error) {
		return map[string]any{"members": n.agent.Members(), "peers": n.agent.Peers(), "traffic": n.agent.Traffic()}, nil
	})
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	srv := &http.Server{Handler: n.audit.Requests(mux, administered), ReadHeaderTimeout: 10 * time.Second, ConnContext: withCaller}
	return serveUntil(ctx, l, srv)
}

// answered makes a handler of a question whose answer is JSON.
func answered(f func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := f(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnprocessableEntity)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		_ = enc.Encode(v)
	}
}

// serveHTTP serves until the context ends.
func serveHTTP(ctx context.Context, l net.Listener, h http.Handler) error {
	return serveUntil(ctx, l, &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second})
}

func serveUntil(ctx context.Context, l net.Listener, srv *http.Server) error {
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		_ = srv.Close()
	}()
	err := srv.Serve(l)
	if ctx.Err() != nil {
		<-stopped
		return nil
	}
	return err
}
