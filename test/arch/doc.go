// Package arch holds the shape of the house as tests: which package may import which, which module is used where, what a
// package must say of itself, and how long a file may grow.
//
// law_test.go is the law, as tables to be read; arch_test.go holds the source against them. It reads what `go list` says
// of direct imports and the files themselves, and compiles nothing. A package or module that the tables do not know is
// a failure too: whoever adds one writes down here what it may see and, in docs/adr, why it is there.
//
// size_test.go has what is too large, scan_test.go counts walks of whole resources, and docs_test.go looks whether what documents name is there.
package arch
