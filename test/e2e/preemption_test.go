package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// replica is a ReplicaSet of one pod that takes some of an extended resource of n2.
func replica(class string, foo int) string {
	return fmt.Sprintf(`
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: %[1]s}
value: %[3]s
---
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: %[1]s}
spec:
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      priorityClassName: %[1]s
      terminationGracePeriodSeconds: 1
      nodeSelector: {kubernetes.io/hostname: n2}
      containers: [{name: c, image: "murmur.io/pause:1", resources: {requests: {example.com/foo: "%[2]d"}, limits: {example.com/foo: "%[2]d"}}}]
---
`, class, foo, strings.TrimPrefix(class, "p"))
}

// A pod that fits nowhere takes the place of as few and as unimportant ones as will do, once each; what comes again for them waits.
func TestPreemption(t *testing.T) {
	l := up(t, "e-prio", 2)
	foo := `{"example.com/foo":"1000"}`
	l.kubectl("n1", "patch", "node", "n2", "--subresource=status", "--type=merge", "-p", `{"status":{"capacity":`+foo+`,"allocatable":`+foo+`}}`)
	l.apply("n1", replica("p1", 200)+replica("p2", 300)+replica("p3", 450))
	first := map[string]string{} // pods by app
	for _, app := range []string{"p1", "p2", "p3"} {
		l.within(time.Minute, app+" is ready", l.wantReady("n1", app, 1, "n2"))
		pods, err := l.pods("n1", app)
		if err != nil {
			t.Fatal(err)
		}
		for name := range pods {
			first[app] = name
		}
	}
	l.apply("n1", replica("p4", 500))
	took := l.within(30*time.Second, "p4 has the room of p1 and p2", l.wantReady("n1", "p4", 1, "n2"))
	t.Logf("after %s", took)
	for app, why := range map[string]string{"p1": "No preemption victims found for incoming pod", "p2": "No preemption victims found for incoming pod"} {
		l.within(20*time.Second, "a new "+app+" waits, since "+why, func() error {
			pods, err := l.pods("n1", app)
			if err != nil || len(pods) != 1 || pods[first[app]] != nil {
				return fmt.Errorf("pods %v, first %s: %v", pods, first[app], err)
			}
			for _, p := range pods {
				for _, c := range p.Status.Conditions {
					if c.Type == corev1.PodScheduled && strings.Contains(c.Message, why) {
						return nil
					}
				}
				return fmt.Errorf("it says %v", p.Status.Conditions)
			}
			return nil
		})
	}
	if pods, err := l.pods("n1", "p3"); err != nil || len(pods) != 1 || pods[first["p3"]] == nil {
		t.Errorf("p3 was preempted too: %v %v", pods, err)
	}
	events := l.kubectl("n1", "get", "events", "--field-selector", "reason=Preempted", "-o", "jsonpath={.items[*].involvedObject.name}")
	for _, name := range []string{first["p1"], first["p2"]} {
		if strings.Count(events, name) != 1 {
			t.Errorf("%s was not preempted once: %s", name, events)
		}
	}
	if n := len(strings.Fields(events)); n != 2 {
		t.Errorf("%d pods were preempted: %s", n, events)
	}
}
