package node

import (
	"net"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"

	"murmur/node/proxy"
)

// contested tells the Services that cannot have an external address. Every node comes to the same; of those that see each other the first by name
// says it.
func contested(self string, inSight func() []string, events record.EventRecorder) func([]proxy.Contest) {
	return func(all []proxy.Contest) {
		if alive := inSight(); len(alive) == 0 || slices.Min(alive) != self {
			return
		}
		for _, c := range all {
			events.Eventf(c.Service, corev1.EventTypeWarning, "ExternalAddressTaken", "%s/%s is served by the older Service %s/%s",
				net.JoinHostPort(c.At.Addr.String(), strconv.Itoa(int(c.At.Port))), c.At.Protocol, c.Holder.Namespace, c.Holder.Name)
		}
	}
}
