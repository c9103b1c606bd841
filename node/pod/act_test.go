package pod

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestLingering: what is begun has some time when it is no longer wanted, and none that is not needed.
func TestLingering(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		whole, done := lingering(ctx)
		cancel()
		time.Sleep(linger - time.Millisecond)
		synctest.Wait()
		if whole.Err() != nil {
			t.Error("ended at once")
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		if whole.Err() == nil {
			t.Error("does not end")
		}
		done()

		ctx, cancel = context.WithCancel(t.Context())
		whole, done = lingering(ctx)
		cancel()
		synctest.Wait()
		done()
		if whole.Err() == nil {
			t.Error("outlives what it was for")
		}
	})
}
