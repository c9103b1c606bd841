// Package member is what makes a node a member of a cluster: its identity, the tokens by which machines join, certificates and
// who issues them, the keys that members share or publish, and how one is shut out.
//
// # The law
//
// Who somebody is, and what it may do, is read from a certificate under the cluster's CA and from the list of revoked nodes,
// and from nothing else. No key leaves the node that made it, but for the CA's, which goes from an issuer to an issuer, and the
// gossip key, which every member has.
//
// # The parts
//
// certificate.go makes and reads certificates; trust.go is what a node believes of them at one moment, as a value. identity.go is the
// node's own part, on its disk. token.go and door.go admit joiners, join.go is the joiner's half. statement.go is how members tell each other
// about themselves and about keys: signed documents in the store, which no API shows. word.go keeps what issuers said that all go by. keys.go are the rules of gossip keys and of keys for
// ServiceAccount tokens, rotate.go begins rotations and revocations, issue.go answers what members ask issuers.
//
// # The loop
//
// Self.Follow looks at the documents and the clock, and takes in what follows: CAs, revocations, keys. It asks an issuer for what the node cannot
// make itself, and says what has changed about the node. All of it is derived anew at each look, so that nothing depends on the order in which things are
// heard; what was heard stays on the node's own disk, so that a deleted document takes nothing back.
//
// # What it does not do
//
// It opens no connection and knows neither the API nor the streams: the node gives it functions, and goes by its values. It does not keep a member from
// reading or writing the store; docs/SECURITY.md says what that means.
//
// # How to look inside
//
// `murmur certificate check`, and identity.json in the data directory. docs/adr/0028 has the reasons.
package member
