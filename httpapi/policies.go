package httpapi

import (
	"context"
	"fmt"
	"sync"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	celresolver "k8s.io/apiserver/pkg/cel/openapi/resolver"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/compatibility"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"
	"k8s.io/kubernetes/pkg/kubeapiserver/admission/exclusion"
	mutatingpolicystore "k8s.io/kubernetes/pkg/registry/admissionregistration/mutatingadmissionpolicy/storage"
	mutatingbindingstore "k8s.io/kubernetes/pkg/registry/admissionregistration/mutatingadmissionpolicybinding/storage"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/resolver"
	validatingpolicystore "k8s.io/kubernetes/pkg/registry/admissionregistration/validatingadmissionpolicy/storage"
	validatingbindingstore "k8s.io/kubernetes/pkg/registry/admissionregistration/validatingadmissionpolicybinding/storage"

	"murmur/crdt"
	"murmur/httpapi/informers"
	"murmur/httpapi/storage"
	"murmur/httpapi/turn"
)

// policyKinds are the rows of admission policies in CEL. Whoever binds a policy to parameters must be allowed to read these, which
// upstream's strategies ask.
func policyKinds() []*kind {
	version := admissionregistrationv1.SchemeGroupVersion
	resolve := func(r *registry) (resolver.ResourceResolver, error) {
		return resolver.NewDiscoveryResourceResolver(r.own.Discovery())
	}
	policy := func(r *registry, resource string) rest.Getter { return r.versions[version][resource].(rest.Getter) }
	return []*kind{
		{Kind: storage.Typed[admissionregistrationv1.ValidatingAdmissionPolicy](admissionregistrationv1.Resource("validatingadmissionpolicies"), version),
			rest: func(r *registry) (map[string]rest.Storage, error) {
				resources, err := resolve(r)
				if err != nil {
					return nil, err
				}
				s, status, err := validatingpolicystore.NewREST(r, r.authz, resources)
				return map[string]rest.Storage{"": s, "status": status}, err
			}},
		{Kind: storage.Typed[admissionregistrationv1.ValidatingAdmissionPolicyBinding](admissionregistrationv1.Resource("validatingadmissionpolicybindings"), version),
			rest: func(r *registry) (map[string]rest.Storage, error) {
				resources, err := resolve(r)
				if err != nil {
					return nil, err
				}
				s, err := validatingbindingstore.NewREST(r, r.authz, &validatingbindingstore.DefaultPolicyGetter{Getter: policy(r, "validatingadmissionpolicies")}, resources)
				return map[string]rest.Storage{"": s}, err
			}},
		{Kind: storage.Typed[admissionregistrationv1.MutatingAdmissionPolicy](admissionregistrationv1.Resource("mutatingadmissionpolicies"), version),
			rest: func(r *registry) (map[string]rest.Storage, error) {
				resources, err := resolve(r)
				if err != nil {
					return nil, err
				}
				s, err := mutatingpolicystore.NewREST(r, r.authz, resources)
				return map[string]rest.Storage{"": s}, err
			}},
		{Kind: storage.Typed[admissionregistrationv1.MutatingAdmissionPolicyBinding](admissionregistrationv1.Resource("mutatingadmissionpolicybindings"), version),
			rest: func(r *registry) (map[string]rest.Storage, error) {
				resources, err := resolve(r)
				if err != nil {
					return nil, err
				}
				s, err := mutatingbindingstore.NewREST(r, r.authz, &mutatingbindingstore.DefaultPolicyGetter{Getter: policy(r, "mutatingadmissionpolicies")}, resources)
				return map[string]rest.Storage{"": s}, err
			}},
	}
}

// policies asks upstream's evaluation of one kind of admission policies. It costs a poll a second, and compiled expressions, so it is there
// only while something binds a policy.
type policies struct {
	*admission.Handler
	server *Server
	// bindings is the resource of what binds them.
	bindings string
	make     func() (evaluation, error)

	mu      sync.Mutex
	running evaluation
	end     func()
}

// evaluation is one of upstream's two plugins.
type evaluation interface {
	admission.Interface
	admission.InitializationValidator
	initializer.WantsExcludedAdmissionResources
}

// mutatingPolicy and validatingPolicy are policies at the two points of the chain.
type (
	mutatingPolicy   struct{ *policies }
	validatingPolicy struct{ *policies }
)

func newMutatingPolicies(s *Server) mutatingPolicy {
	return mutatingPolicy{s.evaluated(storage.MutatingPolicyBindings, func() (evaluation, error) { return mutating.NewPlugin(nil) },
		admission.Connect, admission.Create, admission.Update)}
}

func newValidatingPolicies(s *Server) validatingPolicy {
	return validatingPolicy{s.evaluated(storage.ValidatingPolicyBindings, func() (evaluation, error) { return validating.NewPlugin(nil) },
		admission.Connect, admission.Create, admission.Update, admission.Delete)}
}

func (s *Server) evaluated(bindings string, make func() (evaluation, error), operations ...admission.Operation) *policies {
	p := &policies{Handler: admission.NewHandler(operations...), server: s, bindings: bindings, make: make}
	s.policies = append(s.policies, p)
	return p
}

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
func (p *policies) current() (evaluation, error) {
	bound := false
	for range p.server.cfg.Store.Snapshot().Range(p.bindings, "", "") {
		bound = true
		break
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case !bound:
		p.stop()
	case p.running == nil:
		if err := p.start(); err != nil {
			return nil, apierrors.NewInternalError(fmt.Errorf("start to evaluate admission policies: %w", err))
		}
	}
	return p.running, nil
}

// start makes an evaluation, which follows the store until it is stopped. What it asks of the API it asks in this process.
func (p *policies) start() error {
	select {
	case <-p.server.stopping:
		return apierrors.NewServiceUnavailable("the node is stopping")
	default:
	}
	e, err := p.make()
	if err != nil {
		return err
	}
	objects, err := dynamic.NewForConfig(p.server.ownConfig())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	following := &informers.Followers{}
	initializer.New(p.server.own, objects, informers.Factory{Store: p.server.cfg.Store, Followers: following}, p.server.authz, utilfeature.DefaultFeatureGate,
		compatibility.DefaultBuildEffectiveVersion(), ctx.Done(), p.server.mapper()).Initialize(e)
	e.SetExcludedAdmissionResources(exclusion.Excluded())
	if err := e.ValidateInitialization(); err != nil {
		cancel()
		return err
	}
	var wait sync.WaitGroup
	wait.Go(func() { following.Run(ctx, p.server.cfg.Store) })
	p.running, p.end = e, func() { cancel(); wait.Wait() }
	return nil
}

// stop ends the evaluation, if there is one.
func (p *policies) stop() {
	if p.running == nil {
		return
	}
	p.end()
	p.running, p.end = nil, nil
}

// stopPolicies ends what evaluates policies once the server is stopping, from when on none is started.
func (s *Server) stopPolicies() {
	<-s.stopping
	for _, p := range s.policies {
		p.mu.Lock()
		p.stop()
		p.mu.Unlock()
	}
}

// mapper finds resources by kinds, among those that are served now.
func (s *Server) mapper() meta.ResettableRESTMapper {
	return restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(s.own.Discovery()))
}

// checkPolicies writes into the status of validating policies what is wrong with the types in their expressions. Any node may, in its turn.
func (s *Server) checkPolicies(ctx context.Context) {
	due := turn.New(s.cfg.Node)
	turn.Attend(ctx, s.cfg.Store, storage.ValidatingPolicies, func(now time.Time) time.Time { return s.checkTypes(ctx, due, now) })
}

// checkTypes does what is due, and says when the next is.
func (s *Server) checkTypes(ctx context.Context, due *turn.Turns, now time.Time) (next time.Time) {
	present := map[string]bool{}
	for _, policy := range crdt.List[admissionregistrationv1.ValidatingAdmissionPolicy](s.cfg.Store.Snapshot(), storage.ValidatingPolicies, "") {
		if policy.Generation <= policy.Status.ObservedGeneration {
			continue
		}
		present[policy.Name] = true
		if at := due.Of(policy.Name, now); now.Before(at) {
			next = turn.Sooner(next, at)
			continue
		}
		next = turn.Sooner(next, due.Again(policy.Name, now))
		checker := validating.TypeChecker{SchemaResolver: &celresolver.ClientDiscoveryResolver{Discovery: s.own.Discovery()}, RestMapper: s.mapper()}
		checked := policy.DeepCopy()
		checked.Status.ObservedGeneration = policy.Generation
		checked.Status.TypeChecking = &admissionregistrationv1.TypeChecking{}
		for _, w := range checker.Check(policy) {
			checked.Status.TypeChecking.ExpressionWarnings = append(checked.Status.TypeChecking.ExpressionWarnings,
				admissionregistrationv1.ExpressionWarning{FieldRef: w.FieldRef, Warning: w.Warning})
		}
		if _, err := s.System().UpdateStatus(ctx, checked); err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) && ctx.Err() == nil {
			s.cfg.Log.Warn("types of an admission policy", "name", policy.Name, "err", err)
		}
	}
	due.Keep(present)
	return next
}
