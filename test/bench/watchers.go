package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
)

// How many watch one resource, and how often an object of it changes meanwhile.
var watcherCounts = []int{1, 100, 1000}

const (
	watcherChanges = 100
	watcherPace    = 100 * time.Millisecond
)

// watchers has ever more clients watch the ConfigMaps of one node of one, and takes what a change costs the daemon and when the last has it.
func (b *bench) watchers(ctx context.Context) error {
	for range b.runs {
		if err := b.fresh(ctx, 1); err != nil {
			return err
		}
		pid, err := b.lab.pid(ctx, "n1")
		if err != nil {
			return err
		}
		for _, count := range watcherCounts {
			if err := b.watched(ctx, pid, count); err != nil {
				return fmt.Errorf("%d watchers: %w", count, err)
			}
		}
	}
	least, most := watcherCounts[0], watcherCounts[len(watcherCounts)-1]
	b.table.ratio(fmt.Sprintf("ratio of this processor time, %d watchers to %d", most, least), "", watcherRow(most)+costsOfWatch, watcherRow(least)+costsOfWatch)
	return nil
}

const costsOfWatch = ", processor time of the daemon"

func watcherRow(count int) string {
	return fmt.Sprintf("a ConfigMap of 1 kB changed > all watchers of its resource have it, %d of them", count)
}

func (b *bench) watched(ctx context.Context, pid, count int) (err error) {
	c, err := b.lab.client(ctx, "n1", "watchers", strconv.Itoa(count), strconv.Itoa(watcherChanges))
	if err != nil {
		return err
	}
	if m, err := c.next(); err != nil || m.Name != "looking" {
		return errors.Join(err, c.end(), fmt.Errorf("the client says %q and not that it looks", m.Name))
	}
	before, err := cpu(pid)
	if err != nil {
		return errors.Join(err, c.end())
	}
	if err := c.tell("go"); err != nil {
		return err
	}
	var all []mark
	for range watcherChanges {
		m, err := c.next()
		if err != nil {
			return err
		}
		all = append(all, m)
	}
	after, err := cpu(pid)
	if err := errors.Join(err, c.end()); err != nil {
		return err
	}
	b.table.latencies(watcherRow(count), "", spans(all))
	b.table.add(watcherRow(count)+costsOfWatch, "", "ms", 1000*(after-before).Seconds()/watcherChanges)
	return nil
}

// watch opens so many watches of ConfigMaps, says that it looks, and once it is told to changes one so often; each change is over when every
// watcher has had it. What a watcher reads it counts and does not decode: it has the processor in common with what it measures.
func (c api) watch(ctx context.Context, count, changes int) error {
	made, err := c.kube.CoreV1().ConfigMaps(namespace).Create(ctx, configMap("watched-by-"+strconv.Itoa(count)), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var left atomic.Int64
	had, broken := make(chan time.Time, 1), make(chan error, count)
	url := c.url + "/api/v1/namespaces/" + namespace + "/configmaps"
	for range count {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"?watch=true&resourceVersion="+made.ResourceVersion, nil)
		if err != nil {
			return err
		}
		answer, err := c.plain.Do(r)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return fmt.Errorf("watch: %s", answer.Status)
		}
		go func() {
			for lines := bufio.NewReaderSize(answer.Body, 8<<10); ; {
				if _, err := lines.ReadSlice('\n'); err != nil {
					broken <- fmt.Errorf("a watch ended: %w", err)
					return
				}
				if left.Add(-1) == 0 {
					had <- time.Now()
				}
			}
		}()
	}
	if err := c.out.Encode(mark{Name: "looking"}); err != nil {
		return err
	}
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	for i := range changes {
		made.ResourceVersion, made.Data["n"] = "", strconv.Itoa(i)
		body, err := runtime.Encode(scheme.Codecs.LegacyCodec(corev1.SchemeGroupVersion), made)
		if err != nil {
			return err
		}
		left.Store(int64(count))
		m := mark{Name: strconv.Itoa(i), Began: time.Now()}
		if err := c.send(ctx, http.MethodPut, url+"/"+made.Name, body, http.StatusOK); err != nil {
			return err
		}
		select {
		case m.Done = <-had:
		case err := <-broken:
			return err
		case <-time.After(time.Minute):
			return fmt.Errorf("after a minute %d of %d watchers had not had change %d", left.Load(), count, i)
		}
		if err := c.out.Encode(m); err != nil {
			return err
		}
		time.Sleep(time.Until(m.Began.Add(watcherPace)))
	}
	return nil
}
