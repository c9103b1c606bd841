// Package caller is who a request is from: somebody who shows a credential, a node that hands on what somebody has shown
// to it, or this process itself.
//
// Its one law: what a node hands on is proven again. A request that is handed to another node carries what its caller
// showed here: a bearer token, or the certificate that a connection has proven, and whom it asked to act as. The other
// node proves it, and decides, as the first did, whom it lets act as whom. So a node cannot make up a name or a group. A
// token it has only if its caller has spoken to it; for a certificate, which is no secret, it is a witness: that the caller
// had the key, the other node takes from it. What a node asks for its own parts, it asks as the node that its stream's
// certificate names.
//
// # On the way in
//
// The context of a connection says whether a peer is at its other end (WithPeer), that of a request whether it is asked in
// this process (WithSelf). LimitPeers serves peers what is relayed and nothing else. WithCredential keeps what was shown
// before authentication takes it off the request. Authenticator is what tells the three apart.
//
// # On the way out
//
// Hand writes into the headers of a request to another node what its caller has shown. Those headers mean something from a
// peer only; from anybody else they are dropped.
//
// # What it does not do
//
// It opens no connection (httpapi/relay does) and proves nothing itself: that is for the authenticator it is given.
package caller
