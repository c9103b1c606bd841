package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

// poll asks every few milliseconds until something is so and prints when it was. Its first mark says that it was not when it began to look.
func poll(ok func() bool) error {
	out := json.NewEncoder(os.Stdout)
	if !ok() {
		if err := out.Encode(mark{Name: "looking"}); err != nil {
			return err
		}
	}
	for until := time.Now().Add(2 * time.Minute); time.Now().Before(until); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return out.Encode(mark{Name: "seen", Done: time.Now()})
		}
	}
	return context.DeadlineExceeded
}

// seeAlive prints when this node's list of members has so many alive, and no others.
func seeAlive(count int) error {
	socket := filepath.Join(os.Getenv("MURMUR_RUN_DIR"), "murmur.sock")
	c := http.Client{Timeout: time.Second, Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}}
	return poll(func() bool {
		r, err := c.Get("http://murmur/v1/members")
		if err != nil {
			return false
		}
		defer r.Body.Close()
		var members []struct{ Status string }
		if json.NewDecoder(r.Body).Decode(&members) != nil || len(members) != count {
			return false
		}
		for _, m := range members {
			if m.Status != "alive" {
				return false
			}
		}
		return true
	})
}

// seeReady prints when this node's API is ready. Who answers is of no interest, only that.
func seeReady() error {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return err
	}
	c := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	return poll(func() bool {
		r, err := c.Get(config.Host + "/readyz")
		if err != nil {
			return false
		}
		defer r.Body.Close()
		_, _ = io.Copy(io.Discard, r.Body)
		return r.StatusCode == http.StatusOK
	})
}
