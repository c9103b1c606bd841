package inprocess

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/metrics/pkg/apis/metrics"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"murmur/httpapi/custom"
)

// Scale is the scale of what a reference in a namespace names. The kind is what counts; of its versions any that is served has the
// same. Without such a kind it is a meta.NoKindMatchError.
func (c *Client) Scale(ctx context.Context, namespace string, of autoscalingv2.CrossVersionObjectReference) (*autoscalingv1.Scale, error) {
	return c.scale(ctx, http.MethodGet, namespace, of, nil)
}

// UpdateScale sets the replicas of what a reference names to those of scale. A UID or resourceVersion in scale must be the current one.
func (c *Client) UpdateScale(ctx context.Context, namespace string, of autoscalingv2.CrossVersionObjectReference, scale *autoscalingv1.Scale) error {
	_, err := c.scale(ctx, http.MethodPut, namespace, of, scale)
	return err
}

// scale asks as any client would: the kinds of the table and those that are defined have their scales behind different handlers.
func (c *Client) scale(ctx context.Context, method, namespace string, of autoscalingv2.CrossVersionObjectReference, to *autoscalingv1.Scale) (*autoscalingv1.Scale, error) {
	resource, err := c.api.scalable(of)
	if err != nil {
		return nil, err
	}
	root := "/apis/" + resource.GroupVersion().String()
	if resource.Group == "" {
		root = "/api/" + resource.Version
	}
	var body []byte
	if to != nil {
		out := to.DeepCopy()
		out.SetGroupVersionKind(custom.ScaleKind)
		if body, err = json.Marshal(out); err != nil {
			return nil, err
		}
	}
	path := fmt.Sprintf("https://murmur%s/namespaces/%s/%s/%s/scale", root, url.PathEscape(namespace), resource.Resource, url.PathEscape(of.Name))
	r, err := http.NewRequestWithContext(ctx, method, path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "application/json")
	r.Header.Set("Content-Type", "application/json")
	resp, err := c.RoundTripper().RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, c.api.cfg.MaxBody))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		status := metav1.Status{}
		if err := json.Unmarshal(answer, &status); err != nil || status.Status != metav1.StatusFailure {
			return nil, apierrors.NewInternalError(fmt.Errorf("scale of %s %s/%s: %d", of.Kind, namespace, of.Name, resp.StatusCode))
		}
		return nil, &apierrors.StatusError{ErrStatus: status}
	}
	out := &autoscalingv1.Scale{}
	return out, json.Unmarshal(answer, out)
}

// scalable is the resource of a kind that has a scale, in a version that serves it.
func (a *API) scalable(of autoscalingv2.CrossVersionObjectReference) (schema.GroupVersionResource, error) {
	gv, err := schema.ParseGroupVersion(of.APIVersion)
	if err != nil {
		return schema.GroupVersionResource{}, err
	}
	for k := range a.cfg.Registry.Kinds() {
		if k.GVK.Group == gv.Group && k.GVK.Kind == of.Kind && a.cfg.Registry.Storage(k, k.Resource.Resource+"/scale") != nil {
			return k.Version.WithResource(k.Resource.Resource), nil
		}
	}
	for _, crd := range custom.Definitions(a.cfg.Store.Snapshot()) {
		if crd.Spec.Group != gv.Group || crd.Status.AcceptedNames.Kind != of.Kind || !custom.Established(crd) {
			continue
		}
		for _, v := range crd.Spec.Versions {
			if v.Served && v.Subresources != nil && v.Subresources.Scale != nil {
				return schema.GroupVersionResource{Group: gv.Group, Version: v.Name, Resource: crd.Status.AcceptedNames.Plural}, nil
			}
		}
	}
	return schema.GroupVersionResource{}, &meta.NoKindMatchError{GroupKind: schema.GroupKind{Group: gv.Group, Kind: of.Kind}, SearchedVersions: []string{gv.Version}}
}

// PodUsage is what the pods that a selector chooses use, as far as they are measured and their nodes answer in time.
func (c *Client) PodUsage(ctx context.Context, namespace string, pods labels.Selector) ([]metricsv1beta1.PodMetrics, error) {
	k := c.at(c.api.cfg.Registry.Kind(metricsv1beta1.Resource("pods")), "", namespace, "")
	ctx, err := c.api.allow(ctx, k, "list")
	if err != nil {
		return nil, err
	}
	list, err := c.api.serving(k).(rest.Lister).List(ctx, &internalversion.ListOptions{LabelSelector: pods})
	if err != nil {
		return nil, err
	}
	out := &metricsv1beta1.PodMetricsList{}
	err = legacyscheme.Scheme.Convert(list.(*metrics.PodMetricsList), out, nil)
	return out.Items, err
}
