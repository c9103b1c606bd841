package policy

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/util/compatibility"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/kubernetes/pkg/kubeapiserver/admission/exclusion"

	"murmur/crdt/store"
	"murmur/httpapi/informers"
	"murmur/httpapi/storage"
)

// Config is what policies take.
type Config struct {
	Store *store.Store
	// Node is this node's name.
	Node string
	// Client and ClientConfig are for what policies ask of the API, in this process.
	Client       kubernetes.Interface
	ClientConfig *rest.Config
	Authorizer   authorizer.Authorizer
	// UpdateStatus writes the status of a policy, as the API itself.
	UpdateStatus func(ctx context.Context, obj runtime.Object) (runtime.Object, error)
	Log          *slog.Logger
}

// Policies are both kinds of them.
type Policies struct {
	cfg                  Config
	mutating, validating *evaluated
}

// New evaluates nothing until something binds a policy.
func New(cfg Config) *Policies {
	p := &Policies{cfg: cfg}
	p.mutating = &evaluated{Handler: admission.NewHandler(admission.Connect, admission.Create, admission.Update),
		cfg: &p.cfg, bindings: storage.MutatingPolicyBindings, make: func() (evaluation, error) { return mutating.NewPlugin(nil) }}
	p.validating = &evaluated{Handler: admission.NewHandler(admission.Connect, admission.Create, admission.Update, admission.Delete),
		cfg: &p.cfg, bindings: storage.ValidatingPolicyBindings, make: func() (evaluation, error) { return validating.NewPlugin(nil) }}
	return p
}

// Mutating is the plugin of policies that change what is written.
func (p *Policies) Mutating() admission.Interface { return mutatingPolicy{p.mutating} }

// Validating is the plugin of policies that refuse what is written.
func (p *Policies) Validating() admission.Interface { return validatingPolicy{p.validating} }

// Evaluated is how many of the two kinds are evaluated now.
func (p *Policies) Evaluated() (n int) {
	for _, e := range []*evaluated{p.mutating, p.validating} {
		e.mu.Lock()
		if e.running != nil {
			n++
		}
		e.mu.Unlock()
	}
	return n
}

// Run checks types in the expressions of policies until ctx ends. Then it ends what evaluates policies, and none is
// evaluated any more.
func (p *Policies) Run(ctx context.Context) {
	p.check(ctx)
	p.mutating.stop(true)
	p.validating.stop(true)
}

// evaluated asks upstream's evaluation of one kind of admission policies. It costs a poll a second, and compiled expressions, so it is there
// only while something binds a policy.
type evaluated struct {
	*admission.Handler
	cfg *Config
	// bindings is the resource of what binds them.
	bindings string
	make     func() (evaluation, error)

	mu      sync.Mutex
	running evaluation
	end     func()
	closed  bool
}

// evaluation is one of upstream's two plugins.
type evaluation interface {
	admission.Interface
	admission.InitializationValidator
	initializer.WantsExcludedAdmissionResources
}

// mutatingPolicy and validatingPolicy are policies at the two points of the chain.
type (
	mutatingPolicy   struct{ *evaluated }
	validatingPolicy struct{ *evaluated }
)

// Admit changes what is written as policies say.
func (p mutatingPolicy) Admit(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	e, err := p.current()
	if e == nil || err != nil {
		return err
	}
	return e.(admission.MutationInterface).Admit(ctx, a, o)
}

// Validate refuses what policies forbid.
func (p validatingPolicy) Validate(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	e, err := p.current()
	if e == nil || err != nil {
		return err
	}
	return e.(admission.ValidationInterface).Validate(ctx, a, o)
}

// current is the evaluation; nil if nothing binds a policy.
func (p *evaluated) current() (evaluation, error) {
	if bound, _ := p.cfg.Store.Snapshot().Count(p.bindings); bound == 0 {
		p.stop(false)
		return nil, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running == nil {
		if err := p.start(); err != nil {
			return nil, apierrors.NewInternalError(fmt.Errorf("start to evaluate admission policies: %w", err))
		}
	}
	return p.running, nil
}

// start makes an evaluation, which follows the store until it is stopped. What it asks of the API it asks in this process.
func (p *evaluated) start() error {
	if p.closed {
		return apierrors.NewServiceUnavailable("the node is stopping")
	}
	e, err := p.make()
	if err != nil {
		return err
	}
	objects, err := dynamic.NewForConfig(p.cfg.ClientConfig)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	following := &informers.Followers{}
	initializer.New(p.cfg.Client, objects, informers.Factory{Store: p.cfg.Store, Followers: following}, p.cfg.Authorizer, utilfeature.DefaultFeatureGate,
		compatibility.DefaultBuildEffectiveVersion(), ctx.Done(), mapper(p.cfg.Client)).Initialize(e)
	e.SetExcludedAdmissionResources(exclusion.Excluded())
	if err := e.ValidateInitialization(); err != nil {
		cancel()
		return err
	}
	var wait sync.WaitGroup
	wait.Go(func() { following.Run(ctx, p.cfg.Store) })
	p.running, p.end = e, func() { cancel(); wait.Wait() }
	return nil
}

// stop ends the evaluation, if there is one. What was told of changes may be busy with them, and nobody else waits for it.
func (p *evaluated) stop(closed bool) {
	p.mu.Lock()
	end := p.end
	p.running, p.end, p.closed = nil, nil, p.closed || closed
	p.mu.Unlock()
	if end != nil {
		end()
	}
}
