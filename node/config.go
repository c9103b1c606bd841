package node

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/validation"

	"murmur/httpapi/audit"
	"murmur/node/member"
	"murmur/node/pod"
)

// Config is what one daemon is told. Zero values mean the defaults that the comments name.
type Config struct {
	DataDir   string // /var/lib/murmur
	RunDir    string // /run/murmur
	ConfigDir string // /etc/murmur
	// BinDir has containerd, its shim, pause and cni/; the directory of the running program, if it has them.
	BinDir string

	NodeName string     // the host's name
	NodeIP   netip.Addr // the address of the default route's interface
	// AdvertiseAddress is where kubeconfigs for other machines and join lines point; NodeIP.
	AdvertiseAddress string
	NodeLabels       map[string]string
	NodeTaints       []corev1.Taint
	TLSSANs          []string

	// Join is a member ("host" or "host:port" of its API) to join; Token what it asks for.
	Join  string
	Token string

	HTTPSPort  uint16 // 6443
	GossipPort uint16 // 7946
	StreamPort uint16 // 7947

	// Cluster is adopted from the cluster that is joined; given on both, it must agree.
	Cluster Settings

	// ExternalIPs lets Services have spec.externalIPs. It is to be the same on all nodes: whoever is refused by one asks another.
	ExternalIPs bool
	// MaxTokenLife bounds the life of every ServiceAccount token: a year.
	MaxTokenLife time.Duration
	// Secrets is how what is secret is encrypted on the disk: nothing is, unless it was.
	Secrets SecretsConfig
	// StoreQuota is how many bytes of objects the store holds before the API refuses what makes it grow: nil is a quarter of the memory, at
	// most 1 GiB, and 0 no bound.
	StoreQuota *int64
	// CgroupRoot is the parent of the pods' cgroups: /murmur.
	CgroupRoot string
	// Containerd is the socket of an existing containerd to use instead of our own.
	Containerd string
	Disable    []string
	// Authentication is the file that names other issuers of tokens; empty: there are none.
	Authentication string
	// Audit is the record of requests. Its log is audit/audit.log in DataDir; "none" is none.
	Audit audit.Config
	// SeccompDefault gives containers that name no seccomp profile the runtime's default one.
	SeccompDefault bool
	// AllowedUnsafeSysctls are kernel parameters that pods may set beside the safe ones, by name or as NAME.*.
	AllowedUnsafeSysctls []string
	Log                  *slog.Logger
}

// Settings are the same on all nodes of a cluster.
type Settings struct {
	ClusterCIDR   netip.Prefix `json:"clusterCIDR"`
	ServiceCIDR   netip.Prefix `json:"serviceCIDR"`
	ClusterDNS    netip.Addr   `json:"clusterDNS"`
	ClusterDomain string       `json:"clusterDomain"`
	NodePorts     string       `json:"serviceNodePortRange"`
}

// DefaultSettings are those of a cluster for which nothing was said. They are k3s's.
func DefaultSettings() Settings {
	return Settings{
		ClusterCIDR:   netip.MustParsePrefix("10.42.0.0/16"),
		ServiceCIDR:   netip.MustParsePrefix("10.43.0.0/16"),
		ClusterDomain: "cluster.local",
		NodePorts:     "30000-32767",
	}
}

// over fills what s leaves open from d.
func (s Settings) over(d Settings) Settings {
	if !s.ClusterCIDR.IsValid() {
		s.ClusterCIDR = d.ClusterCIDR
	}
	if !s.ServiceCIDR.IsValid() {
		s.ServiceCIDR = d.ServiceCIDR
	}
	s.ClusterDomain = cmp.Or(s.ClusterDomain, d.ClusterDomain)
	s.NodePorts = cmp.Or(s.NodePorts, d.NodePorts)
	if !s.ClusterDNS.IsValid() {
		s.ClusterDNS = d.ClusterDNS
	}
	if !s.ClusterDNS.IsValid() {
		a := s.ServiceCIDR.Masked().Addr()
		for range 10 {
			a = a.Next()
		}
		s.ClusterDNS = a
	}
	return s
}

// check says what is wrong with settings that are complete.
func (s Settings) check() error {
	switch {
	case !s.ClusterCIDR.Addr().Is4() || s.ClusterCIDR.Bits() > 23:
		return fmt.Errorf("--cluster-cidr %s: want an IPv4 prefix of at most /23: every node takes a /24 of it", s.ClusterCIDR)
	case !s.ServiceCIDR.Addr().Is4() || s.ServiceCIDR.Bits() > 24:
		return fmt.Errorf("--service-cidr %s: want an IPv4 prefix of at most /24", s.ServiceCIDR)
	case s.ClusterCIDR.Overlaps(s.ServiceCIDR):
		return fmt.Errorf("--cluster-cidr %s and --service-cidr %s overlap", s.ClusterCIDR, s.ServiceCIDR)
	case !s.ServiceCIDR.Contains(s.ClusterDNS):
		return fmt.Errorf("--cluster-dns %s is not in --service-cidr %s", s.ClusterDNS, s.ServiceCIDR)
	}
	if msgs := validation.IsDNS1123Subdomain(s.ClusterDomain); len(msgs) > 0 {
		return fmt.Errorf("--cluster-domain %q: %s", s.ClusterDomain, msgs[0])
	}
	_, err := s.portRange()
	return err
}

func (s Settings) portRange() (utilnet.PortRange, error) {
	r, err := utilnet.ParsePortRange(s.NodePorts)
	if err != nil {
		return utilnet.PortRange{}, fmt.Errorf("--service-node-port-range %q: %w", s.NodePorts, err)
	}
	return *r, nil
}

// differs names the first flag in which settings that were given contradict those of the cluster.
func (s Settings) differs(cluster Settings) error {
	for _, f := range []struct{ flag, mine, theirs string }{
		{"--cluster-cidr", show(s.ClusterCIDR), cluster.ClusterCIDR.String()},
		{"--service-cidr", show(s.ServiceCIDR), cluster.ServiceCIDR.String()},
		{"--cluster-dns", show(s.ClusterDNS), cluster.ClusterDNS.String()},
		{"--cluster-domain", s.ClusterDomain, cluster.ClusterDomain},
		{"--service-node-port-range", s.NodePorts, cluster.NodePorts},
	} {
		if f.mine != "" && f.mine != f.theirs {
			return fmt.Errorf("%s %s: the cluster has %s; leave the flag out to adopt it", f.flag, f.mine, f.theirs)
		}
	}
	return nil
}

func show[T interface {
	IsValid() bool
	String() string
}](v T) string {
	if !v.IsValid() {
		return ""
	}
	return v.String()
}

// complete fills in the defaults and refuses what cannot work.
func (c Config) complete() (Config, error) {
	c.DataDir = cmp.Or(c.DataDir, "/var/lib/murmur")
	c.RunDir = cmp.Or(c.RunDir, "/run/murmur")
	c.ConfigDir = cmp.Or(c.ConfigDir, "/etc/murmur")
	c.CgroupRoot = cmp.Or(c.CgroupRoot, "/murmur")
	c.Secrets.KeyFile = cmp.Or(c.Secrets.KeyFile, filepath.Join(c.ConfigDir, "secrets.key"))
	switch c.Secrets.Own {
	case "", "on", "off":
	case "true": // what YAML makes of on
		c.Secrets.Own = "on"
	case "false":
		c.Secrets.Own = "off"
	default:
		return c, fmt.Errorf("--secrets-encryption %q: want on or off", c.Secrets.Own)
	}
	c.HTTPSPort = cmp.Or(c.HTTPSPort, 6443)
	c.GossipPort = cmp.Or(c.GossipPort, 7946)
	c.StreamPort = cmp.Or(c.StreamPort, 7947)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	for _, d := range []*string{&c.DataDir, &c.RunDir, &c.ConfigDir, &c.Secrets.KeyFile} {
		abs, err := filepath.Abs(*d)
		if err != nil {
			return c, err
		}
		*d = abs
	}
	switch c.Audit.LogPath {
	case "":
		c.Audit.LogPath = filepath.Join(c.DataDir, "audit", "audit.log")
	case "none":
		c.Audit.LogPath = ""
	}
	if c.BinDir == "" {
		exe, err := os.Executable()
		if err != nil {
			return c, fmt.Errorf("find the directory of this program: %w", err)
		}
		c.BinDir = filepath.Dir(exe)
	}
	if c.NodeName == "" {
		host, err := os.Hostname()
		if err != nil {
			return c, fmt.Errorf("find a name for this node: %w; give --node-name", err)
		}
		c.NodeName = strings.ToLower(host)
	}
	if msgs := validation.IsDNS1123Subdomain(c.NodeName); len(msgs) > 0 {
		return c, fmt.Errorf("--node-name %q: %s", c.NodeName, msgs[0])
	}
	if !c.NodeIP.IsValid() {
		ip, err := utilnet.ChooseHostInterface()
		if err != nil {
			return c, fmt.Errorf("find this node's address: %w; give --node-ip", err)
		}
		c.NodeIP, _ = netip.AddrFromSlice(ip)
		c.NodeIP = c.NodeIP.Unmap()
	}
	if !c.NodeIP.Is4() || c.NodeIP.IsLoopback() || c.NodeIP.IsUnspecified() {
		return c, fmt.Errorf("--node-ip %s: want an IPv4 address that other nodes can reach", c.NodeIP)
	}
	c.AdvertiseAddress = cmp.Or(c.AdvertiseAddress, c.NodeIP.String())
	if c.Token != "" && c.Join != "" {
		if _, _, err := member.ParseToken(c.Token); err != nil {
			return c, err
		}
	}
	if c.Token != "" && c.Join == "" && !exists(member.File(c.DataDir)) {
		if err := member.CheckSecret(c.Token); err != nil {
			return c, fmt.Errorf("the token of a new cluster: %w", err)
		}
	}
	if c.Join != "" && c.Token == "" {
		return c, errors.New("a token is required to join, in MURMUR_TOKEN or a --token-file; `murmur token create` on a member prints one")
	}
	if c.StoreQuota == nil {
		q, err := defaultQuota()
		if err != nil {
			return c, err
		}
		c.StoreQuota = &q
	}
	if c.MaxTokenLife != 0 && (c.MaxTokenLife < time.Hour || c.MaxTokenLife > 1<<32*time.Second) {
		return c, fmt.Errorf("--service-account-max-token-expiration %s: want between an hour and 2^32 seconds", c.MaxTokenLife)
	}
	if err := checkQuota(*c.StoreQuota); err != nil {
		return c, err
	}
	if _, err := pod.NewSysctls(c.AllowedUnsafeSysctls); err != nil {
		return c, err
	}
	return c, c.Cluster.over(DefaultSettings()).check()
}

// joinAddress is the API of the member to join.
func (c Config) joinAddress() string {
	host := strings.TrimPrefix(c.Join, "https://")
	if _, _, err := net.SplitHostPort(host); err != nil {
		return net.JoinHostPort(strings.Trim(host, "[]"), "6443")
	}
	return host
}

// Socket is where the daemon with a run directory serves the CLI.
func Socket(runDir string) string { return filepath.Join(runDir, "murmur.sock") }
