// Package filter is the handlers around every request that upstream has none for, or not such: each takes a handler and
// gives one that does a little more.
//
// Their order is httpapi's pipeline. Here are the ends of what may go wrong with a request: one that panics (Recovery), one that takes
// too long (Timeout), one of somebody who has proven nothing yet (Joins), and what a request says about the class of its
// writes (WriteClass), which only who sees the HTTP request can know.
//
// Their one law: a request that is refused is refused in upstream's words, and one that is not goes on as it came; a body that
// was read is read once more by who comes next.
package filter
