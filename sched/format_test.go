package sched

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"testing"
	"time"

	"murmur/wire"
)

// TestFormats holds the bytes of messages. There are daemons that write these: whoever has to change a line of them adds a
// field or a version instead, and keeps reading these.
func TestFormats(t *testing.T) {
	one := Identity{Node: "n1", Incarnation: 7}
	web := Placement{Namespace: "default", Name: "web-0", UID: "3f0a", Epoch: 2}
	for name, c := range map[string]struct {
		message Message
		head    string
		json    string
	}{
		"ping": {
			Message{Kind: Ping, From: one, To: Identity{Node: "n2"}, At: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)}, "\x00\x00\x00\x7e\x01",
			`{"kind":"PING","from":{"node":"n1","incarnation":7},"to":{"node":"n2","incarnation":0},"at":"2026-01-02T03:04:05.000000006Z"}`,
		},
		"bid": {
			Message{Kind: Bid, From: one, To: one, Round: 3, Curve: []float64{1, 0.5}, Parts: []PluginScore{{Plugin: "Image"}}}, "\x00\x00\x00\x98\x01",
			`{"kind":"BID","from":{"node":"n1","incarnation":7},"to":{"node":"n1","incarnation":7},"round":3,"curve":[1,0.5],"parts":[{"plugin":"Image","score":0}]}`,
		},
		"fence": {
			Message{Kind: Fence, From: one, To: one, Pods: []Placement{web}}, "\x00\x00\x00\xa0\x01",
			`{"kind":"FENCE","from":{"node":"n1","incarnation":7},"to":{"node":"n1","incarnation":7},"pods":[{"namespace":"default","name":"web-0","uid":"3f0a","epoch":2}]}`,
		},
	} {
		var b bytes.Buffer
		if err := writeMessage(&b, c.message); err != nil {
			t.Fatal(err)
		}
		if want := c.head + c.json; b.String() != want {
			t.Errorf("%s: %q, want %q", name, b.String(), want)
		}
		if got, err := readMessage(&b); err != nil || !reflect.DeepEqual(got, c.message) || b.Len() != 0 {
			t.Errorf("%s: read as %+v, %v, %d bytes left", name, got, err, b.Len())
		}
	}
}

// TestNoMessage: what is no message is refused, and what ends early has ended early.
func TestNoMessage(t *testing.T) {
	for name, c := range map[string]struct {
		bytes string
		want  error
	}{
		"nothing":             {"", io.EOF},
		"half a length":       {"\x00\x00", io.ErrUnexpectedEOF},
		"no version":          {"\x00\x00\x00\x00\x01", ErrMessage},
		"half a message":      {"\x00\x00\x00\x09\x01{}", io.ErrUnexpectedEOF},
		"a length and no end": {"\x00\x00\x00\x09", io.ErrUnexpectedEOF},
		"another version":     {"\x00\x00\x00\x03\x02{}", ErrMessage},
		"no JSON":             {"\x00\x00\x00\x03\x01{{", ErrMessage},
		"too long":            {"\xff\xff\xff\xff\x01{}", wire.ErrTooLong},
	} {
		if m, err := readMessage(bytes.NewReader([]byte(c.bytes))); !errors.Is(err, c.want) {
			t.Errorf("%s: %+v, %v, want %v", name, m, err, c.want)
		}
	}
	if err := writeMessage(io.Discard, Message{Kind: Bid, Unhelpful: []string{string(make([]byte, maxMessage))}}); !errors.Is(err, wire.ErrTooLong) {
		t.Errorf("a message that is too long: %v", err)
	}
}
