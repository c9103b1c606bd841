package informers

import (
	"context"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission/configuration"

	"murmur/crdt"
	"murmur/crdt/store"
	"murmur/httpapi/storage"
)

// TestReadAhead: a plugin lists what is stored before it is told of it, and keeps what it has made of it. Whatever has happened to an object until
// it is told of it first, it does not go on with what was.
func TestReadAhead(t *testing.T) {
	s, err := store.Open(store.Config{Cluster: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	k := crdt.Key{Resource: storage.ValidatingWebhooks, Name: "v"}
	write := func(url string) {
		t.Helper()
		w := store.Write{Key: k}
		if url != "" {
			w.Object = runtime.Object(&admissionv1.ValidatingWebhookConfiguration{
				TypeMeta: metav1.TypeMeta{APIVersion: "admissionregistration.k8s.io/v1", Kind: "ValidatingWebhookConfiguration"}, ObjectMeta: metav1.ObjectMeta{Name: "v"},
				Webhooks: []admissionv1.ValidatingWebhook{{Name: "v.example.com", ClientConfig: admissionv1.WebhookClientConfig{URL: &url}}}})
		}
		w.Base, _ = s.Snapshot().Get(k)
		if _, err := s.Commit(t.Context(), w); err != nil {
			t.Fatal(err)
		}
	}
	followers := &Followers{}
	plugin := configuration.NewValidatingWebhookConfigurationManager(Factory{Store: s, Followers: followers}, nil)
	asks := func(want string) {
		t.Helper()
		got := ""
		for _, w := range plugin.Webhooks() {
			v, _ := w.GetValidatingWebhook()
			got = *v.ClientConfig.URL
		}
		if got != want {
			t.Errorf("it asks %q, want %q", got, want)
		}
	}
	tell := func() {
		all, _ := followers.now()
		for _, one := range all {
			one.tell()
		}
	}
	write("https://one")
	asks("https://one")
	write("https://two")
	tell()
	asks("https://two")
	write("")
	write("https://three") // another object of the same name
	tell()
	asks("https://three")
	write("https://four")
	tell()
	asks("https://four")
	write("")
	tell()
	asks("")
}
