package pod

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/api/v1/resource"
	"k8s.io/kubernetes/pkg/fieldpath"
	"k8s.io/kubernetes/pkg/kubelet/envvars"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"
)

// Text is what a variable is set to, or one string of a command. Secret is that bytes of a Secret are in it, from wherever they
// came: the value is for the container's process alone, and a runtime writes it to no file.
type Text struct {
	Value  string
	Secret bool
}

// Variable is one of a container's environment.
type Variable struct {
	Name string
	Text
}

// expand replaces $(NAME). What has a Secret's bytes hands them, and the mark, to whatever names it.
func expand(text string, lookups ...map[string]Text) Text {
	out := Text{}
	out.Value = expansion.Expand(text, func(name string) string {
		for _, lookup := range lookups {
			if v, ok := lookup[name]; ok {
				out.Secret = out.Secret || v.Secret
				return v.Value
			}
		}
		return expansion.MappingFuncFor()(name)
	})
	return out
}

// environment computes a container's variables: from its services, envFrom, then env, which may refer to the earlier ones.
// The errors are the kubelet's; they end up in the status of a container that waits for what it names.
func environment(p *corev1.Pod, c *corev1.Container, objects Objects, allocatable corev1.ResourceList) ([]Variable, error) {
	services := map[string]Text{}
	for name, value := range serviceVariables(p, objects) {
		services[name] = Text{Value: value}
	}
	own := map[string]Text{}
	order := []string{}
	set := func(name string, value Text) {
		if _, ok := own[name]; !ok {
			order = append(order, name)
		}
		own[name] = value
	}
	isOptional := func(b *bool) bool { return b != nil && *b }
	for _, from := range c.EnvFrom {
		switch {
		case from.ConfigMapRef != nil:
			cm, ok := objects.ConfigMap(p.Namespace, from.ConfigMapRef.Name)
			if !ok && !isOptional(from.ConfigMapRef.Optional) {
				return nil, fmt.Errorf("configmap %q not found", from.ConfigMapRef.Name)
			}
			if ok {
				for _, k := range slices.Sorted(maps.Keys(cm.Data)) {
					set(from.Prefix+k, Text{Value: cm.Data[k]})
				}
			}
		case from.SecretRef != nil:
			secret, ok := objects.Secret(p.Namespace, from.SecretRef.Name)
			if !ok && !isOptional(from.SecretRef.Optional) {
				return nil, fmt.Errorf("secret %q not found", from.SecretRef.Name)
			}
			if ok {
				for _, k := range slices.Sorted(maps.Keys(secret.Data)) {
					set(from.Prefix+k, Text{Value: string(secret.Data[k]), Secret: true})
				}
			}
		}
	}
	for _, e := range c.Env {
		if e.Value != "" || e.ValueFrom == nil {
			set(e.Name, expand(e.Value, own, services))
			continue
		}
		value := Text{}
		switch from := e.ValueFrom; {
		case from.FieldRef != nil:
			v, err := FieldValue(from.FieldRef.FieldPath, p)
			if err != nil {
				return nil, err
			}
			value.Value = v
		case from.ResourceFieldRef != nil:
			name := from.ResourceFieldRef.ContainerName
			if name == "" {
				name = c.Name
			}
			v, err := resource.ExtractResourceValueByContainerNameAndNodeAllocatable(from.ResourceFieldRef, p, name, allocatable)
			if err != nil {
				return nil, err
			}
			value.Value = v
		case from.ConfigMapKeyRef != nil:
			ref := from.ConfigMapKeyRef
			cm, ok := objects.ConfigMap(p.Namespace, ref.Name)
			if !ok {
				if isOptional(ref.Optional) {
					continue
				}
				return nil, fmt.Errorf("configmap %q not found", ref.Name)
			}
			v, ok := cm.Data[ref.Key]
			if !ok {
				if isOptional(ref.Optional) {
					continue
				}
				return nil, fmt.Errorf("couldn't find key %v in ConfigMap %v/%v", ref.Key, p.Namespace, ref.Name)
			}
			value.Value = v
		case from.SecretKeyRef != nil:
			ref := from.SecretKeyRef
			secret, ok := objects.Secret(p.Namespace, ref.Name)
			if !ok {
				if isOptional(ref.Optional) {
					continue
				}
				return nil, fmt.Errorf("secret %q not found", ref.Name)
			}
			v, ok := secret.Data[ref.Key]
			if !ok {
				if isOptional(ref.Optional) {
					continue
				}
				return nil, fmt.Errorf("couldn't find key %v in Secret %v/%v", ref.Key, p.Namespace, ref.Name)
			}
			value = Text{Value: string(v), Secret: true}
		}
		set(e.Name, value)
	}
	var result []Variable
	for _, name := range slices.Sorted(maps.Keys(services)) {
		if _, ok := own[name]; !ok {
			result = append(result, Variable{Name: name, Text: services[name]})
		}
	}
	for _, name := range order {
		result = append(result, Variable{Name: name, Text: own[name]})
	}
	return result, nil
}

// serviceVariables are those of the API's own service and, with enableServiceLinks, of the namespace's.
func serviceVariables(p *corev1.Pod, objects Objects) map[string]string {
	chosen := map[string]*corev1.Service{}
	usable := func(s *corev1.Service) bool {
		return s.Spec.ClusterIP != "" && s.Spec.ClusterIP != corev1.ClusterIPNone
	}
	for _, s := range objects.Services(corev1.NamespaceDefault) {
		if s.Name == "kubernetes" && usable(s) {
			chosen[s.Name] = s
		}
	}
	if p.Spec.EnableServiceLinks == nil || *p.Spec.EnableServiceLinks {
		for _, s := range objects.Services(p.Namespace) {
			if usable(s) {
				chosen[s.Name] = s
			}
		}
	}
	services := make([]*corev1.Service, 0, len(chosen))
	for _, name := range slices.Sorted(maps.Keys(chosen)) {
		services = append(services, chosen[name])
	}
	vars := map[string]string{}
	for _, v := range envvars.FromServices(services) {
		vars[v.Name] = v.Value
	}
	return vars
}

// FieldValue is the value of a downward API field. The pod's status must carry its addresses.
func FieldValue(path string, p *corev1.Pod) (string, error) {
	switch path {
	case "spec.nodeName":
		return p.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return p.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return p.Status.HostIP, nil
	case "status.hostIPs":
		var ips []string
		for _, ip := range p.Status.HostIPs {
			ips = append(ips, ip.IP)
		}
		return strings.Join(ips, ","), nil
	case "status.podIP":
		return p.Status.PodIP, nil
	case "status.podIPs":
		var ips []string
		for _, ip := range p.Status.PodIPs {
			ips = append(ips, ip.IP)
		}
		return strings.Join(ips, ","), nil
	}
	return fieldpath.ExtractFieldPathAsString(p, path)
}

// commandLine is the command and the arguments of a container with the variables in them replaced.
func commandLine(c *corev1.Container, env []Variable) (command, args []Text) {
	vars := byName(env)
	for _, s := range c.Command {
		command = append(command, expand(s, vars))
	}
	for _, s := range c.Args {
		args = append(args, expand(s, vars))
	}
	return command, args
}

// probeCommand is the command of a probe with the variables in it replaced that the container's spec sets to a text, which is taken as it stands there;
// those that it takes from elsewhere are empty, as upstream has it (ExpandContainerCommandOnlyStatic), so no Secret comes into it.
func probeCommand(c *corev1.Container, command []string) []string {
	vars := map[string]string{}
	for _, e := range c.Env {
		vars[e.Name] = e.Value
	}
	mapping := expansion.MappingFuncFor(vars)
	var out []string
	for _, word := range command {
		out = append(out, expansion.Expand(word, mapping))
	}
	return out
}

func byName(env []Variable) map[string]Text {
	vars := make(map[string]Text, len(env))
	for _, e := range env {
		vars[e.Name] = e.Text
	}
	return vars
}

// expanded is the container with the variables in its volume sub-paths replaced. These are names of directories, which the volume has
// whatever they are made of.
func expanded(c *corev1.Container, env []Variable) (*corev1.Container, error) {
	vars := byName(env)
	c = c.DeepCopy()
	for i := range c.VolumeMounts {
		m := &c.VolumeMounts[i]
		if m.SubPathExpr == "" {
			continue
		}
		missing := ""
		m.SubPath = expansion.Expand(m.SubPathExpr, func(name string) string {
			v, ok := vars[name]
			if !ok || v.Value == "" {
				missing = name
			}
			return v.Value
		})
		if missing != "" {
			return nil, fmt.Errorf("missing value for %q", missing)
		}
		m.SubPathExpr = ""
	}
	return c, nil
}
