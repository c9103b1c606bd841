package accepted

// networkRows are those of Services and what they lead to.
func networkRows() []Row {
	const (
		svc   = "Service"
		slice = "EndpointSlice"
	)
	return []Row{
		acted(svc, "node/proxy", "node/proxy.TestRules", "spec.type", "spec.selector", "spec.ports", "spec.clusterIP", "spec.sessionAffinity", "spec.sessionAffinityConfig",
			"spec.externalTrafficPolicy", "spec.internalTrafficPolicy", "spec.loadBalancerSourceRanges", "spec.publishNotReadyAddresses", "spec.externalIPs"),
		acted(svc, "node/proxy", "node/proxy.TestNear", "spec.trafficDistribution"),
		kept(svc, "spec.ports.appProtocol"),
		acted(svc, "httpapi", "httpapi.TestAllocation", "spec.ports.nodePort"),
		acted(svc, "httpapi", "httpapi.TestWhatTheAPISets", "spec.clusterIPs"),
		acted(svc, "httpapi", "httpapi.TestFieldsOfRegistries", "spec.allocateLoadBalancerNodePorts", "spec.ipFamilies", "spec.ipFamilyPolicy"),
		acted(svc, "node/dns", "node/dns.TestAnswer", "spec.externalName"),
		kept(svc, "spec.loadBalancerIP", "spec.loadBalancerClass"), // for who makes load balancers
		warned(svc, "nobody answers at this port yet: a load balancer that asks there takes every node for dead", "spec.healthCheckNodePort"),

		acted("Endpoints", "node/proxy", "node/proxy.TestRules", "subsets"),
		acted("Endpoints", "node/dns", "node/dns.TestAnswer", "subsets.addresses.hostname", "subsets.notReadyAddresses.hostname"),
		kept("Endpoints", "subsets.addresses.targetRef", "subsets.notReadyAddresses.targetRef", "subsets.ports.appProtocol"),
		acted(slice, "node/proxy", "node/proxy.TestRules", "addressType", "endpoints.addresses", "endpoints.conditions", "endpoints.nodeName", "ports"),
		acted(slice, "node/dns", "node/dns.TestAnswer", "endpoints.hostname"),
		kept(slice, "endpoints.targetRef", "endpoints.deprecatedTopology", "ports.appProtocol", "endpoints.zone"),
		warned(slice, "not acted on here: the Service's trafficDistribution says what is near, and nodes' labels where it is", "endpoints.hints"),

		// For ingress controllers, which nobody brings but users.
		kept("Ingress", "spec"),
		kept("IngressClass", "spec"),
		kept("IPAddress", "spec"),
		warned("ServiceCIDR", "not acted on here: addresses of Services come from the cluster's own range", "spec.cidrs"),
	}
}
