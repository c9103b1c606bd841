package accepted

// storageRows are those of what keeps data: nothing here binds, provisions or attaches.
func storageRows() []Row {
	const (
		pv, pvc, class = "PersistentVolume", "PersistentVolumeClaim", "StorageClass"
		noBinder       = "nothing here binds or provisions volumes: the claim waits until a volume and the claim each name the other, and its status says Bound"
		noCSI          = "nothing here speaks with CSI drivers"
	)
	reclaim := warned(pv, "not acted on here: a volume that is released stays as it is", "spec.persistentVolumeReclaimPolicy")
	reclaim.Unless = []string{"Retain"}
	block := refused(pv, "node/volume", "node/volume.TestClaimModes", "only volumes of mode Filesystem are mounted here", "spec.volumeMode")
	block.Unless = []string{"Filesystem"}
	raw := refused(pvc, "node/volume", "node/volume.TestClaimModes", "only volumes of mode Filesystem are mounted here", "spec.volumeMode")
	raw.Unless = []string{"Filesystem"}
	return []Row{
		acted(pv, "node/volume", "node/volume.TestClaim", "spec.hostPath", "spec.local.path", "spec.claimRef.namespace", "spec.claimRef.name", "spec.claimRef.uid"),
		kept(pv, "spec.local.fsType", "spec.claimRef"), // local volumes are directories
		acted(pv, "node/volume", "node/volume.TestClaimModes", "spec.accessModes"),
		reclaim, block,
		warned(pv, "heeded where the volume is mounted, and not where the pod is placed: it may land where its volume is not, and waits there", "spec.nodeAffinity"),
		warned(pv, "not acted on here", "spec.mountOptions"),
		kept(pv, "spec.capacity", "spec.storageClassName"), // for who binds
		acted(pv, "node/control", "node/control.TestProtection", "spec.volumeAttributesClassName"),
		refused(pv, "node/volume", "node/volume.TestUnknownVolume", noPlugin, "spec.csi", "spec.nfs", "spec.iscsi", "spec.fc", "spec.awsElasticBlockStore", "spec.azureDisk", "spec.azureFile",
			"spec.cephfs", "spec.cinder", "spec.flexVolume", "spec.flocker", "spec.gcePersistentDisk", "spec.glusterfs", "spec.photonPersistentDisk", "spec.portworxVolume",
			"spec.quobyte", "spec.rbd", "spec.scaleIO", "spec.storageos", "spec.vsphereVolume"),

		acted(pvc, "node/volume", "node/volume.TestClaim", "spec.volumeName"),
		acted(pvc, "node/volume", "node/volume.TestClaimModes", "spec.accessModes"),
		raw,
		warned(pvc, noBinder, "spec.resources", "spec.selector", "spec.storageClassName", "spec.dataSource", "spec.dataSourceRef"),
		warned(pvc, noCSI, "spec.volumeAttributesClassName"),

		warned(class, "nothing here provisions volumes", "provisioner", "parameters", "reclaimPolicy", "mountOptions", "volumeBindingMode", "allowedTopologies"),
		acted(class, "httpapi/admit", "httpapi.TestExpansion", "allowVolumeExpansion"),
		warned("VolumeAttributesClass", noCSI, "driverName", "parameters"),
		warned("VolumeAttachment", noCSI, "spec"),
		warned("CSIDriver", noCSI, "spec"),
		warned("CSINode", noCSI, "spec"),
		warned("CSIStorageCapacity", noCSI, "nodeTopology", "storageClassName", "capacity", "maximumVolumeSize"),
	}
}
