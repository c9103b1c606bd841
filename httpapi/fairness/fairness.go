// Package fairness shares the requests that a node serves at once among those who ask: API priority and fairness, KEP-1040.
//
// Its one law: the FlowSchemas and PriorityLevelConfigurations that are served are those that act, by upstream's own
// controller and filter. One who asks without end waits in a queue of his own, and the others' requests pass by.
//
// Each node shares its own seats. The objects are the same on all nodes, and a change acts on each as soon as it is there.
//
// # What it does not do
//
// It makes no objects: what every cluster has is among the API's own (Objects). What the node's own parts ask in this
// process takes no seat; who passes it by is the caller's to say.
package fairness

import (
	"context"
	"net/http"
	"sync"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/server/filters"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/util/flowcontrol"
	fcrequest "k8s.io/apiserver/pkg/util/flowcontrol/request"
	"k8s.io/client-go/informers"
	flowcontrolclient "k8s.io/client-go/kubernetes/typed/flowcontrol/v1"
)

// Config is what sharing needs. All are required.
type Config struct {
	Informers informers.SharedInformerFactory
	Client    flowcontrolclient.FlowcontrolV1Interface
	// Seats is how many requests of usual size are served at once.
	Seats int
	// Patience is how long a request waits for a seat at most.
	Patience time.Duration
	// Count is how many objects a resource ("deployments.apps") has, and how large they are on average. It is false for
	// what is no resource here: anybody may ask for anything.
	Count func(resource string) (storage.Stats, bool)
}

// Fairness shares the seats.
type Fairness struct {
	flowcontrol.Interface
	cfg    Config
	counts counts
}

// New makes it, and starts nothing. Until Run has read the objects, upstream's mandatory ones act.
func New(cfg Config) *Fairness {
	f := &Fairness{Interface: flowcontrol.New(cfg.Informers, cfg.Client, cfg.Seats), cfg: cfg}
	f.counts.count = cfg.Count
	return f
}

// Run follows the objects until ctx ends.
func (f *Fairness) Run(ctx context.Context) error { return f.Interface.Run(ctx.Done()) }

// Filter gives each request a seat, or has it wait, or refuses it with 429 and the time after which to try again.
func (f *Fairness) Filter(longRunning request.LongRunningRequestCheck) func(http.Handler) http.Handler {
	estimate := fcrequest.NewWorkEstimator(f.counts.stats, f.GetInterestedWatchCount, fcrequest.DefaultWorkEstimatorConfig(), f.GetMaxSeats)
	return func(h http.Handler) http.Handler {
		return filters.WithPriorityAndFairness(h, longRunning, f.Interface, estimate, f.cfg.Patience)
	}
}

// countedFor is how long a count is good enough to tell a large list from a small one.
const countedFor = time.Minute

// counts remembers how many objects resources have.
type counts struct {
	count func(string) (storage.Stats, bool)

	mu sync.Mutex
	of map[string]counted
}

type counted struct {
	stats storage.Stats
	until time.Time
}

func (c *counts) stats(resource string) (storage.Stats, error) {
	now := time.Now()
	c.mu.Lock()
	have, ok := c.of[resource]
	c.mu.Unlock()
	if ok && now.Before(have.until) {
		return have.stats, nil
	}
	stats, there := c.count(resource)
	if !there {
		return storage.Stats{}, fcrequest.ObjectCountNotFoundErr
	}
	have = counted{stats, now.Add(countedFor)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of == nil {
		c.of = map[string]counted{}
	}
	c.of[resource] = have
	return have.stats, nil
}

// Objects are those that every cluster has: upstream's mandatory and suggested ones.
func Objects() []runtime.Object {
	var out []runtime.Object
	for _, all := range [][]*flowcontrolv1.PriorityLevelConfiguration{bootstrap.MandatoryPriorityLevelConfigurations, bootstrap.SuggestedPriorityLevelConfigurations} {
		for _, o := range all {
			o = o.DeepCopy()
			annotate(&o.ObjectMeta)
			out = append(out, o)
		}
	}
	for _, all := range [][]*flowcontrolv1.FlowSchema{bootstrap.MandatoryFlowSchemas, bootstrap.SuggestedFlowSchemas} {
		for _, o := range all {
			o = o.DeepCopy()
			annotate(&o.ObjectMeta)
			out = append(out, o)
		}
	}
	return out
}

func annotate(m *metav1.ObjectMeta) {
	m.Annotations = map[string]string{flowcontrolv1.AutoUpdateAnnotationKey: "true"}
}

// PriorityLevel is an object of these as it is to be written over one that is there; nil if it is to stay as it is. A suggested
// one is kept up to date while it says so, a mandatory one always; of the exempt one the limits are the administrator's.
func PriorityLevel(have, want *flowcontrolv1.PriorityLevelConfiguration) *flowcontrolv1.PriorityLevelConfiguration {
	if want.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt && have.Spec.Type == want.Spec.Type {
		return nil
	}
	if !follows(have.ObjectMeta, want.Name) || equality.Semantic.DeepEqual(have.Spec, want.Spec) {
		return nil
	}
	out := have.DeepCopy()
	out.Spec = want.Spec
	return out
}

// FlowSchema is PriorityLevel for FlowSchemas.
func FlowSchema(have, want *flowcontrolv1.FlowSchema) *flowcontrolv1.FlowSchema {
	if !follows(have.ObjectMeta, want.Name) || equality.Semantic.DeepEqual(have.Spec, want.Spec) {
		return nil
	}
	out := have.DeepCopy()
	out.Spec = want.Spec
	return out
}

// follows tells whether an object is to be as upstream has it: the mandatory ones, named alike in both kinds, are.
func follows(have metav1.ObjectMeta, name string) bool {
	return name == flowcontrolv1.PriorityLevelConfigurationNameExempt || name == flowcontrolv1.PriorityLevelConfigurationNameCatchAll ||
		have.Annotations[flowcontrolv1.AutoUpdateAnnotationKey] == "true"
}
