// Package configfile reads the configuration files of the API: audit policies, encryption, authentication.
//
// Its one law: what is wrong in a file is said with its line and column. A file is read as YAML, decoded strictly into
// upstream's types by their scheme, defaulted, and checked by upstream's validation; whoever finds something wrong names
// a field, and the field's place is looked up in the file.
package configfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// maxBytes bounds a file.
const maxBytes = 1 << 20

// File is a configuration file as it was read.
type File struct {
	Path  string
	Bytes []byte
	root  ast.Node
}

// Read reads a file of one YAML document.
func Read(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(b) > maxBytes {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxBytes)
	}
	return Parse(path, b)
}

// Parse is Read of bytes that are there already; path is for messages.
func Parse(path string, b []byte) (*File, error) {
	parsed, err := parser.ParseBytes(b, 0)
	if err != nil {
		var syntax yaml.Error
		if errors.As(err, &syntax) && syntax.GetToken() != nil {
			at := syntax.GetToken().Position
			return nil, fmt.Errorf("%s:%d:%d: %s", path, at.Line, at.Column, syntax.GetMessage())
		}
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	f := &File{Path: path, Bytes: b}
	for _, doc := range parsed.Docs {
		switch {
		case doc.Body == nil || doc.Body.Type() == ast.NullType || doc.Body.Type() == ast.CommentType:
		case f.root != nil:
			at := doc.Body.GetToken().Position
			return nil, fmt.Errorf("%s:%d:%d: a second document; only one is read", path, at.Line, at.Column)
		default:
			f.root = doc.Body
		}
	}
	if f.root == nil {
		return nil, fmt.Errorf("%s:1:1: the file is empty", path)
	}
	return f, nil
}

// Decode decodes the file strictly into an object of one of the scheme's kinds, and converts it to the scheme's internal
// version if into is of that.
func (f *File) Decode(scheme *runtime.Scheme, into runtime.Object) error {
	kinds, _, err := scheme.ObjectKinds(into)
	if err != nil {
		return err
	}
	for _, name := range []string{"apiVersion", "kind"} {
		if f.find(name) == nil {
			return f.Error("", name+" is missing")
		}
	}
	version, kind := f.text("apiVersion"), f.text("kind")
	if gv, err := schema.ParseGroupVersion(version); err != nil || gv.Group != kinds[0].Group || !scheme.IsVersionRegistered(gv) {
		return f.Error("apiVersion", fmt.Sprintf("%q is no version of %s", version, kinds[0].Group))
	}
	if kind != kinds[0].Kind {
		return f.Error("kind", fmt.Sprintf("a %s, want a %s", kind, kinds[0].Kind))
	}
	if _, _, err := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDecoder().Decode(f.Bytes, nil, into); err != nil {
		return f.strict(err)
	}
	return nil
}

// text is the value of a field at the top.
func (f *File) text(name string) string {
	for _, v := range pairs(f.root) {
		if v.Key.GetToken().Value == name {
			return v.Value.GetToken().Value
		}
	}
	return ""
}

// named finds the fields that a decoder's message names.
var named = regexp.MustCompile(`(unknown|duplicate) field "([^"]+)"`)

// strict gives a decoder's error the place of the first field that it names.
func (f *File) strict(err error) error {
	if m := named.FindStringSubmatch(err.Error()); m != nil {
		return f.Error(m[2], m[1]+" field "+m[2])
	}
	message := err.Error()
	// encoding/json names the Go field last: "... into Go struct field Rule.rules.level of type".
	if _, rest, ok := strings.Cut(message, "Go struct field "); ok {
		if name, _, ok := strings.Cut(rest, " "); ok {
			if _, path, ok := strings.Cut(name, "."); ok {
				return f.Error(path, message)
			}
		}
	}
	return f.Error("", message)
}

// Invalid is an error that says of each finding where it is; nil if there is none.
func (f *File) Invalid(list field.ErrorList) error {
	var all []error
	for _, e := range list {
		all = append(all, f.Error(e.Field, e.Field+": "+e.ErrorBody()))
	}
	return errors.Join(all...)
}

// Error is an error about the field of a path, with its place or that of the nearest that is in the file.
func (f *File) Error(path, message string) error {
	node := f.root
	for path != "" {
		next := f.find(path)
		if next != nil {
			node = next
			break
		}
		i := strings.LastIndexAny(path, ".[")
		if i < 0 {
			break
		}
		path = path[:i]
	}
	at := node.GetToken().Position
	return fmt.Errorf("%s:%d:%d: %s", f.Path, at.Line, at.Column, message)
}

// step is one element of a field's path: a name, or an index in brackets.
var step = regexp.MustCompile(`([^.\[\]]+)|\[([^\]]*)\]`)

// find is the node of a field's path, its key if it has one; nil if there is none.
func (f *File) find(path string) ast.Node {
	node := f.root
	found := node
	for _, m := range step.FindAllStringSubmatch(path, -1) {
		if anchored, ok := node.(*ast.AnchorNode); ok {
			node = anchored.Value
		}
		if m[1] == "" || isIndex(m[2]) {
			list, ok := node.(*ast.SequenceNode)
			var i int
			if _, err := fmt.Sscanf(m[2], "%d", &i); !ok || err != nil || i < 0 || i >= len(list.Values) {
				return nil
			}
			node, found = list.Values[i], list.Values[i]
			continue
		}
		if list, ok := node.(*ast.SequenceNode); ok {
			// A decoder names no index: the first element that has the field stands for all.
			for _, element := range list.Values {
				if has(element, m[1]) {
					node = element
					break
				}
			}
		}
		var next ast.Node
		for _, v := range pairs(node) {
			if strings.EqualFold(v.Key.GetToken().Value, m[1]) {
				next, found = v.Value, v.Key
			}
		}
		if next == nil {
			return nil
		}
		node = next
	}
	return found
}

// pairs are the keys of a mapping with their values.
func pairs(node ast.Node) []*ast.MappingValueNode {
	switch n := node.(type) {
	case *ast.MappingNode:
		return n.Values
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}
	}
	return nil
}

func has(node ast.Node, key string) bool {
	return slices.ContainsFunc(pairs(node), func(v *ast.MappingValueNode) bool { return strings.EqualFold(v.Key.GetToken().Value, key) })
}

func isIndex(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }
