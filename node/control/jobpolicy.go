package control

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// indexSet is a set of indexes of a Job, written "1,3-5,7".
type indexSet map[int]bool

// maxIndexes bounds what is read from a text: the API accepts no larger Job.
const maxIndexes = 100_000

func parseIndexes(text string) indexSet {
	out := indexSet{}
	for part := range strings.SplitSeq(text, ",") {
		first, last, span := strings.Cut(part, "-")
		from, err := strconv.Atoi(first)
		if err != nil || from < 0 {
			continue
		}
		to := from
		if span {
			if to, err = strconv.Atoi(last); err != nil {
				continue
			}
		}
		for i := from; i <= to && len(out) < maxIndexes; i++ {
			out[i] = true
		}
	}
	return out
}

func (s indexSet) String() string {
	numbers := make([]int, 0, len(s))
	for n := range s {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	var parts []string
	for i := 0; i < len(numbers); {
		j := i
		for j+1 < len(numbers) && numbers[j+1] == numbers[j]+1 {
			j++
		}
		switch j - i {
		case 0:
			parts = append(parts, strconv.Itoa(numbers[i]))
		case 1:
			parts = append(parts, strconv.Itoa(numbers[i]), strconv.Itoa(numbers[j]))
		default:
			parts = append(parts, fmt.Sprintf("%d-%d", numbers[i], numbers[j]))
		}
		i = j + 1
	}
	return strings.Join(parts, ",")
}

// successful reports whether a rule of a success policy is met by the indexes that are done.
func successful(rule batchv1.SuccessPolicyRule, done indexSet) bool {
	of := done
	total := -1
	if rule.SucceededIndexes != nil {
		wanted := parseIndexes(*rule.SucceededIndexes)
		of, total = indexSet{}, len(wanted)
		for n := range wanted {
			if done[n] {
				of[n] = true
			}
		}
		if total == 0 {
			return false
		}
	}
	return len(of) == total || rule.SucceededCount != nil && len(of) > 0 && len(of) >= int(*rule.SucceededCount)
}

// failureAction is what a Job's policy says to a failed pod: the first rule that fits. Without one the failure counts.
func failureAction(policy *batchv1.PodFailurePolicy, p *corev1.Pod) (batchv1.PodFailurePolicyAction, string) {
	if policy == nil {
		return batchv1.PodFailurePolicyActionCount, ""
	}
	for i, rule := range policy.Rules {
		switch {
		case rule.OnExitCodes != nil:
			for _, c := range slices.Concat(p.Status.ContainerStatuses, p.Status.InitContainerStatuses) {
				t := c.State.Terminated
				if t == nil || t.ExitCode == 0 || rule.OnExitCodes.ContainerName != nil && *rule.OnExitCodes.ContainerName != c.Name ||
					slices.Contains(rule.OnExitCodes.Values, t.ExitCode) != (rule.OnExitCodes.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn) {
					continue
				}
				return rule.Action, fmt.Sprintf("Container %s for pod %s/%s failed with exit code %v matching %v rule at index %d",
					c.Name, p.Namespace, p.Name, t.ExitCode, rule.Action, i)
			}
		default:
			for _, c := range p.Status.Conditions {
				for _, want := range rule.OnPodConditions {
					if c.Type == want.Type && c.Status == want.Status {
						return rule.Action, fmt.Sprintf("Pod %s/%s has condition %v matching %v rule at index %d", p.Namespace, p.Name, c.Type, rule.Action, i)
					}
				}
			}
		}
	}
	return batchv1.PodFailurePolicyActionCount, ""
}
