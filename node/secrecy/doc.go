// Package secrecy keeps what is secret from whoever has a file of this node without being told to read it: a disk that was thrown away, a
// backup in a bucket. It says nothing to who has the running node.
//
// # Backups
//
// Recipients encrypts a backup to public keys by age (age-encryption.org/v1), as it is written; Open reads it with one of the private keys.
// age authenticates every chunk and the end, so that a file that was cut off or changed is an error and never half a restore.
package secrecy
