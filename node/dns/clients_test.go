package dns

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"
)

// TestClients: the cluster and this machine are answered, nobody else is, and one pod cannot ask without end.
func TestClients(t *testing.T) {
	mine := []net.Addr{&net.IPNet{IP: net.IPv4(192, 168, 1, 5), Mask: net.CIDRMask(24, 32)}}
	failing := false
	c := &clients{cluster: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("10.43.0.0/16"), {}},
		addresses: func() ([]net.Addr, error) {
			if failing {
				return nil, errors.New("no")
			}
			return mine, nil
		}}
	now := time.Unix(1000, 0)
	for from, want := range map[string]bool{"127.0.0.1": true, "10.42.3.4": true, "10.43.0.10": true, "::ffff:10.42.0.9": true, "192.168.1.5": true,
		"192.168.1.6": false, "8.8.8.8": false, "10.44.0.1": false, "fd00::1": false} {
		if got, _ := c.may(netip.MustParseAddr(from), now); got != want {
			t.Errorf("%s: %v", from, got)
		}
	}
	if got, _ := c.may(netip.Addr{}, now); got {
		t.Error("a client without an address is answered")
	}
	mine = append(mine, &net.IPNet{IP: net.IPv4(192, 168, 1, 6), Mask: net.CIDRMask(24, 32)})
	if got, _ := c.may(netip.MustParseAddr("192.168.1.6"), now.Add(localFor+1)); !got {
		t.Error("a new address of this machine is not known")
	}
	failing = true
	if got, _ := c.may(netip.MustParseAddr("192.168.1.6"), now.Add(3*localFor)); got {
		t.Error("without its addresses anybody is this machine")
	}
	greedy, modest := netip.MustParseAddr("10.42.0.1"), netip.MustParseAddr("10.42.0.2")
	refused := 0
	for range atOnce + 100 {
		if _, tooMany := c.may(greedy, now); tooMany {
			refused++
		}
	}
	if refused != 100 {
		t.Errorf("%d of a hundred too many were refused", refused)
	}
	if _, tooMany := c.may(modest, now); tooMany {
		t.Error("another client pays for it")
	}
	if _, tooMany := c.may(greedy, now.Add(time.Second)); tooMany {
		t.Error("a second later it may not ask again")
	}
	for i := range 3 * maxClients {
		c.may(netip.AddrFrom4([4]byte{10, 42, byte(i >> 8), byte(i)}), now)
	}
	if len(c.rates) > maxClients {
		t.Errorf("%d clients are remembered", len(c.rates))
	}
}
