package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestNobodyHoldsTheServer: a part of the API is given what it needs, and never the server. In httpapi itself only methods of
// Server speak of it; the rooms below cannot, as none may import httpapi.
func TestNobodyHoldsTheServer(t *testing.T) {
	for _, r := range rooms {
		if strings.HasPrefix(r.pkg, "httpapi/") && (within("httpapi", r.may) || within("httpapi", r.tests)) {
			t.Errorf("%s may import httpapi, whose room it is", r.pkg)
		}
	}
	methods := 0
	for _, p := range packages(t) {
		if p.name() != "httpapi" {
			continue
		}
		for _, file := range p.GoFiles {
			for _, d := range parse(t, filepath.Join(p.Dir, file)).Decls {
				switch d := d.(type) {
				case *ast.GenDecl:
					for _, spec := range d.Specs {
						if of, ok := spec.(*ast.TypeSpec); ok && mentions(of.Type, "Server") {
							t.Errorf("%s: %s holds the server: give it the functions that it needs", file, of.Name.Name)
						}
					}
				case *ast.FuncDecl:
					if mentions(d.Type.Params, "Server") {
						t.Errorf("%s: %s is given the server: give it the functions that it needs", file, d.Name.Name)
					}
					if d.Recv != nil && mentions(d.Recv, "Server") {
						methods++
					}
				}
			}
		}
	}
	if methods < 10 {
		t.Fatalf("the server has %d methods: where is it?", methods)
	}
}

func mentions(n ast.Node, name string) (found bool) {
	ast.Inspect(n, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			found = found || mentions(sel.X, name)
			return false // of another package, or a field
		}
		if id, ok := n.(*ast.Ident); ok && id.Name == name {
			found = true
		}
		return true
	})
	return found
}

// waiting are the names of what may take as long as a disk, another node or a goroutine takes: functions of the store and its
// primary, of connections, and of what waits. To close most things is nothing; to close a multiplexed connection says goodbye to
// the peer first.
var waiting = []string{
	"Commit", "Derive", "TranslateVersion", "RoundTrip", "Dial", "DialContext", "Accept", "OpenStream", "AcceptStream", "Sleep", "Wait",
	"ReadAll", "ReadFull", "ServeHTTP", "UpdateStatus", "mux.Close", "ym.Close",
}

// lawful are the places where a lock is held over something that has such a name, and why that is no wait.
var lawful = map[string]string{}

// TestNoLockIsHeldOverAWait: between the Lock and the Unlock of a mutex nothing is called that waits for a disk, a network or a
// goroutine, as far as names within a package tell: functions that call one that waits wait too.
func TestNoLockIsHeldOverAWait(t *testing.T) {
	seen, locks := map[string]bool{}, 0
	for _, p := range packages(t) {
		if p.home() != "httpapi" && p.name() != "gossip" && p.name() != "node/pod" {
			continue
		}
		set := token.NewFileSet()
		var functions []*ast.FuncDecl
		for _, file := range p.GoFiles {
			f, err := parser.ParseFile(set, filepath.Join(p.Dir, file), nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range f.Decls {
				if d, ok := d.(*ast.FuncDecl); ok && d.Body != nil {
					functions = append(functions, d)
				}
			}
		}
		waits := map[string]bool{}
		for _, name := range waiting {
			waits[name] = true
		}
		for more := true; more; {
			more = false
			for _, d := range functions {
				// What has a common name is not followed: it is many functions'.
				if name := d.Name.Name; !waits[name] && name != "Close" && name != "String" && calls(d.Body, waits) != "" {
					waits[name], more = true, true
				}
			}
		}
		for _, d := range functions {
			for _, held := range critical(d.Body) {
				locks++
				what := ""
				for _, s := range held.body {
					if what = calls(s, waits); what != "" {
						break
					}
				}
				if what == "" {
					continue
				}
				where := p.name() + "." + d.Name.Name + " " + what
				if seen[where] = true; lawful[where] == "" {
					t.Errorf("%s: %s is held over %s, which may wait (%q)", set.Position(d.Pos()), held.mutex, what, where)
				}
			}
		}
	}
	if locks < 20 {
		t.Fatalf("found %d critical sections", locks)
	}
	for where := range lawful {
		if !seen[where] {
			t.Errorf("%s is excused, and need not be", where)
		}
	}
}

// calls is the name of something that is called in a node and waits. Functions that are only made there, or run beside, do not
// count.
func calls(n ast.Node, waits map[string]bool) (what string) {
	ast.Inspect(n, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			return false
		case *ast.FuncLit:
			return false
		case *ast.CallExpr:
			var names []string
			switch f := n.Fun.(type) {
			case *ast.Ident:
				names = []string{f.Name}
			case *ast.SelectorExpr:
				names = []string{f.Sel.Name}
				switch x := f.X.(type) {
				case *ast.Ident:
					names = append(names, x.Name+"."+f.Sel.Name)
				case *ast.SelectorExpr:
					names = append(names, x.Sel.Name+"."+f.Sel.Name)
				}
			}
			for _, name := range names {
				if waits[name] && what == "" {
					what = name
				}
			}
		}
		return what == ""
	})
	return what
}

// section is what is done under a mutex.
type section struct {
	mutex string
	body  []ast.Stmt
}

// critical are the sections of a function: from a Lock to the Unlock in the same block, or to the block's end if that is deferred.
func critical(body *ast.BlockStmt) (out []section) {
	ast.Inspect(body, func(n ast.Node) bool {
		var list []ast.Stmt
		switch n := n.(type) {
		case *ast.BlockStmt:
			list = n.List
		case *ast.CaseClause:
			list = n.Body
		case *ast.CommClause:
			list = n.Body
		}
		for i, s := range list {
			mutex := locked(s, "Lock", "RLock")
			if mutex == "" {
				continue
			}
			rest := list[i+1:]
			if end := slices.IndexFunc(rest, func(s ast.Stmt) bool { return locked(s, "Unlock", "RUnlock") == mutex }); end >= 0 {
				rest = rest[:end]
			}
			out = append(out, section{mutex, rest})
		}
		return true
	})
	return out
}

// locked is the mutex on which a statement calls one of two methods.
func locked(s ast.Stmt, names ...string) string {
	e, ok := s.(*ast.ExprStmt)
	if !ok {
		return ""
	}
	call, ok := e.X.(*ast.CallExpr)
	if !ok || len(call.Args) > 0 {
		return ""
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || !slices.Contains(names, sel.Sel.Name) {
		return ""
	}
	var path []string
	for x := sel.X; ; {
		switch n := x.(type) {
		case *ast.SelectorExpr:
			path = append([]string{n.Sel.Name}, path...)
			x = n.X
			continue
		case *ast.Ident:
			path = append([]string{n.Name}, path...)
		}
		return strings.Join(path, ".")
	}
}
