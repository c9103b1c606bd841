// Command murmur is Kubernetes without a control plane: the daemon of a node, and the words to speak to it.
//
// There is no logic here. up.go turns flags, environment and config files into a node.Config; the other words are
// questions to the daemon at its socket. What goes wrong is one line on stderr that says what to do, and exit code 1.
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

func main() { os.Exit(execute()) }

// execute is the program; it returns its exit code.
func execute() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := root().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "murmur:", err)
		return 1
	}
	return 0
}

func root() *cobra.Command {
	c := &cobra.Command{
		Use:   "murmur",
		Short: "Kubernetes without a control plane",
		Long: `murmur runs Kubernetes without a control plane: every node runs this program, kubectl works against any
of them, and each side of a partition keeps working.

  murmur up                  start a node: the first of a new cluster, or again what was here
  murmur token create        print the line that joins another machine
  murmur join HOST           make this machine a member of HOST's cluster: the token is in MURMUR_TOKEN
  murmur kubectl get nodes   the bundled kubectl, with this node's credentials`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	c.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fmt.Errorf("%w; `%s --help` lists the flags", err, c.CommandPath())
	})
	onlyWords(c)
	c.AddCommand(upCommand(), joinCommand(), leaveCommand(), forgetCommand(), checkCommand(),
		membersCommand(), statusCommand(), reachabilityCommand(), conflictsCommand(), explainCommand(), debugCommand(), backupCommand(), restoreCommand(), releaseCommand(),
		tokenCommand(), userCommand(), certificateCommand(), secretsCommand(), kubectlCommand(), imagesCommand(), versionCommand())
	return c
}

// onlyWords makes a command of commands refuse a word that it does not know.
func onlyWords(c *cobra.Command) {
	c.Args = func(c *cobra.Command, args []string) error {
		if len(args) > 0 {
			return fmt.Errorf("there is no command %q; `%s --help` lists them", args[0], c.CommandPath())
		}
		return nil
	}
	c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Run: func(c *cobra.Command, _ []string) { fmt.Fprintln(c.OutOrStdout(), "murmur", version) },
	}
}
