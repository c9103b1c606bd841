package accepted

import (
	"slices"

	core "k8s.io/kubernetes/pkg/apis/core"
)

const (
	placedWithout = "not acted on here yet; the pod is placed without it"
	noHugePages   = "no node here offers huge pages; a pod that asks for them is placed nowhere, and a node that it is given to refuses it"
	noPlugin      = "nothing here mounts volumes of this type; a pod with it never starts"
)

// podRows are the fields of a pod beside its containers and volumes.
func podRows() []Row {
	const k = "Pod"
	return slices.Concat(labels("spec.securityContext.seLinuxOptions"), []Row{
		acted(k, "node/pod", "node/pod.TestVariables", "metadata.labels", "metadata.annotations"), // the downward API; labels also select

		// Where it runs.
		acted(k, "sched", "sched.TestPlugins", "spec.nodeName", "spec.nodeSelector", "spec.affinity.nodeAffinity", "spec.tolerations", "spec.schedulingGates", "spec.overhead"),
		acted(k, "sched", "sched.TestOneNodeBindsItsOwnPods", "spec.schedulerName"),
		acted(k, "node/control", "node/control.TestEviction", "spec.tolerations.tolerationSeconds"),
		acted(k, "sched", "sched.TestPreemption", "spec.priority", "spec.preemptionPolicy"),
		acted(k, "httpapi/admit", "httpapi.TestFieldsOfRegistries", "spec.priorityClassName"),
		warned(k, placedWithout, "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution",
			"spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution"),
		warned(k, placedWithout, "spec.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution",
			"spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution"),
		warned(k, placedWithout, "spec.topologySpreadConstraints"),
		warned(k, "resource claims are not served here; the pod is placed without its devices", "spec.resourceClaims", "spec.resources.claims"),
		dropped(k, "GenericWorkload", "spec.schedulingGroup"),
		dropped(k, "EvictionRequestAPI", "spec.evictionResponders"),
		acted(k, "node/pod", "node/pod.TestUnenforceable", "spec.os"),

		// How it lives.
		acted(k, "node/pod", "node/pod.TestStep", "spec.restartPolicy", "spec.terminationGracePeriodSeconds", "spec.activeDeadlineSeconds"),
		acted(k, "node/pod", "node/pod.TestResources", "spec.resources.limits", "spec.resources.requests"),
		warned(k, noHugePages, "spec.resources.limits[hugepages-*]", "spec.resources.requests[hugepages-*]"),
		acted(k, "node/pod", "node/pod.TestReadinessGates", "spec.readinessGates"),
		acted(k, "node/pod", "node/containerd.TestConform", "spec.runtimeClassName"),
		acted(k, "node/pod", "node/pod.TestVariables", "spec.enableServiceLinks"),

		// Who it is.
		acted(k, "httpapi/admit", "httpapi.TestFieldsOfRegistries", "spec.serviceAccountName", "spec.serviceAccount", "spec.automountServiceAccountToken"),
		acted(k, "node/pod", "node/pod.TestImageOfAnotherTenant", "spec.imagePullSecrets"),
		acted(k, "node/pod", "node/pod.TestResolver", "spec.dnsPolicy", "spec.dnsConfig"),
		acted(k, "node/pod", "node/pod.TestHostname", "spec.hostname", "spec.subdomain", "spec.setHostnameAsFQDN", "spec.hostnameOverride"),
		acted(k, "node/pod", "node/pod.TestHostsFile", "spec.hostAliases"),

		// What keeps it apart. node/pod.TestSecurityFields holds the types of these against what reads them.
		acted(k, "node/containerd", "node/containerd.TestSecurity", "spec.hostNetwork", "spec.hostPID", "spec.shareProcessNamespace",
			"spec.securityContext.runAsUser", "spec.securityContext.runAsGroup"),
		acted(k, "node/containerd", "node/containerd.TestUsersOfItsOwn", "spec.hostUsers"),
		acted(k, "node/pod", "node/pod.TestNonRoot", "spec.securityContext.runAsNonRoot"),
		acted(k, "node/containerd", "node/containerd.TestGroups", "spec.securityContext.supplementalGroups", "spec.securityContext.supplementalGroupsPolicy"),
		acted(k, "node/volume", "node/volume.TestGroupOfALocalVolume", "spec.securityContext.fsGroup", "spec.securityContext.fsGroupChangePolicy"),
		acted(k, "node/pod", "node/pod.TestSysctls", "spec.securityContext.sysctls"),
		acted(k, "node/containerd", "node/containerd.TestWhatKeepsAPodApart", "spec.hostIPC", "spec.securityContext.sysctls.value", "spec.securityContext.appArmorProfile",
			"spec.containers.securityContext.appArmorProfile"),
		acted(k, "node/containerd", "node/containerd.TestSeccomp", "spec.securityContext.seccompProfile"),
		noWindows("spec.securityContext.windowsOptions"),
		warned(k, "SELinux labels are set by no node here, so this says nothing", "spec.securityContext.seLinuxChangePolicy"),
	})
}

// labels are the rows of SELinux labels at a path. What changes how a pod is confined is refused: user, role, and any type but spc_t, which asks
// to be left alone. A level only keeps apart what the type confines, and pods that shall run anywhere carry one, the conformance suite's too: it is
// taken with a warning. s0 is the lowest and keeps nothing apart.
func labels(path string) []Row {
	confined := refused("Pod", Refuser, "httpapi.TestAcceptedFields", "no node here sets SELinux labels", path+".type")
	confined.Unless = []string{"spc_t"}
	level := warned("Pod", "no node here sets SELinux labels: what only its level keeps apart is not kept apart", path+".level")
	level.Unless = []string{"s0"}
	return []Row{refused("Pod", Refuser, "httpapi.TestAcceptedFields", "no node here sets SELinux labels", path+".user", path+".role"), confined, level}
}

func noWindows(path string) Row {
	return refused("Pod", Refuser, "httpapi.TestAcceptedFields", "all nodes here run Linux", path)
}

// containerRows are the fields of containers of all three sorts.
func containerRows() []Row {
	const k = "Pod"
	unanswered := warned(k, "only the action Restart is acted on", "spec.containers.restartPolicyRules.action")
	unanswered.Unless = []string{"Restart"}
	return slices.Concat(labels("spec.containers.securityContext.seLinuxOptions"), []Row{
		acted(k, "node/pod", "node/containerd.TestConform", "spec.containers.name", "spec.containers.image", "spec.containers.imagePullPolicy"),
		acted(k, "node/containerd", "node/containerd.TestContainerConfig", "spec.containers.command", "spec.containers.args", "spec.containers.workingDir", "spec.containers.stdin", "spec.containers.stdinOnce", "spec.containers.tty"),
		acted(k, "sched", "sched.TestPlugins", "spec.containers.ports"),
		acted(k, "node/pod", "node/containerd.TestEnvironment", "spec.containers.env", "spec.containers.envFrom"),
		acted(k, "node/pod", "node/pod.TestVariables", "spec.containers.env.valueFrom.resourceFieldRef.divisor"),
		acted(k, "node/pod", "node/pod.TestOptionalVariables", "spec.containers.envFrom.configMapRef.optional", "spec.containers.envFrom.secretRef.optional",
			"spec.containers.env.valueFrom.configMapKeyRef.optional", "spec.containers.env.valueFrom.secretKeyRef.optional"),
		acted(k, "node/pod", "node/pod.TestResourcesOfAnother", "spec.containers.env.valueFrom.resourceFieldRef.containerName"),
		warned(k, "not acted on here yet; the variable is empty", "spec.containers.env.valueFrom.fileKeyRef"),
		acted(k, "node/pod", "node/pod.TestResources", "spec.containers.resources.limits", "spec.containers.resources.requests"),
		warned(k, "counted where the pod is placed, and not enforced while it runs", "spec.containers.resources.limits[ephemeral-storage]"),
		warned(k, noHugePages, "spec.containers.resources.limits[hugepages-*]", "spec.containers.resources.requests[hugepages-*]"),
		acted(k, "sched", "sched.TestPlugins", "spec.containers.resources.requests[example.com/*]"), // extended resources, as far as a node's status has them
		warned(k, "resource claims are not served here; the pod is placed without its devices", "spec.containers.resources.claims"),
		acted(k, "node/pod", "node/pod.TestStep", "spec.containers.resizePolicy"),
		acted(k, "node/pod", "node/pod.TestStep", "spec.containers.restartPolicy", "spec.containers.restartPolicyRules"),
		unanswered,
		acted(k, "node/pod", "node/containerd.TestConform", "spec.containers.livenessProbe"),
		acted(k, "node/pod", "node/pod.TestProbeHandlers", "spec.containers.livenessProbe.httpGet", "spec.containers.livenessProbe.tcpSocket", "spec.containers.livenessProbe.grpc"),
		acted(k, "node/pod", "node/pod.TestProbeThresholds", "spec.containers.livenessProbe.initialDelaySeconds", "spec.containers.livenessProbe.periodSeconds",
			"spec.containers.livenessProbe.timeoutSeconds", "spec.containers.livenessProbe.successThreshold", "spec.containers.livenessProbe.failureThreshold"),
		dropped(k, "H2CContainerProbe", "spec.containers.livenessProbe.httpGet.protocol"),
		dropped(k, "GRPCContainerProbeTLS", "spec.containers.livenessProbe.grpc.mode"),
		acted(k, "node/pod", "node/containerd.TestConform", "spec.containers.lifecycle"),
		acted(k, "node/pod", "node/pod.TestHookHandlers", "spec.containers.lifecycle.postStart.httpGet", "spec.containers.lifecycle.postStart.sleep"),
		dropped(k, "H2CContainerProbe", "spec.containers.lifecycle.postStart.httpGet.protocol"),
		refused(k, "node/pod", "node/pod.TestStep", "a hook of this type always fails", "spec.containers.lifecycle.postStart.tcpSocket"),
		dropped(k, "ContainerStopSignals", "spec.containers.lifecycle.stopSignal"),
		acted(k, "node/containerd", "node/containerd.TestConform", "spec.containers.terminationMessagePath", "spec.containers.terminationMessagePolicy"),
		acted(k, "node/containerd", "node/containerd.TestConform", "spec.ephemeralContainers.targetContainerName"),

		acted(k, "node/volume", "node/containerd.TestVolumes", "spec.containers.volumeMounts"),
		acted(k, "node/volume", "node/volume.TestMounts", "spec.containers.volumeMounts.mountPropagation", "spec.containers.volumeMounts.recursiveReadOnly"),
		dropped(k, "VolumeBindMountOptions", "spec.containers.volumeMounts.bindMountOptions"),
		refused(k, "node/volume", "node/volume.TestClaimModes", "volumes are not given as devices here; a pod with it never starts", "spec.containers.volumeDevices"),

		acted(k, "node/containerd", "node/containerd.TestSecurity", "spec.containers.securityContext"),
		acted(k, "node/pod", "node/pod.TestUnenforceable", "spec.containers.securityContext.procMount"),
		acted(k, "node/containerd", "node/containerd.TestSeccomp", "spec.containers.securityContext.seccompProfile"),
		acted(k, "node/pod", "node/pod.TestNonRoot", "spec.containers.securityContext.runAsNonRoot"),
		noWindows("spec.containers.securityContext.windowsOptions"),
	})
}

// podVolumeRows are the volumes of a pod: each type is a member of a union, and counts for itself.
func podVolumeRows() []Row {
	const k = "Pod"
	onDisk := warned(k, "not enforced here: the volume may fill the node's disk", "spec.volumes.emptyDir")
	onDisk.leaf = "sizeLimit"
	onDisk.asks = func(v any) bool {
		e, ok := v.(*core.EmptyDirVolumeSource)
		return ok && e.SizeLimit != nil && !e.SizeLimit.IsZero() && e.Medium != core.StorageMediumMemory
	}
	pages := refused(k, "node/volume", "node/volume.TestHugePagesAreNoMedium", "no node here offers huge pages; a pod with such a volume never starts", "spec.volumes.emptyDir.medium")
	pages.Unless = []string{string(core.StorageMediumMemory)}
	return []Row{
		acted(k, "node/volume", "node/containerd.TestVolumes", "spec.volumes.name", "spec.volumes.emptyDir.sizeLimit",
			"spec.volumes.projected.sources.downwardAPI", "spec.volumes.downwardAPI.items.fieldRef"),
		acted(k, "node/volume", "node/volume.TestModesOfFiles", "spec.volumes.secret", "spec.volumes.configMap", "spec.volumes.downwardAPI", "spec.volumes.projected.sources.secret",
			"spec.volumes.projected.sources.configMap", "spec.volumes.projected.defaultMode", "spec.volumes.projected.sources.downwardAPI.items.mode",
			"spec.volumes.projected.sources.downwardAPI.items.resourceFieldRef"),
		acted(k, "node/volume", "node/volume.TestOptional", "spec.volumes.secret.optional", "spec.volumes.configMap.optional", "spec.volumes.projected.sources.secret.optional",
			"spec.volumes.projected.sources.configMap.optional"),
		onDisk, pages,
		dropped(k, "EmptyDirVolumeMode", "spec.volumes.emptyDir.mode"),
		dropped(k, "AtomicWriteVolumeUserFields", "spec.volumes.secret.defaultUser", "spec.volumes.secret.items.user",
			"spec.volumes.configMap.defaultUser", "spec.volumes.configMap.items.user", "spec.volumes.downwardAPI.defaultUser", "spec.volumes.downwardAPI.items.user",
			"spec.volumes.projected.defaultUser", "spec.volumes.projected.sources.secret.items.user", "spec.volumes.projected.sources.configMap.items.user",
			"spec.volumes.projected.sources.downwardAPI.items.user", "spec.volumes.projected.sources.serviceAccountToken.user",
			"spec.volumes.projected.sources.clusterTrustBundle.user", "spec.volumes.projected.sources.podCertificate.user"),
		acted(k, "node/volume", "node/volume.TestHostPath", "spec.volumes.hostPath"),
		acted(k, "node/volume", "node/volume.TestTokens", "spec.volumes.projected.sources.serviceAccountToken"),
		acted(k, "node/volume", "node/volume.TestTrustAnchors", "spec.volumes.projected.sources.clusterTrustBundle"),
		acted(k, "node/volume", "node/volume.TestPodCertificate", "spec.volumes.projected.sources.podCertificate"),
		acted(k, "node/volume", "node/volume.TestClaim", "spec.volumes.persistentVolumeClaim"),
		acted(k, "node/volume", "node/volume.TestClaimModes", "spec.volumes.persistentVolumeClaim.readOnly"),
		acted(k, "node/containerd", "node/containerd.TestImageVolume", "spec.volumes.image"),
		refused(k, "node/volume", "node/volume.TestUnknownVolume", noPlugin, "spec.volumes.csi", "spec.volumes.ephemeral", "spec.volumes.nfs", "spec.volumes.iscsi", "spec.volumes.fc",
			"spec.volumes.gitRepo", "spec.volumes.awsElasticBlockStore", "spec.volumes.azureDisk", "spec.volumes.azureFile", "spec.volumes.cephfs", "spec.volumes.cinder",
			"spec.volumes.flexVolume", "spec.volumes.flocker", "spec.volumes.gcePersistentDisk", "spec.volumes.glusterfs", "spec.volumes.photonPersistentDisk",
			"spec.volumes.portworxVolume", "spec.volumes.quobyte", "spec.volumes.rbd", "spec.volumes.scaleIO", "spec.volumes.storageos", "spec.volumes.vsphereVolume"),
	}
}
