package audit

import (
	"fmt"

	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	"k8s.io/apiserver/pkg/apis/audit/validation"
	"k8s.io/apiserver/pkg/audit"

	"murmur/httpapi/configfile"
)

// parse reads a policy in upstream's format, audit.k8s.io/v1.
func parse(f *configfile.File) (*auditinternal.Policy, error) {
	p := &auditinternal.Policy{}
	err := f.Decode(audit.Scheme, p)
	if err == nil {
		err = f.Invalid(validation.ValidatePolicy(p))
	}
	if err == nil && len(p.Rules) == 0 {
		err = f.Error("rules", "there are no rules")
	}
	if err != nil {
		return nil, fmt.Errorf("audit policy: %w", err)
	}
	return p, nil
}

// defaultPolicy is what is recorded without a policy: who wrote what, who read Secrets, and who was let into a pod; the
// metadata of the request and never what was in it. What the cluster's own parts do all day is left out.
func defaultPolicy() *auditinternal.Policy {
	const omitted = auditinternal.StageRequestReceived
	return &auditinternal.Policy{
		OmitStages: []auditinternal.Stage{omitted},
		Rules: []auditinternal.PolicyRule{
			{Level: auditinternal.LevelNone, Resources: []auditinternal.GroupResources{
				{Group: "", Resources: []string{"events"}}, {Group: "events.k8s.io", Resources: []string{"events"}},
				{Group: "coordination.k8s.io", Resources: []string{"leases"}},
				{Group: "authentication.k8s.io", Resources: []string{"tokenreviews", "selfsubjectreviews"}},
				{Group: "authorization.k8s.io"},
			}},
			{Level: auditinternal.LevelMetadata, Resources: []auditinternal.GroupResources{
				{Group: "", Resources: []string{"secrets", "serviceaccounts/token", "pods/log", "pods/exec", "pods/attach", "pods/portforward", "pods/proxy", "services/proxy", "nodes/proxy"}},
			}},
			{Level: auditinternal.LevelNone, Verbs: []string{"get", "list", "watch"}},
			{Level: auditinternal.LevelNone, NonResourceURLs: []string{"/*"}},
			{Level: auditinternal.LevelMetadata},
		},
	}
}
