package control

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	resourcehelpers "k8s.io/component-helpers/resource"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

// The constants of upstream's controller, at its defaults.
const (
	// tolerance is how far from 1 usage over target may be without anything being done.
	tolerance = 0.1
	// starting is how long after its start a pod's use of CPU is not believed while it is not ready, or was measured before it was.
	starting = 5 * time.Minute
	// neverReady is how soon after its start a pod must have last changed readiness to be one that has not been ready yet.
	neverReady = 30 * time.Second
	// scaleDownWindow is over which time the highest recommendation holds, unless behavior says otherwise.
	scaleDownWindow = 5 * time.Minute
	// Without behavior, one step up at most doubles, or leads to this many.
	scaleUpFactor, scaleUpLeast = 2, 4
)

// scaling is what one HorizontalPodAutoscaler is decided from.
type scaling struct {
	hpa *autoscalingv2.HorizontalPodAutoscaler
	// scale is its target's; if there is none, scaleErr says why.
	scale    *autoscalingv1.Scale
	scaleErr error
	// selectorErr is what is wrong with the scale's selector.
	selectorErr error
	// pods are those that the selector chooses, without those that are lost to this side and covered.
	pods []*corev1.Pod
	// rivals are the HPAs that choose any of them, this one among them, if there are others.
	rivals []string
	// usage is what the pods use; if it could not be asked for, usageErr says why.
	usage    []metricsv1beta1.PodMetrics
	usageErr error
	now      time.Time
}

// scaled is what was decided.
type scaled struct {
	status autoscalingv2.HorizontalPodAutoscalerStatus
	events []event
	// rescale means that the target is to have replicas, and why.
	rescale  bool
	replicas int32
	reason   string
}

// advised is how many replicas were recommended at a moment, before anything held it back.
type advised struct {
	replicas int32
	at       time.Time
}

// memory is what a controller of record remembers of an HPA between its decisions. It is not replicated: the next controller begins with
// the target's present replicas as its only recommendation, which holds for the window.
type memory struct {
	// due is when to decide again, unless the spec's generation is another than that of the last decision.
	due        time.Time
	generation int64
	advice     []advised
	// ups and downs are the rescales decided, by how many replicas; one that then failed counts too, which errs on the slow side.
	ups, downs []advised
}

func (s *scaled) condition(now time.Time, of autoscalingv2.HorizontalPodAutoscalerConditionType, status corev1.ConditionStatus, reason, message string) {
	i := slices.IndexFunc(s.status.Conditions, func(c autoscalingv2.HorizontalPodAutoscalerCondition) bool { return c.Type == of })
	if i < 0 {
		i = len(s.status.Conditions)
		s.status.Conditions = append(s.status.Conditions, autoscalingv2.HorizontalPodAutoscalerCondition{Type: of})
	}
	c := &s.status.Conditions[i]
	if c.Status != status {
		c.LastTransitionTime = metav1.NewTime(now)
	}
	c.Status, c.Reason, c.Message = status, reason, message
}

// decide says what becomes of an HPA and its target, and remembers it.
func (s *scaling) decide(m *memory) scaled {
	out := scaled{status: *s.hpa.Status.DeepCopy()}
	warn := func(reason, message string) {
		out.events = append(out.events, event{s.hpa, corev1.EventTypeWarning, reason, message})
	}
	if s.scaleErr != nil {
		warn("FailedGetScale", s.scaleErr.Error())
		out.condition(s.now, autoscalingv2.AbleToScale, corev1.ConditionFalse, "FailedGetScale",
			fmt.Sprintf("the HPA controller was unable to get the target's current scale: %v", s.scaleErr))
		return out
	}
	out.condition(s.now, autoscalingv2.AbleToScale, corev1.ConditionTrue, "SucceededGetScale", "the HPA controller was able to get the target's current scale")
	current := s.scale.Spec.Replicas
	if len(m.advice) == 0 {
		m.advice = []advised{{current, s.now}}
	}
	least, most := int32(1), s.hpa.Spec.MaxReplicas
	if s.hpa.Spec.MinReplicas != nil {
		least = *s.hpa.Spec.MinReplicas
	}
	desired := current
	var metrics []autoscalingv2.MetricStatus
	switch {
	case current == 0:
		out.condition(s.now, autoscalingv2.ScalingActive, corev1.ConditionFalse, "ScalingDisabled", "scaling is disabled since the replica count of the target is zero")
	case current > most:
		desired, out.reason = most, "Current number of replicas above Spec.MaxReplicas"
	case current < least:
		desired, out.reason = least, "Current number of replicas below Spec.MinReplicas"
	default:
		proposed, name, statuses, err := s.measure(&out, warn)
		metrics = statuses
		if err != nil {
			s.report(&out, current, s.hpa.Status.DesiredReplicas, metrics)
			warn("FailedComputeMetricsReplicas", err.Error())
			return out
		}
		switch {
		case proposed > current:
			out.reason = name + " above target"
		case proposed < current:
			out.reason = "All metrics below target"
		}
		desired = s.limit(&out, m, current, proposed, least, most)
	}
	out.rescale, out.replicas = desired != current, desired
	if out.rescale {
		out.condition(s.now, autoscalingv2.AbleToScale, corev1.ConditionTrue, "SucceededRescale",
			fmt.Sprintf("the HPA controller was able to update the target scale to %d", desired))
		out.condition(s.now, autoscalingv2.ScaledToZero, corev1.ConditionFalse, "NotScaledToZero", "the HPA controller did not scale the workload to zero")
		out.status.LastScaleTime = &metav1.Time{Time: s.now}
		if desired > current {
			m.ups = append(m.ups, advised{desired - current, s.now})
		} else {
			m.downs = append(m.downs, advised{current - desired, s.now})
		}
		m.forget(s.now)
	}
	s.report(&out, current, desired, metrics)
	return out
}

func (s *scaling) report(out *scaled, current, desired int32, metrics []autoscalingv2.MetricStatus) {
	out.status.CurrentReplicas, out.status.DesiredReplicas, out.status.CurrentMetrics = current, desired, metrics
	out.status.ObservedGeneration = &s.hpa.Generation
}

// measure proposes a number of replicas: the highest that any metric does. A metric that fails is left out, unless without it there would be
// fewer, or none is left.
func (s *scaling) measure(out *scaled, warn func(reason, message string)) (replicas int32, name string, statuses []autoscalingv2.MetricStatus, err error) {
	inactive := func(reason, message string) {
		out.condition(s.now, autoscalingv2.ScalingActive, corev1.ConditionFalse, reason, message)
	}
	switch {
	case s.scale.Status.Selector == "":
		warn("SelectorRequired", "selector is required")
		inactive("InvalidSelector", "the HPA target's scale is missing a selector")
		return 0, "", nil, errors.New("selector is required")
	case s.selectorErr != nil:
		err := fmt.Errorf("couldn't convert selector into a corresponding internal selector object: %w", s.selectorErr)
		warn("InvalidSelector", err.Error())
		inactive("InvalidSelector", err.Error())
		return 0, "", nil, err
	case len(s.rivals) > 1:
		err := fmt.Errorf("pods by selector %s are controlled by more than one HPA (e.g. %v)", s.scale.Status.Selector, s.rivals)
		warn("AmbiguousSelector", err.Error())
		inactive("AmbiguousSelector", err.Error())
		return 0, "", nil, err
	}
	specs := s.hpa.Spec.Metrics
	statuses = make([]autoscalingv2.MetricStatus, len(specs))
	var failed int
	var why, message string
	for i := range specs {
		n, metric, reason, e := s.metric(&specs[i], &statuses[i])
		if e != nil {
			warn(reason, e.Error())
			if failed++; failed == 1 {
				why, message = reason, fmt.Sprintf("the HPA was unable to compute the replica count: %v", e)
				err = fmt.Errorf("failed to get %s value: %w", called(&specs[i]), e)
			}
			continue
		}
		if replicas == 0 || n > replicas {
			replicas, name = n, metric
		}
	}
	if failed > 0 && (failed == len(specs) || replicas < s.scale.Spec.Replicas) {
		inactive(why, message)
		return 0, "", statuses, fmt.Errorf("invalid metrics (%d invalid out of %d), first error is: %w", failed, len(specs), err)
	}
	out.condition(s.now, autoscalingv2.ScalingActive, corev1.ConditionTrue, "ValidMetricFound",
		"the HPA was able to successfully calculate a replica count from "+name)
	return replicas, name, statuses, nil
}

// called is a metric's name in errors.
func called(spec *autoscalingv2.MetricSpec) string {
	switch {
	case spec.Resource != nil:
		return spec.Resource.Name.String() + " resource metric"
	case spec.ContainerResource != nil:
		return spec.ContainerResource.Container + " container metric"
	case spec.External != nil:
		return spec.External.Metric.Name + " external metric"
	case spec.Pods != nil:
		return "pods metric"
	}
	return "object metric"
}

// metric proposes a number of replicas by one metric; if it cannot, reason is the condition's.
func (s *scaling) metric(spec *autoscalingv2.MetricSpec, status *autoscalingv2.MetricStatus) (replicas int32, name, reason string, err error) {
	status.Type = spec.Type
	noSource := func(metric string) error {
		return fmt.Errorf("unable to get metric %s: nothing here serves custom or external metrics; Resource and ContainerResource metrics have a source", metric)
	}
	switch spec.Type {
	case autoscalingv2.ResourceMetricSourceType:
		r := spec.Resource
		n, current, name, err := s.resource(r.Name, "", r.Target)
		if err != nil {
			*status = autoscalingv2.MetricStatus{}
			return 0, "", "FailedGetResourceMetric", err
		}
		status.Resource = &autoscalingv2.ResourceMetricStatus{Name: r.Name, Current: current}
		return n, name, "", nil
	case autoscalingv2.ContainerResourceMetricSourceType:
		r := spec.ContainerResource
		n, current, name, err := s.resource(r.Name, r.Container, r.Target)
		if err != nil {
			*status = autoscalingv2.MetricStatus{}
			return 0, "", "FailedGetContainerResourceMetric", err
		}
		status.ContainerResource = &autoscalingv2.ContainerResourceMetricStatus{Name: r.Name, Container: r.Container, Current: current}
		return n, name, "", nil
	}
	*status = autoscalingv2.MetricStatus{}
	switch {
	case spec.Pods != nil:
		return 0, "", "FailedGetPodsMetric", noSource(spec.Pods.Metric.Name)
	case spec.Object != nil:
		return 0, "", "FailedGetObjectMetric", noSource(spec.Object.Metric.Name)
	case spec.External != nil:
		return 0, "", "FailedGetExternalMetric", noSource(spec.External.Metric.Name)
	}
	return 0, "", "InvalidMetricSourceType", fmt.Errorf("unknown metric source type %q", spec.Type)
}

// use is what one pod, or one container of it, uses of a resource, in thousandths.
type use struct {
	at     time.Time
	window time.Duration
	milli  int64
}

// uses are those of the pods that were measured, by name.
func (s *scaling) uses(of corev1.ResourceName, container string) map[string]use {
	out := map[string]use{}
	for i := range s.usage {
		p := &s.usage[i]
		if !slices.ContainsFunc(s.pods, func(q *corev1.Pod) bool { return q.Name == p.Name }) {
			continue
		}
		sum, all, some := int64(0), true, false
		for _, c := range p.Containers {
			if container != "" && c.Name != container {
				continue
			}
			q, ok := c.Usage[of]
			all, some = all && ok, true
			sum += q.MilliValue()
		}
		if all && some {
			out[p.Name] = use{p.Timestamp.Time, p.Window.Duration, sum}
		}
	}
	return out
}

// groups sorts the pods: counted are those whose measurement counts, unready and missing those of which there is none to go by. What
// does not count is taken out of uses.
func (s *scaling) groups(of corev1.ResourceName, uses map[string]use) (counted int, unready, missing []string) {
	for _, p := range s.pods {
		u, measured := uses[p.Name]
		switch {
		case p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodFailed:
			delete(uses, p.Name)
		case p.Status.Phase == corev1.PodPending || measured && of == corev1.ResourceCPU && s.unready(p, u):
			delete(uses, p.Name)
			unready = append(unready, p.Name)
		case !measured:
			missing = append(missing, p.Name)
		default:
			counted++
		}
	}
	return counted, unready, missing
}

// unready tells whether a pod's use of CPU says nothing, for it is not at its work yet.
func (s *scaling) unready(p *corev1.Pod, u use) bool {
	_, ready := podutil.GetPodCondition(&p.Status, corev1.PodReady)
	if ready == nil || p.Status.StartTime == nil {
		return true
	}
	if s.now.Before(p.Status.StartTime.Add(starting)) {
		return ready.Status == corev1.ConditionFalse || u.at.Before(ready.LastTransitionTime.Add(u.window))
	}
	return ready.Status == corev1.ConditionFalse && ready.LastTransitionTime.Time.Before(p.Status.StartTime.Add(neverReady))
}

// resource proposes a number of replicas by what the pods use of a resource. Pods that were not measured are taken to use nothing if
// there would be more replicas, and all they may if there would be fewer; and if that turns the matter round, nothing is done.
func (s *scaling) resource(of corev1.ResourceName, container string, target autoscalingv2.MetricTarget) (replicas int32, status autoscalingv2.MetricValueStatus, name string, err error) {
	what := "utilization"
	switch {
	case target.AverageValue != nil:
		what, name = "usage", fmt.Sprintf("%s resource", of)
	case target.AverageUtilization == nil:
		return 0, status, "", errors.New("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set")
	case container != "":
		name = fmt.Sprintf("%s container resource utilization (percentage of request)", of)
	default:
		name = fmt.Sprintf("%s resource utilization (percentage of request)", of)
	}
	fail := func(err error) (int32, autoscalingv2.MetricValueStatus, string, error) {
		return 0, autoscalingv2.MetricValueStatus{}, "", fmt.Errorf("failed to get %s %s: %w", of, what, err)
	}
	switch {
	case s.usageErr != nil:
		return fail(fmt.Errorf("unable to get metrics for resource %s: unable to fetch metrics from resource metrics API: %w", of, s.usageErr))
	case len(s.usage) == 0:
		return fail(fmt.Errorf("unable to get metrics for resource %s: no metrics returned from resource metrics API", of))
	case len(s.pods) == 0:
		return fail(errors.New("no pods returned by selector while calculating replica count"))
	}
	uses := s.uses(of, container)
	counted, unready, missing := s.groups(of, uses)
	if len(uses) == 0 {
		return fail(errors.New("did not receive metrics for targeted pods (pods might be unready)"))
	}
	// full is what a pod uses that uses all it may.
	full := func(string) int64 { return target.AverageValue.MilliValue() }
	ratio := func() (float64, autoscalingv2.MetricValueStatus, error) {
		mean := total(uses) / int64(len(uses))
		return float64(mean) / float64(target.AverageValue.MilliValue()), autoscalingv2.MetricValueStatus{AverageValue: quantity(of, mean)}, nil
	}
	if target.AverageValue == nil {
		wanted := *target.AverageUtilization
		requests, err := s.requests(of, container)
		if err != nil {
			return fail(err)
		}
		full = func(pod string) int64 { return requests[pod] * int64(max(100, wanted)) / 100 }
		ratio = func() (float64, autoscalingv2.MetricValueStatus, error) {
			var used, requested, n int64
			for pod, u := range uses {
				if r, ok := requests[pod]; ok {
					used, requested, n = used+u.milli, requested+r, n+1
				}
			}
			if requested == 0 {
				return 0, autoscalingv2.MetricValueStatus{}, errors.New("no metrics returned matched known pods")
			}
			percent := int32(used * 100 / requested)
			return float64(percent) / float64(wanted), autoscalingv2.MetricValueStatus{AverageUtilization: &percent, AverageValue: quantity(of, used/n)}, nil
		}
	}
	first, status, err := ratio()
	if err != nil {
		return fail(err)
	}
	current := s.scale.Spec.Replicas
	up := len(unready) > 0 && first > 1
	if !up && len(missing) == 0 {
		if s.tolerated(first) {
			return current, status, name, nil
		}
		return ceil(first * float64(counted)), status, name, nil
	}
	for _, pod := range missing {
		switch {
		case first < 1:
			uses[pod] = use{milli: full(pod)}
		case first > 1:
			uses[pod] = use{}
		}
	}
	if up {
		for _, pod := range unready {
			uses[pod] = use{}
		}
	}
	second, _, err := ratio()
	if err != nil {
		return fail(err)
	}
	if s.tolerated(second) || first < 1 && second > 1 || first > 1 && second < 1 {
		return current, status, name, nil
	}
	replicas = ceil(second * float64(len(uses)))
	if second < 1 && replicas > current || second > 1 && replicas < current {
		replicas = current
	}
	return replicas, status, name, nil
}

func total(uses map[string]use) (sum int64) {
	for _, u := range uses {
		sum += u.milli
	}
	return sum
}

func ceil(f float64) int32 { return int32(min(math.Ceil(f), math.MaxInt32)) }

// quantity is a mean as it is shown: memory in powers of two.
func quantity(of corev1.ResourceName, milli int64) *resource.Quantity {
	if of == corev1.ResourceMemory {
		return resource.NewMilliQuantity(milli, resource.BinarySI)
	}
	return resource.NewMilliQuantity(milli, resource.DecimalSI)
}

// tolerated tells whether usage over target is near enough to 1.
func (s *scaling) tolerated(ratio float64) bool {
	down, up := tolerance, tolerance
	if b := s.hpa.Spec.Behavior; b != nil {
		if b.ScaleDown != nil && b.ScaleDown.Tolerance != nil {
			down = b.ScaleDown.Tolerance.AsApproximateFloat64()
		}
		if b.ScaleUp != nil && b.ScaleUp.Tolerance != nil {
			up = b.ScaleUp.Tolerance.AsApproximateFloat64()
		}
	}
	return 1-down <= ratio && ratio <= 1+up
}

// requests are what the pods, or one container of each, request of a resource, in thousandths. Every one must.
func (s *scaling) requests(of corev1.ResourceName, container string) (map[string]int64, error) {
	out := map[string]int64{}
	for _, p := range s.pods {
		if container == "" && resourcehelpers.IsPodLevelRequestsSet(p) {
			q, ok := resourcehelpers.PodRequests(p, resourcehelpers.PodResourcesOptions{})[of]
			if !ok {
				return nil, fmt.Errorf("missing pod-level request for %s in Pod %s", of, p.Name)
			}
			out[p.Name] = q.MilliValue()
			continue
		}
		found := container == ""
		running := slices.Clone(p.Spec.Containers)
		for _, c := range p.Spec.InitContainers {
			if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
				running = append(running, c)
			}
		}
		for _, c := range running {
			if container != "" && c.Name != container {
				continue
			}
			q, ok := c.Resources.Requests[of]
			if !ok {
				return nil, fmt.Errorf("missing request for %s in container %s of Pod %s", of, c.Name, p.Name)
			}
			out[p.Name] += q.MilliValue()
			found = true
		}
		if !found {
			return nil, fmt.Errorf("container %s not found in Pod %s", container, p.Name)
		}
	}
	return out, nil
}

// limit holds a proposal to what was recommended before, to how fast the target may change, and to its bounds.
func (s *scaling) limit(out *scaled, m *memory, current, proposed, least, most int32) int32 {
	steady, reason, message := s.stabilize(m, current, proposed)
	if steady == proposed {
		reason, message = "ReadyForNewScale", "recommended size matches current size"
	}
	out.condition(s.now, autoscalingv2.AbleToScale, corev1.ConditionTrue, reason, message)
	low, high := least, most
	lowReason, lowMessage := "TooFewReplicas", "the desired replica count is less than the minimum replica count"
	highReason, highMessage := "TooManyReplicas", "the desired replica count is more than the maximum replica count"
	fastest, slowest := max(scaleUpFactor*current, scaleUpLeast), least
	if b := s.hpa.Spec.Behavior; b != nil {
		fastest, slowest = most, least
		if steady > current {
			fastest = max(current, s.pace(m, b.ScaleUp, current, +1))
		} else if steady < current {
			slowest = min(current, s.pace(m, b.ScaleDown, current, -1))
		}
	}
	if high > fastest {
		high, highReason, highMessage = fastest, "ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate"
	}
	if low < slowest {
		low, lowReason, lowMessage = slowest, "ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate"
	}
	switch {
	case steady < low:
		out.condition(s.now, autoscalingv2.ScalingLimited, corev1.ConditionTrue, lowReason, lowMessage)
		return low
	case steady > high:
		out.condition(s.now, autoscalingv2.ScalingLimited, corev1.ConditionTrue, highReason, highMessage)
		return high
	}
	out.condition(s.now, autoscalingv2.ScalingLimited, corev1.ConditionFalse, "DesiredWithinRange", "the desired count is within the acceptable range")
	return steady
}

// stabilize remembers a proposal, and gives the lowest and the highest of the windows their say.
func (s *scaling) stabilize(m *memory, current, proposed int32) (replicas int32, reason, message string) {
	up, down := time.Duration(0), scaleDownWindow
	if b := s.hpa.Spec.Behavior; b != nil {
		window := func(r *autoscalingv2.HPAScalingRules, d *time.Duration) {
			if r != nil && r.StabilizationWindowSeconds != nil {
				*d = time.Duration(*r.StabilizationWindowSeconds) * time.Second
			}
		}
		window(b.ScaleUp, &up)
		window(b.ScaleDown, &down)
	}
	lowest, highest := proposed, proposed
	var kept []advised
	for _, a := range m.advice {
		age := s.now.Sub(a.at)
		if age < up {
			lowest = min(lowest, a.replicas)
		}
		if age < down {
			highest = max(highest, a.replicas)
		}
		if age < max(up, down) {
			kept = append(kept, a)
		}
	}
	m.advice = append(kept, advised{proposed, s.now})
	replicas = min(max(current, lowest), highest)
	if s.hpa.Spec.Behavior == nil {
		replicas = highest
	} else if proposed >= current {
		return replicas, "ScaleUpStabilized", "recent recommendations were lower than current one, applying the lowest recent recommendation"
	}
	return replicas, "ScaleDownStabilized", "recent recommendations were higher than current one, applying the highest recent recommendation"
}

// pace is how far the policies let the target go now, in a direction.
func (s *scaling) pace(m *memory, rules *autoscalingv2.HPAScalingRules, current, direction int32) int32 {
	if rules == nil || len(rules.Policies) == 0 {
		if direction > 0 {
			return math.MaxInt32
		}
		return 0
	}
	choose := autoscalingv2.MaxChangePolicySelect
	if rules.SelectPolicy != nil {
		choose = *rules.SelectPolicy
	}
	if choose == autoscalingv2.DisabledPolicySelect {
		return current
	}
	var limits []int32
	for _, p := range rules.Policies {
		period := time.Duration(p.PeriodSeconds) * time.Second
		began := current - changed(m.ups, s.now, period) + changed(m.downs, s.now, period)
		share := float64(p.Value) / 100
		switch {
		case p.Type == autoscalingv2.PodsScalingPolicy:
			limits = append(limits, began+direction*p.Value)
		case direction > 0:
			limits = append(limits, ceil(float64(began)*(1+share)))
		default:
			limits = append(limits, int32(float64(began)*(1-share)))
		}
	}
	if (choose == autoscalingv2.MaxChangePolicySelect) == (direction > 0) {
		return slices.Max(limits)
	}
	return slices.Min(limits)
}

// longestPeriod is the longest that a policy may have, by the API.
const longestPeriod = 30 * time.Minute

func (m *memory) forget(now time.Time) {
	old := func(a advised) bool { return now.Sub(a.at) > longestPeriod }
	m.ups, m.downs = slices.DeleteFunc(m.ups, old), slices.DeleteFunc(m.downs, old)
}

// changed adds up the rescales of a period.
func changed(of []advised, now time.Time, period time.Duration) (sum int32) {
	for _, a := range of {
		if now.Sub(a.at) < period {
			sum += a.replicas
		}
	}
	return sum
}
