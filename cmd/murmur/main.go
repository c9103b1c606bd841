// Command murmur is Kubernetes without a control plane: the daemon of a node, and the words to speak to it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the build.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := root().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "murmur:", err)
		stop()
		os.Exit(1)
	}
}

func root() *cobra.Command {
	c := &cobra.Command{
		Use:   "murmur",
		Short: "Kubernetes without a control plane",
		Long: `murmur runs Kubernetes without a control plane: every node runs this program, kubectl works against any
of them, and each side of a partition keeps working.

  murmur up                  start a node: the first of a new cluster, or again what was here
  murmur token create        print the line that joins another machine
  murmur join HOST --token T start a node as a member of HOST's cluster
  murmur kubectl get nodes   the bundled kubectl, with this node's credentials`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	c.AddCommand(upCommand(), joinCommand(), leaveCommand(), membersCommand(), statusCommand(), tokenCommand(),
		kubectlCommand(), explainCommand(), imagesCommand(), versionCommand())
	return c
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Run: func(c *cobra.Command, _ []string) { fmt.Fprintln(c.OutOrStdout(), "murmur", version) },
	}
}
