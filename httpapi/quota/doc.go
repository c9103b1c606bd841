// Package quota is the admission plugin of ResourceQuotas.
//
// Its one law: what is created is charged before it is stored, by a write to the quota's status that is bound to its version.
// So no two requests of one connected side spend the same. Sides of a cut network each spend what is left; after they meet,
// nothing more is admitted until usage is below the limit again.
//
// What an object uses upstream's evaluators say, and what exceeds a quota upstream's check. Requests in a namespace charge
// one after the other, instead of meeting as conflicts.
//
// # What it does not do
//
// It gives nothing back: what is freed, or was charged for an object that then was refused, node/control recounts (Usage)
// and writes.
package quota
