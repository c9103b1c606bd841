package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"murmur/node"
)

func secretsCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "secrets",
		Short: "Show or change how Secrets are encrypted on this node's disk",
		Long: `Show or change how Secrets are encrypted on this node's disk. "murmur up --secrets-encryption" turns that on with a
data key of the node's own; "murmur up --encryption-provider-config FILE" does what the file says, in upstream's format. Each node encrypts its
own disk with its own keys: what has to be done is to be done on all.`,
	}
	onlyWords(c)
	c.AddCommand(asks(&cobra.Command{Use: "status", Short: "Show what is encrypted, and with which key"},
		func(ctx context.Context, a *node.Admin) (node.SecretsStatus, error) { return a.Secrets(ctx) }, printSecrets))
	c.AddCommand(asks(&cobra.Command{
		Use: "rotate", Short: "Encrypt with a new data key and forget the one before",
		Long: `Encrypt with a new data key and forget the one before; with a configuration file, read it again and encrypt as it says now.
The whole store of this node is written anew, and what it was before is removed: writes wait meanwhile, reads do not.`,
	}, func(ctx context.Context, a *node.Admin) (node.SecretsStatus, error) { return a.RotateSecrets(ctx) }, printSecrets))
	return c
}

func printSecrets(out io.Writer, s node.SecretsStatus) error {
	switch s.Mode {
	case "off":
		_, err := fmt.Fprintln(out, "nothing is encrypted on this node's disk: `murmur up --secrets-encryption`")
		return err
	case "file":
		fmt.Fprintf(out, "encrypted as %s says\n", s.File)
	default:
		fmt.Fprintf(out, "encrypted with a data key of this node's own, made %s\n", s.Made.Format(time.RFC3339))
	}
	for _, w := range s.Writes {
		fmt.Fprintf(out, "  %s\n", w)
	}
	return nil
}
