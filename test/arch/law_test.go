package arch

// room is one package: what it may import of ours. Names are below the module; a trailing /... means all below.
type room struct {
	pkg string
	may []string
	// tests lists what only its tests may import.
	tests []string
}

// rooms are all packages. Data flows one way, from the API through the store to those who act; so crdt and gossip know
// nobody but leaves (rendezvous, wire), crdt/store knows crdt, the parts know the store, drivers know whom they drive for, and
// only node knows all.
var rooms = []room{
	{pkg: "crdt", tests: []string{"crdt/formattest"}},
	{pkg: "crdt/store", may: []string{"crdt"}, tests: []string{"crdt/formattest"}},
	{pkg: "crdt/primary", may: []string{"crdt", "crdt/store", "rendezvous", "wire"}, tests: []string{"crdt/formattest"}},
	{pkg: "crdt/formattest", may: []string{"crdt"}},
	{pkg: "durable"},
	{pkg: "rendezvous"},
	{pkg: "wire"},
	{pkg: "gossip", may: []string{"rendezvous", "wire"}},
	{pkg: "sched", may: []string{"crdt", "crdt/store", "durable", "rendezvous", "wire"}},
	{pkg: "httpapi", may: []string{"crdt", "crdt/store", "httpapi/..."}, tests: []string{"crdt/primary"}},
	{pkg: "httpapi/accepted"},
	{pkg: "httpapi/admit"},
	{pkg: "httpapi/allocator", may: []string{"crdt", "crdt/store", "httpapi/storage", "rendezvous"}},
	{pkg: "httpapi/audit", may: []string{"httpapi/configfile"}},
	{pkg: "httpapi/authn", may: []string{"crdt", "crdt/store", "httpapi/caller", "httpapi/issuers", "httpapi/standing", "httpapi/storage"}},
	{pkg: "httpapi/authz", may: []string{"crdt", "crdt/store", "httpapi/admit"}},
	{pkg: "httpapi/caller"},
	{pkg: "httpapi/configfile"},
	{pkg: "httpapi/custom", may: []string{"crdt", "crdt/store", "httpapi/admit", "httpapi/route", "httpapi/storage", "httpapi/turn"}},
	{pkg: "httpapi/discovery", may: []string{"crdt/store", "httpapi/custom", "httpapi/storage"}},
	{pkg: "httpapi/encryption", may: []string{"httpapi/configfile"}},
	{pkg: "httpapi/fairness"},
	{pkg: "httpapi/inprocess", may: []string{"crdt", "crdt/store", "httpapi/admit", "httpapi/audit", "httpapi/caller", "httpapi/custom", "httpapi/registry", "httpapi/storage"}},
	{pkg: "httpapi/issuers", may: []string{"httpapi/configfile"}},
	{pkg: "httpapi/filter", may: []string{"crdt", "crdt/store", "httpapi/storage"}},
	{pkg: "httpapi/informers", may: []string{"crdt", "crdt/store", "httpapi/storage"}},
	{pkg: "httpapi/openapi", may: []string{"crdt/store", "httpapi/custom", "httpapi/storage"}},
	{pkg: "httpapi/policy", may: []string{"crdt/store", "httpapi/informers", "httpapi/storage", "httpapi/turn"}},
	{pkg: "httpapi/quota", may: []string{"crdt", "crdt/store", "httpapi/custom", "httpapi/storage"}},
	{pkg: "httpapi/registry", may: []string{"crdt", "crdt/store", "httpapi/allocator", "httpapi/custom", "httpapi/informers", "httpapi/storage", "httpapi/stream", "httpapi/usage"}},
	{pkg: "httpapi/relay", may: []string{"httpapi/caller"}},
	{pkg: "httpapi/route"},
	{pkg: "httpapi/standing"},
	{pkg: "httpapi/storage", may: []string{"crdt", "crdt/primary", "crdt/store", "httpapi/admit"}},
	{pkg: "httpapi/stream", may: []string{"httpapi/relay"}},
	{pkg: "httpapi/turn", may: []string{"crdt/store"}},
	{pkg: "httpapi/usage", may: []string{"crdt", "crdt/store", "httpapi/relay"}},
	{pkg: "httpapi/webhook", may: []string{"crdt", "crdt/store", "httpapi/informers"}},

	{pkg: "node/pod", may: []string{"crdt", "crdt/store", "durable"}, tests: []string{"node/pod/podtest"}},
	{pkg: "node/pod/podtest", may: []string{"crdt", "crdt/store", "node/pod"}},
	{pkg: "node/secrecy", may: []string{"durable"}},
	{pkg: "node/volume", may: []string{"node/pod"}},
	{pkg: "node/containerd", may: []string{"node/containerd/seal", "node/pod"}, tests: []string{"node/pod/podtest", "node/volume"}},
	{pkg: "node/containerd/seal", may: []string{"durable"}},
	{pkg: "node/network", may: []string{"crdt/store", "durable"}, tests: []string{"crdt"}},
	{pkg: "node/proxy"},
	{pkg: "node/iptables", may: []string{"crdt", "crdt/store", "node/proxy"}},
	{pkg: "node/dns", may: []string{"crdt", "crdt/store", "node/proxy"}},
	{pkg: "node/member", may: []string{"crdt", "crdt/store", "durable"}},
	{pkg: "node/control", may: []string{"crdt", "crdt/store", "rendezvous"}, tests: []string{"httpapi"}},
	{pkg: "node", may: []string{
		"crdt", "crdt/primary", "crdt/store", "durable", "gossip", "sched", "httpapi", "httpapi/audit", "httpapi/encryption", "httpapi/issuers", "node/pod", "node/volume", "node/containerd", "node/network", "node/proxy",
		"node/iptables", "node/dns", "node/control", "node/secrecy", "node/member",
	}, tests: []string{"node/pod/podtest"}},

	{pkg: "cmd/murmur", may: []string{"durable", "node"}},
	{pkg: "cmd/murmur-lab", may: []string{"durable", "node/containerd"}}, // its archive format, to pack images
	{pkg: "cmd/murmur-runc", may: []string{"node/containerd/seal"}},
	{pkg: "cmd/pause"},
	{pkg: "examples/..."},

	// Tests of the whole use programs and pure parts, and nobody uses them.
	{pkg: "test/...", may: []string{"crdt/...", "gossip", "sched", "httpapi", "node/...", "test/..."}},
}

// pure are the packages whose functions depend on their arguments alone: they may read or write nothing, ask no clock and draw no random
// numbers. Times are values that are handed in.
var pure = []string{"crdt", "node/proxy", "rendezvous"}

// impure are the packages and functions that they may not use.
var (
	impurePackages  = []string{"net", "os", "os/exec", "syscall", "golang.org/x/sys/unix", "log", "log/slog", "context", "math/rand", "math/rand/v2", "crypto/rand"}
	impureFunctions = []string{"time.Now", "time.Since", "time.Until", "time.Sleep", "time.After", "time.AfterFunc", "time.NewTimer", "time.NewTicker", "time.Tick"}
)

// module is one dependency and where it may be imported outside tests.
type module struct {
	path string
	// in lists packages of ours; "..." is any. Empty: in tests only.
	in []string
}

// modules are all that we import directly. Those with one home are hidden behind the package that is their home. The rooms
// below httpapi are httpapi here.
var modules = []module{
	// One home each: what these are could be replaced without any other package noticing.
	{"github.com/dgraph-io/badger/v4", []string{"crdt/store"}},
	{"github.com/cespare/xxhash/v2", []string{"crdt", "crdt/store"}},
	{"github.com/google/btree", []string{"crdt/store"}},
	{"github.com/hashicorp/memberlist", []string{"gossip"}},
	{"github.com/hashicorp/serf", []string{"gossip"}},
	{"github.com/hashicorp/yamux", []string{"gossip"}},
	{"github.com/klauspost/compress", []string{"crdt/store", "gossip"}},
	{"github.com/goccy/go-yaml", []string{"httpapi"}}, // where in a configuration file something is
	{"gopkg.in/natefinch/lumberjack.v2", []string{"httpapi"}},
	{"github.com/labstack/echo/v4", []string{"httpapi"}},
	{"github.com/emicklei/go-restful/v3", []string{"httpapi"}}, // upstream's route descriptions, not a router
	{"github.com/containerd/containerd/v2", []string{"node/containerd"}},
	{"github.com/distribution/reference", []string{"node/containerd"}},
	{"google.golang.org/grpc", []string{"node/containerd"}},
	{"k8s.io/cri-api", []string{"node/containerd"}},
	{"k8s.io/cri-client", []string{"node/containerd"}},
	{"filippo.io/age", []string{"node/secrecy"}},
	{"github.com/coreos/go-iptables", []string{"node/iptables"}},
	{"github.com/miekg/dns", []string{"node/dns"}},
	{"k8s.io/mount-utils", []string{"node/volume"}},
	{"k8s.io/kube-aggregator", []string{"httpapi"}},
	{"k8s.io/metrics", []string{"httpapi", "node/pod", "node/control"}},
	{"gopkg.in/go-jose/go-jose.v2", []string{"httpapi"}}, // the claims in the signature of upstream's generator of tokens
	{"k8s.io/kube-openapi", []string{"httpapi"}},
	{"k8s.io/streaming", []string{"httpapi"}},
	{"k8s.io/endpointslice", []string{"node/control"}},

	// The kernel's network.
	{"github.com/vishvananda/netlink", []string{"node/network", "node/iptables", "node/dns", "cmd/murmur-lab"}},
	{"github.com/vishvananda/netns", []string{"cmd/murmur-lab"}},

	// Kubernetes. Its types are everywhere; its server's code is httpapi's (and node's, for the names of users).
	{"k8s.io/kubernetes", []string{"httpapi", "..."}}, // elsewhere only what kubernetes lists below
	{"k8s.io/apiextensions-apiserver", []string{"httpapi"}},
	{"k8s.io/apiserver", []string{"httpapi", "node"}},
	{"sigs.k8s.io/structured-merge-diff/v6", []string{"crdt", "httpapi"}},
	{"k8s.io/client-go", []string{"crdt", "httpapi", "node", "node/pod", "node/control", "sched"}},
	{"k8s.io/component-helpers", []string{"httpapi", "node/pod", "node/volume", "node/containerd", "node/control", "sched"}},
	{"k8s.io/api", []string{"..."}},
	{"k8s.io/apimachinery", []string{"..."}},
	{"k8s.io/utils", []string{"..."}},
	{"k8s.io/klog/v2", []string{"cmd/murmur", "sched", "node/control", "node/containerd"}}, // where upstream's signatures want it
	{"github.com/go-logr/logr", []string{"node/control"}},
	{"sigs.k8s.io/yaml", []string{"cmd/murmur"}},

	// The language's surroundings.
	{"github.com/google/go-tpm", []string{"node/secrecy"}},
	{"golang.org/x/crypto", []string{"node/secrecy"}},
	{"golang.org/x/sync", []string{"..."}},
	{"golang.org/x/sys", []string{"..."}},
	{"golang.org/x/time", []string{"node/dns"}},
	{"github.com/google/uuid", []string{"crdt", "node", "node/member"}},
	{"github.com/robfig/cron/v3", []string{"node/control"}}, // the schedules that the API validates
	{"github.com/spf13/cobra", []string{"cmd/murmur", "cmd/murmur-lab"}},
	{"github.com/spf13/pflag", []string{"cmd/murmur", "httpapi"}},
	{"github.com/prometheus/client_golang", []string{"httpapi", "node"}},

	// Tests.
	{path: "github.com/anishathalye/porcupine"},
	{path: "github.com/cockroachdb/datadriven"},
	{path: "github.com/rogpeppe/go-internal"},
	{path: "go.uber.org/goleak"},
	{path: "gopkg.in/go-jose/go-jose.v2"},
	{path: "k8s.io/cri-streaming"},
	{path: "pgregory.net/rapid"},
}

// kubernetes lists the single packages of k8s.io/kubernetes that packages other than httpapi may import: each holds a
// semantic of the kubelet or a controller that would otherwise be written again.
var kubernetes = map[string][]string{
	"node/pod": {
		"pkg/api/v1/pod",              // conditions of a pod, names of its ports
		"pkg/api/v1/resource",         // resource field selectors
		"pkg/apis/core/v1/helper/qos", // quality of service classes
		"pkg/credentialprovider",      // which pull secret is for which registry
		"pkg/fieldpath",               // downward API fields
		"pkg/kubelet/envvars",         // service environment variables
		"pkg/probe",                   // probes: results and the three network kinds
		"pkg/probe/grpc",
		"pkg/probe/http",
		"pkg/probe/tcp",
		"pkg/security/apparmor",               // which profile a container has
		"pkg/util/kernel",                     // since which kernel a parameter is a namespace's own
		"pkg/util/parsers",                    // image names
		"third_party/forked/golang/expansion", // $(VAR)
	},
	"node/control": {
		"pkg/apis/certificates",          // what a kubelet's serving certificate may say
		"pkg/api/v1/endpoints",           // repacking subsets
		"pkg/api/v1/pod",                 // when a pod is available
		"pkg/controller",                 // expectations of a ReplicaSet on its pods, their ranking
		"pkg/controller/daemon/util",     // tolerations, affinity and counts of a DaemonSet's pods
		"pkg/controller/deployment/util", // the arithmetic of a rollout
		"pkg/util/labels",                // selectors of a template hash
	},
	"node/containerd": {
		"pkg/kubelet/userns",    // which ids the users of a pod have
		"pkg/security/apparmor", // which profile a container has, and whether the kernel has any
		"pkg/util/kernel",       // its version
		"pkg/securitycontext",   // what a container's and its pod's contexts mean together
	},
	"node/volume": {
		"pkg/api/v1/resource",
		"pkg/volume/util",          // atomic writer
		"pkg/volume/util/hostutil", // types of host paths
		"pkg/volume/util/subpath",  // subPath that cannot escape
	},
}

// banned are names under which packages collect what has no home.
var banned = []string{"util", "utils", "common", "helper", "helpers", "pkg", "misc", "shared"}

// maxLines is how long a file may be.
const maxLines = 1000

// long lists longer files, and why they are.
var long = map[string]string{}
