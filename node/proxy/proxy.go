// Package proxy decides what a Service means on this node: it turns services, pods and slices into
// tables of packet rules, as values. It touches no kernel; node/iptables does that.
//
// # The law
//
// The rules are a function of what this node holds and whom this node can reach. Endpoints are not
// read from slices some controller wrote on the other side of a partition: they are the pods that the
// service selects, that are ready, on nodes that answer from here. When a node is lost its pods leave
// the rules of every node that lost it, at once and without a write; when it is found again they are back.
//
// # What becomes an endpoint
//
// A service with a selector has the pods it selects. Ready pods are used; when none is left, pods that
// terminate but still serve are (KEP-1669); spec.publishNotReadyAddresses counts every pod as ready.
// EndpointSlices made by anything but the endpointslice controller count too, and so do Endpoints
// objects of services without a selector. Addresses says all that, for node/dns too, which tells of what is Published: only
// of what is ready, as CoreDNS does. The kubernetes service in namespace default has one endpoint: the
// API on this very node, so that a pod reaches an API as long as its own node lives.
//
// # Rolling updates lose no request
//
// A pod with a deletionTimestamp leaves the rules as soon as its node has another ready one, so
// nothing new is sent to it. Nothing is taken from it either: connections it has are in conntrack,
// and Stale never names a flow whose pod is still there on a reachable node. What
// remains is the time between "marked for deletion" and "the rules are programmed everywhere"; the kubelet
// side covers it by letting the container serve that long before SIGTERM (node/iptables says with
// Applied up to which version the rules are in the kernel), and a new pod counts as available only once it is in the rules.
//
// # Change by change
//
// Build makes the rules of everything; a Keeper keeps them, and makes anew those of the services that a change concerns. It has what Build
// would make, and says whether connections have lost who answered them.
//
// # The shape of the rules
//
// The chains are those a reader of kube-proxy's rules knows, under our own prefix, so both can be told apart:
//
//	nat     MURMUR-SERVICES    first what is the nodes' own; one rule per address and port of a service; last, node ports
//	        MURMUR-OWN         the addresses at which the nodes' own ports are: nothing there is translated
//	        MURMUR-NODEPORTS   one rule per node port
//	        MURMUR-SVC-*       cluster policy: draws one of all endpoints
//	        MURMUR-SVL-*       local policy: draws one of this node's endpoints
//	        MURMUR-EXT-*       what comes from outside: masquerade, then one of the two
//	        MURMUR-FW-*        loadBalancerSourceRanges
//	        MURMUR-SEP-*       one endpoint: affinity and DNAT
//	        MURMUR-POSTROUTING masquerade of marked packets and of pods that leave the cluster
//	filter  MURMUR-SERVICES    cluster addresses nobody serves: refused at once, not left to time out
//	        MURMUR-EXTERNAL    the same for node ports, external and load balancer addresses
//	        MURMUR-FORWARD     pod traffic passes although the host's policy may be DROP
//	        MURMUR-FIREWALL    what loadBalancerSourceRanges refuses; 127.0.0.0/8 from outside; pods at the members' ports
//	        MURMUR-MEMBERS     the addresses at which no pod has business with those ports
//
// # What belongs to nobody's service
//
// Whoever may write a Service chooses its external addresses, and every node programs them. So no rule is made for an
// address that is a node's, the cluster DNS's, or another's within the ranges of pods and services (owned.go): a service
// would take the traffic of all nodes to it. Node ports and the host ports of CNI lead from every local address, so
// packets for the daemon's own ports and for the cluster DNS, which is a local address, are accepted before either is
// looked at. An external or load balancer address and port that two services name is the elder one's; what the other lacks is told in
// Rules.Contested. Pods are refused at the ports by which members speak to each other, also those of other nodes: there they
// would come as this node.
//
// # What it does not do
//
// IPv6 (the cluster is IPv4), health check node ports, and any I/O. To look inside: the goldens in
// testdata show services as YAML beside every rule they become; on a node, iptables-save | grep MURMUR.
package proxy

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Config says where this node stands. Reachable and the CIDRs may be left out: then every node is
// reachable, and nothing is known to be a pod.
type Config struct {
	Node        string                 // this node's name
	NodeIP      netip.Addr             // this node's address: where the API listens
	APIPort     uint16                 // 0 means 6443
	GossipPort  uint16                 // where members meet; 0 means 7946
	StreamPort  uint16                 // where members exchange state; 0 means 7947
	TunnelPort  uint16                 // UDP, pod traffic between nodes (VXLAN); 0 means 8472
	ClusterCIDR netip.Prefix           // the addresses of all pods, e.g. 10.42.0.0/16
	ServiceCIDR netip.Prefix           // the cluster addresses of services, e.g. 10.43.0.0/16
	ClusterDNS  netip.Addr             // a service with this address is answered by node/dns on a local address and gets no rules
	Reachable   func(node string) bool // this node's own view; nil means all

	// NoBridgeNetfilter says that frames switched by the pod bridge do not pass iptables (no br_netfilter).
	// Then a pod that is reached through a service by a pod of the same bridge would answer past
	// conntrack, so such traffic is masqueraded.
	NoBridgeNetfilter bool
}

// View is what the rules are made from: objects as this node holds them. Nothing in it is changed.
type View struct {
	Services  []*corev1.Service
	Pods      []*corev1.Pod
	Slices    []*discoveryv1.EndpointSlice
	Endpoints []*corev1.Endpoints
	Nodes     []*corev1.Node // zones, addresses, and the blocks of pod addresses
	// Backing finds what may say where a service is. Nil: it is looked for among the above, of which Slices and Endpoints are not needed otherwise.
	Backing func(*corev1.Service) Backing
}

// Chain is one of our chains with its rules, each as iptables-restore reads it after "-A NAME ".
type Chain struct {
	Name  string
	Rules []string
}

// Jump is a rule in a built-in chain that leads to one of ours.
type Jump struct {
	From string   // PREROUTING, OUTPUT, ...
	Rule []string // arguments
}

// Table is all that is ours in one iptables table. The jumps of one built-in chain keep their order.
type Table struct {
	Name   string
	Chains []Chain
	Jumps  []Jump
}

// Rules is everything node/iptables makes true. The zero value asks for nothing.
type Rules struct {
	Tables []Table
	Flows  Flows
	// Loses tells that connections that were right under the rules before may be stale: somebody who answered is gone. Asking conntrack costs a dump
	// of its table, so it is not asked when there are only more of everything.
	Loses bool
	// Contested are addresses and ports that a service has chosen and an elder one holds: it has no rules there.
	Contested []Contest
}

// Contest is an address and port that two services have chosen.
type Contest struct {
	Service *corev1.Service
	At      Frontend
	Holder  *corev1.Service
}
