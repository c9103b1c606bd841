package rendezvous

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// laws are checked for a kind of key, and for one whose weights are often equal.
func laws[W Weigher](newKey func(string) W) func(*rapid.T) {
	return func(t *rapid.T) {
		key := newKey(rapid.String().Draw(t, "key"))
		nodes := rapid.SliceOfDistinct(rapid.StringMatching(`[a-z0-9.-]{1,12}`), rapid.ID[string]).Draw(t, "nodes")
		ranked := Rank(key, nodes)

		// A total order of all nodes, whatever order they are listed in.
		if s := slices.Sorted(slices.Values(ranked)); !slices.Equal(s, slices.Sorted(slices.Values(nodes))) {
			t.Fatalf("%v ranked: %v", nodes, ranked)
		}
		if again := Rank(key, append(rapid.Permutation(nodes).Draw(t, "permutation"), append([]string{""}, nodes...)...)); !slices.Equal(again, ranked) {
			t.Fatalf("%v in another order, and twice: %v", ranked, again)
		}
		for i, a := range ranked {
			for j, b := range ranked {
				if Outranks(key, a, b) != (i < j) {
					t.Fatalf("%v: %s outranks %s: %v", ranked, a, b, i >= j)
				}
			}
		}

		// The first and the second are those of the order.
		at := func(list []string, i int) string {
			if i < len(list) {
				return list[i]
			}
			return ""
		}
		doubled := rapid.Permutation(append(append([]string{""}, nodes...), nodes...)).Draw(t, "doubled")
		first, second := FirstTwo(key, doubled)
		if first != at(ranked, 0) || second != at(ranked, 1) || First(key, doubled) != first {
			t.Fatalf("%v: first %s, second %s of %v", ranked, first, second, doubled)
		}

		// Without one node the others are ranked as before: so only what it was first for moves, and to the second.
		for i, gone := range ranked {
			left := slices.Delete(slices.Clone(ranked), i, i+1)
			if got := Rank(key, left); !slices.Equal(got, left) {
				t.Fatalf("%v without %s: %v", ranked, gone, got)
			}
		}
	}
}

// coarse weighs in two weights, so that names decide.
type coarse string

func (c coarse) Weight(node string) uint64 { return NewKey(string(c)).Weight(node) & 1 }

func TestOrder(t *testing.T) {
	t.Run("Key", rapid.MakeCheck(laws(func(s string) Key { return NewKey(s) })))
	t.Run("OwnerKey", rapid.MakeCheck(laws(func(s string) OwnerKey { return OwnerKey(s) })))
	t.Run("PodKey", rapid.MakeCheck(laws(func(s string) PodKey { return PodKey(s) })))
	t.Run("ties", rapid.MakeCheck(laws(func(s string) coarse { return coarse(s) })))
}

// TestSpread: names that differ in one character are first for about as many keys as any other.
func TestSpread(t *testing.T) {
	const keys = 20_000
	for _, names := range [][]string{
		{"n1", "n2", "n3", "n4", "n5"},
		{"edge-berlin-001.example.org", "edge-berlin-002.example.org", "edge-berlin-003.example.org"},
		{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s", "t"},
	} {
		for _, kind := range []struct {
			name  string
			first func(i int) (string, string)
		}{
			{"Key", func(i int) (string, string) {
				return FirstTwo(NewKey("configmaps", "default", fmt.Sprint("cm", i)), names)
			}},
			{"OwnerKey", func(i int) (string, string) { return FirstTwo(OwnerKey(fmt.Sprint("uid-", i)), names) }},
			{"PodKey", func(i int) (string, string) { return FirstTwo(PodKey(fmt.Sprint("uid-", i)), names) }},
		} {
			firsts, seconds := map[string]int{}, map[string]int{}
			for i := range keys {
				a, b := kind.first(i)
				firsts[a]++
				seconds[b]++
			}
			// Five standard deviations; keys and names are the same each time.
			even := float64(keys) / float64(len(names))
			for _, n := range names {
				for place, got := range map[string]int{"first": firsts[n], "second": seconds[n]} {
					if d := float64(got) - even; d*d > 25*even {
						t.Errorf("%s: of %d nodes %s is %s for %d of %d keys", kind.name, len(names), n, place, got, keys)
					}
				}
			}
		}
	}
}

// TestKeysAreFNV: a key is what the standard library's FNV-1a says of its parts, each ended by a zero.
func TestKeysAreFNV(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		parts := rapid.SliceOf(rapid.String()).Draw(t, "parts")
		h := fnv.New64a()
		for _, p := range parts {
			_, _ = h.Write([]byte(p + "\x00"))
		}
		if got := NewKey(parts...); uint64(got) != h.Sum64() {
			t.Fatalf("%q: %#x, want %#x", parts, got, h.Sum64())
		}
	})
}

// TestWeighingAllocatesNothing: the primary of a key is asked for by every write, and the controller of record by every
// look at every owner.
func TestWeighingAllocatesNothing(t *testing.T) {
	nodes := []string{"n1", "n2", "n3", strings.Repeat("x", 63)}
	uid := "3f0a9c1e-2b57-5d86-9a41-7c2e8f6d1b05"
	for name, f := range map[string]func(){
		"Key":      func() { FirstTwo(NewKey("configmaps", "default", uid), nodes) },
		"OwnerKey": func() { First(OwnerKey(uid), nodes) },
		"PodKey":   func() { Outranks(PodKey(uid), nodes[0], nodes[1]) },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
