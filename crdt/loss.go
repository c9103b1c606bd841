package crdt

import (
	"encoding/json"
	"strconv"
	"strings"
)

// Loss is a register in which a concurrent write lost to another. The empty field is the object: updated on one side,
// deleted on the other. Values are null where nothing was, and a string that says how long it is instead of a long one.
type Loss struct {
	Key        Key
	Field      string
	Kept, Lost json.RawMessage
	KeptBy     Stamp
	LostBy     Stamp
}

// overwritten notes that a deletion, or what came after it, beat writes that it did not know of.
func overwritten(kept, lost *Document) []Loss {
	if lost.Deleted() {
		return nil
	}
	by := Stamp{}
	note := func(path string, s Stamp) {
		if !bookkeeping(path) && kept.Clocks.Get(s.Writer) < s.HLC {
			by = Later(by, s)
		}
	}
	note("", lost.Stamps.Base)
	for _, m := range []map[string]Stamp{lost.Stamps.Fields, lost.Stamps.Lives} {
		for path, s := range m {
			note(path, s)
		}
	}
	if by.Zero() {
		return nil
	}
	l := Loss{Key: kept.Key, Kept: json.RawMessage("null"), Lost: shorten(lost.Value), KeptBy: kept.Newest(), LostBy: by}
	if !kept.Deleted() {
		l.Kept = shorten(kept.Value)
	}
	return []Loss{l}
}

// bookkeeping tells whether a path is nobody's wish: what is observed there is observed again.
func bookkeeping(path string) bool {
	return path == statusPath || strings.HasPrefix(path, managedFieldsPath)
}

// maxLost bounds a remembered value.
const maxLost = 1 << 10

func shorten(raw []byte) json.RawMessage {
	if len(raw) > maxLost {
		return json.RawMessage(strconv.Quote(strconv.Itoa(len(raw)) + " bytes"))
	}
	return raw
}

// Secret tells whether the values of a resource are for nobody to read but who may read the object. They stand in no status, no log
// and no list of conflicts.
func Secret(resource string) bool { return resource == "secrets" }

// notShown stands for a value that is secret.
var notShown = json.RawMessage(`"not shown"`)

// Redacted is the loss as it is told to people.
func (l Loss) Redacted() Loss {
	if !Secret(l.Key.Resource) {
		return l
	}
	for _, v := range []*json.RawMessage{&l.Kept, &l.Lost} {
		if string(*v) != "null" {
			*v = notShown
		}
	}
	return l
}
