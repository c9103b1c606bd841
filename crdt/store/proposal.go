package store

import (
	"murmur/crdt"
)

// Proposal is a write as the node that was asked for it proposes it to the primary.
type Proposal struct {
	Key crdt.Key
	// Create tells that there is to be no object; without it and without a value it is to be deleted.
	Create bool
	// Object is the wanted object; nil deletes.
	Object map[string]any
	// Seen says which document the write was made from.
	Seen crdt.DocVersion
	// Document is that document, once the primary has said that it lacks it.
	Document *crdt.Document
}

// Outcome is what became of a proposal.
type Outcome byte

const (
	// OutcomeDecided: it is on the primary's disk; whether it is held is said next.
	OutcomeDecided Outcome = iota + 1
	// OutcomeDone: it is decided and held.
	OutcomeDone
	// OutcomeSame: the document is what is wanted already.
	OutcomeSame
	// OutcomeOvertaken: it was made from a document that is not the newest. The newest comes with the answer.
	OutcomeOvertaken
	// OutcomeMissing: the primary lacks the document that it was made from.
	OutcomeMissing
	// OutcomeNotPrimary: who was asked is not the primary now, or cannot decide yet. Nothing was written.
	OutcomeNotPrimary
	// OutcomeUnheld: it was decided, and whether that lasts is not known.
	OutcomeUnheld
	// OutcomeFailed: the primary could not write it.
	OutcomeFailed
	// OutcomeKnown and unknown answer verbResolve.
	OutcomeKnown
	OutcomeUnknown
)

// Response is the answer to verbAsk and verbResolve.
type Response struct {
	Outcome  Outcome
	Document *crdt.Document
	// Reason says more about nothere, unheld and failed.
	Reason string
}
