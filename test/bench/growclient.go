package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// grow does what a word that begins with grow- says. Words that end with "a line at a time" read their input.
func (c api) grow(ctx context.Context, config *rest.Config, args []string) error {
	// at is the API of another node. The one credential holds on all.
	at := func(address string) (kubernetes.Interface, error) {
		other := rest.CopyConfig(config)
		other.Host = "https://" + address + ":6443"
		return kubernetes.NewForConfig(other)
	}
	switch args[0] {
	case "grow-base":
		return c.growBase(ctx)
	case "grow-fill": // FROM TO
		return c.growFill(ctx, number(args[1]), number(args[2]))
	case "grow-lists": // SIZE
		return c.growLists(ctx, number(args[1]))
	case "grow-deploy": // OTHER-ADDRESS RUN COUNT
		other, err := at(args[1])
		if err != nil {
			return err
		}
		return c.growDeploy(ctx, other, args[2], number(args[3]))
	case "grow-flip": // OTHER-ADDRESS; a line at a time
		other, err := at(args[1])
		if err != nil {
			return err
		}
		return c.growFlip(ctx, other)
	case "grow-clean":
		return c.kube.AppsV1().Deployments(growHome).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: growDeployed})
	}
	return fmt.Errorf("no client does %q", args[0])
}

// growBase makes the namespaces and what is changed.
func (c api) growBase(ctx context.Context) error {
	names := []string{growHome}
	for i := range growNamespaces {
		names = append(names, growNamespace(i))
	}
	for _, name := range names {
		if _, err := c.kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	// Pods cannot be made before their account is.
	for _, name := range names {
		for {
			_, err := c.kube.CoreV1().ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{})
			if err == nil {
				break
			}
			if err := sleep(ctx, 50*time.Millisecond); err != nil {
				return fmt.Errorf("the account of namespace %s: %w", name, err)
			}
		}
	}
	if _, err := c.kube.CoreV1().Services(growHome).Create(ctx, frontService(), metav1.CreateOptions{}); err != nil {
		return err
	}
	pods := c.kube.CoreV1().Pods(growHome)
	for i := range growFronts {
		p := frontPod(i)
		if _, err := pods.Create(ctx, p, metav1.CreateOptions{}); err != nil {
			return err
		}
		// The first is what changes; the others are ready.
		if _, err := pods.Patch(ctx, p.Name, types.StrategicMergePatchType, frontStatus(i, i > 0), metav1.PatchOptions{}, "status"); err != nil {
			return err
		}
	}
	for i := range growReal {
		if _, err := pods.Create(ctx, realPod(i), metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	for until := time.Now().Add(time.Minute); time.Now().Before(until); {
		l, err := pods.List(ctx, metav1.ListOptions{LabelSelector: "app=real"})
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(l.Items, func(p corev1.Pod) bool { return p.Status.Phase == corev1.PodPending }) {
			break
		}
		if err := sleep(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// growFill makes pods number FROM to TO and their ConfigMaps. Its marks say every five seconds how many objects there are, and that at the end.
func (c api) growFill(ctx context.Context, from, to int) error {
	count := 3 * (to - from)
	var next, done atomic.Int64
	g, within := errgroup.WithContext(ctx)
	for range writers {
		g.Go(func() error {
			for i := int(next.Add(1)) - 1; i < count; i = int(next.Add(1)) - 1 {
				var err error
				if n := from + i/3; i%3 == 0 {
					p := growPod(n)
					_, err = c.kube.CoreV1().Pods(p.Namespace).Create(within, p, metav1.CreateOptions{})
				} else {
					m := growConfigMap(2*n + i%3 - 1)
					_, err = c.kube.CoreV1().ConfigMaps(m.Namespace).Create(within, m, metav1.CreateOptions{})
				}
				if err != nil {
					return err
				}
				done.Add(1)
			}
			return nil
		})
	}
	ended := make(chan error, 1)
	go func() { ended <- g.Wait() }()
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			if err != nil {
				return err
			}
			return c.out.Encode(mark{Name: strconv.FormatInt(done.Load(), 10)})
		case <-tick.C:
			if err := c.out.Encode(mark{Name: strconv.FormatInt(done.Load(), 10)}); err != nil {
				return err
			}
		}
	}
}

// growLists asks for pods in each form, ten times. The first answer is looked into and not counted.
func (c api) growLists(ctx context.Context, size int) error {
	for _, form := range growLists() {
		for i := range 10 {
			m := mark{Name: form.name, Began: time.Now()}
			body, err := c.get(ctx, c.url+"/api/v1/pods"+form.query)
			if err != nil {
				return err
			}
			if m.Done = time.Now(); i > 0 {
				if err := c.out.Encode(m); err != nil {
					return err
				}
				continue
			}
			var answer struct{ Items []struct{} }
			if err := json.Unmarshal(body, &answer); err != nil {
				return err
			}
			// Between two sizes Deployments may still be on their way out.
			if want, got := form.count(size), len(answer.Items); got < want || got > want+growDeployments {
				return fmt.Errorf("list of pods %s: %d in the answer, want %d", form.name, got, want)
			}
		}
	}
	return nil
}

func (c api) get(ctx context.Context, url string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "application/json")
	answer, err := c.plain.Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, answer.Status, body[:min(len(body), 4<<10)])
	}
	return body, err
}

// growDeploy creates Deployments one after the other, and takes each until another node shows its pod.
func (c api) growDeploy(ctx context.Context, other kubernetes.Interface, run string, count int) error {
	pods := other.CoreV1().Pods(growHome)
	of := metav1.ListOptions{LabelSelector: growDeployed}
	l, err := pods.List(ctx, of)
	if err != nil {
		return err
	}
	of.ResourceVersion = l.ResourceVersion
	w, err := pods.Watch(ctx, of)
	if err != nil {
		return err
	}
	defer w.Stop()
	for i := range count {
		name := fmt.Sprintf("web-%s-%d", run, i)
		m := mark{Name: name, Began: time.Now()}
		if _, err := c.kube.AppsV1().Deployments(growHome).Create(ctx, growDeployment(name), metav1.CreateOptions{}); err != nil {
			return err
		}
		if err := await(ctx, w, func(e watch.Event, p *corev1.Pod) bool { return e.Type == watch.Added && p.Labels["app"] == name }); err != nil {
			return fmt.Errorf("a pod of %s: %w", name, err)
		}
		m.Done = time.Now()
		if err := c.out.Encode(m); err != nil {
			return err
		}
		if err := sleep(ctx, growPace); err != nil {
			return err
		}
	}
	return nil
}

// growFlip makes the first front pod ready or not, as each line says, and waits until another node's slice says so.
func (c api) growFlip(ctx context.Context, other kubernetes.Interface) error {
	of := metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + growFront}
	w, err := other.DiscoveryV1().EndpointSlices(growHome).Watch(ctx, of)
	if err != nil {
		return err
	}
	defer w.Stop()
	if err := c.out.Encode(mark{Name: "looking"}); err != nil {
		return err
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		ready, err := strconv.ParseBool(lines.Text())
		if err != nil {
			return err
		}
		m := mark{Name: lines.Text(), Began: time.Now()}
		if _, err := c.kube.CoreV1().Pods(growHome).Patch(ctx, frontPod(0).Name, types.StrategicMergePatchType, frontStatus(0, ready), metav1.PatchOptions{}, "status"); err != nil {
			return err
		}
		if m.Done, err = sliceSays(ctx, w, ready); err != nil {
			return err
		}
		if err := c.out.Encode(m); err != nil {
			return err
		}
	}
	return lines.Err()
}

// sliceSays is when a watch shows that the first front pod is ready, or is not.
func sliceSays(ctx context.Context, w watch.Interface, ready bool) (time.Time, error) {
	limit, stop := context.WithTimeout(ctx, 2*time.Minute)
	defer stop()
	for {
		select {
		case <-limit.Done():
			return time.Time{}, fmt.Errorf("no slice says that %s is ready: %t: %w", frontPod(0).Name, ready, limit.Err())
		case e, open := <-w.ResultChan():
			if !open {
				return time.Time{}, errEnded
			}
			s, is := e.Object.(*discoveryv1.EndpointSlice)
			if is && slices.ContainsFunc(s.Endpoints, func(ep discoveryv1.Endpoint) bool {
				return slices.Contains(ep.Addresses, frontAddress(0)) && ep.Conditions.Ready != nil && *ep.Conditions.Ready == ready
			}) {
				return time.Now(), nil
			}
		}
	}
}

// seeRules waits, for each line, until this node's rules lead to the first front pod, or do not. The first mark of a line says
// that they differ, the second when they no longer did. A look lasts some milliseconds, and there are ten between two.
func seeRules() error {
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(mark{Name: "looking"}); err != nil {
		return err
	}
	to := []byte(fmt.Sprintf("--to-destination %s:%d", frontAddress(0), growPort))
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		ready, err := strconv.ParseBool(lines.Text())
		if err != nil {
			return err
		}
		for first, until := true, time.Now().Add(2*time.Minute); ; first = false {
			// While rules are replaced a look may fail.
			rules, err := exec.Command("iptables-save", "-t", "nat").Output()
			now := time.Now()
			switch so := err == nil && bytes.Contains(rules, to) == ready; {
			case so:
				if err := out.Encode(mark{Name: "seen", Done: now}); err != nil {
					return err
				}
			case first:
				if err := out.Encode(mark{Name: "differs", Done: now}); err != nil {
					return err
				}
			case now.After(until):
				return fmt.Errorf("the rules of this node lead to %s: want %t: %w", strings.TrimPrefix(string(to), "--to-destination "), ready, context.DeadlineExceeded)
			}
			if err == nil && bytes.Contains(rules, to) == ready {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	return lines.Err()
}
