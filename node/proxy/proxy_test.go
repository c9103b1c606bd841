package proxy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// TestRules runs the goldens. Commands:
//
//	view            the objects, as YAML documents; replaces what was there
//	rules [node=n1] [down=n3] [nobridge] [only=NAME]   every chain and jump they become
//	contested       what a service has chosen and an elder one holds
//	stale           one flow a line: PROTO DESTINATION BACKEND
func TestRules(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var view View
		var rules Rules
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "view":
				view = View{}
				for _, doc := range strings.Split(d.Input, "\n---\n") {
					if err := view.add([]byte(doc)); err != nil {
						return err.Error()
					}
				}
				return ""
			case "rules":
				cfg := Config{
					Node:              "n1",
					NodeIP:            netip.MustParseAddr("192.168.7.1"),
					ClusterCIDR:       netip.MustParsePrefix("10.42.0.0/16"),
					ServiceCIDR:       netip.MustParsePrefix("10.43.0.0/16"),
					ClusterDNS:        netip.MustParseAddr("10.43.0.10"),
					NoBridgeNetfilter: d.HasArg("nobridge"),
				}
				d.MaybeScanArgs(t, "node", &cfg.Node)
				var down []string
				for _, a := range d.CmdArgs {
					if a.Key == "down" {
						down = a.Vals
					}
				}
				cfg.Reachable = func(n string) bool { return !slices.Contains(down, n) }
				rules = Build(view, cfg)
				only := ""
				d.MaybeScanArgs(t, "only", &only)
				return rules.text(only)
			case "contested":
				var out strings.Builder
				for _, c := range rules.Contested {
					fmt.Fprintf(&out, "%s/%s: %s %s:%d is %s/%s's\n", c.Service.Namespace, c.Service.Name, c.At.Protocol, c.At.Addr, c.At.Port, c.Holder.Namespace, c.Holder.Name)
				}
				return out.String()
			case "stale":
				var out strings.Builder
				for _, line := range strings.Split(d.Input, "\n") {
					f := strings.Fields(line)
					flow := Flow{corev1.Protocol(f[0]), netip.MustParseAddrPort(f[1]), netip.MustParseAddrPort(f[2])}
					fmt.Fprintf(&out, "%s: %v\n", line, rules.Flows.Stale(flow))
				}
				return out.String()
			}
			t.Fatalf("unknown command %s", d.Cmd)
			return ""
		})
	})
}

func (v *View) add(doc []byte) error {
	var meta metav1.TypeMeta
	if err := yaml.Unmarshal(doc, &meta); err != nil {
		return err
	}
	var err error
	switch meta.Kind {
	case "Service":
		o := &corev1.Service{}
		err = yaml.UnmarshalStrict(doc, o)
		v.Services = append(v.Services, o)
	case "Pod":
		o := &corev1.Pod{}
		err = yaml.UnmarshalStrict(doc, o)
		v.Pods = append(v.Pods, o)
	case "Node":
		o := &corev1.Node{}
		err = yaml.UnmarshalStrict(doc, o)
		v.Nodes = append(v.Nodes, o)
	case "EndpointSlice":
		o := &discoveryv1.EndpointSlice{}
		err = yaml.UnmarshalStrict(doc, o)
		v.Slices = append(v.Slices, o)
	case "Endpoints":
		o := &corev1.Endpoints{}
		err = yaml.UnmarshalStrict(doc, o)
		v.Endpoints = append(v.Endpoints, o)
	default:
		err = fmt.Errorf("kind %q", meta.Kind)
	}
	return err
}

// text writes the rules as iptables-save would; only=services leaves out what is the same in every cluster.
func (r Rules) text(only string) string {
	constant := map[string]bool{}
	for _, t := range Build(View{}, r.Flows.cfg).Tables {
		for _, c := range t.Chains {
			for _, rule := range c.Rules {
				constant[t.Name+c.Name+rule] = true
			}
		}
	}
	var out strings.Builder
	for _, t := range r.Tables {
		fmt.Fprintf(&out, "*%s\n", t.Name)
		if only == "" {
			for _, j := range t.Jumps {
				fmt.Fprintf(&out, "-A %s %s\n", j.From, strings.Join(j.Rule, " "))
			}
		}
		for _, c := range t.Chains {
			for _, rule := range c.Rules {
				if only == "" || !constant[t.Name+c.Name+rule] {
					fmt.Fprintf(&out, "-A %s %s\n", c.Name, rule)
				}
			}
		}
	}
	return out.String()
}
