package crdt

// proposal is a write as the node that was asked for it proposes it to the home.
type proposal struct {
	key Key
	// create tells that there is to be no object; without it and without a value it is to be deleted.
	create bool
	// object is the wanted object; nil deletes.
	object map[string]any
	// seen says which document the write was made from.
	seen sight
	// document is that document, once the home has said that it lacks it.
	document *document
}

// outcome is what became of a proposal.
type outcome byte

const (
	// decided: it is on the home's disk; whether it is held is said next.
	decided outcome = iota + 1
	// done: it is decided and held.
	done
	// same: the document is what is wanted already.
	same
	// overtaken: it was made from a document that is not the newest. The newest comes with the answer.
	overtaken
	// behind: the home lacks the document that it was made from.
	behind
	// nothere: who was asked is not the home now, or cannot decide yet. Nothing was written.
	nothere
	// unheld: it was decided, and whether that lasts is not known.
	unheld
	// failed: the home could not write it.
	failed
	// known and unknown answer verbStood.
	known
	unknown
)

// said is the answer to verbAsk and verbStood.
type said struct {
	outcome  outcome
	document *document
	// why says more about nothere, unheld and failed.
	why string
}
