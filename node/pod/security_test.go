package pod

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	utilversion "k8s.io/apimachinery/pkg/util/version"
)

// TestSafeSysctls: the safe list is upstream's. Its package brings half a kubelet with it, so its source is read.
func TestSafeSysctls(t *testing.T) {
	dir, err := exec.Command("go", "list", "-f", "{{.Dir}}", "k8s.io/kubernetes/pkg/kubelet/sysctl").Output()
	if err != nil {
		t.Fatalf("find upstream's list: %v", err)
	}
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(strings.TrimSpace(string(dir)), "safe_sysctls.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	upstream := map[string]bool{} // whether it wants a kernel
	ast.Inspect(file, func(n ast.Node) bool {
		lit, ok := n.(*ast.CompositeLit)
		if !ok || lit.Type != nil {
			return true
		}
		name, since := "", false
		for _, e := range lit.Elts {
			kv := e.(*ast.KeyValueExpr)
			switch kv.Key.(*ast.Ident).Name {
			case "name":
				name, _ = strconv.Unquote(kv.Value.(*ast.BasicLit).Value)
			case "kernel":
				since = true
			}
		}
		upstream[name] = since
		return true
	})
	ours := map[string]bool{}
	for name, since := range safeSysctls {
		ours[name] = since != ""
	}
	if len(upstream) < 10 || !maps.Equal(ours, upstream) {
		t.Errorf("%v, upstream has %v", ours, upstream)
	}
	old, err := newSysctls(utilversion.MustParseGeneric("3.10"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if old.check("net.ipv4.tcp_keepalive_time", false, false, true) == nil || old.check("kernel.shm_rmid_forced", false, false, true) != nil {
		t.Errorf("a kernel that keeps less apart: %v", old.names)
	}
}

// TestSysctls: what is allowed beside them, to whom.
func TestSysctls(t *testing.T) {
	for _, pattern := range []string{"kernel.hostname", "vm.swappiness", "fs.file-max", "net.*.ipv4", "*", "", "net.core.a b", "kernel.*"} {
		if s, err := NewSysctls([]string{pattern}); err == nil {
			t.Errorf("%q is taken: %v", pattern, s)
		}
	}
	s, err := NewSysctls([]string{"kernel.msg*", "net.core.somaxconn", "net.ipv4.conf.*", "user.max_inotify_watches", "net/ipv4/route/*"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name                            string
		hostNetwork, hostIPC, hostUsers bool
		want                            string
	}{
		{"kernel.msgmax", true, false, true, ""},
		{"kernel.msgmax", false, true, true, `"kernel.msgmax" not allowed with host IPC enabled`},
		{"kernel.sem", false, false, true, `"kernel.sem" not allowlisted`},
		{"net.core.somaxconn", false, true, true, ""},
		{"net/core/somaxconn", false, false, true, ""},
		{"net/core/somaxconn", true, false, true, `"net.core.somaxconn" not allowed with host Net enabled`},
		{"net/ipv4/conf/eth0.1/forwarding", false, false, true, ""},
		{"net.ipv4.conf.all.forwarding", true, false, true, `"net.ipv4.conf.all.forwarding" not allowed with host Net enabled`},
		{"net.ipv4.ip_forward", false, false, true, `"net.ipv4.ip_forward" not allowlisted`},
		{"net.ipv4.route.flush", false, false, true, ""},
		{"net.ipv4.tcp_syncookies", false, false, true, ""},
		{"net.ipv4.tcp_syncookies", true, false, true, `"net.ipv4.tcp_syncookies" not allowed with host Net enabled`},
		{"user.max_inotify_watches", false, false, true, `"user.max_inotify_watches" not allowed with host User enabled`},
		{"user.max_inotify_watches", false, false, false, ""},
		{"vm.swappiness", false, false, true, `"vm.swappiness" not allowlisted`},
	} {
		got := ""
		if err := s.check(c.name, c.hostNetwork, c.hostIPC, c.hostUsers); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s, host network %v, IPC %v, users %v: %q, want %q", c.name, c.hostNetwork, c.hostIPC, c.hostUsers, got, c.want)
		}
	}
}

// TestUnenforceable: a field that this node cannot keep is a reason, and names what it lacks.
func TestUnenforceable(t *testing.T) {
	sysctls, err := NewSysctls(nil)
	if err != nil {
		t.Fatal(err)
	}
	all := Features{UserNamespacesHostNetwork: true, StrictGroups: true, RecursiveReadOnly: true}
	none := Features{UserNamespaces: errors.New("no users"), AppArmor: errors.New("AppArmor is not enabled on the host")}
	strict, unmasked, masked := corev1.SupplementalGroupsPolicyStrict, corev1.UnmaskedProcMount, corev1.DefaultProcMount
	localhost := &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: new("mine")}
	pod := func(sc *corev1.PodSecurityContext, of *corev1.SecurityContext) *corev1.Pod {
		return &corev1.Pod{Spec: corev1.PodSpec{SecurityContext: sc, Containers: []corev1.Container{{Name: "a"}, {Name: "b", SecurityContext: of}}}}
	}
	with := func(p *corev1.Pod, change func(*corev1.Pod)) *corev1.Pod { change(p); return p }
	for _, c := range []struct {
		name        string
		pod         *corev1.Pod
		where       Features
		reason, why string
	}{
		{"nothing asked, nothing there", pod(nil, nil), none, "", ""},
		{"linux", with(pod(nil, nil), func(p *corev1.Pod) { p.Spec.OS = &corev1.PodOS{Name: corev1.Linux} }), none, "", ""},
		{"windows", with(pod(nil, nil), func(p *corev1.Pod) { p.Spec.OS = &corev1.PodOS{Name: corev1.Windows} }), all, reasonOS, "OS field"},
		{"strict groups", pod(&corev1.PodSecurityContext{SupplementalGroupsPolicy: &strict}, nil), all, "", ""},
		{"no strict groups", pod(&corev1.PodSecurityContext{SupplementalGroupsPolicy: &strict}, nil), none, reasonGroups, "SupplementalGroupsPolicy=Strict"},
		{"users", with(pod(nil, nil), func(p *corev1.Pod) { p.Spec.HostUsers = new(false) }), all, "", ""},
		{"no users", with(pod(nil, nil), func(p *corev1.Pod) { p.Spec.HostUsers = new(false) }), none, reasonFeature, "no users"},
		{"the node's users", with(pod(nil, nil), func(p *corev1.Pod) { p.Spec.HostUsers = new(true) }), none, "", ""},
		{"users and hostPID", with(pod(nil, nil), func(p *corev1.Pod) { p.Spec.HostUsers, p.Spec.HostPID = new(false), true }), all, reasonFeature, "hostPID"},
		{"users and hostIPC", with(pod(nil, nil), func(p *corev1.Pod) { p.Spec.HostUsers, p.Spec.HostIPC = new(false), true }), all, reasonFeature, "hostIPC"},
		{"users and hostNetwork", with(pod(nil, nil), func(p *corev1.Pod) { p.Spec.HostUsers, p.Spec.HostNetwork = new(false), true }), Features{}, reasonFeature, "hostNetwork"},
		{"proc unmasked", pod(nil, &corev1.SecurityContext{ProcMount: &unmasked}), all, reasonFeature, "procMount"},
		{"proc unmasked for its own users", with(pod(nil, &corev1.SecurityContext{ProcMount: &unmasked}), func(p *corev1.Pod) { p.Spec.HostUsers = new(false) }), all, "", ""},
		{"proc masked", pod(nil, &corev1.SecurityContext{ProcMount: &masked}), none, "", ""},
		{"apparmor", pod(nil, &corev1.SecurityContext{AppArmorProfile: localhost}), all, "", ""},
		{"no apparmor", pod(nil, &corev1.SecurityContext{AppArmorProfile: localhost}), none, reasonAppArmor, "Cannot enforce AppArmor: AppArmor is not enabled on the host"},
		{"no apparmor for the pod", pod(&corev1.PodSecurityContext{AppArmorProfile: localhost}, nil), none, reasonAppArmor, "Cannot enforce"},
		{"no apparmor in an annotation", with(pod(nil, nil), func(p *corev1.Pod) {
			p.Annotations = map[string]string{corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix + "b": "runtime/default"}
		}), none, reasonAppArmor, "Cannot enforce"},
		{"apparmor without a name", pod(nil, &corev1.SecurityContext{AppArmorProfile: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost}}), all, reasonAppArmor, "invalid empty AppArmor profile name"},
		{"selinux", pod(&corev1.PodSecurityContext{SELinuxOptions: &corev1.SELinuxOptions{User: "u"}}, nil), all, reasonFeature, "seLinuxOptions"},
		{"selinux of a level", pod(&corev1.PodSecurityContext{SELinuxOptions: &corev1.SELinuxOptions{Level: "s0:c1"}}, nil), none, "", ""},
		{"selinux of a level and a role", pod(&corev1.PodSecurityContext{SELinuxOptions: &corev1.SELinuxOptions{Level: "s0", Role: "r"}}, nil), all, reasonFeature, "seLinuxOptions"},
		{"selinux of a container", pod(nil, &corev1.SecurityContext{SELinuxOptions: &corev1.SELinuxOptions{Type: "container_t"}}), all, reasonFeature, "seLinuxOptions"},
		{"selinux left alone", pod(nil, &corev1.SecurityContext{SELinuxOptions: &corev1.SELinuxOptions{Type: "spc_t", Level: "s0"}}), none, "", ""},
		{"selinux empty", pod(&corev1.PodSecurityContext{SELinuxOptions: &corev1.SELinuxOptions{}}, nil), none, "", ""},
		{"windows options", pod(&corev1.PodSecurityContext{WindowsOptions: &corev1.WindowsSecurityContextOptions{}}, nil), all, reasonFeature, "windowsOptions"},
		{"windows options of a container", pod(nil, &corev1.SecurityContext{WindowsOptions: &corev1.WindowsSecurityContextOptions{}}), all, reasonFeature, "windowsOptions"},
		{"an unsafe sysctl", pod(&corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "kernel.msgmax"}}}, nil), all, reasonSysctl, "not allowlisted"},
		{"of an init container", with(pod(nil, nil), func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "i", SecurityContext: &corev1.SecurityContext{ProcMount: &unmasked}}}
		}), all, reasonFeature, "container i"},
		{"of an ephemeral container", with(pod(nil, nil), func(p *corev1.Pod) {
			p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "e", SecurityContext: &corev1.SecurityContext{ProcMount: &unmasked}}}}
		}), all, reasonFeature, "container e"},
	} {
		if reason, why := Unenforceable(c.pod, c.where, sysctls); reason != c.reason || !strings.Contains(why, c.why) || reason == "" && why != "" {
			t.Errorf("%s: %s: %q, want %s: %q", c.name, reason, why, c.reason, c.why)
		}
	}
}

// securityFields says what becomes of each security field: which package acts on it, or that it is refused; and the test that
// shows it, by its package and name.
var securityFields = map[string]struct{ does, test string }{
	"PodSecurityContext.SELinuxOptions.User":              {"refused", "node/pod TestUnenforceable"},
	"PodSecurityContext.SELinuxOptions.Role":              {"refused", "node/pod TestUnenforceable"},
	"PodSecurityContext.SELinuxOptions.Type":              {"refused, but for spc_t, which asks for no confinement", "node/pod TestUnenforceable"},
	"PodSecurityContext.SELinuxOptions.Level":             {"warned of at admission: it only keeps apart what a type confines", "httpapi TestAcceptedFields"},
	"PodSecurityContext.WindowsOptions":                   {"refused", "node/pod TestUnenforceable"},
	"PodSecurityContext.RunAsUser":                        {"acted on by node/containerd", "node/containerd TestSecurity"},
	"PodSecurityContext.RunAsGroup":                       {"acted on by node/containerd", "node/containerd TestSecurity"},
	"PodSecurityContext.RunAsNonRoot":                     {"acted on by node/pod", "node/containerd TestSecurity"},
	"PodSecurityContext.SupplementalGroups":               {"acted on by node/containerd", "node/containerd TestGroups"},
	"PodSecurityContext.SupplementalGroupsPolicy":         {"acted on by node/containerd, refused where the runtime cannot", "node/containerd TestGroups"},
	"PodSecurityContext.FSGroup":                          {"acted on by node/volume and node/containerd", "node/containerd TestGroups"},
	"PodSecurityContext.Sysctls.Name":                     {"acted on by node/containerd, refused where it is not allowed", "node/pod TestSysctls"},
	"PodSecurityContext.Sysctls.Value":                    {"acted on by node/containerd", "node/containerd TestSecurity"},
	"PodSecurityContext.FSGroupChangePolicy":              {"acted on by node/volume, for local volumes", "node/volume TestGroupOfALocalVolume"},
	"PodSecurityContext.SeccompProfile.Type":              {"acted on by node/containerd", "node/containerd TestSeccomp"},
	"PodSecurityContext.SeccompProfile.LocalhostProfile":  {"acted on by containerd, refused when there is no such file", "node/containerd TestSeccomp"},
	"PodSecurityContext.AppArmorProfile.Type":             {"acted on by node/containerd, refused where the kernel has no AppArmor", "node/pod TestUnenforceable"},
	"PodSecurityContext.AppArmorProfile.LocalhostProfile": {"acted on by containerd, refused when it is not loaded", "node/pod TestConform"},
	"PodSecurityContext.SELinuxChangePolicy":              {"nothing to do: labels are refused", "node/pod TestUnenforceable"},

	"SecurityContext.Capabilities.Add":                 {"acted on by node/containerd", "node/containerd TestSeccomp"},
	"SecurityContext.Capabilities.Drop":                {"acted on by node/containerd", "node/containerd TestSecurity"},
	"SecurityContext.Privileged":                       {"acted on by node/containerd", "node/containerd TestSecurity"},
	"SecurityContext.SELinuxOptions.User":              {"refused", "node/pod TestUnenforceable"},
	"SecurityContext.SELinuxOptions.Role":              {"refused", "node/pod TestUnenforceable"},
	"SecurityContext.SELinuxOptions.Type":              {"refused, but for spc_t, which asks for no confinement", "node/pod TestUnenforceable"},
	"SecurityContext.SELinuxOptions.Level":             {"warned of at admission: it only keeps apart what a type confines", "httpapi TestAcceptedFields"},
	"SecurityContext.WindowsOptions":                   {"refused", "node/pod TestUnenforceable"},
	"SecurityContext.RunAsUser":                        {"acted on by node/containerd", "node/containerd TestGroups"},
	"SecurityContext.RunAsGroup":                       {"acted on by node/containerd", "node/containerd TestGroups"},
	"SecurityContext.RunAsNonRoot":                     {"acted on by node/pod", "node/pod TestNonRoot"},
	"SecurityContext.ReadOnlyRootFilesystem":           {"acted on by node/containerd", "node/containerd TestSecurity"},
	"SecurityContext.AllowPrivilegeEscalation":         {"acted on by node/containerd", "node/containerd TestSecurity"},
	"SecurityContext.ProcMount":                        {"acted on by node/containerd for pods with users of their own, else refused", "node/containerd TestUsersOfItsOwn"},
	"SecurityContext.SeccompProfile.Type":              {"acted on by node/containerd", "node/containerd TestSeccomp"},
	"SecurityContext.SeccompProfile.LocalhostProfile":  {"acted on by containerd, refused when there is no such file", "node/containerd TestSeccomp"},
	"SecurityContext.AppArmorProfile.Type":             {"acted on by node/containerd, refused where the kernel has no AppArmor", "node/pod TestUnenforceable"},
	"SecurityContext.AppArmorProfile.LocalhostProfile": {"acted on by containerd, refused when it is not loaded", "node/pod TestConform"},
}

// TestSecurityFields: every security field of the API has a row, every row a field, and the test that a row names is there.
func TestSecurityFields(t *testing.T) {
	fields := map[string]bool{}
	var walk func(prefix string, of reflect.Type)
	walk = func(prefix string, of reflect.Type) {
		for of.Kind() == reflect.Pointer || of.Kind() == reflect.Slice {
			of = of.Elem()
		}
		if of.Kind() != reflect.Struct || of == reflect.TypeFor[corev1.WindowsSecurityContextOptions]() {
			fields[prefix] = true
			return
		}
		for f := range of.Fields() {
			walk(prefix+"."+f.Name, f.Type)
		}
	}
	walk("PodSecurityContext", reflect.TypeFor[corev1.PodSecurityContext]())
	walk("SecurityContext", reflect.TypeFor[corev1.SecurityContext]())
	tests := map[string]map[string]bool{}
	for name, row := range securityFields {
		if !fields[name] {
			t.Errorf("%s: the API has no such field", name)
		}
		dir, test, _ := strings.Cut(row.test, " ")
		if tests[dir] == nil {
			tests[dir] = testsOf(t, filepath.Join("../..", dir))
		}
		if !tests[dir][test] {
			t.Errorf("%s: %s has no test %s", name, dir, test)
		}
	}
	for name := range fields {
		if securityFields[name].does == "" {
			t.Errorf("%s: nobody says what becomes of it", name)
		}
	}
}

// testsOf are the names of the tests in a directory.
func testsOf(t *testing.T, dir string) map[string]bool {
	paths, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no tests in %s: %v", dir, err)
	}
	names := map[string]bool{}
	for _, path := range paths {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, "Test") {
				names[f.Name.Name] = true
			}
		}
	}
	return names
}

// TestNonRoot: a container that must not run as root does not, whoever says as whom it runs.
func TestNonRoot(t *testing.T) {
	id := func(n int64) *int64 { return &n }
	for _, c := range []struct {
		name      string
		pod       corev1.PodSecurityContext
		container corev1.SecurityContext
		image     Image
		want      string
	}{
		{"not asked", corev1.PodSecurityContext{}, corev1.SecurityContext{}, Image{UID: id(0)}, ""},
		{"image's root", corev1.PodSecurityContext{RunAsNonRoot: new(true)}, corev1.SecurityContext{}, Image{UID: id(0)}, "image will run as root"},
		{"image says nothing", corev1.PodSecurityContext{RunAsNonRoot: new(true)}, corev1.SecurityContext{}, Image{}, "image will run as root"},
		{"image's name", corev1.PodSecurityContext{RunAsNonRoot: new(true)}, corev1.SecurityContext{}, Image{User: "www"}, "non-numeric user"},
		{"image's user", corev1.PodSecurityContext{RunAsNonRoot: new(true)}, corev1.SecurityContext{}, Image{UID: id(7)}, ""},
		{"pod's user", corev1.PodSecurityContext{RunAsNonRoot: new(true), RunAsUser: id(7)}, corev1.SecurityContext{}, Image{UID: id(0)}, ""},
		{"container's root over the pod's user", corev1.PodSecurityContext{RunAsNonRoot: new(true), RunAsUser: id(7)}, corev1.SecurityContext{RunAsUser: id(0)}, Image{}, "breaks non-root policy"},
		{"container's own word", corev1.PodSecurityContext{}, corev1.SecurityContext{RunAsNonRoot: new(true)}, Image{UID: id(0)}, "image will run as root"},
		{"container takes it back", corev1.PodSecurityContext{RunAsNonRoot: new(true)}, corev1.SecurityContext{RunAsNonRoot: new(false)}, Image{UID: id(0)}, ""},
	} {
		err := verifyNonRoot(&corev1.Pod{Spec: corev1.PodSpec{SecurityContext: &c.pod}}, &corev1.Container{SecurityContext: &c.container}, &c.image)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}
