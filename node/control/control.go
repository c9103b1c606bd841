package control

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"murmur/crdt"
	"murmur/crdt/store"
)

// API writes as one user, with that user's permissions and with defaulting, admission and validation. Objects come
// back as stored. Errors are upstream's Status errors.
type API interface {
	Create(ctx context.Context, obj runtime.Object) (runtime.Object, error)
	// Cover creates a pod that stands in for one out of sight, whether or not the cluster's webhooks can be called.
	Cover(ctx context.Context, pod *corev1.Pod) (runtime.Object, error)
	Update(ctx context.Context, obj runtime.Object) (runtime.Object, error)
	UpdateStatus(ctx context.Context, obj runtime.Object) (runtime.Object, error)
	Delete(ctx context.Context, key crdt.Key, opts metav1.DeleteOptions) error
	Finalize(ctx context.Context, namespace *corev1.Namespace) (*corev1.Namespace, error)
	// Scale and UpdateScale are about the scale of what a reference in a namespace names: a kind that has one, defined ones among them.
	Scale(ctx context.Context, namespace string, of autoscalingv2.CrossVersionObjectReference) (*autoscalingv1.Scale, error)
	UpdateScale(ctx context.Context, namespace string, of autoscalingv2.CrossVersionObjectReference, scale *autoscalingv1.Scale) error
	// PodUsage is what pods use, those of nodes in sight. It may take seconds.
	PodUsage(ctx context.Context, namespace string, pods labels.Selector) ([]metricsv1beta1.PodMetrics, error)
}

// View is which nodes this node can reach.
type View interface {
	// Alive lists the registered nodes that can be reached, this one included.
	Alive() []string
	// Changed is closed when Alive may have changed; ask again for the next change.
	Changed() <-chan struct{}
}

// Brake says what a node does when more than half of the nodes vanish at once: it is likelier that it is cut off
// itself than that all of them died.
type Brake string

const (
	// Available covers lost pods all the same, after four times as long.
	Available Brake = "available"
	// Careful covers nothing until half of the nodes or more are in sight again. Two nodes are not affected: the one that
	// is left is half.
	Careful Brake = "careful"
)

// Config is what controllers are made from.
type Config struct {
	Store *store.Store
	// Node is this node's name.
	Node string
	View View
	// API gives the client of a user: a ServiceAccount of kube-system, or upstream's controller manager itself.
	API func(user string) API
	// Record records in the audit log what a user is about to write past the API; the function that it returns is called with the outcome.
	// Nil: nothing is recorded.
	Record func(ctx context.Context, user, verb string, key crdt.Key, uid types.UID) (context.Context, func(error))
	// Recorder writes events; nil means none.
	Recorder record.EventRecorder
	// CACert is the PEM bundle that pods verify the API with, as it is now; who changes it calls Poke. It changes with the documents of murmur.io/authorities and
	// murmur.io/members.
	CACert func() []byte
	// Resources lists what is stored, as in crdt.Key.Resource. Namespaces are emptied of, and owners are looked for
	// among, these.
	Resources []string
	// Usage counts for resource quotas; nil: their usage is not kept.
	Usage Usage
	// Numbers gives out cluster addresses and node ports; nil: what two Services have stays so.
	Numbers Numbers
	// Signer signs certificate signing requests; nil: nobody does.
	Signer Signer
	// Tokens makes tokens for Secrets, on nodes that Signer names; nil: nobody does.
	Tokens Tokens
	// Brake is Available if empty.
	Brake Brake
	// Settle is how long a node must have been in sight before the readiness of its pods is believed enough to withdraw
	// others for it; 0 means 2 s. A node that comes back from a crash shows its pods as they were until its kubelet has
	// looked.
	Settle time.Duration
	// TerminatedPods is how many finished pods are kept; 0 means 12500.
	TerminatedPods int
	Log            *slog.Logger
}

// Controllers are all controllers of one node. See the package comment.
type Controllers struct {
	cfg  Config
	rows []row
	poke chan struct{}

	// mu guards since and share.
	mu sync.Mutex
	// since is when a node in sight came in sight.
	since map[string]time.Time
	// share is that of the nodes in sight.
	share *share
}

// New makes the controllers. It starts nothing.
func New(cfg Config) (*Controllers, error) {
	if cfg.Store == nil || cfg.Node == "" || cfg.View == nil || cfg.API == nil {
		return nil, errors.New("control: Store, Node, View and API are required")
	}
	switch cfg.Brake {
	case "":
		cfg.Brake = Available
	case Available, Careful:
	default:
		return nil, errors.New("control: the brake is " + string(Available) + " or " + string(Careful) + ", not " + string(cfg.Brake))
	}
	if cfg.Settle == 0 {
		cfg.Settle = 2 * time.Second
	}
	if cfg.TerminatedPods == 0 {
		cfg.TerminatedPods = 12500
	}
	if cfg.Record == nil {
		cfg.Record = func(ctx context.Context, _, _ string, _ crdt.Key, _ types.UID) (context.Context, func(error)) {
			return ctx, func(error) {}
		}
	}
	if cfg.Recorder == nil {
		cfg.Recorder = &record.FakeRecorder{}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Controllers{cfg: cfg, rows: table(cfg), since: map[string]time.Time{}, poke: make(chan struct{}, 1)}, nil
}

// Poke has all owners decided again: something has changed that is neither in the store nor in the view. It does not wait.
func (c *Controllers) Poke() {
	select {
	case c.poke <- struct{}{}:
	default:
	}
}

// Run runs the controllers until the context ends. The store must be past its barrier: a controller acts on what it
// sees and on what it does not.
func (c *Controllers) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	changed := c.cfg.View.Changed()
	wakes := make([]chan struct{}, len(c.rows))
	for i := range c.rows {
		wakes[i] = make(chan struct{}, 1)
		wg.Go(func() { c.loop(ctx, &c.rows[i], wakes[i]) })
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-c.poke:
		}
		// Asked for before anyone looks, so that no change falls between.
		changed = c.cfg.View.Changed()
		for _, w := range wakes {
			select {
			case w <- struct{}{}:
			default:
			}
		}
	}
}

// table lists the controllers.
func table(cfg Config) []row {
	const pods, nodes = "pods", "nodes"
	collector, lost, evicted, scaled := newGarbage(cfg.Store), newStrays(), newEviction(), newAutoscalers()
	seen := everyOneIf(reach)
	rows := []row{
		{name: "deployment-controller", owners: []string{deployments}, watches: []string{replicaSets, pods}, decide: deployment,
			concerns: map[string]concern{replicaSets: theController(deployments, "Deployment"), pods: theDeployment}},
		{name: "replicaset-controller", owners: []string{replicaSets}, watches: []string{pods, nodes}, decide: replicaSet,
			concerns: map[string]concern{pods: theController(replicaSets, "ReplicaSet"), nodes: everyOneIf(reach, readiness)}},
		{name: "replication-controller", owners: []string{replicationControllers}, watches: []string{pods, nodes}, decide: replicationController,
			concerns: map[string]concern{pods: theController(replicationControllers, "ReplicationController"), nodes: everyOneIf(reach, readiness)}},
		{name: "endpointslice-controller", owners: []string{"services"}, watches: []string{pods, nodes, endpointSlices}, decide: endpointSlice,
			concerns: map[string]concern{pods: theSelectors("services"), nodes: theSlices, endpointSlices: theController("services", "Service")}},
		{name: "endpoint-controller", owners: []string{"services"}, watches: []string{pods, nodes, "endpoints"}, decide: endpoints,
			concerns: map[string]concern{pods: theSelectors("services"), nodes: theAPI, "endpoints": theNamesake("services")}},
		{name: "endpointslicemirroring-controller", owners: []string{"endpoints"}, watches: []string{"services", endpointSlices}, decide: mirror,
			concerns: map[string]concern{"services": theNamesake("endpoints"), endpointSlices: theController("endpoints", "Endpoints")}},
		{name: "disruption-controller", owners: []string{budgets}, watches: []string{pods, nodes, replicaSets, deployments, replicationControllers, statefulSets}, decide: disruption,
			concerns: map[string]concern{
				pods: theSelectors(budgets), nodes: seen, replicaSets: theScaled, deployments: theScaled, replicationControllers: theScaled, statefulSets: theScaled,
			}},
		{name: "statefulset-controller", owners: []string{statefulSets}, watches: []string{pods, nodes, controllerRevisions}, decide: statefulSet,
			concerns: map[string]concern{pods: theController(statefulSets, "StatefulSet"), nodes: seen, controllerRevisions: theController(statefulSets, "StatefulSet")}},
		{name: "daemon-set-controller", owners: []string{daemonSets}, watches: []string{pods, nodes, controllerRevisions}, decide: daemonSet,
			concerns: map[string]concern{pods: theController(daemonSets, "DaemonSet"), nodes: everyOneIf(taints, labelled), controllerRevisions: theController(daemonSets, "DaemonSet")}},
		{name: "daemon-set-controller", owners: []string{daemonSets}, watches: []string{pods, nodes}, everywhere: true, decide: daemon,
			concerns: map[string]concern{pods: theController(daemonSets, "DaemonSet"), nodes: everyOneIf(taints, labelled)}},
		{name: "job-controller", owners: []string{jobs}, watches: []string{pods, nodes}, decide: job,
			concerns: map[string]concern{pods: theController(jobs, "Job"), nodes: seen}},
		{name: "cronjob-controller", owners: []string{cronJobs}, watches: []string{jobs}, decide: cronJob,
			concerns: map[string]concern{jobs: theController(cronJobs, "CronJob")}},
		{name: "service-account-controller", owners: []string{"namespaces"}, watches: []string{"serviceaccounts"}, decide: serviceAccount,
			concerns: map[string]concern{"serviceaccounts": theNamespace}},
		{name: "root-ca-cert-publisher", owners: []string{"namespaces"}, watches: []string{"configmaps", "murmur.io/authorities", "murmur.io/members"}, decide: rootCA(cfg.CACert),
			concerns: map[string]concern{"configmaps": theNamespace}},
		{name: "namespace-controller", owners: []string{"namespaces"}, watchesAll: true, decide: namespace,
			concerns: map[string]concern{anyResource: theNamespaces}},
		{name: "generic-garbage-collector", all: true, among: collector.among, pace: 50 * time.Millisecond,
			prepare: collector.prepare, decide: collector.decide, concerns: map[string]concern{anyResource: collector.concerned}},
		{name: "pod-garbage-collector", owners: []string{pods}, watches: []string{nodes}, among: lost.among, prepare: lost.prepare, decide: lost.decide,
			concerns: map[string]concern{anyResource: lost.theConcerned}},
		{name: "node-controller", owners: []string{pods}, watches: []string{nodes}, among: evicted.among, prepare: evicted.prepare, decide: evicted.decide,
			concerns: map[string]concern{nodes: evicted.concerned}},
		{name: "horizontal-pod-autoscaler", owners: []string{horizontalPodAutoscalers}, ask: scaled.ask, decide: scaled.decide},
		{name: "clusterrole-aggregation-controller", owners: []string{clusterRoles}, decide: clusterRole,
			concerns: map[string]concern{clusterRoles: theAggregates}},
		{name: "pvc-protection-controller", owners: []string{claims}, watches: []string{pods, nodes}, decide: claimProtection,
			concerns: map[string]concern{pods: theClaims, nodes: seen}},
		{name: "pv-protection-controller", owners: []string{volumes}, watches: []string{claims, nodes}, decide: volumeProtection,
			concerns: map[string]concern{claims: theVolume, nodes: seen}},
		{name: "volumeattributesclass-protection-controller", owners: []string{attributeClasses}, watches: []string{volumes, claims, nodes}, decide: attributesProtection,
			concerns: map[string]concern{volumes: theClasses, claims: theClasses, nodes: seen}},
		{name: "certificate-controller", owners: []string{requests}, decide: cleaning},
		{name: "token-cleaner", owners: []string{"secrets"}, decide: token},
		{name: "podcertificaterequestcleaner", owners: []string{podCertificateRequests}, decide: podCertificateRequest},
	}
	if cfg.Numbers != nil {
		rows = append(rows,
			row{name: "service-controller", owners: []string{"services"}, watches: []string{addressClaims, portClaims}, decide: serviceNumbers,
				concerns: map[string]concern{anyResource: theUsers}},
			row{name: "service-controller", owners: []string{addressClaims, portClaims}, watches: []string{"services"}, decide: unusedClaim,
				concerns: map[string]concern{"services": theNumbers}})
	}
	if cfg.Signer != nil {
		rows = append(rows, row{name: "certificate-controller", owners: []string{requests}, watches: []string{nodes, "murmur.io/authorities", "murmur.io/members"}, everywhere: true,
			decide: signing(cfg.Signer), concerns: map[string]concern{nodes: everyOneIf()}})
	}
	if cfg.Signer != nil && cfg.Tokens != nil {
		held := newSecretTokens(cfg)
		rows = append(rows, row{name: "serviceaccount-token-controller", as: "system:kube-controller-manager", owners: []string{"secrets", accounts},
			watches: []string{nodes, "murmur.io/authorities", "murmur.io/members"}, everywhere: true, among: held.among, prepare: held.prepare, decide: held.decide,
			concerns: map[string]concern{"secrets": held.ofSecrets, accounts: held.ofAccounts, nodes: seen}})
	}
	if cfg.Usage != nil {
		spent := newCharges(cfg.Usage)
		rows = append(rows, row{name: "resourcequota-controller", owners: []string{resourceQuotas}, watchesAll: true, pace: 100 * time.Millisecond,
			prepare: spent.prepare, decide: spent.decide, concerns: map[string]concern{anyResource: theQuotas}})
	}
	return rows
}
