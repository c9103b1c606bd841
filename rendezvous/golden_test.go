package rendezvous

import "testing"

// TestGolden holds the values of every kind of key. Other versions of the daemon have them too, so they never change.
func TestGolden(t *testing.T) {
	names := [4]string{"", "n1", "n2", "edge-zürich-01.example.org"}
	for _, c := range []struct {
		what string
		key  Weigher
		want [4]uint64
	}{
		// Recorded from crdt/primary.
		{"a Deployment", NewKey("apps/deployments", "default", "web"), [4]uint64{0x8e1e6b41c3d582bd, 0xefb812b7d8af7c26, 0x6a73c21c914e7b4, 0xa46c5ca754bbed96}},
		{"a Node", NewKey("nodes", "", "n1"), [4]uint64{0xf1ac24f7f0d3d6e0, 0xfd7683bb0522b7d8, 0x7188e91c68cb9f37, 0xcadb3a7d1f2b898c}},
		{"a Lease", NewKey("coordination.k8s.io/leases", "kube-system", "lock"), [4]uint64{0x722db00dafda1214, 0x2d33d3f52a1c120d, 0xc2e6638cff358b3e, 0x1a35958211550876}},
		{"no name", NewKey("configmaps", "a", ""), [4]uint64{0xea2a15b65d3956a3, 0x3d358bbfbf56d10b, 0x6f30eef1198a696f, 0x1e4cc7cccd46c847}},
		{"nothing", NewKey("", "", ""), [4]uint64{0x4d33a93727192487, 0x5e71a7e0d34ff710, 0x2eab985d65c448a3, 0x2f3a63a735ae97a0}},
		{"beyond ASCII", NewKey("namespaces", "", "größe"), [4]uint64{0xa1b7e2ba433c5ec7, 0x9fa95eaea6d831a6, 0x2651ff5f15944263, 0x1f077dacd6f30118}},
		// Recorded from node/control.
		{"an owner", OwnerKey("3f0a9c1e-2b57-5d86-9a41-7c2e8f6d1b05"), [4]uint64{0x3cc76350c8520149, 0xfe5615d88b1a1dc7, 0xf917112c675bb09, 0xd5d8f5aaa7f6e519}},
		{"another", OwnerKey("3f0a9c1e-2b57-5d86-9a41-7c2e8f6d1b06"), [4]uint64{0x61043b53d1cfc6c7, 0x321ae9102ca346f4, 0x335bdce94a8615e0, 0x78959d1ba9e83bc9}},
		{"none", OwnerKey(""), [4]uint64{0x6e340b9cffb37a98, 0x1085a8a42bacb38, 0x5c6419276a36bc68, 0xb846369facec112d}},
		// Recorded from sched.
		{"a pod", PodKey("3f0a9c1e-2b57-5d86-9a41-7c2e8f6d1b05"), [4]uint64{0xf27074c0922a4c5b, 0xae1e41a8ac6a539a, 0xf557a028f48ceaff, 0x291888c7479f2495}},
		{"an arbiter", PodKey("n1"), [4]uint64{0x79c2ea99588251cf, 0x48d48f18f2f433e2, 0xc4cb0d8ceaf6007d, 0x71d6666cf1fc89be}},
		{"another arbiter", PodKey("edge-zürich-01.example.org"), [4]uint64{0x6386ba345b607143, 0x62906479f34f74b6, 0x82284c145b92d318, 0x9428ba443c0dbe12}},
		{"no pod", PodKey(""), [4]uint64{0x6a96a67b6095ffd6, 0x823c753dfb82a3e8, 0xe3562551887b6d35, 0x771f426f6be89b09}},
	} {
		for i, name := range names {
			if got := c.key.Weight(name); got != c.want[i] {
				t.Errorf("%s: %q weighs %#x, want %#x", c.what, name, got, c.want[i])
			}
		}
	}
	// Recorded from httpapi/allocator.
	for name, want := range map[string]uint64{"": 0xefd01f60ba992926, "default/web": 0x43ebfb5ca037b82, "kube-system/kube-dns": 0x75819fa2ddd33f6b} {
		if got := Draw(name); got != want {
			t.Errorf("by %q %#x is drawn, want %#x", name, got, want)
		}
	}
}
