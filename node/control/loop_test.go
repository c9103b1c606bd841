package control

import (
	"testing"
	"time"
)

// TestBreath: who looks at everything waits longer the longer it took, and others do not.
func TestBreath(t *testing.T) {
	for _, c := range []struct{ pace, looked, want time.Duration }{
		{0, time.Second, gather},
		{50 * time.Millisecond, 0, 50 * time.Millisecond},
		{50 * time.Millisecond, 2 * time.Millisecond, 50 * time.Millisecond},
		{50 * time.Millisecond, 20 * time.Millisecond, 380 * time.Millisecond},
		{50 * time.Millisecond, time.Minute, maxBreath},
	} {
		if got := (&row{pace: c.pace}).breath(c.looked); got != c.want {
			t.Errorf("pace %s, a look of %s: waits %s, want %s", c.pace, c.looked, got, c.want)
		}
	}
}
