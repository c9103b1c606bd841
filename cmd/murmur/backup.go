package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"murmur/durable"
	"murmur/node"
)

func backupCommand() *cobra.Command {
	var d daemonFlags
	c := &cobra.Command{
		Use:   "backup FILE",
		Short: "Write the state of the cluster, as this node has it, to a file",
		Long: `Write the state of the cluster, as this node has it at one moment, to a file that "murmur restore" makes a node of.
The file holds every Secret, and on an issuer the CA's key: encrypt it with --recipient to keys that "age-keygen"
makes, or keep it as you keep those. FILE may be - for the standard output. The node, and all others, go on meanwhile.`,
		Args: oneFile,
	}
	d.add(c)
	recipients := c.Flags().StringArray("recipient", nil, "public key (`age1...`) to encrypt the file to; may be repeated")
	c.RunE = func(c *cobra.Command, args []string) error {
		write := func(w io.Writer) error { return d.admin().Backup(c.Context(), w, *recipients) }
		err := error(nil)
		if args[0] == "-" {
			err = write(c.OutOrStdout())
		} else {
			err = durable.Replace(args[0], 0o600, write)
		}
		if err == nil && len(*recipients) == 0 {
			fmt.Fprintln(c.ErrOrStderr(), "warning: the backup is not encrypted; it holds every Secret and the keys of the node, the CA's too if it is an issuer (--recipient encrypts it)")
		}
		return err
	}
	return c
}

func oneFile(c *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%s: name one file, or - for the standard %s", c.Name(), map[string]string{"backup": "output", "restore": "input"}[c.Name()])
	}
	return nil
}

func restoreCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "restore FILE",
		Short: "Make a node of a backup",
		Long: `Make of a backup the disk of a node that has none yet; "murmur up" then starts it. If nodes of the cluster are
still there, the node takes their word for all that has happened since the backup, and does nothing before it has met one: what
was deleted since must not come back. If all are gone for good, say --alone: they are forgotten, and the cluster goes on from
the backup; "murmur forget" of each, on the restored node, does the same later. Without --node-name the node is the one that
was backed up, which must not run any more. One that was encrypted needs --identity. FILE may be - for the standard input.`,
		Args: oneFile,
	}
	up := nodeFlags(c.Flags())
	identity := c.Flags().String("identity", "", "`file` with a private key that the backup was encrypted to, as age-keygen writes it")
	alone := c.Flags().Bool("alone", false, "no other node of the cluster is there any more: forget them all")
	c.RunE = func(c *cobra.Command, args []string) error {
		cfg, err := up.read(c.Flags(), "")
		if err != nil {
			return err
		}
		in := io.NopCloser(c.InOrStdin())
		if args[0] != "-" {
			if in, err = os.Open(args[0]); err != nil {
				return err
			}
		}
		defer in.Close()
		name, err := node.Restore(cfg, in, *identity, *alone)
		if err != nil {
			return fmt.Errorf("restore %s: %w", args[0], err)
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "%s holds the node %s; `murmur up` starts it\n", cfg.DataDir, name)
		return err
	}
	return c
}

func releaseCommand() *cobra.Command {
	var d daemonFlags
	c := &cobra.Command{
		Use:   "release",
		Short: "Take in the writes that are held aside because a clock is far ahead",
		Long: `Take in the writes that this node holds aside because they were stamped more than five seconds in the future, as
"murmur status" lists them. Set the clock that made them right first: until the time has come, nothing else can win against
such a write.`,
		Args: cobra.NoArgs,
	}
	d.add(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		n, err := d.admin().Release(c.Context())
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "%d writes are taken in with the next exchange, within seconds\n", n)
		return err
	}
	return c
}
