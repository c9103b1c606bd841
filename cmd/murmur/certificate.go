package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"murmur/node"
)

func certificateCommand() *cobra.Command {
	c := &cobra.Command{Use: "certificate", Short: "Look at the cluster's keys and certificates, and rotate them"}
	onlyWords(c)
	c.AddCommand(certificateCheckCommand(), certificateRotateCommand())
	return c
}

func certificateCheckCommand() *cobra.Command {
	problems := 0
	c := asks(&cobra.Command{
		Use: "check", Short: "List this node's keys and certificates, and say what is near its end",
		Long: `List the CAs that this node believes, its certificate, its kubeconfig, its keys for ServiceAccount tokens, the gossip keys, and the
nodes that were revoked. Certificates of nodes are renewed by themselves at half their life, by an issuer. The exit code is 1 if
something is to be done.`,
	}, func(ctx context.Context, a *node.Admin) ([]node.CertificateItem, error) {
		all, err := a.Certificates(ctx)
		for _, one := range all {
			if one.Problem != "" {
				problems++
			}
		}
		return all, err
	}, printCertificates)
	c.PostRunE = func(*cobra.Command, []string) error {
		if problems > 0 {
			return fmt.Errorf("%d of the keys and certificates need somebody", problems)
		}
		return nil
	}
	return c
}

func printCertificates(out io.Writer, all []node.CertificateItem) error {
	w := tabwriter.NewWriter(out, 0, 8, 3, ' ', 0)
	day := func(t time.Time) string {
		if t.IsZero() {
			return "-"
		}
		return t.Format(time.DateOnly)
	}
	fmt.Fprintln(w, "NAME\tUNTIL\tRENEWED\tWHAT")
	for _, i := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", i.Name, day(i.Until), day(i.Renewal), cmp.Or(i.Problem, i.Detail))
	}
	return w.Flush()
}

// rotations are what can be rotated, and what that means.
var rotations = []struct{ what, short, long string }{
	{"ca", "Replace the cluster's CA", `Make a new CA beside the old one, which signs it. Every member gets a new certificate within seconds, without a restart; the old CA is
believed until all registered nodes have one, and at least for the overlap. Kubeconfigs that were copied elsewhere, and the certificates of
people, end with it: make them anew. Join tokens made before do not admit anybody once it is gone.

A member that is away holds the old CA up: "murmur certificate check" names it. If it is forgotten ("murmur forget") the old CA goes, and the
node comes back with a token of today: "murmur join HOST --rejoin" there.`},
	{"service-account", "Replace the keys of ServiceAccount tokens", `Have every member make a new key for the tokens of ServiceAccounts. Pods get new tokens within two minutes; what an old key signed is
believed for the overlap.`},
	{"gossip", "Replace the key that membership is encrypted with", `Make a new key for the traffic of membership. It is written with once all live members read it; the old is read until all registered
nodes write with the new, and at least for the overlap. A member that was away for all of it learns the key from the first other that it
reaches, by its certificate.`},
}

func certificateRotateCommand() *cobra.Command {
	c := &cobra.Command{Use: "rotate", Short: "Replace a key of the cluster in the running fleet"}
	onlyWords(c)
	for _, r := range rotations {
		var d daemonFlags
		req := node.RotateRequest{What: r.what}
		one := &cobra.Command{Use: r.what, Short: r.short, Long: r.long, Args: cobra.NoArgs}
		d.add(one)
		one.Flags().DurationVar(&req.Overlap, "overlap", time.Hour, "how long what is replaced is believed at least")
		one.Flags().BoolVar(&req.Force, "force", false, "rotate though some nodes run a version that cannot follow")
		one.RunE = func(c *cobra.Command, _ []string) error {
			done, err := d.admin().Rotate(c.Context(), req)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s: %s follows the one before, which is believed for %s at least; `murmur certificate check` shows how far it is\n", done.What, done.Name, done.Overlap)
			return err
		}
		c.AddCommand(one)
	}
	return c
}
