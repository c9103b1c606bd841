package main

import (
	"cmp"
	"context"
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

// asks makes c a command that asks the daemon of this machine and prints the answer: as a table, or as JSON with -o json.
func asks[T any](c *cobra.Command, ask func(context.Context, *node.Admin) (T, error), table func(io.Writer, T) error) *cobra.Command {
	var d daemonFlags
	var output string
	d.add(c)
	c.Flags().StringVarP(&output, "output", "o", "", "json for JSON")
	c.Args = cobra.NoArgs
	c.RunE = func(c *cobra.Command, _ []string) error {
		if output != "" && output != "json" {
			return fmt.Errorf("--output %q: want json, or nothing for a table", output)
		}
		answer, err := ask(c.Context(), d.admin())
		if err != nil {
			return err
		}
		if output == "json" {
			return printJSON(c.OutOrStdout(), answer)
		}
		return table(c.OutOrStdout(), answer)
	}
	return c
}

func membersCommand() *cobra.Command {
	var status, name string
	c := asks(&cobra.Command{Use: "members", Short: "List the members of the cluster as this node sees them"},
		func(ctx context.Context, a *node.Admin) ([]node.MemberStatus, error) {
			all, err := a.Members(ctx)
			return slices.DeleteFunc(all, func(m node.MemberStatus) bool {
				return status != "" && m.Status != status || !strings.Contains(m.Name, name)
			}), err
		}, printMembers)
	c.Flags().StringVar(&status, "status", "", "only members that are alive, failed or left")
	c.Flags().StringVar(&name, "name", "", "only members whose name contains this")
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
	return asks(&cobra.Command{Use: "status", Short: "Show what this node knows of itself and its peers"},
		func(ctx context.Context, a *node.Admin) (node.Status, error) { return a.Status(ctx) }, printStatus)
}

func printStatus(out io.Writer, s node.Status) error {
	w := tabwriter.NewWriter(out, 0, 8, 3, ' ', 0)
	row := func(k, format string, v ...any) { fmt.Fprintf(w, "%s:\t%s\n", k, fmt.Sprintf(format, v...)) }
	row("Node", "%s (%s)", s.Node, s.Address)
	row("Cluster", "%s", s.Cluster)
	row("Started", "%s", ago(s.Started))
	if s.Joining != "" {
		row("Joining", "invited by %s, waiting for the state of a member", s.Joining)
	}
	if s.Missing != "" {
		row("Missing", "%s; it is tried again", s.Missing)
	}
	row("Store", "%d objects, %d tombstones, %.1f MiB on disk, digest %s", s.Store.Objects, s.Store.Tombstones, float64(s.Store.DiskBytes)/(1<<20), s.Digest)
	if q := s.Store.Quota; q.Full {
		row("Store quota", "%.1f of %.1f MiB: what makes the store grow is refused; delete what is not needed, until less than 95 %% is held", float64(q.Held)/(1<<20), float64(q.Limit)/(1<<20))
	} else if q.Limit > 0 {
		row("Store quota", "%.1f of %.1f MiB", float64(q.Held)/(1<<20), float64(q.Limit)/(1<<20))
	}
	row("Conflicts", "%d fields in which a concurrent write lost", s.Store.Conflicts)
	for key, at := range s.Store.Held {
		row("Held aside", "%s, stamped %s", key, at.Format(time.RFC3339))
	}
	for key, reason := range s.Store.Failed {
		row("Set aside", "%s: %s", key, reason)
	}
	if w := s.Store.Settling.WaitsFor; len(w) > 0 {
		row("Kept for", "%s: tombstones go when all nodes have seen them; `murmur forget` ends a node that is not coming back", strings.Join(w, ", "))
	}
	row("Memory", "%.1f MiB", float64(s.MemoryBytes)/(1<<20))
	row("Next certificate", "%s", s.CertificateRotation.Format(time.RFC3339))
	if !s.Issuer {
		row("Issuer", "no: this node admits nobody without one")
	}
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
	req := node.TokenRequest{}
	create := &cobra.Command{
		Use: "create", Short: "Print the line that joins another machine",
		Long: `Print the line that joins another machine. The token in it admits one machine, within a day, and is stored as a bootstrap token: a Secret of
kube-system, which can be deleted. Who has the line can make any machine a member: treat it as a password.

A machine that joins becomes an issuer: it gets the CA's key, can admit others and renews certificates. One that can be stolen should not:
--no-issuer makes a member that runs pods and answers the API and can do neither.`,
		Args: cobra.NoArgs,
	}
	d.add(create)
	create.Flags().DurationVar(&req.TTL, "ttl", 24*time.Hour, "how long the token admits")
	create.Flags().BoolVar(&req.Reusable, "reusable", false, "let the token admit any number of machines until it expires")
	create.Flags().BoolVar(&req.NoIssuer, "no-issuer", false, "make members that hold no key of the cluster's CA")
	var only bool
	create.Flags().BoolVar(&only, "token-only", false, "print the token alone")
	create.RunE = func(c *cobra.Command, _ []string) error {
		if req.TTL < 0 {
			return fmt.Errorf("--ttl %s: want more than 0", req.TTL)
		}
		t, err := d.admin().CreateToken(c.Context(), req)
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
deleted, the cluster's state, its Secrets and all keys are removed from this disk, and the daemon ends. If it is started again, by hand or by what supervises it, it is a new node, alone until
"murmur join". To restart a node just stop and start its daemon.`,
		Args: cobra.NoArgs,
	}
	d.add(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		admin := d.admin()
		before, err := admin.Status(c.Context())
		if err != nil {
			return err
		}
		if err := admin.Leave(c.Context()); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(c.Context(), leaveLimit)
		defer cancel()
		for {
			// Whoever supervises the daemon may have started it again: as a new node.
			s, err := admin.Status(ctx)
			if errors.Is(err, node.ErrNoDaemon) || err == nil && s.Started != before.Started {
				_, err := fmt.Fprintf(c.OutOrStdout(), "%s has left the cluster\n", before.Node)
				return err
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s is leaving, but its daemon has not ended after %s: see its log", before.Node, leaveLimit)
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	return c
}

// leaveLimit bounds the wait for a daemon that leaves to end.
const leaveLimit = 3 * time.Minute

func forgetCommand() *cobra.Command {
	var d daemonFlags
	var revoke bool
	c := &cobra.Command{
		Use: "forget NODE", Short: "End the membership of a node that is not coming back, or must not",
		Long: `End the membership of a node that failed and is not coming back: its Node object is deleted, its pods are replaced
at once, nobody dials it any more. A node that is alive leaves by itself, with "murmur leave" there. One that is forgotten and
comes back all the same gives up what it has stored and joins as a new node, empty: what it wrote that nobody else got is lost.

With --revoke the node, alive or not, is shut out for ever, and whoever has its disk with it: streams, API and the door of every member
that hears of it refuse its certificate and the tokens that it signed, within seconds, and the gossip key is replaced. If it was an issuer, the CA is
replaced too: its own certificates are worth nothing to it, but with the CA's key it could make others. On the other side of a
cut this holds once the sides meet, or when it is said there too. What the node knew of Secrets it knows: replace those.`,
		Args: cobra.ExactArgs(1),
	}
	d.add(c)
	c.Flags().BoolVar(&revoke, "revoke", false, "shut the node out for ever: it was stolen")
	c.RunE = func(c *cobra.Command, args []string) error {
		out := c.OutOrStdout()
		if !revoke {
			if err := d.admin().Forget(c.Context(), args[0]); err != nil {
				return err
			}
			_, err := fmt.Fprintf(out, "%s is forgotten\n", args[0])
			return err
		}
		done, err := d.admin().Revoke(c.Context(), args[0])
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s is revoked: every member that hears of it refuses its certificate and its tokens\n", args[0])
		for _, r := range done.Rotated {
			switch r.What {
			case "ca":
				fmt.Fprintf(out, "it was an issuer and knew the CA's key: the CA is replaced by %s. Kubeconfigs made before are refused from now on; this node's and the other members' are written anew\n", r.Name)
			default:
				fmt.Fprintf(out, "the %s key that it knew is replaced within %s\n", r.What, r.Overlap)
			}
		}
		if len(done.Left) > 0 {
			fmt.Fprintf(out, "these run an older murmur and are shut out with the CA: %s; update each, then `murmur join HOST --rejoin` there with a token\n", strings.Join(done.Left, ", "))
		}
		_, err = fmt.Fprintln(out, "it has had every Secret of the cluster on its disk: replace those that matter")
		return err
	}
	return c
}

func reachabilityCommand() *cobra.Command {
	var asked int
	var silent []string
	c := asks(&cobra.Command{
		Use: "reachability", Short: "Ask every other member for an answer, and name those that give none",
		Long: `Ask every other member for an answer over the connection that carries the cluster's state, and name those that give
none. The exit code is 1 if there are any.`,
	}, func(ctx context.Context, a *node.Admin) ([]node.Answer, error) {
		all, err := a.Reachability(ctx)
		asked = len(all)
		for _, one := range all {
			if one.Problem != "" {
				silent = append(silent, one.Name)
			}
		}
		return all, err
	}, printAnswers)
	c.PostRunE = func(*cobra.Command, []string) error {
		if len(silent) > 0 {
			return fmt.Errorf("%d of %d other members do not answer: %s", len(silent), asked, strings.Join(silent, ", "))
		}
		return nil
	}
	return c
}

func printAnswers(out io.Writer, all []node.Answer) error {
	w := tabwriter.NewWriter(out, 0, 8, 3, ' ', 0)
	fmt.Fprintln(w, "NAME\tADDRESS\tANSWER")
	for _, a := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\n", a.Name, cmp.Or(a.Address, "-"), cmp.Or(a.Problem, fmt.Sprintf("in %.1fms", a.Millis)))
	}
	return w.Flush()
}

func conflictsCommand() *cobra.Command {
	return asks(&cobra.Command{
		Use: "conflicts", Short: "List the fields in which a concurrent write lost, with both values",
		Long: `List the latest fields that were written on two sides at once, with the value that was kept, the one that lost, who
wrote them and when. Each node lists the merges that it made since its daemon started.`,
	}, func(ctx context.Context, a *node.Admin) ([]node.Conflict, error) { return a.Conflicts(ctx) }, printConflicts)
}

func printConflicts(out io.Writer, all []node.Conflict) error {
	w := tabwriter.NewWriter(out, 0, 8, 3, ' ', 0)
	fmt.Fprintln(w, "OBJECT\tFIELD\tKEPT\tBY\tAT\tLOST\tBY\tAT")
	for _, l := range all {
		fmt.Fprintf(w, "%s\t%s", l.Object, cmp.Or(l.Field, "(the object)"))
		for _, s := range []node.Side{l.Kept, l.Lost} {
			fmt.Fprintf(w, "\t%s\t%s\t%s", short(s.Value), s.By, s.At.Format(time.RFC3339))
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}

// short is a value as a table has room for it; -o json has it whole.
func short(v any) string {
	if v == nil {
		return "(none)"
	}
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	r := []rune(string(b))
	if len(r) > 40 {
		return string(r[:39]) + "…"
	}
	return string(r)
}

func debugCommand() *cobra.Command {
	c := &cobra.Command{Use: "debug", Short: "Print the inside of a part of the daemon as JSON"}
	onlyWords(c)
	for _, p := range []struct{ part, short string }{
		{"store", "Size, vector, held writes and lost writes of the store"},
		{"gossip", "Members and the connections to them"},
		{"bids", "The placements that this node decided, with every bid"},
	} {
		var d daemonFlags
		part := &cobra.Command{Use: p.part, Short: p.short, Args: cobra.NoArgs}
		d.add(part)
		part.RunE = func(c *cobra.Command, _ []string) error {
			v, err := d.admin().Debug(c.Context(), p.part)
			if err != nil {
				return err
			}
			return printJSON(c.OutOrStdout(), v)
		}
		c.AddCommand(part)
	}
	return c
}

func checkCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "check", Short: "Look whether this machine is ready for a node, without starting one",
		Long: `Look at everything that a node needs of this machine, without starting one: each check is ok, or says what to do. It takes
the flags, the config file and the environment of "murmur up". The exit code is 1 if something is to be done.`,
		Args: cobra.NoArgs,
	}
	up := nodeFlags(c.Flags())
	c.RunE = func(c *cobra.Command, _ []string) error {
		cfg, err := up.read(c.Flags(), "")
		if err != nil {
			return err
		}
		all, err := node.Checks(c.Context(), cfg)
		if err != nil {
			return err
		}
		w := tabwriter.NewWriter(c.OutOrStdout(), 0, 8, 3, ' ', 0)
		bad := 0
		for _, one := range all {
			said := "ok"
			if one.Problem != nil {
				said = one.Problem.Error()
				bad++
			}
			fmt.Fprintf(w, "%s\t%s\n", one.Name, said)
		}
		if err := w.Flush(); err != nil {
			return err
		}
		if bad > 0 {
			return fmt.Errorf("this machine is not ready for a node: %d of %d checks say what to do", bad, len(all))
		}
		return nil
	}
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
