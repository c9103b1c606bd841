// Package seal keeps Secrets that containers take as variables or arguments out of what a runtime writes to disk.
//
// # What it is
//
// A runtime writes down how to make a container: its variables and its command line are in containerd's database, in the bundle that a
// shim reads and in the file that an exec is described by. A Key turns each such text that has a Secret's bytes into another, which says
// nothing (Seal), before the runtime hears of it; and the program that the runtime starts in place of runc, cmd/murmur-runc, turns it back
// for runc alone (Config, Process), in memory.
//
// # Its one law
//
// A container either runs with the text that was meant, or not at all. A text that begins with Prefix is always a sealed one: what users
// write that looks like it is sealed as well. What does not open is an error, which says which variable and never what is in it. An image
// whose own variables begin so does not start.
//
// # The key
//
// It is of one boot, in a file that lives in memory (Create, Load): after a reboot nothing opens what is on the disk, and nothing has to,
// since containers are made anew. It is AES-256 in Galois/Counter Mode with random nonces. What is sealed names its owner, a pod and a
// container in it, and opens there only: whoever finds one on a stolen disk cannot have a pod of theirs open it.
//
// # What it does not do
//
// It hides nothing from root on the running node, nor from the container. It seals what the caller says is secret; which texts these are is
// node/pod's to know.
package seal
