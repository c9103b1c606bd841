package crdt

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"sync"
)

// Canonical encodes a value so that equal values have equal bytes: keys sorted, no insignificant space, and all else as
// encoding/json has it, HTML left alone. It is written out here because each write encodes its object, and each of
// thousands is as long as what was allocated for it.
func Canonical(value map[string]any) ([]byte, error) {
	b := scratch.Get().(*[]byte)
	defer scratch.Put(b)
	var err error
	if *b, err = appendValue((*b)[:0], value); err != nil {
		return nil, err
	}
	return slices.Clone(*b), nil
}

// scratch are buffers to encode in.
var scratch = sync.Pool{New: func() any { return new([]byte) }}

func appendValue(b []byte, v any) (_ []byte, err error) {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...), nil
	case bool:
		return strconv.AppendBool(b, v), nil
	case int64:
		return strconv.AppendInt(b, v, 10), nil
	case string:
		return appendString(b, v)
	case map[string]any:
		return appendMap(b, v)
	case []any:
		if v == nil {
			return append(b, "null"...), nil
		}
		b = append(b, '[')
		for i, e := range v {
			if i > 0 {
				b = append(b, ',')
			}
			if b, err = appendValue(b, e); err != nil {
				return b, err
			}
		}
		return append(b, ']'), nil
	}
	return appendOther(b, v)
}

func appendMap(b []byte, m map[string]any) (_ []byte, err error) {
	if m == nil {
		return append(b, "null"...), nil
	}
	var few [16]string
	keys := few[:0]
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	b = append(b, '{')
	for i, k := range keys {
		if i > 0 {
			b = append(b, ',')
		}
		if b, err = appendString(b, k); err != nil {
			return b, err
		}
		if b, err = appendValue(append(b, ':'), m[k]); err != nil {
			return b, err
		}
	}
	return append(b, '}'), nil
}

// appendString writes plain text itself.
func appendString(b []byte, s string) ([]byte, error) {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return appendOther(b, s)
		}
	}
	return append(append(append(b, '"'), s...), '"'), nil
}

// appendOther leaves to encoding/json what is rare.
func appendOther(b []byte, v any) ([]byte, error) {
	var w bytes.Buffer
	enc := json.NewEncoder(&w)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return b, fmt.Errorf("encode a value: %w", err)
	}
	return append(b, bytes.TrimSuffix(w.Bytes(), []byte("\n"))...), nil
}
