package accepted

// workloadRows are those of what makes pods, and of what scales and spares them.
func workloadRows() []Row {
	const (
		set      = "StatefulSet"
		job      = "Job"
		cron     = "CronJob"
		hpa      = "HorizontalPodAutoscaler"
		noSource = "there are no custom and external metrics here; this metric is never known, and what the others ask for counts"
	)
	retention := warned(set, "not acted on here yet; the claims stay", "spec.persistentVolumeClaimRetentionPolicy.whenDeleted", "spec.persistentVolumeClaimRetentionPolicy.whenScaled")
	retention.Unless = []string{"Retain"}
	return []Row{
		acted("Deployment", "node/control", "node/control.TestRollout", "spec.replicas", "spec.selector", "spec.strategy", "spec.revisionHistoryLimit",
			"spec.paused", "spec.progressDeadlineSeconds"),
		acted("Deployment", "node/control", "node/control.TestMinReady", "spec.minReadySeconds"),
		acted("ReplicaSet", "node/control", "node/control.TestReplicaSet", "spec.replicas", "spec.selector"),
		acted("ReplicaSet", "node/control", "node/control.TestMinReady", "spec.minReadySeconds"),
		acted("ReplicationController", "node/control", "node/control.TestReplicationController", "spec.replicas", "spec.selector"),
		acted("ReplicationController", "node/control", "node/control.TestMinReady", "spec.minReadySeconds"),
		acted("DaemonSet", "node/control", "node/control.TestDaemons", "spec.selector", "spec.updateStrategy", "spec.minReadySeconds", "spec.revisionHistoryLimit"),
		acted(set, "node/control", "node/control.TestStatefulSet", "spec.replicas", "spec.selector", "spec.serviceName", "spec.updateStrategy.type",
			"spec.updateStrategy.rollingUpdate.partition", "spec.revisionHistoryLimit"),
		acted(set, "node/control", "node/control.TestMinReady", "spec.minReadySeconds"),
		acted(set, "node/control", "node/control.TestStatefulSetOrder", "spec.podManagementPolicy", "spec.ordinals"),
		warned(set, "not acted on here yet; pods are updated one at a time", "spec.updateStrategy.rollingUpdate.maxUnavailable"),
		retention,
		kept("ControllerRevision", "data", "revision"),

		acted(job, "node/control", "node/control.TestJob", "spec.parallelism", "spec.completions", "spec.activeDeadlineSeconds", "spec.podFailurePolicy", "spec.successPolicy", "spec.backoffLimit",
			"spec.ttlSecondsAfterFinished", "spec.suspend", "spec.podReplacementPolicy", "spec.completionMode", "spec.backoffLimitPerIndex", "spec.maxFailedIndexes"),
		acted(job, "node/control", "node/control.TestJobsOfOthers", "spec.selector", "spec.managedBy"),
		acted(job, "httpapi", "httpapi.TestFieldsOfRegistries", "spec.manualSelector"),
		dropped(job, "WorkloadWithJob", "spec.scheduling"),
		acted(cron, "node/control", "node/control.TestSchedule", "spec.schedule", "spec.timeZone", "spec.startingDeadlineSeconds", "spec.concurrencyPolicy", "spec.suspend",
			"spec.successfulJobsHistoryLimit", "spec.failedJobsHistoryLimit"),

		acted(hpa, "node/control", "node/control.TestScaling", "spec.scaleTargetRef", "spec.minReplicas", "spec.maxReplicas", "spec.metrics.type", "spec.metrics.resource", "spec.metrics.containerResource",
			"spec.behavior"),
		warned(hpa, noSource, "spec.metrics.object", "spec.metrics.pods", "spec.metrics.external"),
		acted("PodDisruptionBudget", "node/control", "node/control.TestAllowance", "spec.minAvailable", "spec.maxUnavailable"),
		acted("PodDisruptionBudget", "node/control", "node/control.TestEviction", "spec.selector"),
		acted("PodDisruptionBudget", "httpapi", "httpapi.TestFieldsOfRegistries", "spec.unhealthyPodEvictionPolicy"),
	}
}
