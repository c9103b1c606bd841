package turn

import (
	"testing"
	"time"
)

// TestTurns: nodes come at times of their own within Max, each always at its own, and again after a while once they tried.
func TestTurns(t *testing.T) {
	now := time.Unix(1000, 0)
	seen := map[time.Time]bool{}
	for _, node := range []string{"a", "b", "c", "d"} {
		turns := New(node)
		at := turns.Of("x", now)
		if at.Before(now) || !at.Before(now.Add(Max)) {
			t.Errorf("the turn of %s is %v after now", node, at.Sub(now))
		}
		if later := turns.Of("x", now.Add(time.Minute)); later != at {
			t.Errorf("the turn of %s moved by %v", node, later.Sub(at))
		}
		if New(node).Of("x", now) != at {
			t.Errorf("the turn of %s is another the next time", node)
		}
		seen[at] = true
		if again := turns.Again("x", at); again != at.Add(Again) || turns.Of("x", at) != again {
			t.Errorf("%s looks again after %v", node, again.Sub(at))
		}
		turns.Keep(map[string]bool{"y": true})
		if turns.Of("x", now) != now.Add(at.Sub(now)) {
			t.Errorf("%s did not forget", node)
		}
	}
	if len(seen) < 3 {
		t.Errorf("four nodes have %d turns between them", len(seen))
	}
}

func TestSooner(t *testing.T) {
	a, b := time.Unix(1, 0), time.Unix(2, 0)
	for _, c := range []struct{ a, b, want time.Time }{{a, b, a}, {b, a, a}, {time.Time{}, b, b}} {
		if got := Sooner(c.a, c.b); got != c.want {
			t.Errorf("sooner of %v and %v is %v", c.a, c.b, got)
		}
	}
}
