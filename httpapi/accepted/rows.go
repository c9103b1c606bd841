package accepted

import "slices"

// Rows are the table, by what the kinds are for.
func Rows() []Row {
	return slices.Concat(commonRows(), podRows(), containerRows(), podVolumeRows(), workloadRows(), networkRows(), storageRows(), clusterRows(), accessRows())
}

func acted(kind, by, test string, paths ...string) Row {
	return Row{Kind: kind, Paths: paths, Is: Acted, By: by, Test: test}
}

func kept(kind string, paths ...string) Row { return Row{Kind: kind, Paths: paths, Is: Kept} }

func warned(kind, say string, paths ...string) Row {
	return Row{Kind: kind, Paths: paths, Is: Warned, Say: say}
}

// dropped is what the API takes away, since upstream has the feature off by default.
func dropped(kind, gate string, paths ...string) Row {
	return Row{Kind: kind, Paths: paths, Is: Warned, Dropped: gate, Say: "dropped: the feature " + gate + " is off"}
}

// refused is what a part of the node refuses, with upstream's reason in the pod's status or an Event of the pod.
func refused(kind, by, test, say string, paths ...string) Row {
	return Row{Kind: kind, Paths: paths, Is: Refused, By: by, Test: test, Say: say}
}

// commonRows are what all kinds have.
func commonRows() []Row {
	return []Row{
		acted(every, "crdt", "httpapi.TestKinds", "metadata.name", "metadata.namespace", "metadata.uid"),
		acted(every, "httpapi", "httpapi.TestWhatTheAPISets", "metadata.generateName", "metadata.resourceVersion", "metadata.generation", "metadata.creationTimestamp"),
		acted(every, "httpapi", "httpapi.TestFinalize", "metadata.deletionTimestamp", "metadata.deletionGracePeriodSeconds", "metadata.finalizers"),
		acted(every, "node/control", "node/control.TestCascade", "metadata.ownerReferences"),
		acted(every, "node/control", "node/control.TestTwoOwners", "metadata.ownerReferences.blockOwnerDeletion"),
		acted(every, "node/control", "node/control.TestProtection", "metadata.ownerReferences.controller"),
		acted(every, "httpapi", "httpapi.TestKubectl", "metadata.managedFields"),
		kept(every, "metadata.labels", "metadata.annotations", "metadata.selfLink", "status"),
	}
}
