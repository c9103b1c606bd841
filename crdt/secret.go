package crdt

import "encoding/json"

// Secret tells whether the values of a resource are for nobody to read but who may read the object. They stand in no status, no log
// and no list of conflicts.
func Secret(resource string) bool { return resource == "secrets" }

// notShown stands for a value that is secret.
var notShown = json.RawMessage(`"not shown"`)

// shown is the loss as it is told to people.
func (l Loss) shown() Loss {
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
