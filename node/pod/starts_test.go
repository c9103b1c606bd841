package pod

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// line is starts, and in which order those that wait for them have had their turn.
type line struct {
	starts
	turns []string
}

// stand waits for a turn, and holds it until the returned function is called.
func (l *line) stand(ctx context.Context, name string, begun bool) (leave func()) {
	ends := make(chan struct{})
	go func() {
		end := l.take(ctx, begun)
		if end == nil {
			name += " gave up"
		}
		l.mu.Lock()
		l.turns = append(l.turns, name)
		l.mu.Unlock()
		if end != nil {
			<-ends
			end()
			end() // counts once
		}
	}()
	synctest.Wait()
	return func() { close(ends); synctest.Wait() }
}

func (l *line) want(t *testing.T, names ...string) {
	t.Helper()
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.Equal(l.turns, names) {
		t.Errorf("turns %q, want %q", l.turns, names)
	}
}

func TestStarts(t *testing.T) {
	for name, f := range map[string]func(t *testing.T, l *line){
		"in order of arrival, containers first": func(t *testing.T, l *line) {
			a, b := l.stand(t.Context(), "a", false), l.stand(t.Context(), "b", false)
			c, d := l.stand(t.Context(), "c", false), l.stand(t.Context(), "d", false)
			e, f := l.stand(t.Context(), "e", true), l.stand(t.Context(), "f", true)
			l.want(t, "a", "b")
			b()
			l.want(t, "a", "b", "e")
			a()
			e()
			l.want(t, "a", "b", "e", "f", "c")
			f()
			l.want(t, "a", "b", "e", "f", "c", "d")
			c()
			d()
		},
		"one that is not wanted any more": func(t *testing.T, l *line) {
			ctx, cancel := context.WithCancel(t.Context())
			a, b := l.stand(t.Context(), "a", false), l.stand(t.Context(), "b", false)
			l.stand(ctx, "c", false)
			d := l.stand(t.Context(), "d", false)
			cancel()
			l.want(t, "a", "b", "c gave up")
			a()
			l.want(t, "a", "b", "c gave up", "d")
			b()
			d()
		},
		"one that is not wanted in the moment of its turn": func(t *testing.T, l *line) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			for range 100 { // either may be seen first
				if end := l.take(ctx, false); end != nil {
					end()
				}
			}
		},
		"one that hangs": func(t *testing.T, l *line) {
			a, b := l.stand(t.Context(), "a", false), l.stand(t.Context(), "b", false)
			c := l.stand(t.Context(), "c", false)
			time.Sleep(l.held - time.Nanosecond)
			l.want(t, "a", "b")
			time.Sleep(time.Nanosecond)
			l.want(t, "a", "b", "c")
			a()
			b()
			c()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &line{starts: starts{free: 2, held: startHeld}}
				f(t, l)
				if l.free != 2 || len(l.waiting) != 0 {
					t.Errorf("%d turns are free after all, want 2; %d wait", l.free, len(l.waiting))
				}
			})
		})
	}
}
