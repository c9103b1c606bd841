package gossip

import (
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/hashicorp/serf/serf"
)

// Status is what this node believes of a member, in Serf's words.
type Status string

const (
	// Alive members answer probes.
	Alive Status = "alive"
	// Failed members do not. They are still members.
	Failed Status = "failed"
	// Left members said so.
	Left Status = "left"
)

// Member is one node as this node sees it.
type Member struct {
	// Name is the Kubernetes node name, ID the unique name of its data directory.
	Name, ID string
	Addr     netip.Addr
	// StreamPort and APIPort are TCP ports at Addr.
	StreamPort, APIPort uint16
	Status              Status
	// Since is when this node began to believe that, by its own clock.
	Since time.Time
	// RTT is the round trip estimated from network coordinates; 0 if not known yet.
	RTT time.Duration
}

const (
	tagName   = "name"
	tagStream = "stream"
	tagAPI    = "api"
)

func memberOf(m serf.Member) (Member, error) {
	addr, ok := netip.AddrFromSlice(m.Addr)
	if !ok {
		return Member{}, fmt.Errorf("member %s: bad address %v", m.Name, m.Addr)
	}
	out := Member{ID: m.Name, Name: m.Tags[tagName], Addr: addr.Unmap()}
	for tag, port := range map[string]*uint16{tagStream: &out.StreamPort, tagAPI: &out.APIPort} {
		n, err := strconv.ParseUint(m.Tags[tag], 10, 16)
		if err != nil {
			return Member{}, fmt.Errorf("member %s: tag %s=%q is no port", m.Name, tag, m.Tags[tag])
		}
		*port = uint16(n)
	}
	switch m.Status {
	case serf.StatusAlive, serf.StatusLeaving:
		out.Status = Alive
	case serf.StatusLeft:
		out.Status = Left
	default:
		out.Status = Failed
	}
	return out, nil
}
