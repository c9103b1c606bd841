package node

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

// bootstrap makes what every cluster has, and tries until it is there. What a daemon writes for itself never ends it: the
// API serves first, /readyz and status say what is missing.
type bootstrap struct {
	// ensure makes all of it; what is there already is nothing to do.
	ensure func(context.Context) error
	log    *slog.Logger
	// tried is closed when the first attempt is over.
	tried chan struct{}

	mu  sync.Mutex
	err error
}

const (
	// bootstrapLimit bounds one attempt.
	bootstrapLimit = 30 * time.Second
	// bootstrapPause is the pause after the first attempt that failed; each is twice the last, up to bootstrapMaxPause.
	bootstrapPause    = time.Second
	bootstrapMaxPause = time.Minute
	// bootstrapPatience is how long other parts wait for the first attempt.
	bootstrapPatience = 5 * time.Second
)

func newBootstrap(ensure func(context.Context) error, log *slog.Logger) *bootstrap {
	return &bootstrap{ensure: ensure, log: log, tried: make(chan struct{})}
}

// Run returns when everything is there.
func (b *bootstrap) Run(ctx context.Context) error {
	for pause := bootstrapPause; ; pause = min(2*pause, bootstrapMaxPause) {
		err := b.attempt(ctx)
		if err == nil || ctx.Err() != nil {
			return nil
		}
		b.log.Error("the cluster's own objects could not all be made", "err", err, "again in", pause)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

func (b *bootstrap) attempt(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, bootstrapLimit)
	defer cancel()
	err := b.ensure(ctx)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
	select {
	case <-b.tried:
	default:
		close(b.tried)
	}
	return err
}

// wait waits for the first attempt, within reason.
func (b *bootstrap) wait(ctx context.Context) {
	timer := time.NewTimer(bootstrapPatience)
	defer timer.Stop()
	select {
	case <-b.tried:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// errUntried is what is missing before the first attempt has ended.
var errUntried = errors.New("the cluster's own objects have not been looked at yet")

// missing is why something is not there yet; nil if everything is.
func (b *bootstrap) missing() error {
	select {
	case <-b.tried:
	default:
		return errUntried
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}
