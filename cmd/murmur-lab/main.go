// Command murmur-lab runs a cluster of real nodes on one machine: each in a network namespace of its own, with its own
// containerd, data directory and cgroups, on a switch between them that can be cut and made lossy. It is for people
// who want to see what a partition does, and for tests.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := root().ExecuteContext(ctx)
	var exit exitCode
	if errors.As(err, &exit) {
		stop()
		os.Exit(int(exit))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "murmur-lab:", err)
		stop()
		os.Exit(1)
	}
}

// exitCode is how the program that exec ran ended.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// labName keeps paths short enough for Unix sockets and interface names.
var labName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,9}$`)

func root() *cobra.Command {
	v := &verbs{}
	c := &cobra.Command{
		Use:   "murmur-lab [--name LAB] VERB",
		Short: "A cluster of real murmur nodes on one machine",
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if !labName.MatchString(v.name) {
				return fmt.Errorf("--name %q: want up to 10 lower case letters, digits and dashes", v.name)
			}
			if os.Geteuid() != 0 {
				return errors.New("a lab needs root: it makes network namespaces")
			}
			return nil
		},
		SilenceUsage: true, SilenceErrors: true,
	}
	c.PersistentFlags().StringVar(&v.name, "name", "lab", "which lab; several run side by side")
	c.AddCommand(v.up(), v.add(), v.exec(), v.kill(), v.stop(), v.start(), v.partition(), v.heal(), v.loss(), v.clock(), v.load(), v.image(), v.status(), v.logs(), v.down())
	return c
}

// verbs are what can be done with the lab of a name.
type verbs struct{ name string }

func (v *verbs) open() (*lab, error) { return openLab(v.name) }

func (v *verbs) up() *cobra.Command {
	var nodes int
	var dir string
	c := &cobra.Command{
		Use: "up", Short: "Start a lab; all nodes are Ready when it returns", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return upLab(c.Context(), v.name, dir, nodes, c.ErrOrStderr())
		},
	}
	c.Flags().IntVar(&nodes, "nodes", 3, "how many nodes, called n1..nN")
	c.Flags().StringVar(&dir, "dir", "", "where the nodes' disks are (default: /var/lib/murmur-lab/LAB, removed by down)")
	return c
}

func (v *verbs) add() *cobra.Command {
	var noIssuer bool
	c := &cobra.Command{
		Use: "add", Short: "Join one more node", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := v.open()
			if err != nil {
				return err
			}
			n, err := l.add(c.Context(), noIssuer)
			if err == nil {
				fmt.Fprintln(c.OutOrStdout(), n.Name)
			}
			return err
		},
	}
	c.Flags().BoolVar(&noIssuer, "no-issuer", false, "make it a member that holds no key of the CA")
	return c
}

func (v *verbs) exec() *cobra.Command {
	c := &cobra.Command{
		Use: "exec NODE -- CMD...", Short: "Run a program in a node's namespace, KUBECONFIG set", Args: cobra.MinimumNArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			program := args[1:]
			if program[0] == "--" {
				program = program[1:]
			}
			if len(program) == 0 {
				return errors.New("exec: say what to run behind --")
			}
			return v.withNode(args[0], func(l *lab, n *labNode) error { return l.exec(n, program) })
		},
	}
	c.Flags().SetInterspersed(false)
	return c
}

func (v *verbs) kill() *cobra.Command {
	var daemonOnly bool
	c := &cobra.Command{
		Use: "kill NODE", Short: "Crash a node: everything of it dies by SIGKILL", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return v.withNode(args[0], func(l *lab, n *labNode) error { return l.kill(n, daemonOnly) })
		},
	}
	c.Flags().BoolVar(&daemonOnly, "daemon", false, "the daemon only; containerd and containers stay")
	return c
}

func (v *verbs) stop() *cobra.Command {
	return &cobra.Command{
		Use: "stop NODE", Short: "Stop a node's daemon as a service manager does; containers stay", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return v.withNode(args[0], func(l *lab, n *labNode) error { return l.signal(n, syscall.SIGTERM) })
		},
	}
}

func (v *verbs) start() *cobra.Command {
	return &cobra.Command{
		Use: "start NODE", Short: "Start a node again, on the same disk", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return v.withNode(args[0], func(l *lab, n *labNode) error { return l.start(n) })
		},
	}
}

func (v *verbs) partition() *cobra.Command {
	return &cobra.Command{
		Use: "partition GROUP GROUP...", Short: "Cut every link between groups of nodes, such as n1 n2,n3", Args: cobra.MinimumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			l, err := v.open()
			if err != nil {
				return err
			}
			return l.partition(args)
		},
	}
}

func (v *verbs) heal() *cobra.Command {
	return &cobra.Command{
		Use: "heal", Short: "Undo all partitions", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			l, err := v.open()
			if err != nil {
				return err
			}
			return l.heal()
		},
	}
}

func (v *verbs) loss() *cobra.Command {
	return &cobra.Command{
		Use: "loss NODE PERCENT", Short: "Drop packets of a node at random; 0% ends it", Args: cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			percent, err := strconv.ParseFloat(strings.TrimSuffix(args[1], "%"), 64)
			if err != nil || percent < 0 || percent > 100 {
				return fmt.Errorf("%q: want a percentage such as 5%%", args[1])
			}
			return v.withNode(args[0], func(l *lab, n *labNode) error { return l.loss(n, percent/100) })
		},
	}
}

func (v *verbs) clock() *cobra.Command {
	return &cobra.Command{
		Use: "clock NODE AHEAD", Short: "Set the clock of a node's programs ahead of this machine's, such as 1h; -- -1h is behind, 0s ends it", Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			ahead, err := time.ParseDuration(args[1])
			if err != nil {
				return fmt.Errorf("%q: want a duration such as 1h", args[1])
			}
			return v.withNode(args[0], func(l *lab, n *labNode) error { return l.setClock(n, ahead) })
		},
	}
}

func (v *verbs) load() *cobra.Command {
	return &cobra.Command{
		Use: "load FILE.tar", Short: "Import an image on all nodes, and on those that join later", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			l, err := v.open()
			if err != nil {
				return err
			}
			return l.load(c.Context(), args[0])
		},
	}
}

func (v *verbs) image() *cobra.Command {
	return &cobra.Command{
		Use: "image DIR NAME", Short: "Build the Go program in DIR into an OCI image; the last line printed is its path", Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			path, err := buildImage(c.Context(), args[0], args[1])
			if err == nil {
				fmt.Fprintln(c.OutOrStdout(), path)
			}
			return err
		},
	}
}

func (v *verbs) status() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "status", Short: "List the nodes", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := v.open()
			if err != nil {
				return err
			}
			return printStatus(c, l.status(), output)
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "", "json for JSON")
	return c
}

func (v *verbs) logs() *cobra.Command {
	return &cobra.Command{
		Use: "logs NODE", Short: "Print a node's log", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return v.withNode(args[0], func(l *lab, n *labNode) error {
				b, err := os.ReadFile(l.log(n))
				if err == nil {
					_, err = c.OutOrStdout().Write(b)
				}
				return err
			})
		},
	}
}

func (v *verbs) down() *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "End a lab and remove all traces of it", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return downLab(v.name) },
	}
}

func (v *verbs) withNode(name string, do func(*lab, *labNode) error) error {
	l, err := v.open()
	if err != nil {
		return err
	}
	n, err := l.node(name)
	if err != nil {
		return err
	}
	return do(l, n)
}

func printStatus(c *cobra.Command, s labStatus, output string) error {
	switch output {
	case "json":
		enc := json.NewEncoder(c.OutOrStdout())
		enc.SetIndent("", "  ")
		return enc.Encode(s)
	case "":
		w := tabwriter.NewWriter(c.OutOrStdout(), 0, 8, 3, ' ', 0)
		fmt.Fprintln(w, "NODE\tADDRESS\tSTATE\tPID\tRSS\tCUT FROM\tLOSS")
		for _, n := range s.Nodes {
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%.1fMiB\t%s\t%g%%\n", n.Name, n.Address, n.State, n.PID,
				float64(n.RSS)/(1<<20), strings.Join(n.CutFrom, ","), n.Loss*100)
		}
		return w.Flush()
	}
	return fmt.Errorf("--output %q: want json, or nothing for a table", output)
}
