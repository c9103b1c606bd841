package httpapi

import (
	"fmt"
	"net/http"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// TestFieldsOfRegistries: fields that upstream's registries and plugins act on before anybody else sees the object.
func TestFieldsOfRegistries(t *testing.T) {
	n := newNode(t, nil)
	const core, batch = "/api/v1/namespaces/default/", "/apis/batch/v1/namespaces/default/"

	secret := n.expect(http.StatusCreated, "POST", core+"secrets", "", `{apiVersion: v1, kind: Secret, metadata: {name: s}, immutable: true, stringData: {a: b}}`)
	if at(secret, "data", "a") != "Yg==" || at(secret, "stringData") != nil {
		t.Errorf("stringData: %v", secret)
	}
	n.expect(http.StatusUnprocessableEntity, "PATCH", core+"secrets/s", mergePatch, `{"data":{"a":"Yw=="}}`, "field is immutable when `immutable` is set")
	n.expect(http.StatusCreated, "POST", core+"configmaps", "", `{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, immutable: true, data: {a: b}}`)
	n.expect(http.StatusUnprocessableEntity, "PATCH", core+"configmaps/c", mergePatch, `{"data":{"a":"c"}}`, "field is immutable when `immutable` is set")

	job := func(name, more string) string {
		return `{apiVersion: batch/v1, kind: Job, metadata: {name: ` + name + `}, spec: {` + more + `template: {metadata: {labels: {a: b}}, spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}}`
	}
	if made := n.expect(http.StatusCreated, "POST", batch+"jobs", "", job("own", "")); at(made, "spec", "selector", "matchLabels", "batch.kubernetes.io/controller-uid") == nil {
		t.Errorf("a Job without a selector: %v", at(made, "spec", "selector"))
	}
	if made := n.expect(http.StatusCreated, "POST", batch+"jobs", "", job("manual", "manualSelector: true, selector: {matchLabels: {a: b}}, ")); fmt.Sprint(at(made, "spec", "selector")) != "map[matchLabels:map[a:b]]" {
		t.Errorf("a Job with one: %v", at(made, "spec", "selector"))
	}
	n.expect(http.StatusUnprocessableEntity, "POST", batch+"jobs", "", job("neither", "selector: {matchLabels: {a: b}}, "), "`selector` not auto-generated")

	service := func(name, more string) string {
		return `{apiVersion: v1, kind: Service, metadata: {name: ` + name + `}, spec: {` + more + `, ports: [{port: 80}]}}`
	}
	n.expect(http.StatusUnprocessableEntity, "POST", core+"services", "", service("six", "ipFamilies: [IPv6]"), "IPv6")
	n.expect(http.StatusUnprocessableEntity, "POST", core+"services", "", service("dual", "ipFamilyPolicy: RequireDualStack"), "this cluster is not configured for dual-stack services")
	if made := n.expect(http.StatusCreated, "POST", core+"services", "", service("either", "ipFamilyPolicy: PreferDualStack")); fmt.Sprint(at(made, "spec", "ipFamilies")) != "[IPv4]" {
		t.Errorf("a Service that takes either: %v", at(made, "spec", "ipFamilies"))
	}
	nodePort := func(obj map[string]any) any {
		ports, _, _ := unstructured.NestedSlice(obj, "spec", "ports")
		return ports[0].(map[string]any)["nodePort"]
	}
	if made := n.expect(http.StatusCreated, "POST", core+"services", "", service("with", "type: LoadBalancer")); nodePort(made) == nil {
		t.Error("a load balancer without a node port")
	}
	if made := n.expect(http.StatusCreated, "POST", core+"services", "", service("without", "type: LoadBalancer, allocateLoadBalancerNodePorts: false")); nodePort(made) != nil {
		t.Errorf("a load balancer that wants no node port has %v", nodePort(made))
	}

	// A pod that is not ready may be evicted beside a budget that has nothing to give, where the budget says so.
	pod := func(name, more string) string {
		return `{apiVersion: v1, kind: Pod, metadata: {name: ` + name + `, labels: {app: ` + name + `}}, spec: {` + more + `containers: [{name: c, image: i}]}}`
	}
	for name, policy := range map[string]string{"kept": "IfHealthyBudget", "freed": "AlwaysAllow"} {
		n.expect(http.StatusCreated, "POST", core+"pods", "", pod(name, "nodeName: n1, "))
		n.expect(http.StatusOK, "PATCH", core+"pods/"+name+"/status", mergePatch, `{"status":{"phase":"Running"}}`)
		n.expect(http.StatusCreated, "POST", "/apis/policy/v1/namespaces/default/poddisruptionbudgets", "", `{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: `+name+`},
			spec: {minAvailable: 1, selector: {matchLabels: {app: `+name+`}}, unhealthyPodEvictionPolicy: `+policy+`}}`)
		n.expect(http.StatusOK, "PATCH", "/apis/policy/v1/namespaces/default/poddisruptionbudgets/"+name+"/status", mergePatch, `{"status":{"observedGeneration":1,"desiredHealthy":1}}`)
		want := map[string]int{"kept": http.StatusTooManyRequests, "freed": http.StatusCreated}[name]
		n.expect(want, "POST", core+"pods/"+name+"/eviction", "", `{apiVersion: policy/v1, kind: Eviction, metadata: {name: `+name+`}}`)
	}

	// Quotas count what their scopes select.
	n.expect(http.StatusCreated, "POST", core+"resourcequotas", "", `{apiVersion: v1, kind: ResourceQuota, metadata: {name: q}, spec: {hard: {pods: 0}, scopes: [Terminating]}}`)
	n.expect(http.StatusCreated, "POST", core+"resourcequotas", "", `{apiVersion: v1, kind: ResourceQuota, metadata: {name: high}, spec: {hard: {pods: 0},
		scopeSelector: {matchExpressions: [{scopeName: PriorityClass, operator: In, values: [high]}]}}}`)
	for _, name := range []string{"q", "high"} {
		n.expect(http.StatusOK, "PATCH", core+"resourcequotas/"+name+"/status", mergePatch, `{"status":{"hard":{"pods":"0"},"used":{"pods":"0"}}}`)
	}
	n.expect(http.StatusCreated, "POST", "/apis/scheduling.k8s.io/v1/priorityclasses", "", `{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: high}, value: 10, preemptionPolicy: Never}`)
	n.expect(http.StatusCreated, "POST", "/apis/scheduling.k8s.io/v1/priorityclasses", "", `{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: usual}, value: 7, globalDefault: true}`)
	n.expect(http.StatusForbidden, "POST", core+"pods", "", pod("short", "activeDeadlineSeconds: 5, "), "exceeded quota: q")
	n.expect(http.StatusForbidden, "POST", core+"pods", "", pod("high", "priorityClassName: high, "), "exceeded quota: high")
	made := n.expect(http.StatusCreated, "POST", core+"pods", "", pod("usual", ""))
	if at(made, "spec", "priorityClassName") != "usual" || fmt.Sprint(at(made, "spec", "priority")) != "7" {
		t.Errorf("a pod without a class: %v %v", at(made, "spec", "priorityClassName"), at(made, "spec", "priority"))
	}
	n.expect(http.StatusOK, "DELETE", core+"resourcequotas/high", "", "null")
	if made := n.expect(http.StatusCreated, "POST", core+"pods", "", pod("never", "priorityClassName: high, ")); at(made, "spec", "preemptionPolicy") != "Never" {
		t.Errorf("a pod of a class that preempts nobody: %v", at(made, "spec", "preemptionPolicy"))
	}

	// Classes of runtimes bring where they are.
	n.expect(http.StatusCreated, "POST", "/apis/node.k8s.io/v1/runtimeclasses", "", `{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: r}, handler: other,
		overhead: {podFixed: {cpu: 10m}}, scheduling: {nodeSelector: {has: other}, tolerations: [{key: other, operator: Exists, effect: NoSchedule, tolerationSeconds: null}]}}`)
	made = n.expect(http.StatusCreated, "POST", core+"pods", "", pod("classed", "runtimeClassName: r, "))
	tolerations, _, _ := unstructured.NestedSlice(made, "spec", "tolerations")
	if fmt.Sprint(at(made, "spec", "nodeSelector")) != "map[has:other]" || fmt.Sprint(at(made, "spec", "overhead")) != "map[cpu:10m]" || len(tolerations) != 3 || tolerations[2].(map[string]any)["key"] != "other" {
		t.Errorf("a pod of a runtime class: %v", at(made, "spec"))
	}

	// Limits of a namespace.
	n.expect(http.StatusCreated, "POST", core+"limitranges", "", `{apiVersion: v1, kind: LimitRange, metadata: {name: l}, spec: {limits: [{type: Container,
		min: {cpu: 10m}, max: {cpu: 1}, default: {cpu: 100m}, defaultRequest: {cpu: 50m}, maxLimitRequestRatio: {cpu: 4}}]}}`)
	made = n.expect(http.StatusCreated, "POST", core+"pods", "", pod("limited", ""))
	containers, _, _ := unstructured.NestedSlice(made, "spec", "containers")
	if got := fmt.Sprint(containers[0].(map[string]any)["resources"]); got != "map[limits:map[cpu:100m] requests:map[cpu:50m]]" {
		t.Errorf("defaults: %s", got)
	}
	for resources, why := range map[string]string{
		"limits: {cpu: 2}":                         "maximum cpu usage per Container is 1, but limit is 2",
		"limits: {cpu: 5m}":                        "minimum cpu usage per Container is 10m",
		"requests: {cpu: 10m}, limits: {cpu: 50m}": "cpu max limit to request ratio per Container is 4",
	} {
		n.expect(http.StatusForbidden, "POST", core+"pods", "", `{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c, image: i, resources: {`+resources+`}}]}}`, why)
	}

	// What an account gives its pods.
	n.expect(http.StatusCreated, "POST", core+"serviceaccounts", "", `{apiVersion: v1, kind: ServiceAccount, metadata: {name: a}, imagePullSecrets: [{name: s}], automountServiceAccountToken: false}`)
	made = n.expect(http.StatusCreated, "POST", core+"pods", "", pod("accounted", "serviceAccountName: a, "))
	if fmt.Sprint(at(made, "spec", "imagePullSecrets")) != "[map[name:s]]" || at(made, "spec", "volumes") != nil || at(made, "spec", "serviceAccount") != "a" {
		t.Errorf("a pod of an account without a token: %v", at(made, "spec"))
	}
	n.expect(http.StatusOK, "PATCH", core+"serviceaccounts/a", mergePatch, `{"metadata":{"annotations":{"kubernetes.io/enforce-mountable-secrets":"true"}},"secrets":[{"name":"s"}]}`)
	mounting := func(secret string) string {
		return `volumes: [{name: v, secret: {secretName: ` + secret + `}}], serviceAccountName: a, `
	}
	n.expect(http.StatusCreated, "POST", core+"pods", "", pod("mounting", mounting("s")))
	n.expect(http.StatusForbidden, "POST", core+"pods", "", pod("reaching", mounting("other")), "service account a does not reference that secret")
	n.expect(http.StatusOK, "PATCH", core+"serviceaccounts/a", mergePatch, `{"metadata":{"annotations":null}}`)
	made = n.expect(http.StatusCreated, "POST", core+"pods", "", pod("insisting", "serviceAccount: a, automountServiceAccountToken: true, "))
	if volumes, _, _ := unstructured.NestedSlice(made, "spec", "volumes"); len(volumes) != 1 || at(made, "spec", "serviceAccountName") != "a" {
		t.Errorf("a pod that wants one: %v", at(made, "spec"))
	}
}
