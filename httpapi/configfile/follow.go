package configfile

import (
	"bytes"
	"context"
	"log/slog"
	"time"
)

// FollowEvery is how often a file is looked at for changes.
const FollowEvery = 10 * time.Second

// Follow gives the file to take whenever it is another than it was, until ctx ends. One that cannot be read, or that take
// refuses, is logged once, and what was taken last stays.
func (f *File) Follow(ctx context.Context, every time.Duration, log *slog.Logger, take func(*File) error) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	have, wrong := f.Bytes, ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now, err := Read(f.Path)
		if err == nil && wrong == "" && bytes.Equal(now.Bytes, have) {
			continue
		}
		if err == nil {
			err = take(now)
		}
		switch {
		case err == nil:
			have, wrong = now.Bytes, ""
			log.Info("a configuration file was read again", "file", f.Path)
		case err.Error() != wrong:
			wrong = err.Error()
			log.Error("a configuration file that has changed is not taken; the old one stays", "file", f.Path, "err", err)
		}
	}
}
