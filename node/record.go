package node

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"

	"murmur/crdt"
	"murmur/gossip"
	"murmur/httpapi/audit"
	"murmur/node/member"
)

// What the audit log has of this node beside the requests of its API.

// userAdmin is who asks over the admin socket, and who restores a backup.
const userAdmin = "system:admin-socket"

// What a user's extra tells of a process that asks over the admin socket.
const (
	extraPID   = "audit.murmur.io/pid"
	extraLogin = "audit.murmur.io/login-uid"
)

// callerKey is, in a connection's context, who is at the other end of the admin socket.
type callerKey struct{}

// withCaller is the context of a connection to the admin socket, with whom the kernel says is at its other end.
func withCaller(ctx context.Context, c net.Conn) context.Context {
	conn, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return ctx
	}
	var cred *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) { cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil || failed != nil {
		return ctx
	}
	return context.WithValue(ctx, callerKey{}, administrator(int(cred.Uid), int(cred.Pid)))
}

// administrator is a process as the user that the record names. Root may be many: who logged in, before sudo, is told too where the
// kernel knows.
func administrator(uid, pid int) user.Info {
	u := &user.DefaultInfo{Name: userAdmin, UID: strconv.Itoa(uid), Groups: []string{user.SystemPrivilegedGroup}, Extra: map[string][]string{}}
	if pid > 0 {
		u.Extra[extraPID] = []string{strconv.Itoa(pid)}
		const nobody = "4294967295"
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/loginuid", pid)); err == nil {
			if login := strings.TrimSpace(string(b)); login != "" && login != nobody {
				u.Extra[extraLogin] = []string{login}
			}
		}
	}
	return u
}

// administered is what is asked over the admin socket.
func administered(r *http.Request) *audit.Act {
	by, ok := r.Context().Value(callerKey{}).(user.Info)
	if !ok {
		by = &user.DefaultInfo{Name: userAdmin}
	}
	return &audit.Act{User: by, Verb: strings.ToLower(r.Method), Path: audit.PathAdmin + strings.TrimPrefix(r.URL.Path, "/"), Agent: r.UserAgent()}
}

// askedIssuer is what a member asks this node as an issuer.
func (n *Node) askedIssuer(r *http.Request) *audit.Act {
	a := &audit.Act{Verb: strings.ToLower(r.Method), Path: audit.PathIssuer + strings.TrimPrefix(r.URL.Path, "/"), User: &user.DefaultInfo{Name: user.Anonymous}}
	if m, err := n.self.Asker(r); err == nil {
		a.User = nodeUser(m.Name)
	}
	return a
}

func nodeUser(name string) user.Info {
	return &user.DefaultInfo{Name: gossip.NodeUser(name), Groups: []string{user.NodesGroup, user.AllAuthenticated}}
}

// admission records that a machine asked to become a member.
func (n *Node) admission(ctx context.Context, a member.Admission) {
	by := &user.DefaultInfo{Name: user.Anonymous, Groups: []string{user.AllUnauthenticated}}
	if a.Token != "" && a.Code != http.StatusUnauthorized {
		by = &user.DefaultInfo{Name: "system:bootstrap:" + a.Token, Groups: []string{"system:bootstrappers"}}
	}
	act := &audit.Act{
		ID: types.UID(a.ID), Began: a.Began, User: by, Verb: "create", Path: audit.PathJoin, From: a.From,
		Notes: map[string]string{"node": a.Node, "node-id": a.NodeID, "address": a.Address, "by-way-of": a.ByWayOf, "token": a.Token},
	}
	if a.Refused == nil {
		act.Notes["issuer"] = strconv.FormatBool(a.Issuer)
	}
	_, end := n.audit.Begin(ctx, act)
	if a.Refused == nil {
		end(nil)
		return
	}
	end(&apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: int32(a.Code), Message: a.Refused.Error()}})
}

// written records what this node itself writes to an object past the API.
func (n *Node) written(ctx context.Context, verb string, key crdt.Key, uid types.UID) (context.Context, func(error)) {
	return n.api.Record(ctx, nodeUser(n.id.NodeName), verb, key, uid)
}

// controlled records what a controller writes past the API.
func (n *Node) controlled(ctx context.Context, account, verb string, key crdt.Key, uid types.UID) (context.Context, func(error)) {
	by := &user.DefaultInfo{Name: account, Groups: append(groupsOf(account), user.AllAuthenticated)}
	return n.api.Record(ctx, by, verb, key, uid)
}

// groupsOf are those of the user that a controller writes as.
func groupsOf(account string) []string {
	if namespace, _, err := serviceaccount.SplitUsername(account); err == nil {
		return serviceaccount.MakeGroupNames(namespace)
	}
	return nil
}

// restored records in a new data directory that a backup was restored there.
func restored(cfg Config, name string, alone bool) (err error) {
	cfg.Audit.Log = cfg.Log
	r, err := audit.New(cfg.Audit)
	if err != nil || r == nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	_, end := r.Begin(ctx, &audit.Act{
		User: administrator(os.Getuid(), os.Getpid()), Verb: "restore", Path: audit.PathAdmin + "v1/restore",
		Notes: map[string]string{"node": name, "alone": strconv.FormatBool(alone)},
	})
	end(nil)
	cancel() // what is to be sent is sent before it ends
	return <-ended
}
