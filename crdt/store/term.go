package store

import (
	"slices"
	"strings"
)

// termsOf are the terms of an object, each once, in the order of their indexes and values.
func termsOf(resource string, value []byte) []string {
	var t terms
	meta := member(value, "metadata")
	t.ofAny(meta)
	if Selects(resource) {
		t.ofSelector(at(value, "spec", "selector"), resource == "services" || resource == "replicationcontrollers")
	}
	switch resource {
	case "pods":
		t.ofPod(value, meta)
	case "persistentvolumeclaims":
		t.addText(ByVolume, value, "spec", "volumeName")
		t.addText(ByAttributes, value, "spec", "volumeAttributesClassName")
		t.addText(ByAttributes, value, "status", "currentVolumeAttributesClassName")
		t.addText(ByAttributes, value, "status", "modifyVolumeStatus", "targetVolumeAttributesClassName")
	case "persistentvolumes":
		t.addText(ByAttributes, value, "spec", "volumeAttributesClassName")
		if ref := at(value, "spec", "claimRef"); ref != nil {
			t.add(ByClaim, text(member(ref, "namespace"))+"/"+text(member(ref, "name")))
		}
	case "services":
		t.ofService(member(value, "spec"))
	case "endpoints":
		for _, subset := range elements(member(value, "subsets")) {
			t.addresses(member(subset, "addresses"), "ip")
			t.addresses(member(subset, "notReadyAddresses"), "ip")
		}
	case "discovery.k8s.io/endpointslices":
		for _, e := range elements(member(value, "endpoints")) {
			for _, ip := range elements(member(e, "addresses")) {
				t.add(ByAddress, text(ip))
			}
		}
	case "nodes":
		t.addresses(at(value, "status", "addresses"), "address")
	case "secrets":
		t.add(ByType, text(member(value, "type")))
	case "rbac.authorization.k8s.io/clusterroles":
		if member(value, "aggregationRule") != nil {
			t.add(ByAggregation, "")
		}
	case "rbac.authorization.k8s.io/rolebindings", "rbac.authorization.k8s.io/clusterrolebindings":
		t.ofBinding(value, text(member(meta, "namespace")))
	case "storage.k8s.io/volumeattachments":
		t.addText(ByNode, value, "spec", "nodeName")
	case "certificates.k8s.io/podcertificaterequests":
		t.addText(ByNode, value, "spec", "nodeName")
		t.addText(ByPod, value, "spec", "podUID")
	case "events":
		t.add(ByTime, seen(value, meta))
	}
	slices.Sort(t)
	return t
}

// terms are those of one object while they are collected.
type terms []string

func (t *terms) add(i Index, v string) {
	if term := string(i) + v; !slices.Contains(*t, term) {
		*t = append(*t, term)
	}
}

// addText adds the string at a path of names, if there is one.
func (t *terms) addText(i Index, value []byte, path ...string) {
	if v := text(at(value, path...)); v != "" {
		t.add(i, v)
	}
}

// addresses adds what the elements of a list have under a name.
func (t *terms) addresses(list []byte, name string) {
	for _, a := range elements(list) {
		t.addText(ByAddress, a, name)
	}
}

// ofAny adds the terms that objects of every resource have.
func (t *terms) ofAny(meta []byte) {
	tied := false
	for name, v := range members(meta) {
		switch name {
		case "labels":
			for k, l := range members(v) {
				t.add(ByLabel, LabelTerm(k, text(l)))
			}
		case "ownerReferences":
			for _, ref := range elements(v) {
				t.add(ByOwner, text(member(ref, "uid")))
				tied = true
			}
		case "finalizers", "deletionTimestamp":
			tied = true
		}
	}
	if tied {
		t.add(ByTies, "")
	}
}

func (t *terms) ofPod(value, meta []byte) {
	spec, status := member(value, "spec"), member(value, "status")
	deleted, node := member(meta, "deletionTimestamp") != nil, text(member(spec, "nodeName"))
	if node != "" {
		t.add(ByNode, node)
	}
	for name, v := range members(member(meta, "annotations")) {
		if strings.HasPrefix(name, ClaimPrefix) {
			t.add(ByNode, text(member([]byte(text(v)), "node"))) // whether the claim counts is for others to say
		}
	}
	if node == "" && !deleted && member(spec, "schedulingGates") == nil {
		t.add(ByNode, "")
	}
	if node == "" && deleted {
		t.add(ByDone, Unbound)
	}
	if phase := text(member(status, "phase")); !deleted && (phase == "Succeeded" || phase == "Failed") {
		t.add(ByDone, Ended)
	}
	for _, v := range elements(member(spec, "volumes")) {
		if name := claimOf(value, v); name != "" {
			t.add(ByClaim, name)
		}
	}
	t.addresses(member(status, "podIPs"), "ip")
	t.addText(ByAddress, status, "podIP")
}

func (t *terms) ofService(spec []byte) {
	for _, ip := range elements(member(spec, "clusterIPs")) {
		t.add(ByAddress, text(ip))
	}
	t.addText(ByAddress, spec, "clusterIP")
	for _, p := range elements(member(spec, "ports")) {
		t.port(member(p, "nodePort"))
	}
	t.port(member(spec, "healthCheckNodePort"))
}

// Selects tells whether BySelector has the objects of a resource.
func Selects(resource string) bool {
	switch resource {
	case "services", "replicationcontrollers", "apps/replicasets", "apps/deployments", "apps/statefulsets", "apps/daemonsets", "batch/jobs", "policy/poddisruptionbudgets":
		return true
	}
	return false
}

// ofSelector adds what a selector asks for; plain is one that is nothing but labels.
func (t *terms) ofSelector(selector []byte, plain bool) {
	if len(selector) == 0 || selector[0] != '{' {
		return // it selects nothing
	}
	if !plain {
		selector = member(selector, "matchLabels")
	}
	for k, v := range members(selector) {
		t.add(BySelector, LabelTerm(k, text(v)))
		return
	}
	if !plain {
		t.add(BySelector, "")
	}
}

// port adds the encoding of a number that is not 0.
func (t *terms) port(n []byte) {
	if len(n) > 0 && string(n) != "0" {
		t.add(ByPort, string(n))
	}
}

// ofBinding adds the subjects of a binding in a namespace; "" is in all.
func (t *terms) ofBinding(value []byte, namespace string) {
	for _, s := range elements(member(value, "subjects")) {
		kind, of := text(member(s, "kind")), ""
		if kind == "ServiceAccount" {
			if of = text(member(s, "namespace")); of == "" {
				of = namespace
			}
		}
		t.add(BySubject, SubjectTerm(kind, of, text(member(s, "name"))))
	}
}

// seen is the second in which an Event was seen last, or was made.
func seen(value, meta []byte) (last string) {
	for _, v := range [][]byte{member(meta, "creationTimestamp"), member(value, "lastTimestamp"), member(value, "eventTime"), at(value, "series", "lastObservedTime")} {
		if s := text(v); len(s) >= secondsLen {
			last = max(last, s[:secondsLen])
		}
	}
	return last
}

// at is the encoding at a path of names; nil if there is none.
func at(value []byte, path ...string) []byte {
	for _, name := range path {
		value = member(value, name)
	}
	return value
}
