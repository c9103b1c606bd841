package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/httpapi/storage"
)

// TestFairness: one who asks without end takes no seat from another, who is served at once; the objects that say so act
// as they are served, and those of every cluster are put right again.
func TestFairness(t *testing.T) {
	release := make(chan struct{})
	n := newNode(t, func(c *Config) {
		c.ReadsInFlight, c.WritesInFlight = 20, 10
		c.Metrics = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.RawQuery == "hold" {
				<-release
			}
			fmt.Fprint(w, "ok")
		})
	})
	ctx := context.Background()
	c := n.typed()
	_, err := c.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "m"},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:monitoring"},
		Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: "greedy"}, {Kind: "User", APIGroup: rbacv1.GroupName, Name: "modest"}}}, metav1.CreateOptions{})
	check(t, err)

	// A level of its own with one seat and one waiting place a flow.
	_, err = c.FlowcontrolV1().PriorityLevelConfigurations().Create(ctx, &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "narrow"},
		Spec: flowcontrolv1.PriorityLevelConfigurationSpec{Type: flowcontrolv1.PriorityLevelEnablementLimited, Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
			NominalConcurrencyShares: new(int32(1)), BorrowingLimitPercent: new(int32(0)), LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject}}}}, metav1.CreateOptions{})
	check(t, err)
	_, err = c.FlowcontrolV1().FlowSchemas().Create(ctx, &flowcontrolv1.FlowSchema{ObjectMeta: metav1.ObjectMeta{Name: "greedy"}, Spec: flowcontrolv1.FlowSchemaSpec{
		PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: "narrow"}, MatchingPrecedence: 10,
		Rules: []flowcontrolv1.PolicyRulesWithSubjects{{Subjects: []flowcontrolv1.Subject{{Kind: flowcontrolv1.SubjectKindUser, User: &flowcontrolv1.UserSubject{Name: "greedy"}}},
			NonResourceRules: []flowcontrolv1.NonResourcePolicyRule{{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}}}}}}}, metav1.CreateOptions{})
	check(t, err)

	greedy, modest := n.client("greedy"), n.client("modest")
	ask := func(client *http.Client, query string) (int, http.Header) {
		resp, err := client.Get(n.url + "/metrics?" + query)
		if err != nil {
			return 0, nil
		}
		readAll(t, resp.Body)
		resp.Body.Close()
		return resp.StatusCode, resp.Header
	}
	eventually(t, func() error {
		if _, h := ask(greedy, ""); h.Get(flowcontrolv1.ResponseHeaderMatchedFlowSchemaUID) == "" {
			return fmt.Errorf("no flow schema is named in an answer: %v", h)
		}
		fs, err := c.FlowcontrolV1().FlowSchemas().Get(ctx, "greedy", metav1.GetOptions{})
		if _, h := ask(greedy, ""); err != nil || h.Get(flowcontrolv1.ResponseHeaderMatchedFlowSchemaUID) != string(fs.UID) {
			return fmt.Errorf("the new flow schema does not act: %v %v", err, h)
		}
		return nil
	})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { ask(greedy, "hold") })
	}
	eventually(t, func() error {
		if code, h := ask(greedy, ""); code != http.StatusTooManyRequests || h.Get("Retry-After") == "" {
			return fmt.Errorf("one request too many: %d %v", code, h)
		}
		return nil
	})
	for range 20 {
		if code, _ := ask(modest, ""); code != http.StatusOK {
			t.Errorf("another's request: %d", code)
		}
	}
	close(release)
	wg.Wait()

	// What every cluster has is put right; what was turned from it on purpose stays.
	for _, name := range []string{"workload-low", "workload-high"} {
		level, err := c.FlowcontrolV1().PriorityLevelConfigurations().Get(ctx, name, metav1.GetOptions{})
		check(t, err)
		level.Spec.Limited.NominalConcurrencyShares = new(int32(77))
		if name == "workload-low" {
			level.Annotations[flowcontrolv1.AutoUpdateAnnotationKey] = "false"
		}
		_, err = c.FlowcontrolV1().PriorityLevelConfigurations().Update(ctx, level, metav1.UpdateOptions{})
		check(t, err)
	}
	check(t, n.Bootstrap(ctx))
	for name, want := range map[string]int32{"workload-high": 40, "workload-low": 77} {
		level, ok := store.Get[flowcontrolv1.PriorityLevelConfiguration](n.store.Snapshot(), crdt.Key{Resource: storage.PriorityLevels, Name: name})
		if !ok || *level.Spec.Limited.NominalConcurrencyShares != want {
			t.Errorf("%s: %v, want %d shares", name, level, want)
		}
	}
}

// TestWatchesTakeNoSeats: a watch has a seat while it begins, and not while it lasts; and what is asked for that is no resource is
// not remembered.
func TestWatchesTakeNoSeats(t *testing.T) {
	n := newNode(t, func(c *Config) { c.ReadsInFlight, c.WritesInFlight, c.RequestTimeout = 4, 2, time.Minute })
	ctx := context.Background()
	_, err := n.typed().RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "v"},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"},
		Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: "watcher"}, {Kind: "User", APIGroup: rbacv1.GroupName, Name: "reader"}}}, metav1.CreateOptions{})
	check(t, err)
	watching, reading := n.client("watcher"), n.client("reader")
	for i := range 40 {
		path := []string{"/api/v1/configmaps?watch=1", "/api/v1/configmaps?watch=1&resourceVersion=0", "/api/v1/configmaps?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"}[i%3]
		resp, err := watching.Get(n.url + path)
		check(t, err)
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("watch %d: %s %s", i, resp.Status, readAll(t, resp.Body))
		}
		defer resp.Body.Close()
	}
	for range 10 {
		resp, err := reading.Get(n.url + "/api/v1/configmaps")
		check(t, err)
		if readAll(t, resp.Body); resp.StatusCode != http.StatusOK {
			t.Errorf("beside watches: %s", resp.Status)
		}
		resp.Body.Close()
	}
	if _, there := n.count("nothing.example.com"); there {
		t.Error("what is no resource is counted")
	}
	if stats, there := n.count("clusterroles.rbac.authorization.k8s.io"); !there || stats.ObjectCount < 50 || stats.EstimatedAverageObjectSizeBytes == 0 {
		t.Errorf("what there is is not: %+v %v", stats, there)
	}
}
