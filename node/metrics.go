package node

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"murmur/httpapi"
)

// What a node tells Prometheus of itself, beside its process and the Go runtime.
var (
	metricMembers    = prometheus.NewDesc("murmur_members", "Members of the cluster as this node sees them.", []string{"status"}, nil)
	metricObjects    = prometheus.NewDesc("murmur_store_objects", "Objects in this node's store.", nil, nil)
	metricTombstones = prometheus.NewDesc("murmur_store_tombstones", "Deletions that this node's store remembers.", nil, nil)
	metricDisk       = prometheus.NewDesc("murmur_store_disk_bytes", "Size of this node's store on disk.", nil, nil)
	metricBytes      = prometheus.NewDesc("murmur_store_bytes", "Bytes of objects that this node's store holds.", nil, nil)
	metricQuota      = prometheus.NewDesc("murmur_store_quota_bytes", "Bytes of objects from which on the API refuses what makes the store grow; 0 is no bound.", nil, nil)
	metricFull       = prometheus.NewDesc("murmur_store_quota_exceeded", "Whether the store has come to its quota and not below 95 % of it since.", nil, nil)
	metricRefused    = prometheus.NewDesc("murmur_store_quota_refused_writes_total", "Writes refused because the store had come to its quota.", nil, nil)
	metricHeld       = prometheus.NewDesc("murmur_store_held_writes", "Writes held aside because they are stamped too far in the future.", nil, nil)
	metricFailed     = prometheus.NewDesc("murmur_store_failed_objects", "Objects set aside because they could not be merged.", nil, nil)
	metricLosses     = prometheus.NewDesc("murmur_store_conflicts", "Remembered fields in which a concurrent write lost.", nil, nil)
	metricQueued     = prometheus.NewDesc("murmur_peer_queued_deltas", "Deltas that wait to be pushed to a peer.", []string{"peer"}, nil)
	metricDropped    = prometheus.NewDesc("murmur_peer_dropped_deltas_total", "Deltas that a full queue left to repair.", []string{"peer"}, nil)
	metricSynced     = prometheus.NewDesc("murmur_peer_synced_timestamp_seconds", "When the last exchange with a peer was complete.", []string{"peer"}, nil)
	metricGossip     = prometheus.NewDesc("murmur_gossip_events_total", "What happened between the stores, by kind: see gossip.PlaneCounters.", []string{"event"}, nil)
	metricPending    = prometheus.NewDesc("murmur_pending_pods", "Pods that this node has yet to place.", nil, nil)
)

// metrics reads the node when it is asked, and keeps nothing.
type metrics struct{ node *Node }

func (metrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{metricMembers, metricObjects, metricTombstones, metricDisk, metricBytes, metricQuota, metricFull, metricRefused, metricHeld, metricFailed, metricLosses, metricQueued, metricDropped, metricSynced, metricGossip, metricPending} {
		out <- d
	}
}

func (m metrics) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := map[string]int{}
	for _, o := range m.node.members() {
		count[o.Status]++
	}
	for status, n := range count {
		gauge(metricMembers, float64(n), status)
	}
	st := m.node.store.Status()
	gauge(metricObjects, float64(st.Objects))
	gauge(metricTombstones, float64(st.Tombstones))
	gauge(metricDisk, float64(st.DiskBytes))
	full := 0.0
	if st.Quota.Full {
		full = 1
	}
	gauge(metricBytes, float64(st.Quota.Held))
	gauge(metricQuota, float64(st.Quota.Limit))
	gauge(metricFull, full)
	out <- prometheus.MustNewConstMetric(metricRefused, prometheus.CounterValue, float64(st.Quota.Refused))
	gauge(metricHeld, float64(len(st.Held)))
	gauge(metricFailed, float64(len(st.Failed)))
	gauge(metricLosses, float64(len(st.Losses)))
	for _, p := range m.node.agent.Peers() {
		gauge(metricQueued, float64(p.Queued), p.Name)
		out <- prometheus.MustNewConstMetric(metricDropped, prometheus.CounterValue, float64(p.Dropped), p.Name)
		if !p.Synced.IsZero() {
			gauge(metricSynced, float64(p.Synced.UnixMilli())/1000, p.Name)
		}
	}
	traffic := m.node.agent.Traffic()
	for event, n := range map[string]uint64{
		"published": traffic.Published, "forwarded": traffic.Forwarded, "received": traffic.Received, "duplicate": traffic.Duplicates,
		"graft": traffic.Grafts, "prune": traffic.Prunes, "exchange": traffic.Exchanges, "exchange_abandoned": traffic.Abandoned,
		"repaired": traffic.Repaired, "refused": traffic.Refused, "check": traffic.Checks, "mended": traffic.Mended, "unknown": traffic.Unknown,
	} {
		out <- prometheus.MustNewConstMetric(metricGossip, prometheus.CounterValue, float64(n), event)
	}
	gauge(metricPending, float64(m.node.sched.Waiting()))
}

// buildInfo is what upstream's servers say of themselves under this name.
func buildInfo() prometheus.Collector {
	v := httpapi.Version()
	g := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "kubernetes_build_info", Help: "The Kubernetes release whose API is served here, and what this program was built with.",
		ConstLabels: prometheus.Labels{
			"major": v.Major, "minor": v.Minor, "git_version": v.GitVersion, "git_commit": v.GitCommit, "git_tree_state": v.GitTreeState,
			"build_date": v.BuildDate, "go_version": v.GoVersion, "compiler": v.Compiler, "platform": v.Platform,
		},
	})
	g.Set(1)
	return g
}

// metricsHandler answers /metrics.
func (n *Node) metricsHandler() http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(buildInfo())
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), metrics{n})
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}
