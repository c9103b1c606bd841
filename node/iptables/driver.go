package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	goiptables "github.com/coreos/go-iptables/iptables"

	"murmur/node/proxy"
)

// ErrMissing is returned when the machine has no iptables.
var ErrMissing = errors.New("iptables not found: install it (Debian, Ubuntu: apt install iptables; Fedora: dnf install iptables-nft; Alpine: apk add iptables)")

// Driver makes the kernel's tables be what Set was last given, and touches nothing that is not ours: chains
// named MURMUR-* and the jumps to them. It is for one goroutine. All its programs run in the network namespace of the
// calling thread.
type Driver struct {
	command string // path of iptables; -save and -restore stand beside it
	version string
	known   map[string]table // what we know the kernel has, as it prints it; nil when we do not
	want    []proxy.Table    // what known was made from
}

// table is what is ours in one table, as iptables-save prints it.
type table struct {
	chains map[string][]string // by name; each rule without "-A NAME "
	jumps  map[string][]string // by built-in chain; rules that lead to a chain of ours, in order
}

// NewDriver finds iptables. command is its name or path; "" means iptables, whichever back end the machine
// prefers (iptables-nft and iptables-legacy choose one).
func NewDriver(command string) (*Driver, error) {
	if command == "" {
		command = "iptables"
	}
	path, err := exec.LookPath(command)
	if err != nil {
		return nil, fmt.Errorf("%w (looked for %s: %w)", ErrMissing, command, err)
	}
	for _, tool := range []string{"-save", "-restore"} {
		if _, err := exec.LookPath(path + tool); err != nil {
			return nil, fmt.Errorf("%w (looked for %s%s: %w)", ErrMissing, path, tool, err)
		}
	}
	ipt, err := goiptables.New(goiptables.Path(path), goiptables.Timeout(5))
	if err != nil {
		return nil, fmt.Errorf("ask %s for its version: %w", path, err)
	}
	major, minor, patch := ipt.GetIptablesVersion()
	version := fmt.Sprintf("%d.%d.%d", major, minor, patch)
	if !ipt.HasRandomFully() {
		return nil, fmt.Errorf("%s is version %s, which is too old: 1.6.2 or newer is needed", path, version)
	}
	return &Driver{command: path, version: version}, nil
}

// String names the program and its version.
func (d *Driver) String() string { return d.command + " " + d.version }

// Set makes the tables hold exactly the wanted chains and jumps, each table in one transaction, and only what
// changed since the last Set. It reports whether anything had to be written.
func (d *Driver) Set(ctx context.Context, want []proxy.Table) (changed bool, err error) {
	if d.known == nil {
		return d.replace(ctx, want)
	}
	for i, t := range want {
		var have proxy.Table
		if i < len(d.want) && d.want[i].Name == t.Name {
			have = d.want[i]
		}
		input := difference(have, t)
		if input == "" {
			continue
		}
		changed = true
		if err := d.restore(ctx, t.Name, input); err != nil {
			d.known = nil // ask the kernel before the next attempt
			return true, err
		}
	}
	if !changed {
		return false, nil
	}
	return true, d.remember(ctx, want)
}

// replace writes everything, whatever was there: the first time, and after something went wrong.
func (d *Driver) replace(ctx context.Context, want []proxy.Table) (changed bool, err error) {
	for _, t := range want {
		have, err := d.save(ctx, t.Name)
		if err != nil {
			return changed, err
		}
		if err := d.restore(ctx, t.Name, whole(have, t)); err != nil {
			return changed, err
		}
		changed = true
	}
	return changed, d.remember(ctx, want)
}

// remember reads back what was written, to compare with later.
func (d *Driver) remember(ctx context.Context, want []proxy.Table) error {
	known := map[string]table{}
	d.known = nil
	for _, t := range want {
		have, err := d.save(ctx, t.Name)
		if err != nil {
			return err
		}
		if what := lacks(have, t); what != "" {
			return fmt.Errorf("table %s was changed by another program while it was written: %s", t.Name, what)
		}
		known[t.Name] = have
	}
	d.known, d.want = known, want
	return nil
}

// Intact reports whether the kernel still has what Set wrote; what says the first difference. When it has not, the next Set
// writes everything again.
func (d *Driver) Intact(ctx context.Context) (intact bool, what string, err error) {
	if d.known == nil {
		return false, "nothing was written yet", nil
	}
	for _, t := range d.want {
		have, err := d.save(ctx, t.Name)
		if err != nil {
			return false, "", err
		}
		if what := have.differs(d.known[t.Name]); what != "" {
			d.known = nil
			return false, "table " + t.Name + ": " + what, nil
		}
	}
	return true, "", nil
}

// Cleanup removes every chain and jump of ours.
func (d *Driver) Cleanup(ctx context.Context) error {
	d.known, d.want = nil, nil
	var all error
	for _, name := range []string{"filter", "nat"} {
		have, err := d.save(ctx, name)
		if err == nil && (len(have.chains) > 0 || len(have.jumps) > 0) {
			err = d.restore(ctx, name, whole(have, proxy.Table{Name: name}))
		}
		all = errors.Join(all, err)
	}
	return all
}

// difference is the transaction that leads from one wanted table to another, "" when they are equal.
// A declared chain is emptied; chains that go are removed last, when nothing leads to them any more.
func difference(have, want proxy.Table) string {
	before := map[string][]string{}
	for _, c := range have.Chains {
		before[c.Name] = c.Rules
	}
	var declared, rules, removed []string
	for _, c := range want.Chains {
		old, there := before[c.Name]
		delete(before, c.Name)
		if there && slices.Equal(old, c.Rules) {
			continue
		}
		declared = append(declared, c.Name)
		for _, r := range c.Rules {
			rules = append(rules, "-A "+c.Name+" "+r)
		}
	}
	for name := range before {
		declared = append(declared, name)
		removed = append(removed, "-X "+name)
	}
	if !slices.EqualFunc(have.Jumps, want.Jumps, func(a, b proxy.Jump) bool {
		return a.From == b.From && slices.Equal(a.Rule, b.Rule)
	}) {
		for _, j := range have.Jumps {
			rules = append(rules, "-D "+j.From+" "+quote(j.Rule))
		}
		for _, j := range slices.Backward(want.Jumps) {
			rules = append(rules, "-I "+j.From+" 1 "+quote(j.Rule))
		}
	}
	if len(declared) == 0 && len(rules) == 0 {
		return ""
	}
	return transaction(want.Name, declared, append(rules, removed...))
}

// whole is the transaction that leads from anything of ours to the wanted table. Jumps that stand as they
// should are left where they are: whoever put a rule before them may have had a reason.
func whole(have table, want proxy.Table) string {
	var declared, rules, removed []string
	gone := map[string]bool{}
	for name := range have.chains {
		gone[name] = true
	}
	for _, c := range want.Chains {
		delete(gone, c.Name)
		declared = append(declared, c.Name)
		for _, r := range c.Rules {
			rules = append(rules, "-A "+c.Name+" "+r)
		}
	}
	froms := map[string][]proxy.Jump{}
	for _, j := range want.Jumps {
		froms[j.From] = append(froms[j.From], j)
	}
	for from := range have.jumps {
		if froms[from] == nil {
			froms[from] = []proxy.Jump{}
		}
	}
	for from, jumps := range froms {
		if sameTargets(have.jumps[from], jumps) {
			continue
		}
		for _, line := range have.jumps[from] {
			rules = append(rules, "-D "+from+" "+line)
		}
		for _, j := range slices.Backward(jumps) {
			rules = append(rules, "-I "+from+" 1 "+quote(j.Rule))
		}
	}
	for name := range gone {
		declared = append(declared, name)
		removed = append(removed, "-X "+name)
	}
	return transaction(want.Name, declared, append(rules, removed...))
}

func transaction(table string, declared, rules []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%s\n", table)
	slices.Sort(declared)
	for _, name := range declared {
		fmt.Fprintf(&b, ":%s - [0:0]\n", name)
	}
	for _, r := range rules {
		b.WriteString(r)
		b.WriteByte('\n')
	}
	b.WriteString("COMMIT\n")
	return b.String()
}

// sameTargets reports whether printed rules are the wanted jumps: the same matches in the same order. Their text
// differs in quotes only, since iptables-save prints comments quoted.
func sameTargets(lines []string, jumps []proxy.Jump) bool {
	return slices.EqualFunc(lines, jumps, func(line string, j proxy.Jump) bool {
		return strings.ReplaceAll(line, `"`, "") == strings.Join(j.Rule, " ")
	})
}

// lacks says what a table read back does not have of what was written, by names and numbers of rules: the
// kernel prints rules in its own words.
func lacks(have table, want proxy.Table) string {
	if len(have.chains) != len(want.Chains) {
		return fmt.Sprintf("%d chains instead of %d", len(have.chains), len(want.Chains))
	}
	for _, c := range want.Chains {
		if rules, there := have.chains[c.Name]; !there || len(rules) != len(c.Rules) {
			return fmt.Sprintf("chain %s has %d rules instead of %d", c.Name, len(rules), len(c.Rules))
		}
	}
	n := 0
	for _, lines := range have.jumps {
		n += len(lines)
	}
	if n != len(want.Jumps) {
		return fmt.Sprintf("%d jumps instead of %d", n, len(want.Jumps))
	}
	return ""
}

// differs says the first difference between two printed tables, "" for none.
func (t table) differs(from table) string {
	for _, part := range []struct {
		name      string
		have, was map[string][]string
	}{{"chain", t.chains, from.chains}, {"jumps of", t.jumps, from.jumps}} {
		for name, rules := range part.was {
			if have, there := part.have[name]; !there || !slices.Equal(have, rules) {
				return fmt.Sprintf("%s %s is not as it was written", part.name, name)
			}
		}
		for name := range part.have {
			if _, was := part.was[name]; !was {
				return fmt.Sprintf("%s %s was added", part.name, name)
			}
		}
	}
	return ""
}

// save reads what is ours in a table.
func (d *Driver) save(ctx context.Context, name string) (table, error) {
	out, err := d.run(ctx, "", "-save", "-t", name)
	if err != nil {
		return table{}, err
	}
	return parse(out), nil
}

func parse(saved string) table {
	t := table{chains: map[string][]string{}, jumps: map[string][]string{}}
	for line := range strings.Lines(saved) {
		line = strings.TrimRight(line, "\n")
		if rest, ok := strings.CutPrefix(line, ":"); ok {
			if name, _, _ := strings.Cut(rest, " "); strings.HasPrefix(name, proxy.Prefix) {
				if _, ok := t.chains[name]; !ok {
					t.chains[name] = nil
				}
			}
		} else if rest, ok := strings.CutPrefix(line, "-A "); ok {
			chain, rule, _ := strings.Cut(rest, " ")
			if strings.HasPrefix(chain, proxy.Prefix) {
				t.chains[chain] = append(t.chains[chain], rule)
			} else if strings.Contains(rule, "-j "+proxy.Prefix) || strings.Contains(rule, "-g "+proxy.Prefix) {
				t.jumps[chain] = append(t.jumps[chain], rule)
			}
		}
	}
	return t
}

func (d *Driver) restore(ctx context.Context, name, input string) error {
	_, err := d.run(ctx, input, "-restore", "--noflush", "-w", "5")
	if err != nil {
		return fmt.Errorf("write table %s: %w", name, err)
	}
	return nil
}

func (d *Driver) run(ctx context.Context, input, tool string, args ...string) (string, error) {
	var out, says bytes.Buffer
	cmd := exec.CommandContext(ctx, d.command+tool, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &says
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s%s %s: %w: %s", d.command, tool, strings.Join(args, " "), err, strings.Join(strings.Fields(says.String()), " "))
	}
	return out.String(), nil
}

// quote joins arguments as iptables-restore reads them.
func quote(args []string) string {
	var b strings.Builder
	for i, a := range args {
		if i > 0 {
			b.WriteByte(' ')
		}
		if strings.ContainsAny(a, " \t") {
			a = `"` + a + `"`
		}
		b.WriteString(a)
	}
	return b.String()
}
