package arch

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What one can take in at once. A function longer than that does more than one thing, one with more parameters wants a struct for those
// that belong together, and a struct with more fields is several.
const (
	maxFunctionLines = 80
	maxParameters    = 5
	maxFields        = 20
)

// Those that are larger. The lists only ever become shorter: who touches one of these cuts it along its seams, and takes it off.
var (
	longFunctions = []string{
		"cmd/murmur.TestFullDisk",
		"cmd/murmur.flags.config",
		"crdt/primary.TestTenure",
		"crdt/store.TestExclusiveFields",
		"crdt/store.TestFullDisk",
		"crdt/store.TestIndexesSayWhatAScanFinds",
		"crdt/store.TestLogKeepsWhatItAcknowledged",
		"crdt/store.TestLostTailComesBackUnderNoOldNumber",
		"crdt/store.TestManyLivesAreLetGoOf",
		"crdt/store.TestMemosSayWhatAScanFinds",
		"crdt/store.TestNoSecretIsInAnyFile",
		"gossip.TestCut",
		"gossip.TestFormats",
		"httpapi.TestAcceptedFields",
		"httpapi.TestCustomResourcesAreServed",
		"httpapi.TestFairness",
		"httpapi.TestFieldsOfRegistries",
		"httpapi.TestNobodyIsLockedOut",
		"httpapi.TestPodCertificateRequests",
		"httpapi.TestPolicyMatching",
		"httpapi.TestRequestsOfTheRevokedEnd",
		"httpapi.TestReservedAnnotations",
		"httpapi.TestStreams",
		"httpapi.TestTokensInSecrets",
		"httpapi.TestTokensOfOneThatIsNoIssuer",
		"httpapi.TestUsage",
		"node.Config.complete",
		"node.Node.Run",
		"node.Node.parts",
		"node.Node.serveAdmin",
		"node.TestADiskIsEncryptedRotatedAndPlainAgain",
		"node.TestPodCertificates",
		"node.TestViewShowsWhatChanged",
		"node/containerd.Driver.securityContext",
		"node/containerd.TestSealing",
		"node/control.TestDaemons",
		"node/control.TestJob",
		"node/control.TestProtection",
		"node/control.TestReplicaSet",
		"node/control.TestRollout",
		"node/control.TestSecretTokensThatMayBeLate",
		"node/control.TestStatefulSet",
		"node/control.daemons.update",
		"node/control.scaling.resource",
		"node/control.schedule",
		"node/control.work.decide",
		"node/control.work.staff",
		"node/dns.TestForward",
		"node/iptables.testServices",
		"node/member.Self.Check",
		"node/member.Self.Follow",
		"node/member.Self.look",
		"node/member.TestRevoke",
		"node/network.testNetwork",
		"node/pod.TestPulled",
		"node/pod.TestStep",
		"node/pod.environment",
		"node/pod.step.containerStatus",
		"node/pod.step.phase",
		"node/pod.step.status",
		"node/pod.worker.turn",
		"node/pod/podtest.Conform",
		"node/proxy.builder.port",
		"node/volume.TestPodCertificate",
		"sched.TestPlugins",
		"sched.TestPreemptMessages",
		"sched.TestTheShareOfALateBidderIsOfferedAgain",
		"test/e2e.TestBesideAnOlderNode",
		"test/e2e.TestLeaveJoinForget",
		"test/e2e.TestPodsFindEachOther",
		"test/e2e.TestSecretsOnDisk",
		"test/e2e.TestStolenIssuerOnTheOtherSide",
		"test/e2e.TestStolenMember",
		"test/e2e.TestTenantsTakeNothingOfTheNodes",
		"test/e2e.TestWhoDidWhat",
		"test/virtual.TestASlowDiskSlowsWritesOnly",
	}

	longHeads = []string{
		"crdt.NewDocument",
		"crdt.merger.fields",
		"crdt.merger.list",
		"gossip.Plane.partMerged",
		"httpapi/authn.runs",
		"httpapi/storage.objects.Delete",
		"httpapi/storage.objects.GuaranteedUpdate",
		"httpapi/usage.fromAll",
		"node.Node.podToken",
		"node/control.allowance",
		"node/control.ordered.order",
		"node/control.scaling.limit",
		"node/control.work.judge",
		"node/control.work.staff",
		"node/member.Join",
		"node/member.Self.answerTo",
		"node/member.fetch",
		"node/member.keepRoots",
		"node/pod.Kubelet.event",
		"node/pod.imagesToRemove",
		"node/pod.turn.containerSpec",
		"node/pod.worker.begin",
		"node/pod/podtest.Events.AnnotatedEventf",
		"node/proxy.builder.external",
		"node/volume.Volumes.subPath",
		"test/bench.bench.replacements",
		"test/placement.pack",
	}

	wideStructs = []string{
		"crdt/store.Store",
		"gossip.Plane",
		"gossip.peer",
		"httpapi.Config",
		"httpapi.Server",
		"node.Config",
		"node.Node",
		"node/pod.Config",
		"node/pod.worker",
		"test/sim.node",
	}
)

// measured is how large each thing is that is larger than it should be.
type measured struct{ functions, heads, structs map[string]int }

func measure(t *testing.T) measured {
	t.Helper()
	m := measured{map[string]int{}, map[string]int{}, map[string]int{}}
	for _, p := range packages(t) {
		for _, file := range slices.Concat(p.GoFiles, p.CgoFiles, p.TestGoFiles, p.XTestGoFiles) {
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, filepath.Join(p.Dir, file), nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			lines := func(n ast.Node) int { return fset.Position(n.End()).Line - fset.Position(n.Pos()).Line + 1 }
			isTest := strings.HasSuffix(file, "_test.go")
			for _, d := range f.Decls {
				switch d := d.(type) {
				case *ast.FuncDecl:
					name := p.name() + "." + receiver(d) + d.Name.Name
					if d.Body != nil {
						over(m.functions, name, lines(d)-tables(d.Body, lines), maxFunctionLines)
					}
					if !isTest {
						over(m.heads, name, d.Type.Params.NumFields(), maxParameters)
					}
				case *ast.GenDecl:
					for _, s := range d.Specs {
						s, ok := s.(*ast.TypeSpec)
						if !ok {
							continue
						}
						if st, ok := s.Type.(*ast.StructType); ok {
							over(m.structs, p.name()+"."+s.Name.Name, st.Fields.NumFields(), maxFields)
						}
					}
				}
			}
		}
	}
	return m
}

func over(m map[string]int, name string, n, most int) {
	if n > most {
		m[name] = max(m[name], n)
	}
}

// receiver is the type that a method is of, with a dot.
func receiver(d *ast.FuncDecl) string {
	if d.Recv == nil || len(d.Recv.List) == 0 {
		return ""
	}
	of := d.Recv.List[0].Type
	for {
		switch t := of.(type) {
		case *ast.StarExpr:
			of = t.X
		case *ast.IndexExpr:
			of = t.X
		case *ast.IndexListExpr:
			of = t.X
		case *ast.Ident:
			return t.Name + "."
		default:
			return fmt.Sprintf("%T.", of)
		}
	}
}

// tables is how many lines of a function are the rows of tables: composite literals of lists and maps.
func tables(body ast.Node, lines func(ast.Node) int) int {
	n := 0
	ast.Inspect(body, func(node ast.Node) bool {
		lit, ok := node.(*ast.CompositeLit)
		if !ok {
			return true
		}
		switch lit.Type.(type) {
		case *ast.ArrayType, *ast.MapType:
			n += lines(lit) - 1
			return false
		}
		return true
	})
	return n
}

// TestSizesOnlyShrink holds the lists above against the source, in both directions.
func TestSizesOnlyShrink(t *testing.T) {
	m := measure(t)
	for _, list := range []struct {
		what string
		most int
		have map[string]int
		may  []string
	}{
		{"lines", maxFunctionLines, m.functions, longFunctions},
		{"parameters", maxParameters, m.heads, longHeads},
		{"fields", maxFields, m.structs, wideStructs},
	} {
		for _, name := range slices.Sorted(maps.Keys(list.have)) {
			if !slices.Contains(list.may, name) {
				t.Errorf("%s has %d %s, at most %d are one thing", name, list.have[name], list.what, list.most)
			}
		}
		for _, name := range list.may {
			if list.have[name] == 0 {
				t.Errorf("%s has no more than %d %s: take it off the list", name, list.most, list.what)
			}
		}
	}
}
