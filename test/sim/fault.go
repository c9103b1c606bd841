package sim

import (
	"context"
	"errors"
	"time"

	"murmur/crdt/store"
)

// faultsUntil has something go wrong every now and then.
func (w *world) faultsUntil(end time.Duration) {
	var next func()
	next = func() {
		if w.now >= end || w.err != nil {
			return
		}
		w.fault(end)
		w.after(w.between(100*time.Millisecond, 2*time.Second), next)
	}
	w.after(w.between(0, time.Second), next)
}

func (w *world) fault(end time.Duration) {
	n := w.nodes[w.random.IntN(len(w.nodes))]
	lasts := w.between(50*time.Millisecond, 8*time.Second)
	back := w.between(10*time.Millisecond, 6*time.Second)
	faults := []struct {
		name string
		do   func()
	}{
		{"split in two", func() { w.split(2, lasts) }},
		{"split in three", func() { w.split(3, lasts) }},
		{"one-way cut", func() { w.cutOneWay(lasts) }},
		{"flapping", w.flap},
		{"lossy", func() { w.lossy(lasts) }},
		{"delay spike", func() { w.spike(lasts) }},
		{"crash", func() { n.crash(back, false) }},
		{"crash before a write", func() { n.arm(crashBefore) }},
		{"crash after a write", func() { n.arm(crashAfter) }},
		{"loss of power", func() {
			if n.up() && w.now-n.jumped > 10*time.Second {
				n.crash(back, false)
				n.loseTail(true)
			}
		}},
		{"damaged log", func() {
			if n.up() && w.sound() > 1 {
				n.crash(back, false)
				n.loseTail(false)
			}
		}},
		{"crash of all", func() {
			for _, x := range w.nodes {
				x.crash(w.between(10*time.Millisecond, 2*time.Second), false)
			}
		}},
		{"clock", func() { n.setClock(w) }},
		{"slow disk", func() {
			n.slow = w.between(20*time.Millisecond, 300*time.Millisecond)
			w.after(lasts, func() { n.slow = 0 })
		}},
		{"settle", func() { w.letGo() }},
		{"settle", func() { w.letGo() }},
		{"backup", func() { n.takeBackup() }},
		{"restore", func() {
			if n.backup != nil {
				n.crash(back, true)
			}
		}},
	}
	f := faults[w.random.IntN(len(faults))]
	w.faults[f.name]++
	w.mix(uint64(len(f.name)))
	w.tell("fault: %s (%s)", f.name, n.name)
	f.do()
}

// sound counts the machines that will not wait for another.
func (w *world) sound() (n int) {
	for _, x := range w.nodes {
		if x.up() && !x.store.Behind() || !x.up() && !x.waits() {
			n++
		}
	}
	return n
}

// letGo has nodes let go of what all have seen, each at its own time, as one finds out who can ask all.
func (w *world) letGo() {
	var reports []store.Report
	for _, n := range w.nodes {
		if !n.up() {
			return
		}
		reports = append(reports, n.store.Report())
	}
	c := store.Conclude(reports)
	w.tell("all have seen %v of %v", c.Seen, c.Made)
	for _, n := range w.nodes {
		if w.chance(0.3) {
			continue
		}
		w.after(w.between(0, 3*time.Second), func() {
			if !n.up() {
				return
			}
			err := n.store.Settle(context.Background(), c)
			if n.crashed() {
				return
			}
			n.publish() // it may have moved the horizon of lives
			if errors.Is(err, store.ErrBehind) {
				return
			}
			if err != nil {
				w.fail("%s cannot settle: %v", n.name, err)
			}
			w.tell("%s settles", n.name)
		})
	}
}

// letGoEverywhere has all nodes let go of everything, so that they can be compared to the byte: until then a history may be
// told in more stamps on one node than on another.
func (w *world) letGoEverywhere() {
	for range 4 { // what is reported first is firm with the next
		w.runUntil(w.now + firmAfter)
		var reports []store.Report
		for _, n := range w.nodes {
			if !n.up() || w.err != nil {
				return
			}
			reports = append(reports, n.store.Report())
		}
		c := store.Conclude(reports)
		for _, n := range w.nodes {
			if err := n.store.Settle(context.Background(), c); err != nil {
				w.fail("%s cannot settle when all is quiet: %v", n.name, err)
			}
			n.publish()
		}
	}
}

func (n *node) arm(c crashPoint) {
	if n.up() {
		n.disk.crash = c
	}
}

func (n *node) setClock(w *world) {
	switch w.random.IntN(4) {
	case 0:
		n.skew = 0
	case 1:
		n.skew = w.between(0, 400*time.Millisecond) - 200*time.Millisecond
	case 2:
		n.skew = w.between(0, 8*time.Second) - 4*time.Second
	case 3:
		n.skew = w.between(0, 40*time.Second) - 20*time.Second
	}
	n.jumped = w.now
	w.tell("the clock of %s is off by %v", n.name, n.skew)
}

func (n *node) takeBackup() {
	if n.up() {
		n.backup = n.memory.Clone()
	}
}

// split cuts all links between some groups for a while.
func (w *world) split(groups int, lasts time.Duration) {
	group := make([]int, len(w.nodes))
	for i := range group {
		group[i] = w.random.IntN(groups)
	}
	w.tell("groups %v for %v", group, lasts)
	set := func(cut bool) {
		for k, l := range w.links {
			if group[k[0]] != group[k[1]] {
				l.cut = cut
			}
		}
	}
	set(true)
	w.after(lasts, func() { w.tell("groups %v meet", group); set(false) })
}

func (w *world) twoNodes() (int, int) {
	i := w.random.IntN(len(w.nodes))
	j := (i + 1 + w.random.IntN(len(w.nodes)-1)) % len(w.nodes)
	return i, j
}

func (w *world) cutOneWay(lasts time.Duration) {
	i, j := w.twoNodes()
	l := w.links[[2]int{i, j}]
	l.cut = true
	w.tell("no way from %s to %s for %v", w.nodes[i].name, w.nodes[j].name, lasts)
	w.after(lasts, func() { l.cut = false })
}

func (w *world) flap() {
	i, j := w.twoNodes()
	there, back := w.links[[2]int{i, j}], w.links[[2]int{j, i}]
	at := time.Duration(0)
	for range 2 * (1 + w.random.IntN(6)) {
		at += w.between(20*time.Millisecond, 900*time.Millisecond)
		w.after(at, func() { there.cut = !there.cut; back.cut = there.cut })
	}
	w.after(at+time.Millisecond, func() { there.cut, back.cut = false, false })
}

func (w *world) lossy(lasts time.Duration) {
	loss, double, reorder := w.random.Float64()*0.3, w.random.Float64()*0.3, w.random.Float64()*0.3
	set := func(loss, double, reorder float64) {
		for _, l := range w.links {
			l.loss, l.double, l.reorder = loss, double, reorder
		}
	}
	w.tell("%.0f%% lost, %.0f%% doubled, %.0f%% overtaken for %v", loss*100, double*100, reorder*100, lasts)
	set(loss, double, reorder)
	w.after(lasts, func() { set(0, 0, 0) })
}

func (w *world) spike(lasts time.Duration) {
	i, j := w.twoNodes()
	l := w.links[[2]int{i, j}]
	l.spike = w.between(50*time.Millisecond, 2*time.Second)
	w.after(lasts, func() { l.spike = 0 })
}

// mend ends what is wrong.
func (w *world) mend() {
	for _, l := range w.links {
		l.cut, l.spike, l.loss, l.double, l.reorder = false, 0, 0, 0, 0
	}
	var waiting []*node
	for _, n := range w.nodes {
		n.skew, n.slow = 0, 0
		switch {
		case n.up():
			n.disk.crash = crashNot
		case n.waits():
			waiting = append(waiting, n)
		default:
			n.start(false)
		}
	}
	for _, n := range waiting {
		n.start(false)
	}
}
