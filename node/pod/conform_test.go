package pod_test

import (
	"testing"

	"murmur/node/pod"
	"murmur/node/pod/podtest"
)

func TestConform(t *testing.T) {
	dir := t.TempDir()
	fake := podtest.NewFake()
	podtest.Conform(t, podtest.New(t, fake, podtest.Directories{Root: dir + "/pods"}, dir), fake.Cgroup)
}

// TestConformWhereAllIsThere is the same on a machine that lacks nothing.
func TestConformWhereAllIsThere(t *testing.T) {
	dir := t.TempDir()
	fake := podtest.NewFake()
	fake.Can = pod.Features{UserNamespacesHostNetwork: true, StrictGroups: true, RecursiveReadOnly: true}
	podtest.Conform(t, podtest.New(t, fake, podtest.Directories{Root: dir + "/pods"}, dir), fake.Cgroup)
}
