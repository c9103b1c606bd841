package control

import (
	"testing"
	"time"
)

// TestLife: a certificate lives as long as its request's expirationSeconds say, within bounds.
func TestLife(t *testing.T) {
	for seconds, want := range map[int32]time.Duration{1: shortestLife, 7200: 2 * time.Hour, 1 << 30: longestLife} {
		if got := life(&seconds); got != want {
			t.Errorf("%d seconds: %v, want %v", seconds, got, want)
		}
	}
	if got := life(nil); got != longestLife {
		t.Errorf("no word on it: %v", got)
	}
}
