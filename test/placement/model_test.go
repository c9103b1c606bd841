package placement

import (
	"os"
	"strings"
	"testing"
)

func explore(t *testing.T, r Rules, b Bounds) Result {
	t.Helper()
	res := Model{Rules: r, Bounds: b}.Explore()
	t.Logf("%d states, complete %v", res.States, res.Complete)
	return res
}

// With MURMUR_MODEL=full the bounds are those of the design, as far as the first 20 million states of each; that takes minutes
// and some GB.
func TestNeverTwoRunners(t *testing.T) {
	bounds := []Bounds{
		{Nodes: 2, Crashes: 2, Restarts: 2, Attempts: 1, Epochs: 2},
		{Nodes: 3, Crashes: 2, Restarts: 1, Attempts: 2, Epochs: 2},
	}
	if os.Getenv("MURMUR_MODEL") == "full" {
		bounds = append(bounds,
			Bounds{Nodes: 3, Crashes: 3, Restarts: 2, Attempts: 2, Epochs: 3, States: 20e6},
			Bounds{Nodes: 4, Crashes: 2, Restarts: 1, Attempts: 2, Epochs: 2, States: 20e6})
	}
	for _, b := range bounds {
		if res := explore(t, Rules{}, b); len(res.Trace) > 0 || !res.Complete && b.States == 0 {
			t.Fatalf("%+v: complete %v, two runners:\n%s", b, res.Complete, strings.Join(res.Trace, "\n"))
		}
	}
}

func TestEveryMutantIsCaught(t *testing.T) {
	for name, m := range map[string]Model{
		"no refusal memory":                   {Rules{NoRefusalMemory: true}, Bounds{Nodes: 2, Attempts: 2, Epochs: 1}},
		"no fence":                            {Rules{NoFence: true}, Bounds{Nodes: 3, Crashes: 1, Attempts: 1, Epochs: 2}},
		"fence by majority":                   {Rules{FenceByMajority: true}, Bounds{Nodes: 4, Crashes: 1, Restarts: 1, Attempts: 1, Epochs: 2}},
		"award again on timeout":              {Rules{ReawardOnTimeout: true}, Bounds{Nodes: 2, Attempts: 2, Epochs: 1}},
		"restart without revalidation":        {Rules{NoRevalidation: true}, Bounds{Nodes: 3, Crashes: 1, Restarts: 1, Attempts: 2, Epochs: 1}},
		"award not bound to an incarnation":   {Rules{AwardAnyIncarnation: true}, Bounds{Nodes: 3, Crashes: 1, Restarts: 1, Attempts: 2, Epochs: 1}},
		"false death, which no rule prevents": {Rules{FalseDeath: true}, Bounds{Nodes: 2, Attempts: 2, Epochs: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			res := explore(t, m.Rules, m.Bounds)
			if len(res.Trace) == 0 {
				t.Fatal("not caught")
			}
			t.Log("\n" + strings.Join(res.Trace, "\n"))
		})
	}
}
