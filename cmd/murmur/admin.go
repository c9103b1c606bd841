package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"murmur/node"
)

// daemonFlags say which daemon of this machine is meant.
type daemonFlags struct{ runDir string }

func (d *daemonFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&d.runDir, "run-dir", cmp.Or(os.Getenv("MURMUR_RUN_DIR"), "/run/murmur"), "run directory of the daemon to speak to")
}

func (d *daemonFlags) admin() *node.Admin { return node.NewAdmin(d.runDir) }

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// output is the -o flag of commands that print tables.
type output string

func (o *output) add(c *cobra.Command) {
	c.Flags().StringVarP((*string)(o), "output", "o", "", "json for JSON")
}

func (o output) check() error {
	if o != "" && o != "json" {
		return fmt.Errorf("--output %q: want json, or nothing for a table", string(o))
	}
	return nil
}

func membersCommand() *cobra.Command {
	var d daemonFlags
	var o output
	var status, name string
	c := &cobra.Command{Use: "members", Short: "List the members of the cluster as this node sees them", Args: cobra.NoArgs}
	d.add(c)
	o.add(c)
	c.Flags().StringVar(&status, "status", "", "only members that are alive, failed or left")
	c.Flags().StringVar(&name, "name", "", "only members whose name contains this")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := o.check(); err != nil {
			return err
		}
		all, err := d.admin().Members(c.Context())
		if err != nil {
			return err
		}
		all = slices.DeleteFunc(all, func(m node.MemberStatus) bool {
			return status != "" && m.Status != status || !strings.Contains(m.Name, name)
		})
		if o == "json" {
			return printJSON(c.OutOrStdout(), all)
		}
		return printMembers(c.OutOrStdout(), all)
	}
	return c
}

func printMembers(out io.Writer, all []node.MemberStatus) error {
	w := tabwriter.NewWriter(out, 0, 8, 3, ' ', 0)
	fmt.Fprintln(w, "NAME\tADDRESS\tSTATUS\tSINCE\tRTT")
	for _, m := range all {
		rtt := "-"
		if m.RTT > 0 {
			rtt = fmt.Sprintf("%.1fms", m.RTT)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", m.Name, m.Address, m.Status, ago(m.Since), rtt)
	}
	return w.Flush()
}

func ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return time.Since(t).Truncate(time.Second).String() + " ago"
}

func statusCommand() *cobra.Command {
	var d daemonFlags
	var o output
	c := &cobra.Command{Use: "status", Short: "Show what this node knows of itself and its peers", Args: cobra.NoArgs}
	d.add(c)
	o.add(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := o.check(); err != nil {
			return err
		}
		s, err := d.admin().Status(c.Context())
		if err != nil {
			return err
		}
		if o == "json" {
			return printJSON(c.OutOrStdout(), s)
		}
		return printStatus(c.OutOrStdout(), s)
	}
	return c
}

func printStatus(out io.Writer, s node.Status) error {
	w := tabwriter.NewWriter(out, 0, 8, 3, ' ', 0)
	row := func(k, format string, v ...any) { fmt.Fprintf(w, "%s:\t%s\n", k, fmt.Sprintf(format, v...)) }
	row("Node", "%s (%s)", s.Node, s.Address)
	row("Cluster", "%s", s.Cluster)
	row("Started", "%s", ago(s.Started))
	if s.Joining != "" {
		row("Joining", "waiting for the state of %s", s.Joining)
	}
	row("Store", "%d objects, %d tombstones, %.1f MiB on disk, digest %s", s.Store.Objects, s.Store.Tombstones, float64(s.Store.DiskBytes)/(1<<20), s.Digest)
	row("Conflicts", "%d fields in which a concurrent write lost", s.Store.Conflicts)
	for key, at := range s.Store.Held {
		row("Held aside", "%s, stamped %s", key, at.Format(time.RFC3339))
	}
	row("Memory", "%.1f MiB", float64(s.MemoryBytes)/(1<<20))
	row("Next certificate", "%s", s.CertificateRotation.Format(time.RFC3339))
	for _, p := range s.Peers {
		row("Peer "+p.Name, "synced %s, %d pushes waiting, %d dropped", ago(p.Synced), p.Queued, p.Dropped)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	return printMembers(out, s.Members)
}

func tokenCommand() *cobra.Command {
	var d daemonFlags
	var ttl time.Duration
	create := &cobra.Command{
		Use: "create", Short: "Print the line that joins another machine", Args: cobra.NoArgs,
	}
	d.add(create)
	create.Flags().DurationVar(&ttl, "ttl", 24*time.Hour, "how long the token admits joiners; 0 prints the cluster's own token, which does not expire")
	var only bool
	create.Flags().BoolVar(&only, "token-only", false, "print the token alone")
	create.RunE = func(c *cobra.Command, _ []string) error {
		if ttl < 0 {
			return fmt.Errorf("--ttl %s: want 0 or more", ttl)
		}
		t, err := d.admin().CreateToken(c.Context(), node.TokenRequest{TTL: ttl})
		if err != nil {
			return err
		}
		line := t.Command
		if only {
			line = t.Token
		}
		_, err = fmt.Fprintln(c.OutOrStdout(), line)
		return err
	}
	c := &cobra.Command{Use: "token", Short: "Make tokens that admit machines to the cluster"}
	onlyWords(c)
	c.AddCommand(create)
	return c
}

func leaveCommand() *cobra.Command {
	var d daemonFlags
	c := &cobra.Command{
		Use: "leave", Short: "Take this node out of the cluster",
		Long: `Take this node out of the cluster for good: its pods are stopped here and replaced elsewhere, its Node object is
deleted, and the daemon ends. To restart a node just stop and start its daemon.`,
		Args: cobra.NoArgs,
	}
	d.add(c)
	c.RunE = func(c *cobra.Command, _ []string) error { return d.admin().Leave(c.Context()) }
	return c
}

func explainCommand() *cobra.Command {
	var d daemonFlags
	var namespace string
	c := &cobra.Command{
		Use: "explain pod/NAME", Short: "Show why a pod is where it is: the bids, their scores, and who declined", Args: cobra.ExactArgs(1),
	}
	d.add(c)
	c.Flags().StringVarP(&namespace, "namespace", "n", "default", "namespace of the pod")
	c.RunE = func(c *cobra.Command, args []string) error {
		kind, name, ok := strings.Cut(args[0], "/")
		if !ok || kind != "pod" && kind != "pods" && kind != "po" || name == "" {
			return fmt.Errorf("%q: want pod/NAME", args[0])
		}
		e, err := d.admin().Explain(c.Context(), namespace, name)
		if err != nil {
			return err
		}
		return printJSON(c.OutOrStdout(), e)
	}
	return c
}

func imagesCommand() *cobra.Command {
	var d daemonFlags
	load := &cobra.Command{Use: "import FILE.tar", Short: "Load an image archive on this node", Args: cobra.ExactArgs(1)}
	d.add(load)
	load.RunE = func(c *cobra.Command, args []string) error {
		f, err := os.Open(args[0])
		if err != nil {
			return err
		}
		defer f.Close()
		names, err := d.admin().Import(c.Context(), f)
		for _, n := range names {
			fmt.Fprintln(c.OutOrStdout(), n)
		}
		return err
	}
	c := &cobra.Command{Use: "images", Short: "Load images without a registry"}
	onlyWords(c)
	c.AddCommand(load)
	return c
}

func kubectlCommand() *cobra.Command {
	return &cobra.Command{
		Use: "kubectl [ARGS...]", Short: "Run the bundled kubectl with this node's credentials", DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			exe, err := os.Executable()
			if err != nil {
				return err
			}
			kubectl := filepath.Join(filepath.Dir(exe), "kubectl")
			if _, err := os.Stat(kubectl); err != nil {
				if kubectl, err = exec.LookPath("kubectl"); err != nil {
					return fmt.Errorf("kubectl is neither beside %s nor on the PATH: install the whole release, or `make build`", exe)
				}
			}
			env := os.Environ()
			if os.Getenv("KUBECONFIG") == "" {
				config := filepath.Join(cmp.Or(os.Getenv("MURMUR_CONFIG_DIR"), "/etc/murmur"), "murmur.yaml")
				if _, err := os.Stat(config); errors.Is(err, fs.ErrNotExist) && !offline(args) {
					return fmt.Errorf("%w: its credentials would be in %s; or set KUBECONFIG", node.ErrNoDaemon, config)
				}
				env = append(env, "KUBECONFIG="+config)
			}
			return syscall.Exec(kubectl, append([]string{"kubectl"}, args...), env)
		},
	}
}

// offline tells whether kubectl needs no credentials of ours for what it is asked.
func offline(args []string) bool {
	if len(args) == 0 || slices.Contains([]string{"help", "completion", "config", "kustomize", "options", "plugin", "version"}, args[0]) {
		return true
	}
	return slices.ContainsFunc(args, func(a string) bool {
		return a == "-h" || a == "--help" || a == "-s" || strings.HasPrefix(a, "--server") || strings.HasPrefix(a, "--kubeconfig")
	})
}
