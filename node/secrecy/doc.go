// Package secrecy keeps what is secret from whoever has a file of this node without being told to read it: a disk that was thrown away, a
// backup in a bucket. It says nothing to who has the running node.
//
// # Data keys
//
// A node encrypts what is secret in its store with a data key of its own. Data keys are in a file of the data directory (Keyring), sealed under a
// key that is not: a file elsewhere, a passphrase, or one that the machine's TPM gives out. So a copy of the data directory is worth nothing without
// the other, a rotation writes one small file, and the key outside stays. What is encrypted, and how, is httpapi/encryption's.
//
// # Backups
//
// Recipients encrypts a backup to public keys by age (age-encryption.org/v1), as it is written; Open reads it with one of the private keys.
// age authenticates every chunk and the end, so that a file that was cut off or changed is an error and never half a restore.
package secrecy
