package virtual

import (
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"murmur/gossip"
	"murmur/sched"
)

// run makes a cluster in virtual time, and ends it.
func run(t *testing.T, nodes int, scenario func(*cluster)) {
	t.Helper()
	began := time.Now()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, nodes)
		defer c.stop()
		scenario(c)
	})
	t.Logf("%v of real time", time.Since(began).Round(time.Millisecond))
	// yamux keeps timers in a sync.Pool, and those of one bubble must not get into the next. Two collections empty it.
	runtime.GC()
	runtime.GC()
}

func TestThreeNodesJoinAndShare(t *testing.T) {
	run(t, 3, func(c *cluster) {
		c.nodes[0].put("a", "k", "1")
		took := c.within(50*time.Millisecond, "a write is seen on all", c.all(func(n *node) bool { return n.get("a", "k") == "1" }))
		c.t.Logf("seen on all after %v", took)
		if !c.equal() {
			c.t.Error("nodes that have the same write have different digests")
		}
	})
}

func TestTwoSidesWriteAndMeetAgain(t *testing.T) {
	run(t, 5, func(c *cluster) {
		c.nodes[0].put("both", "before", "x")
		c.within(time.Second, "known to all", c.all(func(n *node) bool { return n.get("both", "before") == "x" }))
		c.split(true, 1, 2)
		took := c.within(8*time.Second, "each side has lost the other", func() bool {
			return c.nodes[0].sees(gossip.Failed, "n3", "n4", "n5") && c.nodes[4].sees(gossip.Failed, "n1", "n2")
		})
		c.t.Logf("the cut was noticed after %v", took)
		c.nodes[0].put("both", "left", "1")
		c.nodes[3].put("both", "right", "2")
		for i := range 50 {
			c.nodes[1].put(fmt.Sprint("left", i), "k", "v")
			c.nodes[4].put(fmt.Sprint("right", i), "k", "v")
		}
		c.within(time.Second, "the left goes on", func() bool { return c.nodes[0].get("left49", "k") == "v" && c.nodes[1].get("both", "left") == "1" })
		c.within(time.Second, "the right goes on", func() bool { return c.nodes[2].get("right49", "k") == "v" && c.nodes[2].get("both", "right") == "2" })
		if c.nodes[0].get("both", "right") != "" {
			c.t.Fatal("the cut is none")
		}
		time.Sleep(20 * time.Second) // no connection from before is left
		c.split(false, 1, 2)
		took = c.within(3*time.Second, "the sides are one again", c.equal)
		c.t.Logf("healed after %v", took)
		for _, n := range c.nodes {
			if n.get("both", "left") != "1" || n.get("both", "right") != "2" || n.get("left7", "k") != "v" || n.get("right7", "k") != "v" {
				c.t.Errorf("%s lacks what was written on a side", n.name)
			}
		}
		c.within(5*time.Second, "all are alive again", c.all(func(n *node) bool { return n.sees(gossip.Alive, "n1", "n2", "n3", "n4", "n5") }))
	})
}

func TestACrashIsNoticedAndMadeGood(t *testing.T) {
	run(t, 4, func(c *cluster) {
		lost := c.nodes[2]
		lost.put("its", "own", "write")
		lost.crash()
		took := c.within(4500*time.Millisecond, "the crash is known to all", c.all(func(n *node) bool { return n.sees(gossip.Failed, "n3") && !n.agent.Reachable("n3") }))
		c.t.Logf("crash known to all after %v", took)
		c.nodes[0].put("meanwhile", "k", "1")
		c.within(time.Second, "the others go on", c.all(func(n *node) bool { return n.get("meanwhile", "k") == "1" }))
		lost.restart()
		if lost.get("its", "own") != "write" {
			c.t.Error("an acknowledged write did not survive the crash")
		}
		took = c.within(5*time.Second, "it is back", func() bool {
			return c.equal() && lost.get("meanwhile", "k") == "1" && c.nodes[0].get("its", "own") == "write"
		})
		c.t.Logf("caught up after %v", took)
	})
}

func TestACutLinkIsGoneRound(t *testing.T) {
	run(t, 4, func(c *cluster) {
		c.setCut(1, 3, true)
		c.within(8*time.Second, "the stream is given up", func() bool { return !c.nodes[0].agent.Reachable("n3") && !c.nodes[2].agent.Reachable("n1") })
		if !c.nodes[0].sees(gossip.Alive, "n3") {
			c.t.Error("a member that others vouch for is not alive")
		}
		for i := range 20 {
			name := fmt.Sprint("round", i)
			c.nodes[0].put(name, "k", "1")
			c.within(50*time.Millisecond, "a write goes round the cut link", func() bool { return c.nodes[2].get(name, "k") == "1" })
		}
		if d := c.nodes[2].agent.Traffic().Duplicates; d != 0 {
			c.t.Errorf("%d messages came twice: more than one passed them on", d)
		}
	})
}

func TestPodsArePlacedOnce(t *testing.T) {
	run(t, 3, func(c *cluster) {
		for _, n := range c.nodes {
			n.register()
		}
		c.within(time.Second, "all know all nodes", c.equal)
		for i := range 30 {
			c.nodes[i%3].createPod(fmt.Sprint("p", i))
		}
		placed := func(n *node) map[string]string {
			out := map[string]string{}
			for _, p := range n.pods() {
				if p.Spec.NodeName != "" {
					out[p.Name] = p.Spec.NodeName
				}
			}
			return out
		}
		took := c.within(5*time.Second, "every pod has a node", c.all(func(n *node) bool { return len(placed(n)) == 30 }))
		c.t.Logf("30 pods placed after %v", took)
		c.within(time.Second, "all agree", c.equal)
		load := map[string]int{}
		for _, p := range c.nodes[0].pods() {
			holders := 0
			for _, n := range c.nodes {
				if sched.Holds(p, n.name) {
					holders++
				}
			}
			if holders != 1 {
				c.t.Errorf("%s is held by %d nodes", p.Name, holders)
			}
			load[p.Spec.NodeName]++
		}
		for _, n := range c.nodes {
			if load[n.name] < 8 {
				c.t.Errorf("uneven: %v", load)
				break
			}
		}
	})
}

// No bid is late in virtual time, so pods that are made on one node are as many on each as on the others, give or take what bids of one wave
// do not know of each other.
func TestPodsOfOneNodeAreSpreadEvenly(t *testing.T) {
	for _, c := range []struct{ pods, least, most int }{{6, 2, 2}, {60, 18, 22}} {
		run(t, 3, func(cl *cluster) {
			for _, n := range cl.nodes {
				n.register()
			}
			cl.within(time.Second, "all know all nodes", cl.equal)
			for i := range c.pods {
				cl.nodes[0].createPod(fmt.Sprint("p", i))
			}
			load := map[string]int{}
			cl.within(10*time.Second, "every pod has a node", func() bool {
				clear(load)
				for _, p := range cl.nodes[0].pods() {
					load[p.Spec.NodeName]++
				}
				return load[""] == 0
			})
			for _, n := range cl.nodes {
				if load[n.name] < c.least || load[n.name] > c.most {
					cl.t.Errorf("%d pods are spread %v", c.pods, load)
					break
				}
			}
		})
	}
}
