package storage

// Resources that parts of the API read, as in crdt.Key.
const (
	Definitions = "apiextensions.k8s.io/customresourcedefinitions"
	APIServices = "apiregistration.k8s.io/apiservices"

	FlowSchemas    = "flowcontrol.apiserver.k8s.io/flowschemas"
	PriorityLevels = "flowcontrol.apiserver.k8s.io/prioritylevelconfigurations"

	MutatingWebhooks   = "admissionregistration.k8s.io/mutatingwebhookconfigurations"
	ValidatingWebhooks = "admissionregistration.k8s.io/validatingwebhookconfigurations"

	MutatingPolicies         = "admissionregistration.k8s.io/mutatingadmissionpolicies"
	MutatingPolicyBindings   = "admissionregistration.k8s.io/mutatingadmissionpolicybindings"
	ValidatingPolicies       = "admissionregistration.k8s.io/validatingadmissionpolicies"
	ValidatingPolicyBindings = "admissionregistration.k8s.io/validatingadmissionpolicybindings"
)
