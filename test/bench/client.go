package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// clientWord makes this program a client.
const clientWord = "client"

const (
	namespace = "default"
	image     = "example.murmur.io/hello:1"
	// pauseImage ends at once when it is told to.
	pauseImage = "example.murmur.io/pause:1"
)

// runClient does what its arguments say against the node whose namespace it runs in.
func runClient(args []string) error {
	switch args[0] {
	case "cri": // SOCKET CGROUP COUNT
		return runPods(args[1], args[2], number(args[3]))
	case "alive": // COUNT
		return seeAlive(number(args[1]))
	case "ready":
		return seeReady()
	case "grow-rules":
		return seeRules()
	}
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return err
	}
	config.QPS = -1
	plain, err := rest.HTTPClientFor(config)
	if err != nil {
		return err
	}
	kube, err := kubernetes.NewForConfigAndClient(config, plain)
	if err != nil {
		return err
	}
	limit := 10 * time.Minute
	if args[0] == "grow-fill" {
		limit = time.Hour // daemons that take longer the more there is are measured, too
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	c := api{kube: kube, plain: plain, url: config.Host, out: json.NewEncoder(os.Stdout)}
	switch args[0] {
	case "pods": // COUNT
		return c.pods(ctx, number(args[1]))
	case "see": // PREFIX
		return c.see(ctx, args[1])
	case "write": // PREFIX COUNT PAUSE
		return c.write(ctx, args[1], number(args[2]), duration(args[3]))
	case "flood": // WRITERS DURATION
		return c.flood(ctx, number(args[1]), duration(args[2]))
	case "fill": // PREFIX COUNT WRITERS
		return c.fill(ctx, args[1], number(args[2]), number(args[3]))
	case "pace": // PREFIX A-SECOND DURATION
		return c.pace(ctx, args[1], number(args[2]), duration(args[3]))
	case "watchers": // COUNT CHANGES
		return c.watch(ctx, number(args[1]), number(args[2]))
	case "start": // COUNT
		return c.start(ctx, number(args[1]))
	case "end": // COUNT
		return c.end(ctx, number(args[1]))
	case "lost": // NODE
		return c.lost(ctx, args[1])
	case "deploy": // NAME REPLICAS REPLACE-AFTER
		return c.deploy(ctx, args[1], number(args[2]), args[3])
	case "settled": // NAME REPLICAS
		return c.settled(ctx, args[1], number(args[2]))
	case "replaced": // NAME
		return c.replaced(ctx, args[1])
	case "remove": // NAME
		return c.kube.AppsV1().Deployments(namespace).Delete(ctx, args[1], metav1.DeleteOptions{})
	}
	return c.grow(ctx, config, args)
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err)
	}
	return n
}

func duration(s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		panic(err)
	}
	return d
}

type api struct {
	kube kubernetes.Interface
	// plain is the connection of kube, and url where it leads.
	plain *http.Client
	url   string
	out   *json.Encoder
}

func podSpec() corev1.PodSpec {
	grace := int64(0)
	return corev1.PodSpec{
		TerminationGracePeriodSeconds: &grace,
		Containers:                    []corev1.Container{{Name: "hello", Image: image, ImagePullPolicy: corev1.PullNever}},
	}
}

// pods creates pods one after the other, each on a node without any: from the request to Running as a watch shows it.
func (c api) pods(ctx context.Context, count int) error {
	pods := c.kube.CoreV1().Pods(namespace)
	for i := range count {
		name := fmt.Sprintf("bench-%d", i)
		w, err := pods.Watch(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String()})
		if err != nil {
			return err
		}
		m := mark{Name: name, Began: time.Now()}
		// The account that pods run as is made right after the node; the first pod of a node may be earlier.
		for {
			_, err = pods.Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: podSpec()}, metav1.CreateOptions{})
			if err == nil || time.Since(m.Began) > 10*time.Second {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if err != nil {
			return err
		}
		if err := await(ctx, w, func(e watch.Event, p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning }); err != nil {
			return fmt.Errorf("%s to run: %w", name, err)
		}
		m.Done = time.Now()
		if err := c.out.Encode(m); err != nil {
			return err
		}
		if err := pods.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			return err
		}
		if err := await(ctx, w, func(e watch.Event, _ *corev1.Pod) bool { return e.Type == watch.Deleted }); err != nil {
			return fmt.Errorf("%s to go: %w", name, err)
		}
		w.Stop()
		time.Sleep(200 * time.Millisecond) // the node shall be idle again
	}
	return nil
}

var errEnded = errors.New("the watch ended")

// await reads events of pods until one is what is waited for.
func await(ctx context.Context, w watch.Interface, ok func(watch.Event, *corev1.Pod) bool) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, open := <-w.ResultChan():
			if !open {
				return errEnded
			}
			if p, is := e.Object.(*corev1.Pod); is && ok(e, p) {
				return nil
			}
		}
	}
}

// see notes when each ConfigMap is seen, until it has seen as many as its input says, or for half a minute more, and then prints all: whoever
// prints meanwhile waits for who reads. Its first mark says that it looks.
func (c api) see(ctx context.Context, prefix string) error {
	// What is there already is not waited for.
	there, err := c.kube.CoreV1().ConfigMaps(namespace).List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return err
	}
	w, err := c.kube.CoreV1().ConfigMaps(namespace).Watch(ctx, metav1.ListOptions{ResourceVersion: there.ResourceVersion})
	if err != nil {
		return err
	}
	defer w.Stop()
	told := make(chan int, 1)
	go func() {
		var n int
		_, _ = fmt.Fscan(os.Stdin, &n)
		told <- n
	}()
	if err := c.out.Encode(mark{Name: "looking"}); err != nil {
		return err
	}
	var late <-chan time.Time
	var seen []mark
	for want := -1; len(seen) != want; {
		select {
		case want = <-told:
			late = time.After(30 * time.Second)
		case <-late:
			return fmt.Errorf("%d of %d writes were seen", len(seen), want)
		case e, open := <-w.ResultChan():
			now := time.Now()
			if !open {
				return errEnded
			}
			if o, is := e.Object.(*corev1.ConfigMap); is && e.Type == watch.Added && strings.HasPrefix(o.Name, prefix) {
				seen = append(seen, mark{Name: o.Name, Done: now})
			}
		}
	}
	return c.print(seen)
}

func configMap(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"value": strings.Repeat("x", 1024)}}
}

// write creates ConfigMaps one by one.
func (c api) write(ctx context.Context, prefix string, count int, pause time.Duration) error {
	for i := range count {
		m := mark{Name: fmt.Sprintf("%s-%d", prefix, i), Began: time.Now()}
		if _, err := c.kube.CoreV1().ConfigMaps(namespace).Create(ctx, configMap(m.Name), metav1.CreateOptions{}); err != nil {
			return err
		}
		m.Done = time.Now()
		if err := c.out.Encode(m); err != nil {
			return err
		}
		time.Sleep(pause)
	}
	return nil
}

// flood creates ConfigMaps with many writers for a time. It has the processor in common with what it measures, so it sends bytes that are
// ready and looks at nothing of an answer but its status.
func (c api) flood(ctx context.Context, writers int, d time.Duration) error {
	// Names are not those of an earlier flood.
	run := strconv.FormatInt(time.Now().UnixNano(), 36)
	until := time.Now().Add(d)
	body, err := runtime.Encode(scheme.Codecs.LegacyCodec(corev1.SchemeGroupVersion), configMap(anyName))
	if err != nil {
		return err
	}
	to := c.url + "/api/v1/namespaces/" + namespace + "/configmaps"
	var mu sync.Mutex
	var all []mark
	var g errgroup.Group
	for w := range writers {
		g.Go(func() error {
			var mine []mark
			for i := 0; time.Now().Before(until); i++ {
				m := mark{Name: fmt.Sprintf("flood-%s-%d-%d", run, w, i), Began: time.Now()}
				if err := c.post(ctx, to, bytes.Replace(body, []byte(anyName), []byte(m.Name), 1)); err != nil {
					return err
				}
				m.Done = time.Now()
				mine = append(mine, m)
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, mine...)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return c.print(all)
}

// anyName stands in a body for the name that each has.
const anyName = "any-name"

// post creates what the body says.
func (c api) post(ctx context.Context, to string, body []byte) error {
	return c.send(ctx, http.MethodPost, to, body, http.StatusCreated)
}

// send makes a request whose answer is not looked at but for its status.
func (c api) send(ctx context.Context, method, to string, body []byte, want int) error {
	r, err := http.NewRequestWithContext(ctx, method, to, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", runtime.ContentTypeJSON)
	r.Header.Set("Accept", runtime.ContentTypeJSON)
	answer, err := c.plain.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != want {
		said, _ := io.ReadAll(io.LimitReader(answer.Body, 4<<10))
		return fmt.Errorf("%s: %s", answer.Status, said)
	}
	_, err = io.Copy(io.Discard, answer.Body)
	return err
}

func (c api) print(all []mark) error {
	for _, m := range all {
		if err := c.out.Encode(m); err != nil {
			return err
		}
	}
	return nil
}

// fill creates so many ConfigMaps.
func (c api) fill(ctx context.Context, prefix string, count, writers int) error {
	var next atomic.Int64
	var g errgroup.Group
	for range writers {
		g.Go(func() error {
			for i := next.Add(1); i <= int64(count); i = next.Add(1) {
				if _, err := c.kube.CoreV1().ConfigMaps(namespace).Create(ctx, configMap(fmt.Sprintf("%s-%d", prefix, i)), metav1.CreateOptions{}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// inFlight bounds the creates that are under way when the API is slower than the pace.
const inFlight = 64

// pace creates ConfigMaps at a rate. Each begins when it is due, even if it has to wait for those before it.
func (c api) pace(ctx context.Context, prefix string, perSecond int, d time.Duration) error {
	all := make([]mark, int(d.Seconds()*float64(perSecond)))
	began := time.Now()
	var g errgroup.Group
	g.SetLimit(inFlight)
	for i := range all {
		m := &all[i]
		*m = mark{Name: fmt.Sprintf("%s-%d", prefix, i), Began: began.Add(time.Duration(i) * time.Second / time.Duration(perSecond))}
		time.Sleep(time.Until(m.Began))
		g.Go(func() error {
			_, err := c.kube.CoreV1().ConfigMaps(namespace).Create(ctx, configMap(m.Name), metav1.CreateOptions{})
			m.Done = time.Now()
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return c.print(all)
}

func (c api) deploy(ctx context.Context, name string, replicas int, replaceAfter string) error {
	n, labels := int32(replicas), map[string]string{"app": name}
	t := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podSpec()}
	if replaceAfter != "default" {
		t.Annotations = map[string]string{"partition.murmur.io/replace-after": replaceAfter}
	}
	_, err := c.kube.AppsV1().Deployments(namespace).Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       appsv1.DeploymentSpec{Replicas: &n, Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: t},
	}, metav1.CreateOptions{})
	return err
}

// list returns the pods of a Deployment that run and are not going; all says whether there are no others.
func (c api) list(ctx context.Context, name string) (running map[string]*corev1.Pod, all bool, err error) {
	l, err := c.kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + name})
	if err != nil {
		return nil, false, err
	}
	running = map[string]*corev1.Pod{}
	for i := range l.Items {
		p := &l.Items[i]
		for _, cond := range p.Status.Conditions {
			if cond.Type == corev1.PodReady && cond.Status == corev1.ConditionTrue && p.DeletionTimestamp == nil {
				running[p.Name] = p
			}
		}
	}
	return running, len(running) == len(l.Items), nil
}

// settled waits until exactly so many pods of a Deployment are there and ready, and stay so for a second. Its marks are they.
func (c api) settled(ctx context.Context, name string, replicas int) error {
	var since time.Time
	for ctx.Err() == nil {
		running, all, err := c.list(ctx, name)
		if err != nil {
			return err
		}
		switch {
		case !all || len(running) != replicas:
			since = time.Time{}
		case since.IsZero():
			since = time.Now()
		case time.Since(since) > time.Second:
			for _, p := range running {
				if err := c.out.Encode(mark{Name: p.Name, Node: p.Spec.NodeName}); err != nil {
					return err
				}
			}
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("%s does not settle at %d pods: %w", name, replicas, ctx.Err())
}

// replaced prints when a pod of a Deployment runs that was not there when it began to look, which is its first mark.
func (c api) replaced(ctx context.Context, name string) error {
	l, err := c.kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + name})
	if err != nil {
		return err
	}
	was := map[string]bool{}
	for _, p := range l.Items {
		was[p.Name] = true
	}
	w, err := c.kube.CoreV1().Pods(namespace).Watch(ctx, metav1.ListOptions{LabelSelector: "app=" + name, ResourceVersion: l.ResourceVersion})
	if err != nil {
		return err
	}
	defer w.Stop()
	if err := c.out.Encode(mark{Name: "looking"}); err != nil {
		return err
	}
	var m mark
	if err := await(ctx, w, func(_ watch.Event, p *corev1.Pod) bool {
		m = mark{Name: p.Name, Node: p.Spec.NodeName, Done: time.Now()}
		return !was[p.Name] && p.Status.Phase == corev1.PodRunning
	}); err != nil {
		return fmt.Errorf("replacement of a pod of %s: %w", name, err)
	}
	return c.out.Encode(m)
}

// lost prints when a node is no longer Ready as this one's API shows it. Its first mark says that it looks.
func (c api) lost(ctx context.Context, node string) error {
	w, err := c.kube.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", node).String()})
	if err != nil {
		return err
	}
	defer w.Stop()
	if err := c.out.Encode(mark{Name: "looking"}); err != nil {
		return err
	}
	for e := range w.ResultChan() {
		now := time.Now()
		n, is := e.Object.(*corev1.Node)
		if !is {
			continue
		}
		for _, cond := range n.Status.Conditions {
			if cond.Type == corev1.NodeReady && cond.Status != corev1.ConditionTrue {
				return c.out.Encode(mark{Name: node, Done: now})
			}
		}
	}
	return errEnded
}

// burstLabel marks the pods of a burst.
const burstLabel = "bench=burst"

func burstPod(i int) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("burst-%d", i), Labels: map[string]string{"bench": "burst"}},
		// It ends at once when it is told to.
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "pause", Image: pauseImage, ImagePullPolicy: corev1.PullNever}}},
	}
}

// start creates pods at once. Its marks are from the request to Running, as a watch shows it.
func (c api) start(ctx context.Context, count int) error {
	return c.burst(ctx, count,
		func(i int) error {
			_, err := c.kube.CoreV1().Pods(namespace).Create(ctx, burstPod(i), metav1.CreateOptions{})
			return err
		},
		func(e watch.Event, p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning })
}

// end deletes them at once, as kubectl would. Its marks are from the request until the object is gone.
func (c api) end(ctx context.Context, count int) error {
	return c.burst(ctx, count,
		func(i int) error {
			return c.kube.CoreV1().Pods(namespace).Delete(ctx, burstPod(i).Name, metav1.DeleteOptions{})
		},
		func(e watch.Event, _ *corev1.Pod) bool { return e.Type == watch.Deleted })
}

// burst does one thing to each pod and waits until a watch shows that all are so.
func (c api) burst(ctx context.Context, count int, do func(int) error, ok func(watch.Event, *corev1.Pod) bool) error {
	pods := c.kube.CoreV1().Pods(namespace)
	l, err := pods.List(ctx, metav1.ListOptions{LabelSelector: burstLabel})
	if err != nil {
		return err
	}
	w, err := pods.Watch(ctx, metav1.ListOptions{LabelSelector: burstLabel, ResourceVersion: l.ResourceVersion})
	if err != nil {
		return err
	}
	defer w.Stop()
	began := make([]time.Time, count)
	var g errgroup.Group
	for i := range count {
		g.Go(func() error { began[i] = time.Now(); return do(i) })
	}
	done := map[string]time.Time{}
	for len(done) < count {
		if err := await(ctx, w, func(e watch.Event, p *corev1.Pod) bool {
			if _, had := done[p.Name]; had || !ok(e, p) {
				return false
			}
			done[p.Name] = time.Now()
			return true
		}); err != nil {
			return fmt.Errorf("%d of %d pods: %w", len(done), count, err)
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i := range count {
		name := burstPod(i).Name
		if err := c.out.Encode(mark{Name: name, Began: began[i], Done: done[name]}); err != nil {
			return err
		}
	}
	return nil
}
