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

// environment computes a container's variables: from its services, envFrom, then env, which may refer to the earlier ones.
// The errors are the kubelet's; they end up in the status of a container that waits for what it names.
func environment(p *corev1.Pod, c *corev1.Container, objects Objects, allocatable corev1.ResourceList) ([]corev1.EnvVar, error) {
	services := serviceVariables(p, objects)
	own := map[string]string{}
	order := []string{}
	set := func(name, value string) {
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
					set(from.Prefix+k, cm.Data[k])
				}
			}
		case from.SecretRef != nil:
			secret, ok := objects.Secret(p.Namespace, from.SecretRef.Name)
			if !ok && !isOptional(from.SecretRef.Optional) {
				return nil, fmt.Errorf("secret %q not found", from.SecretRef.Name)
			}
			if ok {
				for _, k := range slices.Sorted(maps.Keys(secret.Data)) {
					set(from.Prefix+k, string(secret.Data[k]))
				}
			}
		}
	}
	expand := expansion.MappingFuncFor(own, services)
	for _, e := range c.Env {
		value := e.Value
		if value != "" || e.ValueFrom == nil {
			set(e.Name, expansion.Expand(value, expand))
			continue
		}
		switch from := e.ValueFrom; {
		case from.FieldRef != nil:
			v, err := FieldValue(from.FieldRef.FieldPath, p)
			if err != nil {
				return nil, err
			}
			value = v
		case from.ResourceFieldRef != nil:
			name := from.ResourceFieldRef.ContainerName
			if name == "" {
				name = c.Name
			}
			v, err := resource.ExtractResourceValueByContainerNameAndNodeAllocatable(from.ResourceFieldRef, p, name, allocatable)
			if err != nil {
				return nil, err
			}
			value = v
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
			value = v
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
			value = string(v)
		}
		set(e.Name, value)
	}
	var result []corev1.EnvVar
	for _, name := range slices.Sorted(maps.Keys(services)) {
		if _, ok := own[name]; !ok {
			result = append(result, corev1.EnvVar{Name: name, Value: services[name]})
		}
	}
	for _, name := range order {
		result = append(result, corev1.EnvVar{Name: name, Value: own[name]})
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

// expanded is the container with the variables in its command, arguments and volume sub-paths replaced.
func expanded(c *corev1.Container, env []corev1.EnvVar) (*corev1.Container, error) {
	vars := make(map[string]string, len(env))
	for _, e := range env {
		vars[e.Name] = e.Value
	}
	mapping := expansion.MappingFuncFor(vars)
	c = c.DeepCopy()
	for i := range c.Command {
		c.Command[i] = expansion.Expand(c.Command[i], mapping)
	}
	for i := range c.Args {
		c.Args[i] = expansion.Expand(c.Args[i], mapping)
	}
	for i := range c.VolumeMounts {
		m := &c.VolumeMounts[i]
		if m.SubPathExpr == "" {
			continue
		}
		missing := ""
		m.SubPath = expansion.Expand(m.SubPathExpr, func(name string) string {
			v, ok := vars[name]
			if !ok || v == "" {
				missing = name
			}
			return v
		})
		if missing != "" {
			return nil, fmt.Errorf("missing value for %q", missing)
		}
		m.SubPathExpr = ""
	}
	return c, nil
}
