package pod

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// listening is a server's port as a number.
func listening(t *testing.T, addr net.Addr) int32 {
	t.Helper()
	_, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseInt(port, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return int32(n)
}

// TestProbeHandlers: each kind of probe asks what it says: which port, by number or name, which host, path, headers, scheme and service.
func TestProbeHandlers(t *testing.T) {
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthy" || r.Header.Get("X-Asks") != "probe" {
			w.WriteHeader(http.StatusTeapot)
		}
	})
	plain, secure := httptest.NewServer(answer), httptest.NewTLSServer(answer)
	defer plain.Close()
	defer secure.Close()
	web, tls := listening(t, plain.Listener.Addr()), listening(t, secure.Listener.Addr())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, services := grpc.NewServer(), health.NewServer()
	services.SetServingStatus("sick", healthv1.HealthCheckResponse_NOT_SERVING)
	healthv1.RegisterHealthServer(server, services)
	go func() { _ = server.Serve(l) }()
	defer server.Stop()
	rpc := listening(t, l.Addr())
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := listening(t, closed.Addr())
	closed.Close()

	container := &corev1.Container{Name: "c", Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: web}, {Name: "dead", ContainerPort: nobody}}}
	headers := []corev1.HTTPHeader{{Name: "X-Asks", Value: "probe"}}
	get := func(change func(*corev1.HTTPGetAction)) corev1.ProbeHandler {
		g := &corev1.HTTPGetAction{Path: "/healthy", Port: intstr.FromInt32(web), HTTPHeaders: headers}
		if change != nil {
			change(g)
		}
		return corev1.ProbeHandler{HTTPGet: g}
	}
	socket := func(host string, port intstr.IntOrString) corev1.ProbeHandler {
		return corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Host: host, Port: port}}
	}
	named := func(service string) corev1.ProbeHandler {
		return corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: rpc, Service: &service}}
	}
	for what, c := range map[string]struct {
		handler corev1.ProbeHandler
		ok      bool
	}{
		"http by number":       {get(nil), true},
		"http by name":         {get(func(g *corev1.HTTPGetAction) { g.Port = intstr.FromString("web") }), true},
		"http, a name of none": {get(func(g *corev1.HTTPGetAction) { g.Port = intstr.FromString("none") }), false},
		"http, another path":   {get(func(g *corev1.HTTPGetAction) { g.Path = "/" }), false},
		"http, no header":      {get(func(g *corev1.HTTPGetAction) { g.HTTPHeaders = nil }), false},
		"http, another host":   {get(func(g *corev1.HTTPGetAction) { g.Host = "127.0.0.99" }), false},
		"https":                {get(func(g *corev1.HTTPGetAction) { g.Scheme, g.Port = corev1.URISchemeHTTPS, intstr.FromInt32(tls) }), true},
		"https to plain http":  {get(func(g *corev1.HTTPGetAction) { g.Scheme = corev1.URISchemeHTTPS }), false},
		"tcp by number":        {socket("", intstr.FromInt32(web)), true},
		"tcp by name":          {socket("", intstr.FromString("web")), true},
		"tcp, nobody there":    {socket("", intstr.FromString("dead")), false},
		"tcp, another host":    {socket("127.0.0.99", intstr.FromInt32(web)), false},
		"grpc":                 {corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: rpc}}, true},
		"grpc, a service":      {named("sick"), false},
		"grpc, nobody there":   {corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: nobody}}, false},
	} {
		r := &prober{container: container, kind: readiness, ips: []string{"127.0.0.1"}, ps: &probes{}, spec: &corev1.Probe{ProbeHandler: c.handler, TimeoutSeconds: 5}}
		if ok, message := r.try(t.Context()); ok != c.ok {
			t.Errorf("%s: %v %s", what, ok, message)
		}
	}
}

// TestProbeThresholds: a probe begins when it says, and a container is ready, or is not any more, after as many answers in a row as it says.
func TestProbeThresholds(t *testing.T) {
	var mu sync.Mutex
	answers, asked := []int{200, 500, 200, 200, 500, 500}, []time.Time{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		code := 500
		if len(asked) < len(answers) {
			code = answers[len(asked)]
		}
		asked = append(asked, time.Now())
		w.WriteHeader(code)
	}))
	defer server.Close()
	began := time.Now()
	ps := &probes{w: &worker{k: New(Config{}), wake: make(chan struct{}, 1)}, results: map[string]Health{"id": {Started: true}}}
	r := &prober{ps: ps, pod: &corev1.Pod{}, container: &corev1.Container{Name: "c"}, run: Container{ID: "id", Started: began}, kind: readiness, ips: []string{"127.0.0.1"},
		spec: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt32(listening(t, server.Listener.Addr()))}},
			InitialDelaySeconds: 1, PeriodSeconds: 1, TimeoutSeconds: 5, SuccessThreshold: 2, FailureThreshold: 2}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { r.loop(ctx); close(done) }()
	// What is known after each answer, told by how many there were.
	ready := map[int]bool{}
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		h := ps.health()["id"]
		mu.Lock()
		n := len(asked)
		mu.Unlock()
		ready[n] = h.Ready
		if n > len(answers) {
			break
		}
	}
	cancel()
	<-done
	got := []string{}
	for n := range len(answers) + 1 {
		got = append(got, fmt.Sprint(ready[n]))
	}
	if want := strings.Fields("false false false false true true false"); !slices.Equal(got, want) {
		t.Errorf("ready after each answer: %v, want %v", got, want)
	}
	if first := asked[0].Sub(began); first < time.Second {
		t.Errorf("the first question came after %v, before the initial delay", first)
	}
	if between := asked[1].Sub(asked[0]); between < 900*time.Millisecond {
		t.Errorf("the second question came %v after the first, sooner than the period", between)
	}
}

// TestHookHandlers: a hook sleeps as long as it says, unless it is told to stop, and asks with the headers that it names.
func TestHookHandlers(t *testing.T) {
	asked := make(chan string, 1)
	server := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r.URL.Path + " " + r.Header.Get("X-Asks") }))
	defer server.Close()
	turn := &turn{pod: &corev1.Pod{}}
	c := &corev1.Container{Name: "c", Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: listening(t, server.Listener.Addr())}}}
	get := &corev1.LifecycleHandler{HTTPGet: &corev1.HTTPGetAction{Host: "127.0.0.1", Path: "/stop", Scheme: corev1.URISchemeHTTPS, Port: intstr.FromString("web"),
		HTTPHeaders: []corev1.HTTPHeader{{Name: "X-Asks", Value: "hook"}}}}
	if err := turn.hook(t.Context(), "id", c, get); err != nil {
		t.Fatal(err)
	}
	if got := <-asked; got != "/stop hook" {
		t.Errorf("asked for %q", got)
	}
	began := time.Now()
	if err := turn.hook(t.Context(), "id", c, &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 1}}); err != nil || time.Since(began) < time.Second {
		t.Errorf("slept for %v: %v", time.Since(began), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := turn.hook(ctx, "id", c, &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 3600}}); err == nil {
		t.Error("a sleep that is told to stop goes on")
	}
}

// named is a world in which there are a ConfigMap and a Secret of one name.
type named struct{ links }

func (named) ConfigMap(_, name string) (*corev1.ConfigMap, bool) {
	return &corev1.ConfigMap{Data: map[string]string{"k": "v"}}, name == "there"
}

func (named) Secret(_, name string) (*corev1.Secret, bool) {
	return &corev1.Secret{Data: map[string][]byte{"k": []byte("v")}}, name == "there"
}

// TestOptionalVariables: what a variable is taken from must be there unless it is optional, the whole as well as the key in it.
func TestOptionalVariables(t *testing.T) {
	yes := true
	ref := func(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }
	for _, optional := range []*bool{nil, &yes} {
		for what, c := range map[string]struct {
			from corev1.EnvFromSource
			env  *corev1.EnvVarSource
			want string // "" is that nothing is there
		}{
			"all of a ConfigMap":           {from: corev1.EnvFromSource{Prefix: "V_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: ref("there"), Optional: optional}}, want: "V_k=v"},
			"all of one that is not there": {from: corev1.EnvFromSource{Prefix: "V_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: ref("gone"), Optional: optional}}},
			"all of a Secret":              {from: corev1.EnvFromSource{Prefix: "V_", SecretRef: &corev1.SecretEnvSource{LocalObjectReference: ref("there"), Optional: optional}}, want: "V_k=v"},
			"all of no Secret":             {from: corev1.EnvFromSource{Prefix: "V_", SecretRef: &corev1.SecretEnvSource{LocalObjectReference: ref("gone"), Optional: optional}}},
			"a key of a ConfigMap":         {env: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: ref("there"), Key: "k", Optional: optional}}, want: "V=v"},
			"no key of a ConfigMap":        {env: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: ref("there"), Key: "x", Optional: optional}}},
			"a key of no ConfigMap":        {env: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: ref("gone"), Key: "k", Optional: optional}}},
			"a key of a Secret":            {env: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: ref("there"), Key: "k", Optional: optional}}, want: "V=v"},
			"no key of a Secret":           {env: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: ref("there"), Key: "x", Optional: optional}}},
			"a key of no Secret":           {env: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: ref("gone"), Key: "k", Optional: optional}}},
		} {
			container := corev1.Container{Name: "c"}
			if c.env != nil {
				container.Env = []corev1.EnvVar{{Name: "V", ValueFrom: c.env}}
			} else {
				container.EnvFrom = []corev1.EnvFromSource{c.from}
			}
			no := false
			p := &corev1.Pod{Spec: corev1.PodSpec{EnableServiceLinks: &no, Containers: []corev1.Container{container}}}
			env, err := environment(p, &p.Spec.Containers[0], named{}, nil)
			if fails := c.want == "" && optional == nil; (err != nil) != fails {
				t.Errorf("%s, optional %v: %v", what, optional != nil, err)
			}
			got := ""
			for _, e := range env {
				if strings.HasPrefix(e.Name, "V") {
					got += e.Name + "=" + e.Value
				}
			}
			if err == nil && got != c.want {
				t.Errorf("%s, optional %v: %q, want %q", what, optional != nil, got, c.want)
			}
		}
	}
}

// TestResourcesOfAnother: a variable may tell what another container of the pod has.
func TestResourcesOfAnother(t *testing.T) {
	no := false
	p := &corev1.Pod{Spec: corev1.PodSpec{EnableServiceLinks: &no, Containers: []corev1.Container{
		{Name: "c", Env: []corev1.EnvVar{{Name: "V", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{ContainerName: "big", Resource: "limits.cpu"}}}}},
		{Name: "big", Resources: sizedFor("3")},
	}}}
	env, err := environment(p, &p.Spec.Containers[0], links{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if i := slices.IndexFunc(env, func(e Variable) bool { return e.Name == "V" }); i < 0 || env[i].Value != "3" {
		t.Errorf("%v", env)
	}
}

func sizedFor(cpu string) corev1.ResourceRequirements {
	return corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}}
}
