package gossip

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/semaphore"
)

// bomb is a delta that is small on the wire and large in memory.
func bomb(size int) []byte { return encoder.EncodeAll(make([]byte, size), nil) }

// What a peer's packets inflate to is nothing for the plane: a packet full of bombs costs it what is on the wire.
func TestThePlaneInflatesNothing(t *testing.T) {
	p := NewPlane(PlaneConfig{Self: "b", Held: newWords()})
	p.Connected(0, "rogue", time.Millisecond)
	p.Ready(0)
	var news []byte
	for i := range 200 {
		m := &message{encoding: encodingZstd, packed: bomb(maxInflated - 1000 - i)}
		news = m.append(news)
	}
	p.Received(time.Second, "rogue", appendFrame(beginPacket(), frameNews, news))
	r := p.Ready(time.Second)
	if len(r.Merges) != 200 {
		t.Fatalf("%d deltas to merge, want 200", len(r.Merges))
	}
	held := 0
	for _, m := range r.Merges {
		held += len(m.packed.bytes)
	}
	if held > len(news) {
		t.Errorf("%d bytes wait, of a packet of %d", held, len(news))
	}
}

func TestADeltaIsNoLongerThanItSays(t *testing.T) {
	small, large := bomb(1000), bomb(10<<20)
	for what, b := range map[string][]byte{"a second frame": append(bytes.Clone(small), large...), "cut off": large[:len(large)/2], "no frame": []byte("x"), "none": nil} {
		if delta, err := (packed{encodingZstd, b}).unpack(); err == nil && len(delta) > 0 || err != nil && !errors.Is(err, errFrame) {
			t.Errorf("%s: %d bytes, %v", what, len(delta), err)
		}
	}
	if _, err := (packed{7, small}).unpack(); !errors.Is(err, errFrame) {
		t.Errorf("an encoding that is none: %v", err)
	}
	for _, size := range []int{0, 1, 127, 128, 255, 256, 1000, 70000, 3 << 20} {
		b := bytes.Repeat([]byte("ab"), size)[:size]
		encoding, on := pack(b)
		p := packed{encoding, on}
		if got, err := p.unpack(); err != nil || !bytes.Equal(got, b) || p.size() != int64(size) && (size >= 256 || p.size() != unsized) {
			t.Errorf("%d bytes come back as %d, said to be %d: %v", size, len(got), p.size(), err)
		}
	}
}

// weighing is a State that counts the bytes which are with it at once.
type weighing struct {
	*words
	mu        sync.Mutex
	now, most int
	merged    int
}

func (w *weighing) Merge(_ context.Context, delta []byte) (int, bool, error) {
	w.mu.Lock()
	w.now += len(delta)
	w.most = max(w.most, w.now)
	w.mu.Unlock()
	time.Sleep(time.Millisecond) // so that others come, if they may
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now -= len(delta)
	w.merged++
	return 0, false, nil
}

func (w *weighing) News(ctx context.Context) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() }

func TestWhatASessionInflatesIsBounded(t *testing.T) {
	state := &weighing{words: newWords()}
	a := &Agent{config: Config{Name: "b", State: state}, log: slog.New(slog.DiscardHandler)}
	c := newCarrier(a, 1)
	s := &session{name: "rogue", merging: make(chan struct{}, maxMerging), inflated: semaphore.NewWeighted(maxInflated)}
	var todo []Merge
	for range 12 {
		todo = append(todo, Merge{Peer: "rogue", packed: packed{encodingZstd, bomb(20 << 20)}})
	}
	c.mergeAll(t.Context(), s, todo)
	if state.merged != len(todo) || state.most > maxInflated {
		t.Errorf("%d of %d were merged, up to %d MiB at once", state.merged, len(todo), state.most>>20)
	}
}
