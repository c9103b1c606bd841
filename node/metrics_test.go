package node

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// TestBuildInfo: dashboards find the release under upstream's name.
func TestBuildInfo(t *testing.T) {
	r := prometheus.NewRegistry()
	r.MustRegister(buildInfo())
	all, err := r.Gather()
	if err != nil || len(all) != 1 || all[0].GetName() != "kubernetes_build_info" {
		t.Fatalf("%v %v", all, err)
	}
	labels := map[string]string{}
	for _, l := range all[0].GetMetric()[0].GetLabel() {
		labels[l.GetName()] = l.GetValue()
	}
	if labels["git_version"] != "v1.37.2+murmur" || labels["major"] != "1" || labels["minor"] != "37" || labels["go_version"] == "" {
		t.Errorf("%v", labels)
	}
}
