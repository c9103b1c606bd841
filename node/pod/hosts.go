package pod

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// hostname is what the pod calls itself, and the domain below which it is known, if it has a subdomain.
func hostname(p *corev1.Pod, clusterDomain string) (host, domain string) {
	host = p.Spec.Hostname
	if host == "" {
		host = p.Name
	}
	if len(host) > 63 {
		host = strings.TrimRight(host[:63], "-.")
	}
	if p.Spec.HostnameOverride != nil {
		return *p.Spec.HostnameOverride, ""
	}
	if p.Spec.Subdomain != "" {
		domain = fmt.Sprintf("%s.%s.svc.%s", p.Spec.Subdomain, p.Namespace, clusterDomain)
	}
	return host, domain
}

// kernelHostname is the name of the pod's UTS namespace.
func kernelHostname(p *corev1.Pod, clusterDomain string) (string, error) {
	host, domain := hostname(p, clusterDomain)
	if p.Spec.SetHostnameAsFQDN != nil && *p.Spec.SetHostnameAsFQDN && domain != "" {
		full := host + "." + domain
		if len(full) > 64 {
			return "", fmt.Errorf("failed to construct FQDN from pod hostname and cluster domain, FQDN %s is too long (64 characters is the max, %d characters requested)", full, len(full))
		}
		return full, nil
	}
	return host, nil
}

// hostsFile is the pod's /etc/hosts. node is the node's own, for pods on its network.
func hostsFile(p *corev1.Pod, ips []string, node []byte, clusterDomain string) []byte {
	var b bytes.Buffer
	if p.Spec.HostNetwork {
		b.WriteString("# Kubernetes-managed hosts file (host network).\n")
		b.Write(node)
	} else {
		host, domain := hostname(p, clusterDomain)
		b.WriteString("# Kubernetes-managed hosts file.\n" +
			"127.0.0.1\tlocalhost\n" +
			"::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"fe00::0\tip6-localnet\n" +
			"fe00::0\tip6-mcastprefix\n" +
			"fe00::1\tip6-allnodes\n" +
			"fe00::2\tip6-allrouters\n")
		for _, ip := range ips {
			if domain != "" {
				fmt.Fprintf(&b, "%s\t%s.%s\t%s\n", ip, host, domain, host)
			} else {
				fmt.Fprintf(&b, "%s\t%s\n", ip, host)
			}
		}
	}
	if len(p.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
		for _, alias := range p.Spec.HostAliases {
			fmt.Fprintf(&b, "%s\t%s\n", alias.IP, strings.Join(alias.Hostnames, "\t"))
		}
	}
	return b.Bytes()
}

// Limits of a resolv.conf.
const (
	maxServers     = 3
	maxSearches    = 32
	maxSearchChars = 2048
)

// resolver is the pod's resolv.conf by its DNS policy.
func resolver(p *corev1.Pod, node DNS, clusterDNS []string, clusterDomain string) DNS {
	var d DNS
	policy := p.Spec.DNSPolicy
	if policy == "" {
		policy = corev1.DNSClusterFirst
	}
	if policy == corev1.DNSClusterFirst && p.Spec.HostNetwork || policy != corev1.DNSNone && len(clusterDNS) == 0 {
		policy = corev1.DNSDefault
	}
	switch policy {
	case corev1.DNSNone:
	case corev1.DNSDefault:
		d = DNS{slices.Clone(node.Servers), slices.Clone(node.Searches), slices.Clone(node.Options)}
	default:
		d.Servers = slices.Clone(clusterDNS)
		d.Searches = append([]string{p.Namespace + ".svc." + clusterDomain, "svc." + clusterDomain, clusterDomain}, node.Searches...)
		d.Options = []string{"ndots:5"}
	}
	if c := p.Spec.DNSConfig; c != nil {
		d.Servers = append(d.Servers, c.Nameservers...)
		d.Searches = append(d.Searches, c.Searches...)
		for _, o := range c.Options {
			d.Options = slices.DeleteFunc(d.Options, func(have string) bool { return have == o.Name || strings.HasPrefix(have, o.Name+":") })
			if o.Value != nil {
				d.Options = append(d.Options, o.Name+":"+*o.Value)
			} else {
				d.Options = append(d.Options, o.Name)
			}
		}
	}
	d.Servers, d.Searches = unique(d.Servers), unique(d.Searches)
	d.Servers = d.Servers[:min(len(d.Servers), maxServers)]
	d.Searches = d.Searches[:min(len(d.Searches), maxSearches)]
	for len(strings.Join(d.Searches, " ")) > maxSearchChars {
		d.Searches = d.Searches[:len(d.Searches)-1]
	}
	return d
}

func unique(in []string) []string {
	var out []string
	for _, s := range in {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// nodeResolver reads the node's own resolv.conf.
func nodeResolver(path string) DNS {
	var d DNS
	text, err := os.ReadFile(path)
	if err != nil {
		return d
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			d.Servers = append(d.Servers, fields[1])
		case "search":
			d.Searches = nil
			for _, s := range fields[1:] {
				if s != "." {
					s = strings.TrimSuffix(s, ".")
				}
				d.Searches = append(d.Searches, s)
			}
		case "options":
			d.Options = append([]string(nil), fields[1:]...)
		}
	}
	return d
}
