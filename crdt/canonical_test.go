package crdt

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// asJSON is what the canonical encoding must be: what is on disks, and what stores compare by.
func asJSON(t interface{ Fatal(...any) }, v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

func TestCanonicalIsSortedJSON(t *testing.T) {
	leaf := rapid.OneOf(
		rapid.Map(rapid.String(), func(s string) any { return s }),
		rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 8), func(b []byte) any { return string(b) }),
		rapid.Map(rapid.SampledFrom([]string{"", "plain", "a<b>&c", "q\"u", `b\s`, "tab\t", "\x7f", "é\u2028\u2029", "\xff", strings.Repeat("long ", 900)}), func(s string) any { return s }),
		rapid.Map(rapid.Int64(), func(n int64) any { return n }),
		rapid.Map(rapid.Float64(), func(f float64) any { return f }),
		rapid.SampledFrom([]any{nil, true, false, map[string]any{}, []any{}, map[string]any(nil), []any(nil), int64(0), 1e21, 1e-7, json.Number("12")}),
	)
	var value func(depth int) *rapid.Generator[any]
	value = func(depth int) *rapid.Generator[any] {
		if depth == 0 {
			return leaf
		}
		below := value(depth - 1)
		return rapid.OneOf(leaf,
			rapid.Map(rapid.MapOfN(rapid.String(), below, 0, 20), func(m map[string]any) any { return m }),
			rapid.Map(rapid.SliceOfN(below, 0, 5), func(l []any) any { return l }))
	}
	rapid.Check(t, func(rt *rapid.T) {
		v := rapid.MapOfN(rapid.String(), value(3), 0, 20).Draw(rt, "value")
		got, err := Canonical(v)
		if want := asJSON(rt, v); err != nil || !bytes.Equal(got, want) {
			rt.Errorf("got  %s, %v\nwant %s", got, err, want)
		}
	})
}
