package store

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/ephemeral"

	"murmur/crdt"
)

// wanted are the terms of a pod, by what Kubernetes' types say.
func wanted(p *corev1.Pod) []string {
	set := map[string]bool{}
	waits := len(p.Spec.SchedulingGates) == 0 && p.DeletionTimestamp == nil
	if p.Spec.NodeName != "" {
		set[string(ByNode)+p.Spec.NodeName], waits = true, false
	}
	for k := range p.Annotations {
		if node, ok := strings.CutPrefix(k, ClaimPrefix); ok {
			set[string(ByNode)+node] = true
		}
	}
	if waits {
		set[string(ByNode)] = true
	}
	for k, v := range p.Labels {
		set[string(ByLabel)+LabelTerm(k, v)] = true
	}
	for _, o := range p.OwnerReferences {
		set[string(ByOwner)+string(o.UID)] = true
	}
	for _, v := range p.Spec.Volumes {
		if c := v.PersistentVolumeClaim; c != nil {
			set[string(ByClaim)+c.ClaimName] = true
		}
		if v.Ephemeral != nil {
			set[string(ByClaim)+ephemeral.VolumeClaimName(p, &v)] = true
		}
	}
	for _, ip := range p.Status.PodIPs {
		set[string(ByAddress)+ip.IP] = true
	}
	if p.Spec.NodeName == "" && p.DeletionTimestamp != nil {
		set[string(ByDone)+Unbound] = true
	}
	if p.DeletionTimestamp == nil && (p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded) {
		set[string(ByDone)+Ended] = true
	}
	if len(p.OwnerReferences)+len(p.Finalizers) > 0 || p.DeletionTimestamp != nil {
		set[string(ByTies)] = true
	}
	return slices.Sorted(maps.Keys(set))
}

func randomPod(r *rand.Rand, name string) *corev1.Pod {
	p := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: fmt.Sprint("ns", r.IntN(2))}}
	for i := range r.IntN(3) {
		if p.Labels == nil {
			p.Labels = map[string]string{}
		}
		p.Labels[fmt.Sprint("k", i)] = fmt.Sprint("v", r.IntN(2))
	}
	if r.IntN(2) == 0 {
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "X", Name: `a "quoted" name`, UID: types.UID(fmt.Sprint("u", r.IntN(3)))}}
	}
	if r.IntN(3) == 0 {
		p.Finalizers = []string{"a/b"}
	}
	if r.IntN(2) == 0 {
		p.Spec.NodeName = fmt.Sprint("n", r.IntN(3))
		p.Status.PodIPs = []corev1.PodIP{{IP: fmt.Sprint("10.0.0.", r.IntN(3))}, {IP: "fd00::1"}}
	}
	if r.IntN(2) == 0 {
		p.Spec.Volumes = []corev1.Volume{
			{Name: "c", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: fmt.Sprint("c", r.IntN(2))}}},
			{Name: "e", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			{Name: "made", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}},
		}
	}
	if r.IntN(3) == 0 {
		p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "a"}}
	}
	if r.IntN(3) == 0 {
		p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1_000_000, 0)}
	}
	p.Status.Phase = []corev1.PodPhase{"", corev1.PodRunning, corev1.PodFailed, corev1.PodSucceeded}[r.IntN(4)]
	p.Annotations = map[string]string{"text": `{"labels":{"k0":"not a label"},"metadata":{}} \" é`}
	if r.IntN(4) == 0 {
		p.Annotations[ClaimPrefix+"n9"] = `{"node":"n9","pod":"u"}`
	}
	return p
}

// TestIndexesSayWhatAScanFinds: after any writes, merges, deletions and derivations, and after it is opened again, each index of a store has what
// a walk over all objects finds.
func TestIndexesSayWhatAScanFinds(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	dir := t.TempDir()
	s, err := Open(Config{Dir: dir, Cluster: "test"})
	if err != nil {
		t.Fatal(err)
	}
	stop := run(t, s)
	other := open(t, "")
	check := func(s *Store) {
		t.Helper()
		snap := s.Snapshot()
		want := map[string][]string{}
		for e := range snap.Range("pods", "", "") {
			p, err := As[corev1.Pod](e)
			if err != nil {
				t.Fatal(err)
			}
			for _, term := range wanted(p) {
				want[term] = append(want[term], e.Key.String())
			}
			if !maps.Equal(e.Labels(), p.Labels) {
				t.Errorf("%s: labels %v, want %v", e.Key, e.Labels(), p.Labels)
			}
		}
		have := map[string][]string{}
		snap.postings.Ascend(func(p *posting) bool {
			if p.key.Resource == "pods" {
				have[p.term] = append(have[p.term], p.key.String())
			}
			return true
		})
		if !maps.EqualFunc(want, have, slices.Equal) {
			t.Fatalf("indexed are\n%v\nand there are\n%v", have, want)
		}
		for _, i := range []Index{ByNode, ByDone, ByOwner, ByVolume} {
			var values []string
			for v := range snap.Terms(i) {
				var under []string
				for e := range snap.Under(i, v) {
					under = append(under, e.Key.String())
				}
				if !slices.Equal(under, want[string(i)+v]) {
					t.Errorf("under %c %q are %v, want %v", i, v, under, want[string(i)+v])
				}
				values = append(values, string(i)+v)
			}
			var terms []string
			for term := range want {
				if term[0] == byte(i) {
					terms = append(terms, term)
				}
			}
			if slices.Sort(terms); !slices.Equal(values, terms) {
				t.Errorf("there are the terms %v, want %v", values, terms)
			}
		}
		var namespaces []string
		for e := range snap.Range("pods", "", "") {
			namespaces = append(namespaces, e.Key.Namespace)
		}
		if have := slices.Collect(snap.Namespaces("pods")); !slices.Equal(have, slices.Compact(namespaces)) {
			t.Errorf("pods are in %v, want %v", have, namespaces)
		}
		for e := range snap.Range("pods", "", "") {
			p, err := As[corev1.Pod](e)
			if err != nil {
				t.Fatal(err)
			}
			var owners []types.UID
			for _, o := range p.OwnerReferences {
				owners = append(owners, o.UID)
			}
			if have := e.Owners(); !slices.Equal(have, owners) || string(e.Raw("status", "phase")) != fmt.Sprintf("%q", p.Status.Phase) && p.Status.Phase != "" {
				t.Errorf("%s: owners %v, want %v; phase %s", e.Key, have, owners, e.Raw("status", "phase"))
			}
		}
		var addressed []string
		for _, p := range Having[corev1.Pod](snap, ByAddress, "pods") {
			addressed = append(addressed, p.Namespace+"/"+p.Name)
		}
		slices.Sort(addressed)
		var addresses []string
		for _, p := range List[corev1.Pod](snap, "pods", "") {
			if len(p.Status.PodIPs) > 0 {
				addresses = append(addresses, p.Namespace+"/"+p.Name)
			}
		}
		if !slices.Equal(addressed, addresses) {
			t.Errorf("with an address are %v, want %v", addressed, addresses)
		}
		for _, text := range []string{"k0=v0", "k0=v1,k1=v0", "k0 in (v0)", "k0 in (v0,v1)", "k1!=v0", "!k0", "k0=v0,!k1", ""} {
			by, err := labels.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			for _, namespace := range []string{"", "ns1"} {
				var want, have []string
				for e := range snap.Range("pods", namespace, "") {
					if by.Matches(e.Labels()) {
						want = append(want, e.Key.String())
					}
				}
				for _, p := range Select[corev1.Pod](snap, "pods", namespace, by) {
					have = append(have, "pods/"+p.Namespace+"/"+p.Name)
				}
				if !slices.Equal(want, have) {
					t.Errorf("%q in %q selects %v, want %v", text, namespace, have, want)
				}
			}
		}
	}
	write := func(s *Store) {
		t.Helper()
		p := randomPod(r, fmt.Sprint("p", r.IntN(20)))
		k := crdt.Key{Resource: "pods", Namespace: p.Namespace, Name: p.Name}
		base, there := s.Snapshot().Get(k)
		w := Write{Key: k, Base: base, Object: p}
		if there && r.IntN(4) == 0 {
			w.Object = nil
		}
		if there && r.IntN(8) == 0 {
			stored, _ := s.Snapshot().Stored(k)
			if err := s.Derive(t.Context(), k, stored, p); err != nil {
				t.Fatal(err)
			}
			return
		}
		if _, err := s.Commit(t.Context(), w); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 600 {
		write(s)
		write(other)
		if i%50 == 49 {
			sync2(t, s, other)
			sync2(t, other, s)
			check(s)
			check(other)
		}
	}
	for e := range s.Snapshot().Range("pods", "", "") {
		if err := s.Derive(t.Context(), e.Key, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	check(s)
	before := s.Snapshot().postings.Len()
	stop()
	again := open(t, dir)
	check(again)
	if n := again.Snapshot().postings.Len(); n != before {
		t.Errorf("%d postings after it is opened again, %d before", n, before)
	}
}

// TestChangesAndStateAreOneStep: who has a state is told all that led to it and nothing that did not yet happen in it.
func TestChangesAndStateAreOneStep(t *testing.T) {
	s := open(t, "")
	if _, _, complete := s.Changes(0); complete {
		t.Error("what became of everything since the beginning is said to be known")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 300 {
			put(t, s, fmt.Sprint("x", i%7), func(c *corev1.ConfigMap) { c.Data = map[string]string{"n": fmt.Sprint(i)} })
		}
	}()
	seen := map[crdt.Key]Version{}
	snap, _, _ := s.Changes(0)
	at := snap.Version()
	for e := range snap.Range("configmaps", "", "") {
		seen[e.Key] = e.Version
	}
	for ended := false; !ended; {
		select {
		case <-done:
			ended = true
		default:
		}
		snap, events, complete := s.Changes(at, "configmaps")
		if !complete {
			t.Fatal("the changes are not known any more")
		}
		for _, e := range events {
			seen[e.Entry.Key] = e.Entry.Version
		}
		at = snap.Version()
		now := map[crdt.Key]Version{}
		for e := range snap.Range("configmaps", "", "") {
			now[e.Key] = e.Version
		}
		if !maps.Equal(now, seen) {
			t.Fatalf("the events lead to %v, there is %v", seen, now)
		}
		if w, err := s.Watch("configmaps", "", at); err != nil || w.Version() != at {
			t.Fatalf("a watch from a version that was seen: %v", err)
		}
	}
	if _, events, complete := s.Changes(at, "pods"); !complete || len(events) > 0 {
		t.Errorf("of others: %v, %v", events, complete)
	}
}

// TestChangesThatAreForgotten: a loop that was away for long is told that it does not know everything.
func TestChangesThatAreForgotten(t *testing.T) {
	s, err := Open(Config{Cluster: "test", History: 8})
	if err != nil {
		t.Fatal(err)
	}
	run(t, s)
	at := s.Snapshot().Version()
	for i := range 40 {
		put(t, s, "x", func(c *corev1.ConfigMap) { c.Data = map[string]string{"n": fmt.Sprint(i)} })
	}
	if _, _, complete := s.Changes(at, "configmaps"); complete {
		t.Error("all changes of 40 are said to be among the last 8")
	}
	if _, _, complete := s.Changes(at); complete {
		t.Error("all changes of all resources are said to be among the last 8")
	}
	if _, events, complete := s.Changes(at, "pods"); !complete || len(events) > 0 {
		t.Errorf("of a resource of which nothing was forgotten: %v, %v", events, complete)
	}
}

// FuzzMembers: what is found in an encoding is what encoding/json finds in it.
func FuzzMembers(f *testing.F) {
	for _, s := range []string{`{"a":1}`, `{"a":{"b":["}",{"c":"\""}]},"d":null}`, `[]`, `{`, `{"a"`, `{"é":"é"}`, ` { "a" : [ 1 , 2 ] , "b" : { } } `, `{"a":1}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for range members(b) {
		}
		for range elements(b) {
		}
		for _, resource := range []string{"pods", "services", "endpoints", "events", "rbac.authorization.k8s.io/rolebindings"} {
			_ = termsOf(resource, b)
		}
		var want map[string]json.RawMessage
		if !json.Valid(b) || json.Unmarshal(b, &want) != nil || want == nil {
			return
		}
		have := map[string]json.RawMessage{}
		for k, v := range members(b) {
			have[k] = v
		}
		if len(have) != len(want) {
			t.Fatalf("%q has %v, want %v", b, have, want)
		}
		for k, v := range want {
			var a, b any
			if json.Unmarshal(v, &a) != nil || json.Unmarshal(have[k], &b) != nil || fmt.Sprint(a) != fmt.Sprint(b) {
				t.Fatalf("%q is %q, want %q", k, have[k], v)
			}
		}
	})
}
