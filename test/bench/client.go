package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// clientWord makes this program a client.
const clientWord = "client"

const (
	namespace = "default"
	image     = "example.murmur.io/hello:1"
)

// runClient does what its arguments say against the node whose namespace it runs in.
func runClient(args []string) error {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return err
	}
	config.QPS = -1
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	c := api{kube: kube, out: json.NewEncoder(os.Stdout)}
	switch args[0] {
	case "pods": // COUNT
		return c.pods(ctx, number(args[1]))
	case "see": // PREFIX
		return c.see(ctx, args[1])
	case "write": // PREFIX COUNT PAUSE
		pause, err := time.ParseDuration(args[3])
		if err != nil {
			return err
		}
		return c.write(ctx, args[1], number(args[2]), pause)
	case "flood": // WRITERS DURATION
		d, err := time.ParseDuration(args[2])
		if err != nil {
			return err
		}
		return c.flood(ctx, number(args[1]), d)
	case "deploy": // NAME REPLICAS REPLACE-AFTER
		return c.deploy(ctx, args[1], number(args[2]), args[3])
	case "settled": // NAME REPLICAS
		return c.settled(ctx, args[1], number(args[2]))
	case "replaced": // NAME
		return c.replaced(ctx, args[1])
	case "remove": // NAME
		return c.kube.AppsV1().Deployments(namespace).Delete(ctx, args[1], metav1.DeleteOptions{})
	}
	return fmt.Errorf("no client does %q", args[0])
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err)
	}
	return n
}

type api struct {
	kube kubernetes.Interface
	out  *json.Encoder
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

// see prints when each ConfigMap is seen, until its input ends. Its first mark says that it looks.
func (c api) see(ctx context.Context, prefix string) error {
	w, err := c.kube.CoreV1().ConfigMaps(namespace).Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); close(ended) }()
	if err := c.out.Encode(mark{Name: "looking"}); err != nil {
		return err
	}
	for {
		select {
		case <-ended:
			return nil
		case e, open := <-w.ResultChan():
			now := time.Now()
			if !open {
				return errEnded
			}
			if o, is := e.Object.(*corev1.ConfigMap); is && e.Type == watch.Added && strings.HasPrefix(o.Name, prefix) {
				if err := c.out.Encode(mark{Name: o.Name, Done: now}); err != nil {
					return err
				}
			}
		}
	}
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

// flood creates ConfigMaps with many writers for a time. Its mark's name is how many were acknowledged.
func (c api) flood(ctx context.Context, writers int, d time.Duration) error {
	var created atomic.Int64
	m := mark{Began: time.Now()}
	until := m.Began.Add(d)
	errs := make(chan error, writers)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := 0; time.Now().Before(until); i++ {
				if _, err := c.kube.CoreV1().ConfigMaps(namespace).Create(ctx, configMap(fmt.Sprintf("flood-%d-%d", w, i)), metav1.CreateOptions{}); err != nil {
					errs <- err
					return
				}
				created.Add(1)
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return err
	default:
	}
	m.Done, m.Name = time.Now(), strconv.FormatInt(created.Load(), 10)
	return c.out.Encode(m)
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
