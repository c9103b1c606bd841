package pod_test

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"murmur/node/pod"
	"murmur/node/pod/podtest"
)

func TestConform(t *testing.T) {
	dir := t.TempDir()
	fake := podtest.NewFake()
	podtest.Conform(t, podtest.New(t, fake, podtest.Directories{Root: dir + "/pods"}, dir), fake.Cgroup, stored(fake))
}

func stored(f *podtest.Fake) func(*testing.T, string) []string {
	return func(_ *testing.T, text string) []string {
		if strings.Contains(f.Stored(), text) {
			return []string{"a spec"}
		}
		return nil
	}
}

// TestConformWhereAllIsThere is the same on a machine that lacks nothing.
func TestConformWhereAllIsThere(t *testing.T) {
	dir := t.TempDir()
	fake := podtest.NewFake()
	fake.Can = pod.Features{UserNamespacesHostNetwork: true, StrictGroups: true, RecursiveReadOnly: true}
	podtest.Conform(t, podtest.New(t, fake, podtest.Directories{Root: dir + "/pods"}, dir), fake.Cgroup, stored(fake))
}

// TestRebootedOntoLess: a pod that ran before its machine started anew is not run again with less than it asks for, one that asks for nothing is.
func TestRebootedOntoLess(t *testing.T) {
	dir := t.TempDir()
	fake := podtest.NewFake()
	fake.Can.AppArmor = nil
	w := podtest.New(t, fake, podtest.Directories{Root: dir + "/pods"}, dir)
	confined, plain := podtest.Pod("confined", "sleep", "1000"), podtest.Pod("plain", "sleep", "1000")
	confined.Spec.SecurityContext = &corev1.PodSecurityContext{AppArmorProfile: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}}
	for _, p := range []*corev1.Pod{confined, plain} {
		w.Create("pods", p)
		w.Until(p.Name, "ready", podtest.Ready)
	}
	w.Stop()
	sandboxes, containers, err := fake.List(context.Background(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range containers {
		if err := fake.RemoveContainer(context.Background(), c.ID); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range sandboxes {
		if err := fake.RemoveSandbox(context.Background(), s.ID); err != nil {
			t.Fatal(err)
		}
	}
	fake.Can.AppArmor = pod.ErrNotSupported
	w.Start()
	if p := w.Until("confined", "refused", podtest.Phase(corev1.PodFailed)); p.Status.Reason != "AppArmor" {
		t.Errorf("it failed for %s: %s", p.Status.Reason, p.Status.Message)
	}
	w.Until("plain", "run again", func(p *corev1.Pod) bool {
		_, containers, err := fake.List(context.Background(), p.UID)
		return err == nil && len(containers) > 0 && podtest.Ready(p)
	})
	if _, containers, err := fake.List(context.Background(), w.Get("confined").UID); err != nil || len(containers) > 0 {
		t.Errorf("%d containers of it run, %v", len(containers), err)
	}
}
