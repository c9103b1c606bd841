// Package virtual runs whole nodes in virtual time: real membership, streams, stores and schedulers, on a network in memory and
// under testing/synctest, where a minute of timeouts passes in moments. What is asserted are bounds, not traces: goroutines
// run as they like. For runs that repeat exactly see test/sim; for containers and a kernel, test/e2e.
package virtual
