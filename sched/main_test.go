package sched

import (
	"testing"

	"go.uber.org/goleak"
)

// Run must leave nothing behind. Badger's and glog's own goroutines are theirs.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/golang/glog.(*fileSink).flushDaemon"),
		goleak.IgnoreAnyFunction("github.com/dgraph-io/ristretto/v2.(*defaultPolicy[...]).processItems"))
}
