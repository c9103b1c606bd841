// Lint is the checks of `make lint`, as one program that `go vet -vettool` runs: staticcheck's (SA, S, ST, and U1000 for what nobody uses)
// and errcheck's. It is a module of its own, so that the product's go.mod does not grow. The versions are pinned in its go.mod, and once they
// are in the module cache no network is needed and nothing is installed.
//
// go vet calls it once for each package, dependencies first, and keeps what it answered in the build cache: the first run on a machine looks at
// all of Kubernetes for facts (what is deprecated, which functions never return nil), later ones only at what has changed. This is why it
// is not staticcheck's own command, which keeps a cache of its own and needs gigabytes at once.
//
// One finding is silenced where it stands, with its reason: `//lint:ignore ST1005 the kubelet's words` on the line before. What is
// silenced everywhere is a matter of taste, and stands in this file with its reason.
package main

import (
	"go/ast"
	"go/token"
	"slices"
	"strings"

	"github.com/kisielk/errcheck/errcheck"
	"golang.org/x/tools/go/analysis"
	"golang.org/x/tools/go/analysis/unitchecker"
	"honnef.co/go/tools/analysis/lint"
	"honnef.co/go/tools/simple"
	"honnef.co/go/tools/staticcheck"
	"honnef.co/go/tools/stylecheck"
	"honnef.co/go/tools/unused"
)

func main() { unitchecker.Main(checks()...) }

// served are deprecated types that the API serves all the same: to refuse them is upstream's to decide, not ours.
var served = []string{"k8s.io/api/core/v1.Endpoints is deprecated", "k8s.io/api/core/v1.EndpointSubset is deprecated"}

// checks are all that is looked for.
func checks() []*analysis.Analyzer {
	var all []*analysis.Analyzer
	for _, set := range [][]*lint.Analyzer{staticcheck.Analyzers, simple.Analyzers, stylecheck.Analyzers} {
		for _, a := range set {
			all = append(all, silenced(a.Analyzer, taste))
		}
	}
	return append(all, silenced(unusedCode, taste), silenced(errcheck.Analyzer, dropped))
}

// silenced is a check whose findings are reported unless excused or ignored where they stand.
func silenced(a *analysis.Analyzer, excused func(*analysis.Pass, analysis.Diagnostic) bool) *analysis.Analyzer {
	run := a.Run
	a.Run = func(pass *analysis.Pass) (any, error) {
		report := pass.Report
		pass.Report = func(d analysis.Diagnostic) {
			if !ignored(pass, d.Pos, a.Name) && !excused(pass, d) {
				d.Message = a.Name + ": " + d.Message
				report(d)
			}
		}
		return run(pass)
	}
	return a
}

func taste(_ *analysis.Pass, d analysis.Diagnostic) bool {
	return slices.ContainsFunc(served, func(s string) bool { return strings.HasPrefix(d.Message, s) })
}

// ignored tells whether a `//lint:ignore NAME reason` stands on the line of a finding or on the one before. Without a reason it ignores nothing.
func ignored(pass *analysis.Pass, p token.Pos, check string) bool {
	at := pass.Fset.Position(p).Line
	for _, f := range pass.Files {
		if p < f.FileStart || f.FileEnd < p {
			continue
		}
		for _, g := range f.Comments {
			for _, c := range g.List {
				rest, ok := strings.CutPrefix(c.Text, "//lint:ignore ")
				if n := pass.Fset.Position(c.Pos()).Line; !ok || n != at && n != at-1 {
					continue
				}
				names, reason, _ := strings.Cut(rest, " ")
				if strings.TrimSpace(reason) != "" && slices.Contains(strings.Split(names, ","), check) {
					return true
				}
			}
		}
	}
	return false
}

// dropped tells of errors that may be dropped without a word:
//
//   - in tests, which fail by what they assert, and whose servers and files are there for one run;
//   - of a deferred call: it cleans up what is done with. Who writes a file closes it by a statement of its own;
//   - that come from a channel which is only waited for;
//   - of fmt.Fprint and its kin: they print to a person, to a client that may have gone, or into a hash.
func dropped(pass *analysis.Pass, d analysis.Diagnostic) bool {
	if strings.HasSuffix(pass.Fset.Position(d.Pos).Filename, "_test.go") {
		return true
	}
	excused := false
	see := func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.DeferStmt:
			excused = excused || n.Call.Lparen == d.Pos
		case *ast.UnaryExpr:
			excused = excused || n.OpPos == d.Pos && n.Op == token.ARROW
		case *ast.CallExpr:
			excused = excused || n.Lparen == d.Pos && prints(pass, n)
		}
		return !excused
	}
	for _, f := range pass.Files {
		if f.FileStart <= d.Pos && d.Pos <= f.FileEnd {
			ast.Inspect(f, see)
		}
	}
	return excused
}

func prints(pass *analysis.Pass, call *ast.CallExpr) bool {
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	f := pass.TypesInfo.Uses[sel.Sel]
	return f != nil && f.Pkg() != nil && f.Pkg().Path() == "fmt" && strings.HasPrefix(f.Name(), "Fprint")
}

// unusedCode reports what staticcheck finds that nobody uses. go vet looks at a package together with its tests, so that what only tests use
// counts as used.
var unusedCode = &analysis.Analyzer{
	Name:     "U1000",
	Doc:      "what nobody uses",
	Requires: []*analysis.Analyzer{unused.Analyzer.Analyzer},
	Run: func(pass *analysis.Pass) (any, error) {
		starts := map[string]*token.File{}
		for _, f := range pass.Files {
			at := pass.Fset.File(f.FileStart)
			starts[at.Name()] = at
		}
		for _, o := range pass.ResultOf[unused.Analyzer.Analyzer].(unused.Result).Unused {
			if at := starts[o.Position.Filename]; at != nil {
				pass.Reportf(at.Pos(o.Position.Offset), "%s %s is used by nobody", o.Kind, o.Name)
			}
		}
		return nil, nil
	},
}
