package node

import (
	"testing"
	"time"
)

func TestOnlyConstantPagesAreReleased(t *testing.T) {
	for line, want := range map[string]bool{
		"00400000-02a00000 r-xp 00000000 fe:00 123  /usr/bin/murmur":     true,
		"02a00000-05000000 r--p 02600000 fe:00 123  /usr/bin/murmur":     true,
		"05000000-05100000 rw-p 04c00000 fe:00 123  /usr/bin/murmur":     false,
		"05100000-05200000 rw-p 00000000 00:00 0":                        false,
		"7f00000000-7f00001000 r--p 00000000 fe:00 9  /usr/lib/other.so": false,
		"garbage": false,
		"05000000-04000000 r--p 04c00000 fe:00 123  /usr/bin/murmur":           false,
		"00400000-02a00000 r-xp 00000000 fe:00 123  /usr/bin/murmur (deleted)": true,
	} {
		if _, _, ok := constant(line, "/usr/bin/murmur"); ok != want {
			t.Errorf("%q: %v, want %v", line, ok, want)
		}
	}
	if err := giveBack(); err != nil {
		t.Error(err)
	}
	TestVotersAreAllWhoCouldHoldSomething(t) // the program still runs
}

func TestMemoryIsReleasedAtRestAfterWork(t *testing.T) {
	var c calm
	used := time.Duration(0)
	// What each look finds used, and whether that is the moment.
	for i, look := range []struct {
		more time.Duration
		want bool
	}{
		{3 * time.Second, false}, // starting
		{900 * time.Millisecond, false},
		{100 * time.Millisecond, false},
		{100 * time.Millisecond, false},
		{100 * time.Millisecond, true},
		{100 * time.Millisecond, false}, // once is enough
		{100 * time.Millisecond, false},
		{900 * time.Millisecond, false}, // too little to have left anything
		{10 * time.Millisecond, false},
		{10 * time.Millisecond, false},
		{10 * time.Millisecond, false},
		{8 * time.Second, false}, // work
		{10 * time.Millisecond, false},
		{700 * time.Millisecond, false}, // not over yet
		{10 * time.Millisecond, false},
		{10 * time.Millisecond, false},
		{10 * time.Millisecond, true},
	} {
		used += look.more
		if got := c.rests(used); got != look.want {
			t.Errorf("look %d, %v used: %v, want %v", i, used, got, look.want)
		}
	}
	for i := range 2 * calmAgain { // it rests
		used += 10 * time.Millisecond
		if got, want := c.rests(used), i%calmAgain == calmAgain-1; got != want {
			t.Errorf("look %d of a long rest: %v, want %v", i, got, want)
		}
	}
}

func TestHeapGrowsFurtherInAFlood(t *testing.T) {
	for _, c := range []struct {
		live, allocated uint64
		want            int
	}{
		{40 << 20, 1 << 20, resting},
		{40 << 20, 4 << 20, working},
		{40 << 20, 100 << 20, 120},
		{90 << 20, 100 << 20, 53},
		{400 << 20, 100 << 20, working},
		{0, 100 << 20, 4800},
	} {
		if got := growth(c.live, c.allocated); got != c.want {
			t.Errorf("%d MB live, %d MB a second: %d percent, want %d", c.live>>20, c.allocated>>20, got, c.want)
		}
	}
}
