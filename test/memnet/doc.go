// Package memnet is a network in memory, for tests that run whole nodes in one process and in virtual time (testing/synctest):
// hosts with addresses, datagrams and connections between them, a delay, and links that can be cut.
//
// Datagrams over a cut link are lost. Bytes of a connection over a cut link arrive when it is mended, as they would by
// retransmission; it is the users of the connection who give it up. A crashed host says goodbye to nobody.
package memnet
