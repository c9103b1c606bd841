// Package authn tells who asks: by a client certificate of the cluster's CA, a ServiceAccount's token, or a token of another
// issuer, each shown here or to the peer that relays the request; and nobody, for the few paths that are open to all.
//
// Its one law: a credential that is wrong is refused; who shows it is not nobody.
//
// # Certificates
//
// A client sends its certificate once, and hundreds of requests over that connection. It is proven once in a while, and asked
// with each request whether it is refused meanwhile (certificate.go). Roots change while the server runs.
//
// # Tokens
//
// Each member signs with a key of its own (tokenkey.go). What a member that is no issuer signs is believed only for the pods
// that run on it: an isolated box still starts its pods, and a stolen one speaks for nobody else. A token that is older than its account is
// of an earlier one of that name, and dead (tokenlife.go). Tokens in Secrets are upstream's legacy ones (secrettoken.go).
//
// # What changes
//
// TrustChanged has everything asked anew. What was let in and goes on, a watch or a stream, is asked again by httpapi/standing: Stands.
//
// It decides nothing that anybody may do (httpapi/authz), and starts nothing.
package authn
