package node

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/gossip"
	"murmur/sched"
)

// servicePeers is the service on the streams by which members ask each other what the CLI asks them. It is served only by
// those that have the cluster's state: that one answers at all says that it is past its barrier.
const servicePeers = "admin"

// maxQuestion bounds what another member may ask.
const maxQuestion = 16 << 20

// askLimit bounds a question to another member.
const askLimit = 3 * time.Second

func (n *Node) servePeers(ctx context.Context) error {
	mux := http.NewServeMux()
	// Who is behind is asked neither: it has only to learn.
	learns := func() error {
		if n.store.Behind() {
			return fmt.Errorf("the disk of %s has lost something, and it has yet to hear from another node what has happened since", n.id.NodeName)
		}
		return nil
	}
	mux.HandleFunc("GET /v1/vector", answered(func(*http.Request) (any, error) { return n.store.Vector(), learns() }))
	mux.HandleFunc("GET /v1/report", answered(func(*http.Request) (any, error) { return n.store.Report(), nil }))
	mux.HandleFunc("POST /v1/settle", answered(func(r *http.Request) (any, error) {
		var c store.Certainty
		if err := json.NewDecoder(io.LimitReader(r.Body, maxQuestion)).Decode(&c); err != nil {
			return nil, err
		}
		return struct{}{}, n.told(r.Context(), r.RemoteAddr, c)
	}))
	mux.HandleFunc("POST /v1/check", answered(func(r *http.Request) (any, error) {
		var msg []byte
		if err := json.NewDecoder(io.LimitReader(r.Body, maxQuestion)).Decode(&msg); err != nil {
			return nil, err
		}
		if err := learns(); err != nil {
			return nil, err
		}
		out, mended, err := n.store.Check(r.Context(), msg, false)
		if mended > 0 {
			n.log.Warn("a comparison of stores found differences that their vectors hid", "mended", mended)
		}
		return out, err
	}))
	mux.HandleFunc("GET /v1/explain", answered(func(r *http.Request) (any, error) {
		return n.explainHere(r.FormValue("namespace"), r.FormValue("name"))
	}))
	return serveHTTP(ctx, n.agent.Listen(servicePeers), mux)
}

// peer is a client of another member.
func (n *Node) peer(name string) *Admin {
	return over(func(ctx context.Context) (net.Conn, error) { return n.agent.Dial(ctx, name, servicePeers) })
}

// explain tells why a pod is where it is. The pod's arbiter alone has the bids, so it is asked if it can be.
func (n *Node) explain(ctx context.Context, namespace, name string) (any, error) {
	here, err := n.explainHere(namespace, name)
	if err != nil {
		return nil, err
	}
	arbiter, _, _ := strings.Cut(here.Arbiter, "/")
	if arbiter == "" || arbiter == n.id.NodeName {
		return here, nil
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	there, err := n.peer(arbiter).Explain(ctx, namespace, name)
	if err != nil {
		n.log.Debug("ask the arbiter to explain", "pod", namespace+"/"+name, "arbiter", arbiter, "err", err)
		return here, nil
	}
	return there, nil
}

func (n *Node) explainHere(namespace, name string) (sched.Explanation, error) {
	e, ok := n.sched.Explain(namespace, name)
	if !ok {
		return e, fmt.Errorf("there is no pod %s/%s, and this node does not remember one", namespace, name)
	}
	return e, nil
}

// Answer is whether a member answers.
type Answer struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	// Millis is how long its answer took.
	Millis float64 `json:"millis,omitempty"`
	// Problem says why there was none.
	Problem string `json:"problem,omitempty"`
}

// reachability asks every other node for an answer, over the streams: the members that have not left, and the registered
// nodes that were never met.
func (n *Node) reachability(ctx context.Context) []Answer {
	found := map[string]Answer{}
	for _, o := range registered.Of(n.store.Snapshot()).nodes {
		found[o.name] = Answer{Name: o.name, Problem: "never met since this daemon started"}
	}
	for _, m := range n.agent.Members() {
		// A machine that was installed anew has an earlier member of the same name.
		if m.Status != gossip.Left && (found[m.Name].Address == "" || m.Status == gossip.Alive) {
			a := Answer{Name: m.Name, Address: m.Addr.String()}
			if m.Status != gossip.Alive {
				a.Problem = fmt.Sprintf("%s since %s", m.Status, m.Since.Format(time.RFC3339))
			}
			found[m.Name] = a
		}
	}
	delete(found, n.id.NodeName)
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	out := make([]Answer, 0, len(found))
	for _, a := range found {
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b Answer) int { return cmp.Compare(a.Name, b.Name) })
	var all sync.WaitGroup
	for i := range out {
		if a := &out[i]; a.Problem == "" {
			all.Go(func() {
				asked := time.Now()
				if _, err := n.peer(a.Name).vector(ctx); err != nil {
					a.Problem = err.Error()
					return
				}
				a.Millis = float64(time.Since(asked).Microseconds()) / 1000
			})
		}
	}
	all.Wait()
	return out
}

// Conflict is a field in which a concurrent write lost to another.
type Conflict struct {
	Object string `json:"object"`
	Field  string `json:"field"`
	Kept   Side   `json:"kept"`
	Lost   Side   `json:"lost"`
}

// Side is one of two concurrent writes.
type Side struct {
	Value any `json:"value"`
	// By is the node that wrote it, or the origin of its commits if no node of today has it.
	By string    `json:"by"`
	At time.Time `json:"at"`
}

// conflicts lists the latest losses, oldest first.
func (n *Node) conflicts() []Conflict {
	return conflicts(n.store.Status().Losses, registered.Of(n.store.Snapshot()).origins)
}

func conflicts(losses []crdt.Loss, nodes map[string][]string) []Conflict {
	side := func(value []byte, s crdt.Stamp) Side {
		by := s.Writer.String()
		if named := nodes[by]; len(named) > 0 {
			by = named[len(named)-1]
		}
		out := Side{By: by, At: s.Time().UTC()}
		if len(value) > 0 {
			out.Value = json.RawMessage(value)
		}
		return out
	}
	out := make([]Conflict, 0, len(losses))
	for _, l := range losses {
		out = append(out, Conflict{Object: l.Key.String(), Field: l.Field, Kept: side(l.Kept, l.KeptBy), Lost: side(l.Lost, l.LostBy)})
	}
	return out
}
