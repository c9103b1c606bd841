package gossip

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
	"time"
)

// said makes a packet of what a peer says: hexadecimal, with X for the id of the exchange that is under way.
func said(t *testing.T, id []byte, frames ...string) []byte {
	t.Helper()
	b, err := hex.DecodeString("01" + strings.ReplaceAll(strings.ReplaceAll(strings.Join(frames, ""), "X", hex.EncodeToString(id)), " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestFormats plays a peer of packet format 1 from what such a peer wrote, and looks at what comes of each frame. There are daemons that
// write this: whoever has to change a line of it adds a kind of frame or a format instead, and keeps reading these.
func TestFormats(t *testing.T) {
	now := time.Second
	w := newWords()
	p := NewPlane(PlaneConfig{Self: "b", Held: w, CheckEvery: time.Hour})
	p.Connected(0, "a", time.Millisecond)
	p.Ready(0)
	p.Sent(0, "a")
	q := p.byName["a"]
	// hear takes in a packet and gives what is to be done then.
	hear := func(id []byte, frames ...string) Ready {
		t.Helper()
		now += 100 * time.Millisecond // so that nothing waits for more
		p.Received(now, "a", said(t, id, frames...))
		r := p.Ready(now)
		p.Sent(now, "a")
		if c := p.Counters(); c.Unknown != 0 || c.Refused != 0 {
			t.Fatalf("%v: %+v", frames, c)
		}
		return r
	}
	// answer is the first frame that is sent.
	answer := func(r Ready) (frameKind, []byte) {
		t.Helper()
		if len(r.Send) != 1 {
			t.Fatalf("%d packets are sent", len(r.Send))
		}
		f := &frameReader{b: r.Send[0].Packet}
		if f.byte() != packetFormat {
			t.Fatalf("a packet of another format: %x", r.Send[0].Packet)
		}
		return frameKind(f.byte()), f.bytes()
	}
	deltas := func(r Ready) (all []string) {
		for _, m := range r.Merges {
			all = append(all, string(unpacked(m)))
			p.Merged(now, m.ID, 1, false, nil)
		}
		p.Ready(now)
		return all
	}

	// News, one as it is and one compressed; that another's are announced, and are asked for.
	if got := deltas(hear(nil, "01 19", "10 00 04 776f7264", "11 00 0f", "28b52ffd 20 06 310000 68656172 6421")); len(got) != 2 || got[0] != "word" || got[1] != "heard!" {
		t.Errorf("news: %q", got)
	}
	hear(nil, "02 08", "0102030405060708")
	if len(p.missing) != 1 {
		t.Errorf("%d ids are known to be missing", len(p.missing))
	}
	mine := newMessage([]byte("mine"), true)
	p.cache.add(now, mine)
	id := hex.EncodeToString(appendUint64s(nil, []uint64{mine.id}))
	for _, kind := range []string{"03", "0f"} { // graft, fetch
		if k, body := answer(hear(nil, kind+"08", id)); k != frameNews || !bytes.HasSuffix(body, []byte("mine")) {
			t.Errorf("asked for a message by %s: frame %d, %q", kind, k, body)
		}
	}
	// The tree's.
	hear(nil, "07 10", "0000000000000009", "0000000000000003")
	if len(q.reach) != 2 || q.reach[0] != 3 {
		t.Errorf("reach: %v", q.reach)
	}
	hear(nil, "10 11", "0000000000000005", "00000006", "00000007", "01")
	if q.place == nil || *q.place != (place{root: 5, number: 6, cost: 7}) || !q.child {
		t.Errorf("place: %+v, next on its way: %v", q.place, q.child)
	}
	// Whose way to the root leads through here is not pruned.
	if hear(nil, "10 11", "0000000000000005", "00000006", "00000007", "00"); q.child {
		t.Error("the peer's way still leads through here")
	}
	for _, f := range []struct {
		frame string
		want  linkState
	}{{"05 00", linkEager}, {"04 00", linkLazy}, {"06 00", linkNone}, {"05 00", linkEager}, {"06 01 01", linkNone}} { // link, prune, unlink; refuse
		if hear(nil, f.frame); q.link != f.want {
			t.Errorf("after %s the link is %q, want %q", f.frame, q.link, f.want)
		}
	}

	// An exchange that it asks for, and one that it is asked for.
	theirs := appendUint64s(nil, []uint64{77})
	if k, body := answer(hear(theirs, "08 19", "X", "00", strings.Repeat("ab", 16))); k != frameVector || !bytes.HasPrefix(body, append(theirs, 1)) {
		t.Errorf("asked for an exchange: frame %d, %x", k, body)
	}
	if r := hear(theirs, "0b 0d", "X", "00", hex.EncodeToString([]byte("word"))); len(r.Transfers) != 1 || r.Transfers[0].Exchange != 77 {
		t.Errorf("told what it holds: %+v", r.Transfers)
	}
	p.Transferred(now, "a", 77, nil)
	if got := deltas(hear(theirs, "0c 10", "X", "00", "00", "01", "00", "70617274")); len(got) != 1 || got[0] != "part" {
		t.Errorf("a part: %q", got)
	}
	hear(theirs, "0d 0a", "X", "00", "01")
	if q.answered != nil {
		t.Error("the exchange goes on after its end")
	}
	for kind, fails := range map[string]bool{"09": false, "0a": true} { // same, busy
		p.Sync(now, "a", 5)
		k, body := answer(p.Ready(now))
		p.Sent(now, "a")
		if k != frameAsk || len(body) != 25 {
			t.Fatalf("asks by frame %d, %x", k, body)
		}
		if r := hear(body[:8], kind+"08", "X"); len(r.Synced) != 1 || r.Synced[0].ID != 5 || (r.Synced[0].Err != nil) != fails {
			t.Errorf("answered by %s: %+v", kind, r.Synced)
		}
	}
	if r := hear(nil, "0e 03", "616263"); len(r.Checks) != 1 || string(r.Checks[0].Message) != "abc" {
		t.Errorf("the stores' own: %+v", r.Checks)
	}
}

// unpacked is a delta of this process's own, which unpacks.
func unpacked(m Merge) []byte {
	delta, err := m.Unpack()
	if err != nil {
		panic(err)
	}
	return delta
}
