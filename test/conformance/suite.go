package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// cache is where what was built is kept, and where the product's programs are.
type cache struct {
	dir, bin string
}

func (c cache) path(parts ...string) string {
	return filepath.Join(append([]string{c.dir}, parts...)...)
}
func (c cache) product(program string) string { return filepath.Join(c.bin, program) }

// version is upstream's, of the suite and of everything built with it.
func version(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes").Output()
	if err != nil {
		return "", fmt.Errorf("find the version of k8s.io/kubernetes: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

func moduleDir(ctx context.Context, module string) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		return "", fmt.Errorf("find the source of %s: %w", module, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// linked are the linker's flags that tell upstream's programs their version, v like "v1.37.2": specs choose by its parts, too.
func linked(v string) string {
	parts := strings.SplitN(strings.TrimPrefix(v, "v"), ".", 3)
	flags := "-s -w"
	for _, module := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		flags += " -X " + module + ".gitVersion=" + v + " -X " + module + ".gitMajor=" + parts[0] + " -X " + module + ".gitMinor=" + parts[1]
	}
	return flags
}

// build makes the suite, ginkgo and the programs of images, each unless it is there. A change of go.mod or of the flags makes all anew.
func (c cache) build(ctx context.Context) error {
	if err := os.MkdirAll(c.path("bin"), 0o755); err != nil {
		return err
	}
	mod, err := os.ReadFile("go.mod")
	if err != nil {
		return fmt.Errorf("conformance runs in its own folder: %w", err)
	}
	v, err := version(ctx)
	if err != nil {
		return err
	}
	flags := linked(v)
	mod = append(mod, "// "+flags+"\n"...)
	if have, _ := os.ReadFile(c.path("built.mod")); string(have) != string(mod) && len(have) > 0 {
		for _, old := range []string{"bin", "layers", "images.tar", "images.txt", "specs.json"} {
			if err := os.RemoveAll(c.path(old)); err != nil {
				return err
			}
		}
		if err := os.MkdirAll(c.path("bin"), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(c.path("built.mod"), mod, 0o644); err != nil {
		return err
	}
	need := func(program string, args ...string) error {
		file := c.path("bin", program)
		if _, err := os.Stat(file); err == nil {
			return nil
		}
		fmt.Fprintln(os.Stderr, "building", program)
		if err := command(ctx, "go", append(append(args[:len(args)-1:len(args)-1], "-ldflags", flags, "-o", file+".new"), args[len(args)-1])...); err != nil {
			return err
		}
		return os.Rename(file+".new", file)
	}
	if err := need("e2e.test", "test", "-c", "-vet=off", "k8s.io/kubernetes/test/e2e"); err != nil {
		return err
	}
	if err := need("ginkgo", "build", "github.com/onsi/ginkgo/v2/ginkgo"); err != nil {
		return err
	}
	for _, name := range sorted(programs) {
		if err := need(name, "build", programs[name]); err != nil {
			return err
		}
	}
	return nil
}

// wanted is the suite's own list of images.
func (c cache) wanted(ctx context.Context) ([]string, error) {
	out, err := exec.CommandContext(ctx, c.path("bin/e2e.test"), "--list-images").Output()
	if err != nil {
		return nil, fmt.Errorf("ask the suite for its images: %w", err)
	}
	list := strings.Fields(string(out))
	slices.Sort(list)
	return slices.Compact(list), nil
}

// spec is one test of the suite.
type spec struct {
	// Group is the outermost container ("[sig-node] Pods"), Text all of its names.
	Group, Text string
}

// ginkgoReport is the part of ginkgo's JSON report that is read here.
type ginkgoReport []struct {
	SpecReports []struct {
		ContainerHierarchyTexts    []string
		LeafNodeText, LeafNodeType string
		State                      string
		StartTime                  string
		Failure                    struct {
			Message  string
			Location struct {
				FileName   string
				LineNumber int
			}
		}
	}
}

const conformanceLabel = "Conformance"

// specs are the conformance specs that the suite has, by its own dry run.
func (c cache) specs(ctx context.Context) ([]spec, error) {
	file := c.path("specs.json")
	if _, err := os.Stat(file); err != nil {
		cmd := exec.CommandContext(ctx, c.path("bin/e2e.test"), "--provider=skeleton", "--ginkgo.dry-run",
			"--ginkgo.label-filter="+conformanceLabel, "--ginkgo.json-report="+file+".new")
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("ask the suite for its specs: %w\n%s", err, out)
		}
		if err := os.Rename(file+".new", file); err != nil {
			return nil, err
		}
	}
	report, err := readReport(file)
	if err != nil {
		return nil, err
	}
	var out []spec
	for _, suite := range report {
		for _, s := range suite.SpecReports {
			if s.LeafNodeType != "It" || s.State == "skipped" {
				continue
			}
			out = append(out, spec{Group: s.ContainerHierarchyTexts[0], Text: strings.Join(append(s.ContainerHierarchyTexts, s.LeafNodeText), " ")})
		}
	}
	return out, nil
}

func readReport(file string) (ginkgoReport, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var r ginkgoReport
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("read report %s: %w", file, err)
	}
	return r, nil
}
