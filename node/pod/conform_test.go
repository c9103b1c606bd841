package pod_test

import (
	"testing"

	"murmur/node/pod/podtest"
)

func TestConform(t *testing.T) {
	dir := t.TempDir()
	podtest.Conform(t, podtest.New(t, podtest.NewFake(), podtest.Directories{Root: dir + "/pods"}, dir))
}
