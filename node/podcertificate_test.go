package node

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/kubernetes/test/utils/hermeticpodcertificatesigner"
	"k8s.io/utils/clock"

	"murmur/crdt/store"
	"murmur/httpapi"
	"murmur/node/member"
	"murmur/node/pod/podtest"
	"murmur/node/volume"
)

// TestPodCertificates: pods get certificates of a signer that knows nothing but the API: the one of upstream's conformance suite. One whose
// signer is silent waits and one whose signer says no says so; neither keeps another.
func TestPodCertificates(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: what is secret is in a tmpfs")
	}
	n := &Node{id: &member.Identity{NodeName: "n1"}}
	dir, events := t.TempDir(), &podtest.Events{}
	volumes := func() *volume.Volumes {
		return volume.New(volume.Config{Dir: filepath.Join(dir, "pods"), Node: "n1", Certificates: n.podCertificate,
			Warn: func(p *corev1.Pod, reason, message string) { events.Event(p, p.Name, reason, message) }})
	}
	w := podtest.New(t, podtest.NewFake(), volumes(), dir)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	if n.api, err = httpapi.New(httpapi.Config{Store: w.Store, Node: "n1", Listener: l, ServiceAccountKey: key, TLS: &tls.Config{}, Log: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if err := n.api.Bootstrap(ctx); err != nil {
		t.Fatal(err)
	}
	admin := n.api.As("admin", "system:masters")
	create := func(obj runtime.Object) {
		t.Helper()
		if _, err := admin.Create(ctx, obj); err != nil {
			t.Fatal(err)
		}
	}
	create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
	create(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: "default"}})

	const spiffe, silent, refuses = "example.test/spiffe", "example.test/silent", "example.test/refuses"
	keys, certs, err := hermeticpodcertificatesigner.GenerateCAHierarchy(1)
	if err != nil {
		t.Fatal(err)
	}
	clients, err := kubernetes.NewForConfig(&rest.Config{Host: "https://here", Transport: admin.RoundTripper()})
	if err != nil {
		t.Fatal(err)
	}
	signer := hermeticpodcertificatesigner.New(clock.RealClock{}, spiffe, "cluster.local", keys, certs, clients)
	run(t, func(ctx context.Context) error { signer.Run(ctx); return nil })

	no, hour, name := false, int32(3600), spiffe
	pod := func(name, signer string, more ...corev1.VolumeProjection) *corev1.Pod {
		p := podtest.Pod(name, "sleep", "1000")
		p.Spec.NodeName, p.Spec.AutomountServiceAccountToken = "n1", &no
		p.Spec.Volumes = []corev1.Volume{{Name: "tls", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: append([]corev1.VolumeProjection{
			{PodCertificate: &corev1.PodCertificateProjection{SignerName: signer, KeyType: "ECDSAP256", CredentialBundlePath: "bundle.pem", MaxExpirationSeconds: &hour,
				UserAnnotations: map[string]string{hermeticpodcertificatesigner.SpiffePathKey: "/one-of-ours"}}}}, more...)}}}}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "tls", MountPath: "/tls"}}
		return p
	}
	create(pod("waits", silent))
	create(pod("refused", refuses))
	create(pod("web", spiffe, corev1.VolumeProjection{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{SignerName: &name, LabelSelector: &metav1.LabelSelector{}, Path: "trust.pem"}}))

	web := w.Until("web", "ready", podtest.Ready)
	file := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, "pods", string(web.UID), "volumes", "kubernetes.io~projected", "tls", name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	bundle := file("bundle.pem")
	pair, err := tls.X509KeyPair(bundle, bundle)
	if err != nil {
		t.Fatal(err)
	}
	between, roots := x509.NewCertPool(), x509.NewCertPool()
	for _, der := range pair.Certificate[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		between.AddCert(c)
	}
	if !roots.AppendCertsFromPEM(file("trust.pem")) {
		t.Fatal("no trust anchors")
	}
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between}); err != nil {
		t.Error(err)
	}
	if len(pair.Leaf.URIs) != 1 || pair.Leaf.URIs[0].String() != "spiffe://cluster.local/one-of-ours" || pair.Leaf.NotAfter.Sub(pair.Leaf.NotBefore) != time.Hour {
		t.Errorf("certificate of %v for %v", pair.Leaf.URIs, pair.Leaf.NotAfter.Sub(pair.Leaf.NotBefore))
	}
	requests := func(signer string) (out []*certificatesv1.PodCertificateRequest) {
		for _, r := range store.List[certificatesv1.PodCertificateRequest](w.Store.Snapshot(), "certificates.k8s.io/podcertificaterequests", "default") {
			if r.Spec.SignerName == signer {
				out = append(out, r)
			}
		}
		return out
	}
	said := func(want string) {
		t.Helper()
		w.Eventually(10*time.Second, want, func() error {
			if all := w.Events.String() + "\n" + events.String(); !strings.Contains(all, want) {
				return fmt.Errorf("events:\n%s", all)
			}
			return nil
		})
	}
	said(`waits  Warning FailedMount: MountVolume.SetUp failed for volume "tls" : credential bundle is not issued yet: PodCertificateRequest default/`)
	if got := requests(silent); len(got) != 1 {
		t.Errorf("%d requests wait for the silent signer", len(got))
	}
	w.Eventually(10*time.Second, "asked", func() error {
		if len(requests(refuses)) == 0 {
			return fmt.Errorf("no request")
		}
		return nil
	})
	asked := requests(refuses)[0].DeepCopy()
	asked.Status.Conditions = []metav1.Condition{{Type: "Denied", Status: metav1.ConditionTrue, Reason: certificatesv1.PodCertificateRequestConditionUnsupportedKeyType, Message: "ED25519 it must be", LastTransitionTime: metav1.Now()}}
	if _, err := admin.UpdateStatus(ctx, asked); err != nil {
		t.Fatal(err)
	}
	said(`refused Denied: PodCertificateRequest default/` + asked.Name + ` was denied, reason="UnsupportedKeyType", message="ED25519 it must be"`)
	said(`refused  Warning FailedMount: MountVolume.SetUp failed for volume "tls" : PodCertificateRequest was permanently denied: reason="UnsupportedKeyType"`)

	// A daemon that starts again renews at once; until that is through the pod keeps what it has, and its container.
	before, first := web.Status.ContainerStatuses[0].ContainerID, requests(spiffe)[0].Name
	w.Stop()
	w.Volumes = volumes()
	w.Config.Volumes = w.Volumes
	w.Start()
	w.Eventually(10*time.Second, "renewed", func() error {
		if bytes.Equal(file("bundle.pem"), bundle) {
			return fmt.Errorf("the certificate is what it was; %d requests", len(requests(spiffe)))
		}
		return nil
	})
	if after := file("bundle.pem"); len(requests(spiffe)) != 2 {
		t.Errorf("%d requests", len(requests(spiffe)))
	} else if _, err := tls.X509KeyPair(after, after); err != nil {
		t.Error(err)
	}
	if got := w.Get("web"); got.Status.ContainerStatuses[0].ContainerID != before {
		t.Errorf("the pod's container was %s and is %s", before, got.Status.ContainerStatuses[0].ContainerID)
	}
	for _, r := range requests(spiffe) {
		if r.Name != first && strings.Contains(w.Events.String(), r.Name) {
			t.Errorf("the pod's volume was in want of a certificate:\n%s", w.Events)
		}
	}
}
