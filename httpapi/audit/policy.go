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

// defaultPolicy is what is recorded without a policy: who wrote what, who read Secrets, and who was let into a pod or into the
// cluster; the metadata of the request and never what was in it. What the cluster's own parts note of their work all day is left out.
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
			{Level: auditinternal.LevelNone, Users: noting, Verbs: []string{"update", "patch"}, Resources: []auditinternal.GroupResources{
				{Group: "", Resources: []string{"endpoints", "namespaces/status", "replicationcontrollers/status", "resourcequotas/status"}},
				{Group: "apps", Resources: []string{"daemonsets/status", "deployments/status", "replicasets/status", "statefulsets/status"}},
				{Group: "autoscaling", Resources: []string{"horizontalpodautoscalers/status"}},
				{Group: "batch", Resources: []string{"cronjobs/status", "jobs/status"}},
				{Group: "discovery.k8s.io", Resources: []string{"endpointslices"}},
				{Group: "flowcontrol.apiserver.k8s.io", Resources: []string{"flowschemas/status", "prioritylevelconfigurations/status"}},
				{Group: "policy", Resources: []string{"poddisruptionbudgets/status"}},
			}},
			{Level: auditinternal.LevelMetadata, Resources: []auditinternal.GroupResources{
				{Group: "", Resources: []string{"secrets", "serviceaccounts/token", "pods/log", "pods/exec", "pods/attach", "pods/portforward", "pods/proxy", "services/proxy", "nodes/proxy"}},
			}},
			// A backup has every Secret.
			{Level: auditinternal.LevelMetadata, NonResourceURLs: []string{PathAdmin + "v1/backup"}},
			{Level: auditinternal.LevelNone, Verbs: []string{"get", "list", "watch"}},
			{Level: auditinternal.LevelMetadata, NonResourceURLs: []string{"/murmur/*"}},
			{Level: auditinternal.LevelNone, NonResourceURLs: []string{"/*"}},
			{Level: auditinternal.LevelMetadata},
		},
	}
}

// noting are the parts of the cluster that keep statuses and endpoints.
var noting = []string{
	"system:apiserver",
	"system:serviceaccount:kube-system:cronjob-controller",
	"system:serviceaccount:kube-system:daemon-set-controller",
	"system:serviceaccount:kube-system:deployment-controller",
	"system:serviceaccount:kube-system:disruption-controller",
	"system:serviceaccount:kube-system:endpoint-controller",
	"system:serviceaccount:kube-system:endpointslice-controller",
	"system:serviceaccount:kube-system:endpointslicemirroring-controller",
	"system:serviceaccount:kube-system:horizontal-pod-autoscaler",
	"system:serviceaccount:kube-system:job-controller",
	"system:serviceaccount:kube-system:namespace-controller",
	"system:serviceaccount:kube-system:replicaset-controller",
	"system:serviceaccount:kube-system:replication-controller",
	"system:serviceaccount:kube-system:resourcequota-controller",
	"system:serviceaccount:kube-system:statefulset-controller",
}
