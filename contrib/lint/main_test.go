package main

import (
	"bufio"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var (
	expected = regexp.MustCompile(`// ((?:SA|S|ST|U)\d{4}|errcheck)$`)
	reported = regexp.MustCompile(`^([^:]+):(\d+):\d+: (\w+): `)
)

// TestPlantedFindingsAreFound runs the checks as make lint does, on a module with a finding of each kind: checks that find nothing look
// like a house that has nothing to find.
func TestPlantedFindingsAreFound(t *testing.T) {
	tool := filepath.Join(t.TempDir(), "lint")
	if out, err := exec.Command("go", "build", "-o", tool, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	dir := filepath.Join("testdata", "planted")
	want := map[string]bool{}
	for _, name := range []string{"planted.go", "planted_test.go"} {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for lines, n := bufio.NewScanner(f), 1; lines.Scan(); n++ {
			if m := expected.FindStringSubmatch(lines.Text()); m != nil {
				want[name+":"+strconv.Itoa(n)+" "+m[1]] = true
			}
		}
	}

	vet := exec.Command("go", "vet", "-vettool="+tool, "./...")
	vet.Dir = dir
	out, err := vet.CombinedOutput()
	if err == nil {
		t.Error("go vet ends as if nothing had been found")
	}
	got := map[string]bool{}
	for l := range strings.Lines(string(out)) {
		if m := reported.FindStringSubmatch(strings.TrimPrefix(l, "./")); m != nil {
			got[m[1]+":"+m[2]+" "+m[3]] = true
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("found %v\nwant  %v\n%s", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)), out)
	}
}
