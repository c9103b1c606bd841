package control

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestJob: what a Job does for the pods that can be seen.
//
//	decide completions=3 parallelism=2 now=20 [indexed] [limit=6] [per-index=1] [max-failed=1] [suspend] [deadline=60] [ttl=30]
//	       [fail-job-on=7] [of-container=c] [ignore-disruption]
//	       [succeed-on=0-1] [succeed-count=1] [replace-failed] [done=1 (counted before)]
//	node n1 | node n2 out=5
//	pod a slot=0 n1 [ready] [succeeded] [failed=CODE at=12] [failures=1] [disrupted] [deleting]
func TestJob(t *testing.T) {
	datadriven.RunTest(t, "testdata/job", func(t *testing.T, d *datadriven.TestData) string {
		one, start := int32(1), metav1.Time{Time: epoch}
		j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "job", Namespace: "default", UID: "job"}, Spec: batchv1.JobSpec{Parallelism: &one},
			Status: batchv1.JobStatus{StartTime: &start}}
		k := &work{job: j, nodes: map[string]sight{}, brake: Available, self: "n1", now: epoch, taken: func(string) bool { return false }}
		number := func(s string) *int32 { n := int32(atoi(t, s)); return &n }
		for _, a := range d.CmdArgs {
			v := ""
			if len(a.Vals) > 0 {
				v = a.Vals[0]
			}
			switch a.Key {
			case "completions":
				j.Spec.Completions = number(v)
			case "parallelism":
				j.Spec.Parallelism = number(v)
			case "now":
				k.now = second(atoi(t, v))
			case "indexed":
				mode := batchv1.IndexedCompletion
				j.Spec.CompletionMode = &mode
			case "limit":
				j.Spec.BackoffLimit = number(v)
			case "per-index":
				j.Spec.BackoffLimitPerIndex = number(v)
			case "max-failed":
				j.Spec.MaxFailedIndexes = number(v)
			case "suspend":
				yes := true
				j.Spec.Suspend = &yes
			case "deadline":
				n := int64(atoi(t, v))
				j.Spec.ActiveDeadlineSeconds = &n
			case "ttl":
				j.Spec.TTLSecondsAfterFinished = number(v)
			case "done":
				j.Status.Succeeded = *number(v)
			case "fail-job-on":
				j.Spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{Action: batchv1.PodFailurePolicyActionFailJob,
					OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{*number(v)}}}}}
			case "ignore-disruption":
				j.Spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{Action: batchv1.PodFailurePolicyActionIgnore,
					OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}}}}}
			case "succeed-on":
				j.Spec.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededIndexes: &v}}}
			case "succeed-count":
				j.Spec.SuccessPolicy.Rules[0].SucceededCount = number(v)
			case "of-container":
				j.Spec.PodFailurePolicy.Rules[0].OnExitCodes.ContainerName = &v
			case "replace-failed":
				only := batchv1.Failed
				j.Spec.PodReplacementPolicy = &only
			case "complete":
				j.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobComplete, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Time{Time: second(atoi(t, v))}}}
			default:
				t.Fatalf("argument %s", a.Key)
			}
		}
		for line := range strings.Lines(d.Input) {
			f := strings.Fields(line)
			options := map[string]string{}
			for _, o := range f[2:] {
				key, value, _ := strings.Cut(o, "=")
				options[key] = value
			}
			if f[0] == "node" {
				s := sight{reachable: true, ready: true, since: epoch.Add(-time.Hour)}
				if v, ok := options["out"]; ok {
					s.reachable, s.since = false, second(atoi(t, v))
				}
				k.nodes[f[1]] = s
				continue
			}
			node := ""
			if len(f) > 3 && !strings.Contains(f[3], "=") {
				node = f[3]
			}
			p := testPod(f[1], atoi(t, options["slot"]), node)
			annotate(p, batchv1.JobCompletionIndexAnnotation, options["slot"])
			if v, ok := options["failures"]; ok {
				annotate(p, batchv1.JobIndexFailureCountAnnotation, v)
				annotate(p, AttemptAnnotation, v)
			}
			if _, ok := options["ready"]; ok {
				setReady(p, true, epoch)
			}
			if _, ok := options["succeeded"]; ok {
				p.Status.Phase = corev1.PodSucceeded
			}
			if v, ok := options["failed"]; ok {
				p.Status.Phase = corev1.PodFailed
				p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
					ExitCode: *number(v), FinishedAt: metav1.Time{Time: second(atoi(t, options["at"]))}}}}}
			}
			if _, ok := options["disrupted"]; ok {
				p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue})
			}
			if _, ok := options["deleting"]; ok {
				p.DeletionTimestamp = &metav1.Time{Time: epoch}
			}
			k.pods = append(k.pods, p)
		}
		p, st := k.decide()
		var b strings.Builder
		b.WriteString(say(p))
		fmt.Fprintf(&b, "active=%d ready=%d succeeded=%d failed=%d terminating=%d", st.Active, *or(st.Ready), st.Succeeded, st.Failed, *or(st.Terminating))
		if st.CompletedIndexes != "" {
			fmt.Fprintf(&b, " completed=%s", st.CompletedIndexes)
		}
		if st.FailedIndexes != nil {
			fmt.Fprintf(&b, " failed=%q", *st.FailedIndexes)
		}
		b.WriteByte('\n')
		for _, c := range st.Conditions {
			fmt.Fprintf(&b, "%s=%s %s: %s\n", c.Type, c.Status, c.Reason, c.Message)
		}
		return b.String()
	})
}

func or(n *int32) *int32 {
	if n == nil {
		return new(int32)
	}
	return n
}

func TestIndexes(t *testing.T) {
	for _, text := range []string{"", "0", "0,1", "0-2", "1,3-5,7", "0,2,4"} {
		if got := parseIndexes(text).String(); got != text {
			t.Errorf("%q came back as %q", text, got)
		}
	}
	if got := parseIndexes("5,nonsense,1-,2-3").String(); got != "2,3,5" {
		t.Errorf("what can be read of it: %q", got)
	}
}

// TestSchedule: when a CronJob starts what, by policy.
func TestSchedule(t *testing.T) {
	made := epoch.Add(-30 * time.Second)
	minute := func(n int) time.Time { return epoch.Add(time.Duration(n) * time.Minute) }
	running := func(at time.Time) *batchv1.Job {
		return &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("c-%d", at.Unix()/60), UID: "j", CreationTimestamp: metav1.Time{Time: at}}}
	}
	deadline, one, zone := int64(10), int32(1), "Asia/Tokyo"
	ended := func(n int, how batchv1.JobConditionType) *batchv1.Job {
		j := running(minute(n))
		j.Status.Conditions = []batchv1.JobCondition{{Type: how, Status: corev1.ConditionTrue}}
		return j
	}
	for _, c := range []struct {
		what   string
		change func(*batchv1.CronJob)
		owned  []*batchv1.Job
		now    time.Time
		want   string
	}{
		{what: "not due yet", now: epoch.Add(-time.Second), want: "look again at 0\n"},
		{what: "due", now: minute(0).Add(time.Second), want: "create c-29453760\nlook again at 60\n"},
		{what: "started already", owned: []*batchv1.Job{running(minute(0))}, now: minute(0).Add(time.Second), want: "look again at 60\n"},
		{what: "only the last of many", now: minute(7), want: "create c-29453767\nlook again at 480\n"},
		{what: "after a long sleep", now: minute(100_000), want: "create c-29553760\nlook again at 6000060\n"},
		{what: "too late", change: func(c *batchv1.CronJob) { c.Spec.StartingDeadlineSeconds = &deadline }, now: minute(0).Add(30 * time.Second), want: "look again at 60\n"},
		{what: "suspended", change: func(c *batchv1.CronJob) { yes := true; c.Spec.Suspend = &yes }, now: minute(1), want: ""},
		{what: "forbidden beside another", change: func(c *batchv1.CronJob) { c.Spec.ConcurrencyPolicy = batchv1.ForbidConcurrent }, owned: []*batchv1.Job{running(minute(0))}, now: minute(1), want: "look again at 120\n"},
		{what: "instead of another", change: func(c *batchv1.CronJob) { c.Spec.ConcurrencyPolicy = batchv1.ReplaceConcurrent }, owned: []*batchv1.Job{running(minute(0))}, now: minute(1),
			want: "delete c-29453760\ncreate c-29453761\nlook again at 120\n"},
		{what: "the last that was good is kept", change: func(c *batchv1.CronJob) { c.Spec.SuccessfulJobsHistoryLimit = &one },
			owned: []*batchv1.Job{ended(-2, batchv1.JobComplete), ended(-1, batchv1.JobComplete), ended(-3, batchv1.JobFailed)}, now: epoch.Add(-time.Second),
			want: "delete c-29453758\nlook again at 0\n"},
		{what: "the last that was bad is kept", change: func(c *batchv1.CronJob) { c.Spec.FailedJobsHistoryLimit = &one },
			owned: []*batchv1.Job{ended(-2, batchv1.JobFailed), ended(-1, batchv1.JobFailed), ended(-3, batchv1.JobComplete)}, now: epoch.Add(-time.Second),
			want: "delete c-29453758\nlook again at 0\n"},
		{what: "in its zone", change: func(c *batchv1.CronJob) { c.Spec.TimeZone, c.Spec.Schedule = &zone, "0 9 * * *" }, now: minute(0).Add(time.Second),
			want: "create c-29453760\nlook again at 86400\n"},
	} {
		cj := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "default", CreationTimestamp: metav1.Time{Time: made}}, Spec: batchv1.CronJobSpec{Schedule: "* * * * *"}}
		if c.change != nil {
			c.change(cj)
		}
		p, _ := schedule(cj, c.owned, c.now)
		var b strings.Builder
		for _, w := range p.writes {
			fmt.Fprintf(&b, "%s %s\n", w.verb, w.name())
		}
		if !p.wake.IsZero() {
			fmt.Fprintf(&b, "look again at %s\n", seconds(p.wake))
		}
		if b.String() != c.want {
			t.Errorf("%s:\n%swant:\n%s", c.what, b.String(), c.want)
		}
	}
}
