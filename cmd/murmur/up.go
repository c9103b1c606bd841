package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/klog/v2"

	"murmur/node"
)

func upCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "up",
		Short: "Start a node",
		Long: `Start a node and stay in the foreground. On an empty data directory this founds a cluster; with --join and
a token it joins one; otherwise the node goes on as what it was.

Every flag may also stand in the config file under its name, in a file of config.yaml.d beside it, or in the
environment as MURMUR_NAME (MURMUR_NODE_NAME for --node-name). Flags win over the environment, the environment over files.`,
		Args: cobra.NoArgs,
	}
	up := nodeFlags(c.Flags())
	c.RunE = func(c *cobra.Command, _ []string) error {
		cfg, err := up.read(c.Flags(), "")
		if err != nil {
			return err
		}
		return run(c.Context(), cfg)
	}
	return c
}

func joinCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "join HOST[:PORT]",
		Short: "Make this machine a member of the cluster of HOST",
		Long: `Make this machine a member of the cluster that HOST belongs to. HOST is any live member; "murmur token create"
there prints the whole line. The token is read from MURMUR_TOKEN, or from a --token-file (- for the standard input): what stands in the
arguments of a program is seen by everybody on the machine.

With --rejoin a daemon that runs here as a member of that cluster, and was away while the CA was rotated, gets a certificate of today.

If a daemon runs here that is alone in a cluster in which nobody has made anything yet, as "murmur up" leaves it, it is told
to join, and this returns once it has. One that holds state refuses. If no daemon runs, one is started and stays in
the foreground; a node that is a member of that cluster already goes on as what it was.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New("join: name one member; `murmur token create` there prints the whole line")
			}
			return nil
		},
	}
	up := nodeFlags(c.Flags())
	rejoin := c.Flags().Bool("rejoin", false, "get a certificate of today for the daemon that runs here as a member of that cluster")
	c.RunE = func(c *cobra.Command, args []string) error {
		given := ""
		c.Flags().Visit(func(f *pflag.Flag) {
			if !slices.Contains([]string{"config", "run-dir", "token", "token-file", "rejoin"}, f.Name) {
				given = f.Name
			}
		})
		cfg, err := up.read(c.Flags(), args[0])
		if err != nil {
			return err
		}
		admin := node.NewAdmin(cfg.RunDir)
		s, err := admin.Status(c.Context())
		switch {
		case errors.Is(err, node.ErrNoDaemon) && *rejoin:
			return fmt.Errorf("--rejoin: %w", err)
		case errors.Is(err, node.ErrNoDaemon):
			return run(c.Context(), cfg)
		case err != nil:
			return err
		case given != "":
			return fmt.Errorf("--%s: the daemon of %s runs here already, with flags of its own: leave it out, or stop the daemon first", given, s.Node)
		}
		return tellToJoin(c.Context(), c.OutOrStdout(), admin, node.JoinRequest{Host: args[0], Token: cfg.Token, Rejoin: *rejoin})
	}
	return c
}

// joinLimit bounds the wait for a daemon that was admitted to have the cluster's state.
const joinLimit = 2 * time.Minute

// tellToJoin makes the daemon that runs here join, and waits until it is a member.
func tellToJoin(ctx context.Context, out io.Writer, admin *node.Admin, req node.JoinRequest) error {
	r, err := admin.Join(ctx, req)
	if err != nil {
		return err
	}
	if r.Rejoined {
		_, err := fmt.Fprintf(out, "%s has a certificate of today from the cluster of %s\n", r.Node, req.Host)
		return err
	}
	if r.Already {
		_, err := fmt.Fprintf(out, "%s is a member of that cluster already\n", r.Node)
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, joinLimit)
	defer cancel()
	for {
		// The daemon begins anew meanwhile, and does not answer for a moment.
		s, err := admin.Status(ctx)
		if err == nil && s.Cluster == r.Cluster && s.Joining == "" {
			_, err := fmt.Fprintf(out, "%s has given up the empty cluster it was alone in and is a member of the cluster of %s\n", r.Node, req.Host)
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s was admitted by %s, but has not reached the state of a member yet: see `murmur status`, or the log of the daemon", r.Node, req.Host)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// flags are the flags of a daemon.
type flags struct {
	node.Config
	nodeIP, tokenFile, clusterCIDR, serviceCIDR, clusterDNS string
	labels, taints                                          []string
	passphraseFile                                          string
	storeQuota                                              string
	debug                                                   bool
	configFile                                              string
}

func nodeFlags(fs *pflag.FlagSet) *flags {
	f := &flags{}
	fs.StringVar(&f.configFile, "config", "/etc/murmur/config.yaml", "config file; files in `FILE`.d are read after it")
	fs.StringVar(&f.DataDir, "data-dir", "/var/lib/murmur", "where this node keeps its state")
	fs.StringVar(&f.RunDir, "run-dir", "/run/murmur", "where sockets and pid files go")
	fs.StringVar(&f.ConfigDir, "config-dir", "/etc/murmur", "where the kubeconfig murmur.yaml is written")
	fs.StringVar(&f.BinDir, "bin-dir", "", "directory of containerd and the CNI plugins (default: that of this program)")
	fs.StringVar(&f.NodeName, "node-name", "", "name of this node (default: the host name)")
	fs.StringVar(&f.nodeIP, "node-ip", "", "IPv4 `address` of this node (default: that of the default route)")
	fs.StringVar(&f.AdvertiseAddress, "advertise-address", "", "address or name by which other machines reach this node's API (default: the node IP)")
	fs.StringSliceVar(&f.labels, "node-label", nil, "`key=value` label of the Node object; may be repeated")
	fs.StringSliceVar(&f.taints, "node-taint", nil, "`key=value:effect` taint the node registers with; may be repeated")
	fs.StringSliceVar(&f.TLSSANs, "tls-san", nil, "further `name` or address in the API's certificate; may be repeated")
	fs.StringVar(&f.Join, "join", "", "a member (`host[:port]`) of the cluster to join")
	fs.StringVar(&f.Token, "token", "", "join token; without --join, a secret of 128 bits that admits joiners of a new cluster for ever. Others on this machine see it: better MURMUR_TOKEN or --token-file")
	fs.StringVar(&f.tokenFile, "token-file", "", "`file` with the token; - for the standard input")
	fs.Uint16Var(&f.HTTPSPort, "https-listen-port", 6443, "TCP port of the API")
	fs.Uint16Var(&f.GossipPort, "gossip-port", 7946, "UDP and TCP port of membership")
	fs.Uint16Var(&f.StreamPort, "stream-port", 7947, "TCP port of the streams between members")
	fs.StringVar(&f.clusterCIDR, "cluster-cidr", "", "IPv4 `prefix` of pod addresses (default 10.42.0.0/16)")
	fs.StringVar(&f.serviceCIDR, "service-cidr", "", "IPv4 `prefix` of service addresses (default 10.43.0.0/16)")
	fs.StringVar(&f.Cluster.NodePorts, "service-node-port-range", "", "node ports of services (default 30000-32767)")
	fs.BoolVar(&f.ExternalIPs, "allow-external-ips", false, "let Services have external IPs, by which whoever may write one draws the traffic of any address to it; the same on all nodes")
	fs.StringVar(&f.clusterDNS, "cluster-dns", "", "`address` of cluster DNS (default: the tenth of --service-cidr)")
	fs.StringVar(&f.Cluster.ClusterDomain, "cluster-domain", "", "domain of cluster DNS (default cluster.local)")
	fs.DurationVar(&f.MaxTokenLife, "service-account-max-token-expiration", 0, "longest `life` of a ServiceAccount token; who asks for more gets this and a warning (default: a year)")
	fs.StringVar(&f.Secrets.File, "encryption-provider-config", "", "what is encrypted on this node's disk, an apiserver.config.k8s.io/v1 EncryptionConfiguration (secretbox, aesgcm, identity); read again when it changes")
	fs.StringVar(&f.Secrets.Own, "secrets-encryption", "", "`on` encrypts Secrets on this node's disk with a data key of its own, off makes them plain again (default: as it was)")
	fs.Lookup("secrets-encryption").NoOptDefVal = "on"
	fs.StringVar(&f.Secrets.KeyFile, "secrets-key-file", "", "`file` with the key that the data key is sealed under, made if it is not there (default: secrets.key in the config directory)")
	fs.StringVar(&f.passphraseFile, "secrets-passphrase-file", "", "`file` with a passphrase to seal the data key under instead; or MURMUR_SECRETS_PASSPHRASE")
	fs.StringVar(&f.Secrets.TPM, "secrets-tpm", "", "seal the data key by the TPM 2.0 at this `device` instead, or at the socket of one that is software; without a value /dev/tpmrm0")
	fs.Lookup("secrets-tpm").NoOptDefVal = "/dev/tpmrm0"
	fs.StringVar(&f.storeQuota, "store-quota", "", "`bytes` of objects, such as 512Mi, from which on the API refuses what makes the store grow; 0: no bound (default: a quarter of the memory, at most 1Gi)")
	fs.StringVar(&f.CgroupRoot, "cgroup-root", "/murmur", "parent of the pods' cgroups")
	fs.StringVar(&f.Containerd, "container-runtime-endpoint", "", "`socket` of a containerd to use instead of our own")
	fs.StringVar(&f.Authentication, "authentication-config", "", "issuers of tokens that this node's API believes, an apiserver.config.k8s.io/v1 AuthenticationConfiguration (OpenID Connect); read again when it changes")
	fs.StringVar(&f.Audit.LogPath, "audit-log-path", "", `file that records who did what through this node's API and to its daemon; "-" for standard output, "none" for no record (default: audit/audit.log in the data directory)`)
	fs.IntVar(&f.Audit.MaxAge, "audit-log-maxage", 30, "days for which a rotated audit log is kept; 0: for ever")
	fs.IntVar(&f.Audit.MaxBackups, "audit-log-maxbackup", 4, "how many rotated audit logs are kept; 0: all")
	fs.IntVar(&f.Audit.MaxSize, "audit-log-maxsize", 20, "megabytes after which the audit log is rotated")
	fs.StringVar(&f.Audit.PolicyFile, "audit-policy-file", "", "what is recorded, an audit.k8s.io/v1 Policy; read again when it changes (default: the metadata of writes, of reads of Secrets, of backups, of streams into pods, of commands to the daemon and of joins)")
	fs.StringVar(&f.Audit.WebhookFile, "audit-webhook-config-file", "", "kubeconfig that says where audit events are sent too")
	fs.BoolVar(&f.SeccompDefault, "seccomp-default", false, "give containers that name no seccomp profile the runtime's default one")
	fs.StringSliceVar(&f.AllowedUnsafeSysctls, "allowed-unsafe-sysctls", nil, "`name` of a kernel parameter that pods may set beside the safe ones, or its beginning with a star; may be repeated")
	fs.StringSliceVar(&f.Disable, "disable", nil, "bundled part not to run: dns; may be repeated")
	fs.BoolVar(&f.debug, "debug", false, "log more")
	return f
}

// read is what flags, environment and files say.
func (f *flags) read(fs *pflag.FlagSet, join string) (node.Config, error) {
	if err := applyConfig(fs, f.configFile, os.Environ()); err != nil {
		return node.Config{}, err
	}
	return f.config(join)
}

// run is the daemon, to its end.
func run(ctx context.Context, cfg node.Config) error {
	if err := private(); err != nil {
		return err
	}
	// What upstream's packages say on their own is noise unless it is a warning.
	upstream := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	klog.SetSlogLogger(upstream.With("part", "upstream"))
	running, stop := context.WithCancel(ctx)
	var memory sync.WaitGroup
	memory.Go(func() { node.ReleaseAtRest(running, cfg.Log) })
	if os.Getenv("GOGC") == "" {
		memory.Go(func() { node.PaceHeap(running) })
	}
	defer func() { stop(); memory.Wait() }()
	for {
		n, err := node.New(ctx, cfg)
		if err != nil {
			return err
		}
		if err := n.Run(ctx); !errors.Is(err, node.ErrAgain) {
			return err
		}
		// What the node is to be is on its disk now.
		cfg.Join, cfg.Token = "", ""
	}
}

// maxToken bounds what is read of a token's file.
const maxToken = 4096

func readToken(name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(io.LimitReader(os.Stdin, maxToken))
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxToken))
}

// config is what the flags say, checked as far as they can be without looking at the machine.
func (f *flags) config(join string) (node.Config, error) {
	c := f.Config
	level := slog.LevelInfo
	if f.debug {
		level = slog.LevelDebug
	}
	c.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	if join != "" {
		c.Join = join
	}
	// What this daemon starts has no need of it.
	if err := os.Unsetenv("MURMUR_TOKEN"); err != nil {
		return c, err
	}
	if f.tokenFile != "" {
		if c.Token != "" {
			return c, errors.New("--token and --token-file say the same thing twice: give one")
		}
		b, err := readToken(f.tokenFile)
		if err != nil {
			return c, fmt.Errorf("--token-file: %w", err)
		}
		c.Token = strings.TrimSpace(string(b))
	}
	var err error
	address := func(flag, s string, to *netip.Addr) {
		if s == "" || err != nil {
			return
		}
		var perr error
		if *to, perr = netip.ParseAddr(s); perr != nil {
			err = fmt.Errorf("--%s %q: want an address such as 10.0.0.1", flag, s)
		}
	}
	prefix := func(flag, s string, to *netip.Prefix) {
		if s == "" || err != nil {
			return
		}
		var perr error
		if *to, perr = netip.ParsePrefix(s); perr != nil {
			err = fmt.Errorf("--%s %q: want a prefix such as 10.42.0.0/16", flag, s)
		} else if *to != to.Masked() {
			err = fmt.Errorf("--%s %s: has bits set behind its length; %s is meant?", flag, s, to.Masked())
		}
	}
	address("node-ip", f.nodeIP, &c.NodeIP)
	address("cluster-dns", f.clusterDNS, &c.Cluster.ClusterDNS)
	prefix("cluster-cidr", f.clusterCIDR, &c.Cluster.ClusterCIDR)
	prefix("service-cidr", f.serviceCIDR, &c.Cluster.ServiceCIDR)
	if err != nil {
		return c, err
	}
	for _, d := range c.Disable {
		if d != "dns" {
			return c, fmt.Errorf("--disable %q: the bundled parts that can be disabled are: dns", d)
		}
	}
	if c.Secrets.TPM != "" && c.Secrets.KeyFile != "" {
		return c, errors.New("--secrets-key-file and --secrets-tpm are two ways to seal the data key: give one")
	}
	if c.Secrets.Passphrase = os.Getenv("MURMUR_SECRETS_PASSPHRASE"); f.passphraseFile != "" {
		b, err := os.ReadFile(f.passphraseFile)
		if err != nil {
			return c, fmt.Errorf("--secrets-passphrase-file: %w", err)
		}
		c.Secrets.Passphrase = strings.TrimRight(string(b), "\r\n")
	}
	if f.storeQuota != "" {
		q, err := resource.ParseQuantity(f.storeQuota)
		if err != nil || q.Sign() < 0 {
			return c, fmt.Errorf("--store-quota %q: want bytes, such as 512Mi; 0 is no bound", f.storeQuota)
		}
		bytes := q.Value()
		c.StoreQuota = &bytes
	}
	c.NodeLabels = map[string]string{}
	for _, l := range f.labels {
		k, v, ok := strings.Cut(l, "=")
		if !ok {
			return c, fmt.Errorf("--node-label %q: want key=value", l)
		}
		if msgs := append(validation.IsQualifiedName(k), validation.IsValidLabelValue(v)...); len(msgs) > 0 {
			return c, fmt.Errorf("--node-label %q: want key=value: %s", l, strings.Join(msgs, "; "))
		}
		c.NodeLabels[k] = v
	}
	for _, t := range f.taints {
		taint, err := parseTaint(t)
		if err != nil {
			return c, err
		}
		c.NodeTaints = append(c.NodeTaints, taint)
	}
	return c, nil
}

func parseTaint(s string) (corev1.Taint, error) {
	spec, effect, ok := strings.Cut(s, ":")
	key, value, _ := strings.Cut(spec, "=")
	t := corev1.Taint{Key: key, Value: value, Effect: corev1.TaintEffect(effect)}
	switch t.Effect {
	case corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute:
	default:
		ok = false
	}
	if msgs := append(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)...); !ok || len(msgs) > 0 {
		return t, fmt.Errorf("--node-taint %q: want key=value:effect, where effect is NoSchedule, PreferNoSchedule or NoExecute", s)
	}
	return t, nil
}
