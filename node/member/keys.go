package member

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"time"
)

func newGossipKey() []byte {
	b := make([]byte, 32)
	_, _ = rand.Read(b)
	return b
}

// gossipName names a gossip key without telling it.
func gossipName(key []byte) string {
	sum := sha256.Sum256(append([]byte("murmur gossip key\x00"), key...))
	return hex.EncodeToString(sum[:8])
}

func newTokenKey(now time.Time) (tokenKey, error) {
	k, err := newKey()
	if err != nil {
		return tokenKey{}, err
	}
	b, err := encodeKey(k)
	return tokenKey{Key: b, Since: now.UTC()}, err
}

// possession is what a member signs with a key for ServiceAccount tokens, to show that the key is its own.
func possession(nodeID string, der []byte) []byte {
	sum := sha256.Sum256(slices.Concat([]byte("murmur token key\x00"), []byte(nodeID), []byte{0}, der))
	return sum[:]
}

// proveKey shows that a node holds a private key: public halves are there for all to copy.
func proveKey(encoded []byte, nodeID string) ([]byte, error) {
	key, err := decodeKey(encoded)
	if err != nil {
		return nil, fmt.Errorf("key for ServiceAccount tokens: %w", err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	return ecdsa.SignASN1(rand.Reader, key, possession(nodeID, der))
}

// proofs are those that this node has checked, by what they say. Checking one takes longer than all else that a look does with a statement.
type proofs map[string]bool

// maxProofs bounds how many are remembered.
const maxProofs = 4096

func (p *proofs) hold(nodeID string, der []byte, key *ecdsa.PublicKey, proof []byte) bool {
	if len(proof) == 0 || len(proof) > 128 {
		return false
	}
	name := string(slices.Concat([]byte(nodeID), []byte{0}, der, proof))
	holds, known := (*p)[name]
	if !known {
		holds = ecdsa.VerifyASN1(key, possession(nodeID, der), proof)
		if *p == nil || len(*p) >= maxProofs {
			*p = proofs{}
		}
		(*p)[name] = holds
	}
	return holds
}

// Ring is the gossip keys of a node: it writes with the first and reads all.
type Ring [][]byte

// ring is that of an identity.
func (id *Identity) ring() Ring { return append(Ring{id.Cluster.GossipKey}, id.GossipKeys...) }

func (r Ring) names() []string {
	out := make([]string, len(r))
	for i, k := range r {
		out[i] = gossipName(k)
	}
	return out
}

func (r Ring) has(key []byte) bool {
	return slices.ContainsFunc(r, func(k []byte) bool { return slices.Equal(k, key) })
}

// settleGossip is how long a new gossip key is only read, so that all who can hear of it can read it before it is written with.
const settleGossip = 10 * time.Second

// nextRing is the ring that follows from the keys that were published. The newest is written with once all live members say that
// they read it, or after a while; the others are dropped once every registered member writes with it and the overlap is over. Those before
// one that says that they were stolen are void after its overlap whoever has not come along, whatever was published since. live and
// registered are what members say, by node ID; nil for one that says nothing.
func nextRing(have Ring, keys []aboutGossipKey, live, registered map[string]*aboutMember, now time.Time) Ring {
	if len(keys) == 0 {
		return have
	}
	slices.SortFunc(keys, func(a, b aboutGossipKey) int {
		return cmp.Or(b.At.Compare(a.At), slices.Compare(b.Key, a.Key))
	})
	newest := keys[0]
	name := gossipName(newest.Key)
	reads, writes := true, true
	for _, m := range live {
		reads = reads && m != nil && slices.Contains(m.Gossip, name)
	}
	for _, m := range registered {
		writes = writes && m != nil && len(m.Gossip) > 0 && m.Gossip[0] == name
	}
	void := func(k []byte) bool {
		var at time.Time // one that nobody has published is older than all
		for _, g := range keys {
			if slices.Equal(g.Key, k) {
				at = g.At
			}
		}
		return slices.ContainsFunc(keys, func(g aboutGossipKey) bool {
			return g.Stolen && g.At.After(at) && !slices.Equal(g.Key, k) && now.Sub(g.At) > g.Overlap
		})
	}
	first := have[0]
	if reads || now.Sub(newest.At) > settleGossip {
		first = newest.Key
	} else if void(first) {
		// The newest is too new. The one before it is known as long as this node can know of it.
		for _, g := range keys[1:] {
			if !void(g.Key) {
				first = g.Key
				break
			}
		}
	}
	out := Ring{first}
	add := func(k []byte) {
		if !out.has(k) {
			out = append(out, k)
		}
	}
	add(newest.Key)
	if slices.Equal(first, newest.Key) && now.Sub(newest.At) > newest.Overlap && (writes || newest.Stolen) {
		return out
	}
	for _, k := range have {
		if !void(k) {
			add(k)
		}
	}
	for _, k := range keys[1:] {
		// One from before this node's time is no news to it.
		if !void(k.Key) && (have.has(k.Key) || now.Sub(k.At) < k.Overlap) {
			add(k.Key)
		}
	}
	return out
}

// settleTokens is how long a new key for ServiceAccount tokens is only published, so that who is to believe its tokens has it.
const settleTokens = 10 * time.Second

// nextTokenKeys makes a new key if a rotation was ordered since the newest was made, and drops those that a rotation replaced once
// its overlap is over. first has a node publish its key before it signs: see signing.
func nextTokenKeys(have []tokenKey, rotations []aboutRotation, now time.Time) ([]tokenKey, bool, error) {
	if len(rotations) == 0 {
		return have, false, nil
	}
	last := slices.MaxFunc(rotations, func(a, b aboutRotation) int { return a.At.Compare(b.At) })
	out := slices.Clone(have)
	changed := false
	if len(out) == 0 || out[0].Since.Before(last.At) {
		// Its time is the order's, if the clock here is behind: or it would be made anew for ever.
		made := now
		if made.Before(last.At) {
			made = last.At
		}
		k, err := newTokenKey(made)
		if err != nil {
			return have, false, err
		}
		out, changed = append([]tokenKey{k}, out...), true
	}
	if now.Sub(last.At) > last.Overlap {
		kept := slices.DeleteFunc(slices.Clone(out), func(k tokenKey) bool { return k.Since.Before(last.At) })
		if len(kept) != len(out) {
			out, changed = kept, true
		}
	}
	return out, changed, nil
}

// signing is the key to sign with: the newest, unless it is so new that others may not have it and there is another.
func signing(keys []tokenKey, now time.Time) tokenKey {
	if len(keys) > 1 && now.Sub(keys[0].Since) < settleTokens {
		return keys[1]
	}
	return keys[0]
}
