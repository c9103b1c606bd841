package httpapi

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// opened is a request that stands.
type opened struct {
	in   io.Reader
	stop func()
}

// ended tells whether it ends by itself.
func (o *opened) ended(t *testing.T) bool {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, o.in)
		done <- err
	}()
	select {
	case err := <-done:
		return !errors.Is(err, os.ErrDeadlineExceeded)
	case <-time.After(30 * time.Second):
		return false
	}
}

// watch follows ConfigMaps, as a client with a certificate or a token.
func (n *node) watch(client *http.Client, bearer string) *opened {
	n.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, "GET", n.url+"/api/v1/namespaces/default/configmaps?watch=true&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan", nil)
	check(n.t, err)
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	resp, err := client.Do(req)
	check(n.t, err)
	if resp.StatusCode != http.StatusOK {
		n.t.Fatalf("watch: %s %s", resp.Status, readAll(n.t, resp.Body))
	}
	in := bufio.NewReader(resp.Body)
	_, err = in.ReadString('\n')
	check(n.t, err)
	return &opened{in: in, stop: cancel}
}

// exec runs a command that waits for its input, over a WebSocket.
func (n *node) exec(certificate tls.Certificate, pod string) *opened {
	n.t.Helper()
	conf := n.client("").Transport.(*http.Transport).TLSClientConfig.Clone()
	conf.NextProtos, conf.Certificates = nil, []tls.Certificate{certificate}
	conn, err := tls.Dial("tcp", strings.TrimPrefix(n.url, "https://"), conf)
	check(n.t, err)
	check(n.t, conn.SetDeadline(time.Now().Add(time.Minute)))
	_, err = fmt.Fprintf(conn, "GET /api/v1/namespaces/default/pods/%s/exec?container=main&command=cat&stdin=true&stdout=true HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n", pod)
	check(n.t, err)
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	check(n.t, err)
	if resp.StatusCode != http.StatusSwitchingProtocols {
		n.t.Fatalf("exec on %s: %s", pod, resp.Status)
	}
	for seen := ""; !strings.Contains(seen, "cat"); { // what the command says when it has begun
		b, err := in.ReadByte()
		check(n.t, err)
		seen += string(b)
	}
	return &opened{in: in, stop: func() { conn.Close() }}
}

// TestRequestsOfTheRevokedEnd: watches and streams, here and on another node, end when the certificate or the key of a token that they were proven
// by is not believed any more; others go on, also those whose node has replaced its key.
func TestRequestsOfTheRevokedEnd(t *testing.T) {
	peers, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	kubelet := newTalking(t)
	var revoked atomic.Bool
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		check(t, err)
		return k
	}
	own, stolen, next := key(), key(), key()
	sign := own
	keys := TokenKeys{Sign: func() *ecdsa.PrivateKey { return sign }, Public: func() []TokenKey {
		if revoked.Load() { // then every member makes a key anew, and n1 is believed as before
			return []TokenKey{{Key: next.Public(), Node: "n1", Anywhere: true}}
		}
		return []TokenKey{{Key: own.Public(), Node: "n1", Anywhere: true}, {Key: stolen.Public(), Node: "n3", Anywhere: true}}
	}}
	believed := ClientCertificates{Stands: func(chain []*x509.Certificate) error {
		if revoked.Load() && chain[0].Subject.CommonName == "eve" {
			return errors.New("eve was revoked")
		}
		return nil
	}}
	n := newNode(t, func(c *Config) {
		c.Kubelet = kubelet
		believed.Roots = func() *x509.CertPool { return c.TLS.ClientCAs }
		c.ClientCertificates, c.TokenKeys, c.ServiceAccountKey = believed, keys, nil
		c.Relay = func(ctx context.Context, node string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", peers.Addr().String())
		}
	})
	there := believed
	var nobody atomic.Bool
	there.Stands = func(chain []*x509.Certificate) error {
		if nobody.Load() {
			return errors.New("ann was revoked")
		}
		return believed.Stands(chain)
	}
	second, err := New(Config{Store: n.store, Node: "n2", Kubelet: kubelet, Log: n.cfg.Log, TLS: n.cfg.TLS, TokenKeys: keys, ClientCertificates: there})
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- second.ServePeers(ctx, peers) }()
	defer func() {
		cancel()
		check(t, <-served)
	}()
	c := n.clientset(false)
	for _, where := range []string{"n1", "n2"} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "on-" + where}, Spec: corev1.PodSpec{NodeName: where, Containers: []corev1.Container{{Name: "main", Image: "i", Stdin: true}}}}
		p, err := c.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{})
		check(t, err)
		p.Status.Phase = corev1.PodRunning
		_, err = n.As("admin", "system:masters").UpdateStatus(ctx, p)
		check(t, err)
	}
	_, err = c.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "first"}}, metav1.CreateOptions{})
	check(t, err)
	token := func(with *ecdsa.PrivateKey) string {
		sign = with
		out := n.must(kubectls(t)[0], "", "create", "token", "default")
		return strings.TrimSpace(out)
	}
	n.must(kubectls(t)[0], "", "create", "clusterrolebinding", "all", "--clusterrole=cluster-admin", "--serviceaccount=default:default")
	ofStolen, ofOwn := token(stolen), token(own)

	end := map[string]*opened{
		"a watch with a certificate":           n.watch(n.client("eve", "system:masters"), ""),
		"a watch with a token":                 n.watch(n.client(""), ofStolen),
		"an exec here":                         n.exec(n.ca.issue(t, "eve", "system:masters"), "on-n1"),
		"an exec on another node":              n.exec(n.ca.issue(t, "eve", "system:masters"), "on-n2"),
		"a watch with a certificate, HTTP/1.1": n.watch(plain(n.client("eve", "system:masters")), ""),
	}
	stay := map[string]*opened{
		"a watch with a certificate": n.watch(n.client("ann", "system:masters"), ""),
		"a watch with a token":       n.watch(n.client(""), ofOwn),
	}
	execStays := n.exec(n.ca.issue(t, "ann", "system:masters"), "on-n2")
	n.TrustChanged() // nothing has
	revoked.Store(true)
	n.TrustChanged()
	for what, o := range end {
		if !o.ended(t) {
			t.Errorf("%s of one who was revoked goes on", what)
		}
		o.stop()
	}
	_, err = c.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "second"}}, metav1.CreateOptions{})
	check(t, err)
	for what, o := range stay {
		for {
			line, err := o.in.(*bufio.Reader).ReadString('\n')
			if err != nil {
				t.Errorf("%s of another has ended: %v", what, err)
				break
			}
			if strings.Contains(line, "second") {
				break
			}
		}
		o.stop()
	}
	// What the node of the pod hears first ends there.
	revoked.Store(true)
	nobody.Store(true)
	second.TrustChanged()
	if !execStays.ended(t) {
		t.Error("an exec goes on though the node of the pod does not believe its caller any more")
	}
	execStays.stop()
	// Nor does a request that was proven just before.
	if _, err := n.client("eve", "system:masters").Get(n.url + "/api/v1/namespaces/default/configmaps?watch=true"); err == nil {
		t.Error("a watch of one who was revoked begins")
	}
}

// plain is a client that speaks HTTP/1.1.
func plain(c *http.Client) *http.Client {
	t := c.Transport.(*http.Transport)
	t.ForceAttemptHTTP2 = false
	t.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	return c
}
