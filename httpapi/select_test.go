package httpapi

import (
	"context"
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	fieldset "k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
)

// TestListsSelect: a list by labels or by node has what a list of all has of it, in the same order, in one page or in many.
func TestListsSelect(t *testing.T) {
	n := newNode(t, nil)
	c, ctx := n.clientset(false).CoreV1(), context.Background()
	for _, ns := range []string{"one", "two"} {
		_, err := c.Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{})
		check(t, err)
		_, err = c.ServiceAccounts(ns).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
		check(t, err)
		for i := range 12 {
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("p%02d", i), Labels: map[string]string{"app": fmt.Sprint("a", i%3), "all": "yes"}},
				Spec: corev1.PodSpec{NodeName: []string{"", "n1", "n2"}[i%3], Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
			if i%4 == 0 {
				delete(p.Labels, "app")
			}
			_, err := c.Pods(ns).Create(ctx, p, metav1.CreateOptions{})
			check(t, err)
		}
	}
	name := func(p *corev1.Pod) string { return p.Namespace + "/" + p.Name }
	for _, ns := range []string{"", "one"} {
		whole, err := c.Pods(ns).List(ctx, metav1.ListOptions{})
		check(t, err)
		for _, o := range []metav1.ListOptions{
			{LabelSelector: "app=a1"}, {LabelSelector: "all=yes,app=a2"}, {LabelSelector: "app in (a1,a2)"}, {LabelSelector: "app"}, {LabelSelector: "!app"},
			{LabelSelector: "app!=a1"}, {LabelSelector: "app=none"}, {FieldSelector: "spec.nodeName=n1"}, {FieldSelector: "spec.nodeName="},
			{FieldSelector: "spec.nodeName!=n1"}, {FieldSelector: "spec.nodeName=n2", LabelSelector: "app=a2"}, {FieldSelector: "metadata.name=p03"},
		} {
			byLabel, err := labels.Parse(o.LabelSelector)
			check(t, err)
			byField, err := fieldset.ParseSelector(o.FieldSelector)
			check(t, err)
			var want []string
			for i := range whole.Items {
				p := &whole.Items[i]
				set := fieldset.Set{"spec.nodeName": p.Spec.NodeName, "metadata.name": p.Name}
				if byLabel.Matches(labels.Set(p.Labels)) && byField.Matches(set) {
					want = append(want, name(p))
				}
			}
			for _, limit := range []int64{0, 1, 3} {
				var have []string
				o.Limit, o.Continue = limit, ""
				for {
					page, err := c.Pods(ns).List(ctx, o)
					check(t, err)
					for i := range page.Items {
						have = append(have, name(&page.Items[i]))
					}
					if limit > 0 && int64(len(page.Items)) > limit {
						t.Errorf("a page of %d, at most %d are asked for", len(page.Items), limit)
					}
					if o.Continue = page.Continue; o.Continue == "" {
						break
					}
				}
				if !slices.Equal(have, want) {
					t.Errorf("%q %q in %q, pages of %d: %v, want %v", o.LabelSelector, o.FieldSelector, ns, limit, have, want)
				}
			}
		}
	}
}
