package sched

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"murmur/wire"
)

// Kind is what a message is for.
type Kind string

const (
	// Offer asks for a Bid on up to Count pods like Pod.
	Offer Kind = "OFFER"
	// Bid answers with the scores of as many as fit.
	Bid Kind = "BID"
	// Award gives Pods to the incarnation in To.
	Award Kind = "AWARD"
	// Preempt asks to make room for Pods, as a bid of nothing has said that it could be made. Nobody answers: the pods'
	// status and the next bids show what came of it.
	Preempt Kind = "PREEMPT"
	// Ack and Nack answer for each pod of an award: the claim is durable, or it never will be.
	Ack  Kind = "ACK"
	Nack Kind = "NACK"
	// Fence asks to heed no ballot for Pods below the sender's with their Epoch; Fenced promises it for each, or tells
	// who has claimed it, or which higher ballot it is promised to.
	Fence  Kind = "FENCE"
	Fenced Kind = "FENCED"
	// Reclaim asks whether a restarted node may keep the pods that it claimed in an earlier life.
	Reclaim   Kind = "RECLAIM"
	Reclaimed Kind = "RECLAIMED"
	// Ping and Pong show a node that it is not alone.
	Ping Kind = "PING"
	Pong Kind = "PONG"
)

// Message is everything that the exchange says.
type Message struct {
	Kind Kind     `json:"kind"`
	From Identity `json:"from"`
	// To names an incarnation only where it matters: in an Award.
	To Identity `json:"to"`
	// Round is the offer that a bid answers and an award follows.
	Round uint64 `json:"round,omitempty"`
	// Pod is the representative of the class: of an Offer, of an Award and of a Preempt.
	Pod   *corev1.Pod `json:"pod,omitempty"`
	Count int         `json:"count,omitempty"`
	// Curve, Parts and Refusal are a Bid.
	Curve   []float64     `json:"curve,omitempty"`
	Parts   []PluginScore `json:"parts,omitempty"`
	Refusal *Refusal      `json:"refusal,omitempty"`
	// Sacrifices, in a Bid of nothing, are what the node would give for the first, second, ... pod; Unhelpful is why it
	// could not make room for any.
	Sacrifices []Sacrifice `json:"sacrifices,omitempty"`
	Unhelpful  []string    `json:"unhelpful,omitempty"`
	// Pods are those awarded, acknowledged, refused, claimed.
	Pods []Placement `json:"pods,omitempty"`
	// At is the sender's clock in a Ping, returned in the Pong.
	At time.Time `json:"at,omitzero"`
}

// Placement is one pod in a message.
type Placement struct {
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	UID       types.UID `json:"uid"`
	Epoch     uint64    `json:"epoch,omitempty"`
	// Node has the pod: in a Nack, Fenced or Reclaimed. Empty: nobody that the sender knows of.
	Node string `json:"node,omitempty"`
	// Arbiter, in a Fenced or Nack, is who has a higher ballot, with Epoch.
	Arbiter Identity `json:"arbiter,omitzero"`
	// Refusal says why a node that had bid does not take it after all.
	Refusal *Refusal `json:"refusal,omitempty"`
}

func placementOf(pod *corev1.Pod) Placement {
	return Placement{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID}
}

// On the wire a message is a frame of the version (1 byte) and JSON.
const (
	wireVersion = 1
	maxMessage  = 4 << 20
)

// ErrMessage is returned for bytes that are no message of a version that this node speaks.
var ErrMessage = errors.New("not a message of the exchange")

func writeMessage(w io.Writer, m Message) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode %s: %w", m.Kind, err)
	}
	if err := wire.Write(w, maxMessage, []byte{wireVersion}, b); err != nil {
		return fmt.Errorf("write %s: %w", m.Kind, err)
	}
	return nil
}

func readMessage(r io.Reader) (Message, error) {
	var m Message
	b, err := wire.Read(r, maxMessage)
	if err != nil {
		return m, err
	}
	if len(b) == 0 || b[0] != wireVersion {
		return m, fmt.Errorf("%w: %d bytes that begin with %x, want version %d", ErrMessage, len(b), b[:min(len(b), 1)], wireVersion)
	}
	if err := json.Unmarshal(b[1:], &m); err != nil {
		return m, fmt.Errorf("%w: %w", ErrMessage, err)
	}
	return m, nil
}
