package usage

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	fieldselectors "k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/metrics/pkg/apis/metrics"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/httpapi/relay"
)

const (
	// usagePatience is how long a node is waited for.
	usagePatience = 2 * time.Second
	// maxUsage bounds what a node may answer: a thousand pods are about half a megabyte.
	maxUsage = 8 << 20
)

// Config is what usage takes.
type Config struct {
	Store *store.Store
	// Node is this node's name.
	Node string
	// Relay reaches the other nodes.
	Relay *relay.Relay
	// Own is what this node and its pods use. Of their metadata only the names count. Nil: nobody measures it.
	Own func() (*metricsv1beta1.NodeMetrics, []metricsv1beta1.PodMetrics)
	Log *slog.Logger
}

// Pods is the storage of PodMetrics.
func Pods(cfg *Config) rest.Storage { return pods{cfg} }

// Nodes is the storage of NodeMetrics.
func Nodes(cfg *Config) rest.Storage { return nodes{cfg} }

// chosen is what a request for usage chooses.
type chosen struct {
	namespace string // "" is all
	name      string // "" is all
	labels    labels.Selector
	fields    fieldselectors.Selector
}

func selection(ctx context.Context, opts *internalversion.ListOptions) chosen {
	a := chosen{namespace: request.NamespaceValue(ctx), labels: labels.Everything(), fields: fieldselectors.Everything()}
	if opts != nil && opts.LabelSelector != nil {
		a.labels = opts.LabelSelector
	}
	if opts != nil && opts.FieldSelector != nil {
		a.fields = opts.FieldSelector
	}
	return a
}

func (a chosen) chooses(m *metav1.ObjectMeta) bool {
	return (a.name == "" || a.name == m.Name) && a.labels.Matches(labels.Set(m.Labels)) &&
		a.fields.Matches(fieldselectors.Set{"metadata.name": m.Name, "metadata.namespace": m.Namespace})
}

// among are the objects of a resource among which are those that a request chooses: the one that it names, or those with its labels.
func among[T any](snap *store.Snapshot, resource string, a chosen) []*T {
	if a.name == "" {
		return store.Select[T](snap, resource, a.namespace, a.labels)
	}
	if one, ok := store.Get[T](snap, crdt.Key{Resource: resource, Namespace: a.namespace, Name: a.name}); ok {
		return []*T{one}
	}
	return nil
}

// path is the request as another node is asked it.
func (a chosen) path(resource string) string {
	path := "/apis/" + metricsv1beta1.SchemeGroupVersion.String()
	if a.namespace != "" {
		path += "/namespaces/" + url.PathEscape(a.namespace)
	}
	path += "/" + resource
	if a.name != "" {
		path += "/" + url.PathEscape(a.name)
	}
	query := url.Values{}
	if !a.labels.Empty() {
		query.Set("labelSelector", a.labels.String())
	}
	if !a.fields.Empty() {
		query.Set("fieldSelector", a.fields.String())
	}
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	return path
}

// fromAll gathers the answers of some nodes: what this one has, and what the others in sight say within the time. into makes the
// object that another's answer is read into.
func fromAll[T any](ctx context.Context, c *Config, nodes []string, path string, own func() T, into func() (runtime.Object, func() T)) []T {
	out := make([]T, len(nodes))
	said := make([]bool, len(nodes))
	snap := c.Store.Snapshot()
	ctx, cancel := context.WithTimeout(ctx, usagePatience)
	defer cancel()
	var wg sync.WaitGroup
	for i, node := range nodes {
		if node == c.Node {
			out[i], said[i] = own(), true
			continue
		}
		if c.Relay.Reachable(ctx, node) != nil || !inSight(snap, node) {
			continue
		}
		wg.Go(func() {
			obj, value := into()
			if err := c.ask(ctx, node, path, obj); err != nil {
				c.Log.Debug("what a node uses", "node", node, "err", err)
				return
			}
			out[i], said[i] = value(), true
		})
	}
	wg.Wait()
	var answers []T
	for i := range out {
		if said[i] {
			answers = append(answers, out[i])
		}
	}
	return answers
}

// inSight tells whether a node can be reached as far as this one knows.
func inSight(snap *store.Snapshot, name string) bool {
	n, ok := store.Get[corev1.Node](snap, crdt.Key{Resource: "nodes", Name: name})
	return ok && !slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeUnreachable })
}

// ask reads what another node answers to a GET of the request's user.
func (c *Config) ask(ctx context.Context, node, path string, into runtime.Object) error {
	resp, err := c.Relay.Get(ctx, node, path, runtime.ContentTypeJSON)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxUsage+1))
	switch {
	case err != nil:
		return err
	case len(body) > maxUsage:
		return fmt.Errorf("node %s answers more than %d bytes", node, maxUsage)
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("node %s answers %s", node, resp.Status)
	}
	return json.Unmarshal(body, into)
}

// own is what this node and its pods use.
func (c *Config) own() (*metricsv1beta1.NodeMetrics, []metricsv1beta1.PodMetrics) {
	if c.Own == nil {
		return nil, nil
	}
	return c.Own()
}

// pods is PodMetrics.
type pods struct{ *Config }

var (
	_ rest.Scoper               = pods{}
	_ rest.Getter               = pods{}
	_ rest.Lister               = pods{}
	_ rest.SingularNameProvider = pods{}
)

func (pods) New() runtime.Object     { return &metrics.PodMetrics{} }
func (pods) NewList() runtime.Object { return &metrics.PodMetricsList{} }
func (pods) Destroy()                {}
func (pods) NamespaceScoped() bool   { return true }
func (pods) GetSingularName() string { return "" }

func (p pods) List(ctx context.Context, opts *internalversion.ListOptions) (runtime.Object, error) {
	items, err := p.of(ctx, selection(ctx, opts))
	if err != nil {
		return nil, err
	}
	return &metrics.PodMetricsList{Items: items}, nil
}

func (p pods) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	a := selection(ctx, nil)
	a.name = name
	items, err := p.of(ctx, a)
	if err != nil {
		return nil, err
	}
	if len(items) == 0 {
		return nil, apierrors.NewNotFound(metrics.Resource("podmetrics"), a.namespace+"/"+name)
	}
	return &items[0], nil
}

// of asks the nodes that the pods run on.
func (p pods) of(ctx context.Context, a chosen) ([]metrics.PodMetrics, error) {
	pods := map[string]*corev1.Pod{}
	on := map[string]bool{}
	for _, pod := range among[corev1.Pod](p.Store.Snapshot(), "pods", a) {
		if pod.Spec.NodeName != "" && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed && a.chooses(&pod.ObjectMeta) {
			pods[pod.Namespace+"/"+pod.Name] = pod
			on[pod.Spec.NodeName] = true
		}
	}
	answers := fromAll(ctx, p.Config, slices.Sorted(maps.Keys(on)), a.path("pods"),
		func() []metricsv1beta1.PodMetrics { _, own := p.own(); return own },
		func() (runtime.Object, func() []metricsv1beta1.PodMetrics) {
			if a.name != "" {
				one := &metricsv1beta1.PodMetrics{}
				return one, func() []metricsv1beta1.PodMetrics { return []metricsv1beta1.PodMetrics{*one} }
			}
			list := &metricsv1beta1.PodMetricsList{}
			return list, func() []metricsv1beta1.PodMetrics { return list.Items }
		})
	now := metav1.Now()
	out := []metrics.PodMetrics{}
	for _, answer := range answers {
		for i := range answer {
			pod := pods[answer[i].Namespace+"/"+answer[i].Name]
			if pod == nil {
				continue
			}
			var m metrics.PodMetrics
			if err := legacyscheme.Scheme.Convert(&answer[i], &m, nil); err != nil {
				return nil, apierrors.NewInternalError(err)
			}
			m.ObjectMeta = metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace, Labels: pod.Labels, CreationTimestamp: now}
			out = append(out, m)
			delete(pods, pod.Namespace+"/"+pod.Name) // a pod that two nodes run after a partition is told once
		}
	}
	slices.SortFunc(out, func(a, b metrics.PodMetrics) int {
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})
	return out, nil
}

func (pods) ConvertToTable(_ context.Context, obj, _ runtime.Object) (*metav1.Table, error) {
	row := func(m *metrics.PodMetrics) usageRow {
		sum := corev1.ResourceList{}
		for _, c := range m.Containers {
			for name, q := range c.Usage {
				have := sum[name]
				have.Add(q)
				sum[name] = have
			}
		}
		return usageRow{m.Name, sum, m.Window, m}
	}
	switch obj := obj.(type) {
	case *metrics.PodMetrics:
		return usageTable(row(obj)), nil
	case *metrics.PodMetricsList:
		var rows []usageRow
		for i := range obj.Items {
			rows = append(rows, row(&obj.Items[i]))
		}
		return usageTable(rows...), nil
	}
	return nil, fmt.Errorf("a %T is no PodMetrics", obj)
}

// nodes is NodeMetrics.
type nodes struct{ *Config }

var (
	_ rest.Scoper               = nodes{}
	_ rest.Getter               = nodes{}
	_ rest.Lister               = nodes{}
	_ rest.SingularNameProvider = nodes{}
)

func (nodes) New() runtime.Object     { return &metrics.NodeMetrics{} }
func (nodes) NewList() runtime.Object { return &metrics.NodeMetricsList{} }
func (nodes) Destroy()                {}
func (nodes) NamespaceScoped() bool   { return false }
func (nodes) GetSingularName() string { return "" }

func (n nodes) List(ctx context.Context, opts *internalversion.ListOptions) (runtime.Object, error) {
	items, err := n.of(ctx, selection(ctx, opts))
	if err != nil {
		return nil, err
	}
	return &metrics.NodeMetricsList{Items: items}, nil
}

func (n nodes) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	a := selection(ctx, nil)
	a.name = name
	items, err := n.of(ctx, a)
	if err != nil {
		return nil, err
	}
	if len(items) == 0 {
		return nil, apierrors.NewNotFound(metrics.Resource("nodemetrics"), name)
	}
	return &items[0], nil
}

func (n nodes) of(ctx context.Context, a chosen) ([]metrics.NodeMetrics, error) {
	nodes := map[string]*corev1.Node{}
	for _, node := range among[corev1.Node](n.Store.Snapshot(), "nodes", a) {
		if a.chooses(&node.ObjectMeta) {
			nodes[node.Name] = node
		}
	}
	answers := fromAll(ctx, n.Config, slices.Sorted(maps.Keys(nodes)), a.path("nodes"),
		func() []metricsv1beta1.NodeMetrics {
			if own, _ := n.own(); own != nil {
				return []metricsv1beta1.NodeMetrics{*own}
			}
			return nil
		},
		func() (runtime.Object, func() []metricsv1beta1.NodeMetrics) {
			if a.name != "" {
				one := &metricsv1beta1.NodeMetrics{}
				return one, func() []metricsv1beta1.NodeMetrics { return []metricsv1beta1.NodeMetrics{*one} }
			}
			list := &metricsv1beta1.NodeMetricsList{}
			return list, func() []metricsv1beta1.NodeMetrics { return list.Items }
		})
	now := metav1.Now()
	out := []metrics.NodeMetrics{}
	for _, answer := range answers {
		for i := range answer {
			node := nodes[answer[i].Name]
			if node == nil {
				continue
			}
			var m metrics.NodeMetrics
			if err := legacyscheme.Scheme.Convert(&answer[i], &m, nil); err != nil {
				return nil, apierrors.NewInternalError(err)
			}
			m.ObjectMeta = metav1.ObjectMeta{Name: node.Name, Labels: node.Labels, CreationTimestamp: now}
			out = append(out, m)
		}
	}
	return out, nil
}

func (nodes) ConvertToTable(_ context.Context, obj, _ runtime.Object) (*metav1.Table, error) {
	row := func(m *metrics.NodeMetrics) usageRow { return usageRow{m.Name, m.Usage, m.Window, m} }
	switch obj := obj.(type) {
	case *metrics.NodeMetrics:
		return usageTable(row(obj)), nil
	case *metrics.NodeMetricsList:
		var rows []usageRow
		for i := range obj.Items {
			rows = append(rows, row(&obj.Items[i]))
		}
		return usageTable(rows...), nil
	}
	return nil, fmt.Errorf("a %T is no NodeMetrics", obj)
}

type usageRow struct {
	name   string
	usage  corev1.ResourceList
	window metav1.Duration
	object runtime.Object
}

// usageTable has metrics-server's columns.
func usageTable(rows ...usageRow) *metav1.Table {
	table := &metav1.Table{ColumnDefinitions: []metav1.TableColumnDefinition{
		{Name: "Name", Type: "string", Format: "name", Description: "Name of the resource"},
		{Name: "cpu", Type: "string", Format: "quantity"},
		{Name: "memory", Type: "string", Format: "quantity"},
		{Name: "Window", Type: "string", Format: "duration"},
	}}
	for _, r := range rows {
		table.Rows = append(table.Rows, metav1.TableRow{Cells: []any{r.name, r.usage.Cpu().String(), r.usage.Memory().String(), r.window.Duration.String()},
			Object: runtime.RawExtension{Object: r.object}})
	}
	return table
}
