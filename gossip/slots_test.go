package gossip

import (
	"net/netip"
	"testing"
	"time"
)

// One that opens connections and says nothing takes its own places, not those of others, and never those of members.
func TestHandshakeSlots(t *testing.T) {
	var s slots
	at := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 42, 0, byte(i)}) }
	taken := map[netip.Addr]int{}
	for i := range 100 {
		for range 100 {
			if s.take(at(i), false) {
				taken[at(i)]++
			}
		}
		if taken[at(i)] > maxFromStranger {
			t.Fatalf("one address has %d places", taken[at(i)])
		}
	}
	if s.strangers != maxStrangerHandshakes || s.all != maxHandshakes-maxStrangerHandshakes {
		t.Errorf("strangers have %d of %d places", s.strangers, s.all)
	}
	member := netip.MustParseAddr("10.0.0.1")
	for i := range maxFromMember {
		if !s.take(member, true) {
			t.Fatalf("a member gets no place after %d", i)
		}
	}
	if s.take(member, true) {
		t.Error("a member has all places")
	}
	for a, n := range taken {
		for range n {
			s.release(a, false)
		}
	}
	for range maxFromMember {
		s.release(member, true)
	}
	if s.all != 0 || s.strangers != 0 || len(s.from) != 0 {
		t.Errorf("%d places are taken at the end, by %v", s.all, s.from)
	}
}

func TestRefusalsAreNotALogInThemselves(t *testing.T) {
	var n noise
	now, lines := time.Unix(1e9, 0), 0
	for range 1000 {
		if _, say := n.refused(now); say {
			lines++
		}
		now = now.Add(noiseEvery / 100)
	}
	if lines < 9 || lines > 11 {
		t.Errorf("a thousand refusals in ten times the pause are %d lines", lines)
	}
}
