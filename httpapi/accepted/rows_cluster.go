package accepted

// clusterRows are those of namespaces, nodes, and what says how much there may be.
func clusterRows() []Row {
	return []Row{
		acted("Namespace", "node/control", "node/control.TestNamespacePodsFirst", "spec.finalizers"),
		acted("Namespace", "httpapi/admit", "httpapi.TestPodSecurity", "metadata.labels"),

		acted("Node", "sched", "sched.TestPlugins", "metadata.labels", "spec.unschedulable", "spec.taints"),
		acted("Node", "node/control", "node/control.TestTaints", "spec.taints.timeAdded"),
		acted("Node", "node/network", "node/network.TestPlan", "spec.podCIDR"),
		acted("Node", "node/pod", "node/pod.TestNodeStatus", "status"),
		kept("Node", "spec.podCIDRs", "spec.providerID", "spec.externalID", "spec.configSource"),
		dropped("Node", "InPlacePodVerticalScalingSchedulerPreemption", "spec.podPreemptionPolicy"),

		acted("ServiceAccount", "httpapi/admit", "httpapi.TestFieldsOfRegistries", "imagePullSecrets", "automountServiceAccountToken"),
		acted("ServiceAccount", "httpapi/admit", "httpapi.TestFieldsOfRegistries", "secrets.name"), // which ones its pods may mount, where its annotation says so
		kept("ServiceAccount", "secrets"),
		acted("Secret", "node/volume", "node/volume.TestModesOfFiles", "data"),
		acted("Secret", "httpapi", "httpapi.TestFieldsOfRegistries", "immutable", "stringData"),
		acted("Secret", "node/control", "node/control.TestSecretTokens", "type"), // a token is put into it, as upstream's does
		acted("ConfigMap", "node/volume", "node/volume.TestModesOfFiles", "data", "binaryData"),
		acted("ConfigMap", "httpapi", "httpapi.TestFieldsOfRegistries", "immutable"),
		kept("Event", "involvedObject", "reason", "message", "source", "firstTimestamp", "lastTimestamp", "count", "type", "eventTime", "series", "action", "related",
			"reportingComponent", "reportingInstance"),

		acted("ResourceQuota", "httpapi", "node/control.TestQuota", "spec.hard"),
		acted("ResourceQuota", "httpapi", "httpapi.TestFieldsOfRegistries", "spec.scopes", "spec.scopeSelector"),
		acted("LimitRange", "httpapi/admit", "httpapi.TestFieldsOfRegistries", "spec.limits"),
		acted("Lease", "httpapi", "httpapi.TestLeasesHaveOneHolder", "spec.holderIdentity"),
		kept("Lease", "spec.leaseDurationSeconds", "spec.acquireTime", "spec.renewTime", "spec.leaseTransitions"),
		dropped("Lease", "CoordinatedLeaderElection", "spec.strategy", "spec.preferredHolder"),
		acted("PriorityClass", "httpapi/admit", "httpapi.TestFieldsOfRegistries", "value", "globalDefault", "preemptionPolicy"),
		kept("PriorityClass", "description"),
		acted("RuntimeClass", "node/containerd", "node/containerd.TestSecurity", "handler"),
		acted("RuntimeClass", "httpapi/admit", "httpapi.TestFieldsOfRegistries", "overhead", "scheduling"),
	}
}

// accessRows are those of what says who may do what, and of how the API itself behaves.
func accessRows() []Row {
	var out []Row
	for _, kind := range []string{"Role", "ClusterRole"} {
		out = append(out, acted(kind, "httpapi", "httpapi.TestRolesAllowWhatTheySay", "rules"))
	}
	for _, kind := range []string{"RoleBinding", "ClusterRoleBinding"} {
		out = append(out, acted(kind, "httpapi", "httpapi.TestRolesAllowWhatTheySay", "subjects", "roleRef"))
	}
	return append(out,
		acted("ClusterRole", "node/control", "node/control.TestClusterRolesAreMadeOfThoseTheySelect", "aggregationRule"),
		acted("CertificateSigningRequest", "node/control", "node/control.TestSigning", "spec"),
		acted("CertificateSigningRequest", "node/control", "node/control.TestLife", "spec.expirationSeconds"),
		acted("CertificateSigningRequest", "httpapi/admit", "httpapi.TestWhoAsks", "spec.username", "spec.groups", "spec.uid", "spec.extra"),
		acted("ClusterTrustBundle", "node/volume", "node/volume.TestTrustAnchors", "spec"),
		acted("PodCertificateRequest", "httpapi", "httpapi.TestPodCertificateRequests", "spec"),
		acted("PodCertificateRequest", "node/volume", "node/volume.TestCertificateStates", "status"),
		kept("PodCertificateRequest", "spec.unverifiedUserAnnotations"), // for its signer
		acted("FlowSchema", "httpapi/fairness", "httpapi.TestFairness", "spec"),
		acted("PriorityLevelConfiguration", "httpapi/fairness", "httpapi.TestFairness", "spec"),
		acted("CustomResourceDefinition", "httpapi", "httpapi.TestCustomResourcesAreServed", "spec"),
		acted("CustomResourceDefinition", "httpapi", "httpapi.TestConversionWebhook", "spec.conversion"),
		acted("CustomResourceDefinition", "httpapi/custom", "httpapi/custom.TestNamesAreAcceptedOnce", "spec.names"),
		refused("APIService", "httpapi", "httpapi.TestAPIServicesFollowDefinitions", "", "spec"),
		acted("MutatingWebhookConfiguration", "httpapi", "httpapi.TestWebhooks", "webhooks"),
		acted("MutatingWebhookConfiguration", "httpapi", "httpapi.TestWebhookThatDoesNotAnswer", "webhooks.failurePolicy"),
		acted("MutatingWebhookConfiguration", "httpapi", "httpapi.TestNobodyIsLockedOut", "webhooks.timeoutSeconds"),
		acted("ValidatingWebhookConfiguration", "httpapi", "httpapi.TestWebhooks", "webhooks"),
		acted("ValidatingWebhookConfiguration", "httpapi", "httpapi.TestWebhookThatDoesNotAnswer", "webhooks.failurePolicy"),
		acted("ValidatingWebhookConfiguration", "httpapi", "httpapi.TestNobodyIsLockedOut", "webhooks.timeoutSeconds"),
		acted("MutatingAdmissionPolicy", "httpapi", "httpapi.TestPolicies", "spec"),
		acted("MutatingAdmissionPolicy", "httpapi", "httpapi.TestPolicyMatching", "spec.matchConstraints", "spec.failurePolicy"), // of the other kind, by the same code
		acted("MutatingAdmissionPolicyBinding", "httpapi", "httpapi.TestPolicies", "spec"),
		acted("MutatingAdmissionPolicyBinding", "httpapi", "httpapi.TestPolicyMatching", "spec.matchResources"),
		acted("ValidatingAdmissionPolicy", "httpapi", "httpapi.TestPolicies", "spec"),
		acted("ValidatingAdmissionPolicy", "httpapi", "httpapi.TestPolicyMatching", "spec.matchConstraints", "spec.failurePolicy", "spec.validations.reason"),
		acted("ValidatingAdmissionPolicyBinding", "httpapi", "httpapi.TestPolicies", "spec"),
		acted("ValidatingAdmissionPolicyBinding", "httpapi", "httpapi.TestPolicyMatching", "spec.matchResources"),
	)
}
