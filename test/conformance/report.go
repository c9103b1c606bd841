package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// outcome is the newest that any run says of a spec.
type outcome struct {
	state   string // passed, failed; empty: no run had it
	message string
	started string // RFC 3339
}

// span is from when to when specs were run.
func span(results map[string]outcome) string {
	first, last := "", ""
	for _, o := range results {
		if first == "" || o.started < first {
			first = o.started
		}
		last = max(last, o.started)
	}
	if first == "" {
		return "no run"
	}
	minute := func(t string) string { return strings.Replace(t[:min(len(t), 16)], "T", " ", 1) }
	return minute(first) + " to " + minute(last)
}

// outcomes reads the reports of all runs that the cache keeps. What was skipped in a run was not tried by it.
func (c cache) outcomes() (map[string]outcome, error) {
	reports, err := filepath.Glob(c.path("results", "*", "report.json"))
	if err != nil {
		return nil, err
	}
	out := map[string]outcome{}
	started := map[string]string{} // when, by spec
	for _, file := range reports {
		report, err := readReport(file)
		if err != nil {
			return nil, err
		}
		for _, suite := range report {
			for _, s := range suite.SpecReports {
				if s.LeafNodeType != "It" || s.State == "skipped" && s.Failure.Message == "" || s.State == "pending" || s.State == "interrupted" {
					continue
				}
				text := strings.Join(append(s.ContainerHierarchyTexts, s.LeafNodeText), " ")
				if s.StartTime < started[text] {
					continue
				}
				started[text] = s.StartTime
				o := outcome{state: s.State, message: s.Failure.Message, started: s.StartTime}
				switch s.State {
				case "passed":
				case "skipped":
					o.state = "not runnable"
				default:
					o.state = "failed"
				}
				out[text] = o
			}
		}
	}
	return out, nil
}

// cause explains failures of the specs that a pattern finds.
type cause struct {
	pattern *regexp.Regexp
	text    string
}

// causes reads lines of "pattern => cause"; # begins a comment.
func causes(file string) ([]cause, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []cause
	for scan := bufio.NewScanner(f); scan.Scan(); {
		line := strings.TrimSpace(scan.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		pattern, text, ok := strings.Cut(line, "=>")
		if !ok {
			return nil, fmt.Errorf("%s: want PATTERN => CAUSE, have %q", file, line)
		}
		re, err := regexp.Compile(strings.TrimSpace(pattern))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		out = append(out, cause{re, strings.TrimSpace(text)})
	}
	return out, nil
}

var (
	labels = regexp.MustCompile(`\s*\[[^\]]*\]`)
	sig    = regexp.MustCompile(`\[(sig-[^\]]*)\]`)
)

// report writes where we stand on every conformance spec.
func (r run) report(ctx context.Context, file string) error {
	specs, err := r.specs(ctx)
	if err != nil {
		return err
	}
	results, err := r.outcomes()
	if err != nil {
		return err
	}
	why, err := causes("causes.txt")
	if err != nil {
		return err
	}
	v, err := version(ctx)
	if err != nil {
		return err
	}
	_, missing, err := r.images(ctx)
	if err != nil {
		return err
	}

	type count struct{ passed, failed, unable, untried int }
	groups, sigs := map[string]*count{}, map[string]*count{}
	var total count
	failures := map[string][]string{}
	for _, s := range specs {
		s1 := "other"
		if m := sig.FindStringSubmatch(s.Group); m != nil {
			s1 = m[1]
		}
		group := strings.TrimSpace(labels.ReplaceAllString(s.Group, ""))
		if group == "" { // it is called by a label alone
			group = strings.Trim(strings.TrimSpace(strings.TrimPrefix(s.Group, "["+s1+"]")), "[]")
			group, _, _ = strings.Cut(group, "]")
		}
		group = s1 + " " + group
		if groups[group] == nil {
			groups[group] = &count{}
		}
		if sigs[s1] == nil {
			sigs[s1] = &count{}
		}
		o := results[s.Text]
		for _, c := range []*count{groups[group], sigs[s1], &total} {
			switch o.state {
			case "passed":
				c.passed++
			case "failed":
				c.failed++
			case "not runnable":
				c.unable++
			default:
				c.untried++
			}
		}
		if o.state == "passed" {
			continue
		}
		text := "not run yet"
		if o.state != "" {
			text = ""
		}
		for _, c := range why {
			if c.pattern.MatchString(s.Text) {
				text = c.text
				break
			}
		}
		if text == "" {
			first, _, _ := strings.Cut(strings.TrimSpace(o.message), "\n")
			if len(first) > 160 {
				first = first[:160] + "..."
			}
			text = "cause not found yet; the suite says: " + strings.ReplaceAll(first, "|", `\|`)
		}
		name := group + ": " + strings.TrimSpace(labels.ReplaceAllString(strings.TrimPrefix(s.Text, s.Group), ""))
		if o.state != "" || text != "not run yet" {
			failures[group] = append(failures[group], fmt.Sprintf("| %s | %s |", strings.ReplaceAll(name, "|", `\|`), text))
		}
	}

	var b strings.Builder
	row := func(name string, c count) {
		fmt.Fprintf(&b, "| %s | %d | %d | %d | %d |\n", name, c.passed, c.failed, c.unable, c.untried)
	}
	fmt.Fprintf(&b, "# Conformance\n\nWhere murmur stands on upstream's conformance suite, %s, in a lab of three nodes on one machine. Written by `conformance report` from the\n"+
		"newest result of each spec; no spec is left out, and no limit is stretched. To repeat it: `make conformance`, or some of it:\n"+
		"`make conformance FOCUS='sig-cli' PROCS=2`. What one run did not reach, an earlier one says: these are of %s.\n\n", v, span(results))
	fmt.Fprintf(&b, "**%d of %d passed**, %d failed, %d cannot run here, %d not run yet.\n\n", total.passed, len(specs), total.failed, total.unable, total.untried)
	b.WriteString("| SIG | passed | failed | not runnable | not run yet |\n|---|---|---|---|---|\n")
	for _, name := range sorted(sigs) {
		row(name, *sigs[name])
	}
	b.WriteString("\n## Groups\n\n| group | passed | failed | not runnable | not run yet |\n|---|---|---|---|---|\n")
	for _, name := range sorted(groups) {
		row(name, *groups[name])
	}
	b.WriteString("\n## What does not pass, and why\n\n| spec | cause |\n|---|---|\n")
	for _, name := range sorted(failures) {
		slices.Sort(failures[name])
		b.WriteString(strings.Join(failures[name], "\n") + "\n")
	}
	notes, err := os.ReadFile("notes.md")
	if err != nil {
		return err
	}
	fmt.Fprintf(&b, "\n%s", notes)
	b.WriteString("\n## Images\n\nNo image is pulled from outside the lab. What the suite lists is made from upstream's sources, busybox and packages of Debian, under the same names. Not made,\n" +
		"because no conformance spec that can run here uses them, or because they cannot be made on a machine without a registry:\n\n")
	for _, name := range missing {
		fmt.Fprintf(&b, "- `%s`\n", name)
	}
	return os.WriteFile(file, []byte(b.String()), 0o644)
}
