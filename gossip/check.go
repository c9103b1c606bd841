package gossip

import "time"

// Equal digests say that two nodes have heard of the same; that they hold the same follows if nothing is broken. So every now
// and then two that are equal check it. What they say to each other is the stores' own; each message is answered by the next,
// and neither side keeps anything in between.

// checkEvery is how often a node begins a check. One costs a pass over all that is held on both sides, and half a kilobyte.
const checkEvery = time.Minute

// maxCheck bounds a message: what one check mends is bounded too.
const maxCheck = 8 << 20

// check begins a check with a peer that is equal, if it is time.
func (p *Plane) check(now time.Duration, q *peer) {
	if p.config.CheckEvery == 0 || now < p.checkAt {
		return
	}
	p.checkAt = now + p.config.CheckEvery*3/4 + p.jitter(p.config.CheckEvery/2)
	p.counters.Checks++
	p.ready.Checks = append(p.ready.Checks, Check{Peer: q.name})
}

// Checked tells the answer to a message of a check, and how many objects the message set right here. An empty answer ends the
// check.
func (p *Plane) Checked(now time.Duration, name string, answer []byte, mended int, err error) {
	p.counters.Mended += uint64(mended)
	if err != nil {
		p.counters.Refused++
	}
	if q := p.byName[name]; q != nil && err == nil && len(answer) > 0 && len(answer) <= maxCheck {
		p.control(now, q, frameCheck, answer)
	}
}
