package volume

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/api/v1/resource"
	volumeutil "k8s.io/kubernetes/pkg/volume/util"

	"murmur/node/pod"
)

// filesPlugin is the kubelet's directory name of the types whose content comes from the API; empty for all others.
func filesPlugin(vol *corev1.Volume) string {
	switch {
	case vol.ConfigMap != nil:
		return "configmap"
	case vol.Secret != nil:
		return "secret"
	case vol.DownwardAPI != nil:
		return "downward-api"
	case vol.Projected != nil:
		return "projected"
	}
	return ""
}

// files collects the content of one volume: what it has from each source, the later ones over the earlier.
type files struct {
	pod     *corev1.Pod
	objects pod.Objects
	payload map[string]volumeutil.FileProjection
}

// prepareFiles writes a volume's content. All but configMaps are kept in memory.
func (v *Volumes) prepareFiles(ctx context.Context, p *corev1.Pod, vol *corev1.Volume, objects pod.Objects) (time.Time, error) {
	f := files{pod: p, objects: objects, payload: map[string]volumeutil.FileProjection{}}
	again, err := v.collect(ctx, &f, vol)
	if err != nil {
		return time.Time{}, err
	}
	dir := v.path(p.UID, filesPlugin(vol), vol.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return time.Time{}, err
	}
	if vol.ConfigMap == nil {
		if _, err := v.tmpfs(dir); err != nil {
			return time.Time{}, err
		}
	}
	// Others than root read it through the directory: mode 0777 as upstream, the mount in the container is read only.
	if err := os.Chmod(dir, 0o777); err != nil {
		return time.Time{}, err
	}
	writer, err := volumeutil.NewAtomicWriter(dir, fmt.Sprintf("pod %s/%s volume %s", p.Namespace, p.Name, vol.Name))
	if err != nil {
		return time.Time{}, err
	}
	group := func(sub string) error { return setGroup(path.Join(dir, sub), fsGroup(p), true) }
	if err := writer.Write(f.payload, group); err != nil {
		return time.Time{}, err
	}
	return again, nil
}

func (v *Volumes) collect(ctx context.Context, f *files, vol *corev1.Volume) (again time.Time, _ error) {
	optional := func(b *bool) bool { return b != nil && *b }
	switch {
	case vol.ConfigMap != nil:
		s := vol.ConfigMap
		return again, f.configMap(s.Name, s.Items, s.DefaultMode, optional(s.Optional))
	case vol.Secret != nil:
		s := vol.Secret
		return again, f.secret(s.SecretName, s.Items, s.DefaultMode, optional(s.Optional))
	case vol.DownwardAPI != nil:
		return again, f.downward(vol.DownwardAPI.Items, vol.DownwardAPI.DefaultMode)
	}
	mode := vol.Projected.DefaultMode
	soonest := func(next time.Time, err error) error {
		if err == nil && !next.IsZero() && (again.IsZero() || next.Before(again)) {
			again = next
		}
		return err
	}
	var failed error
	for i, s := range vol.Projected.Sources {
		var err error
		switch {
		case s.ConfigMap != nil:
			err = f.configMap(s.ConfigMap.Name, s.ConfigMap.Items, mode, optional(s.ConfigMap.Optional))
		case s.Secret != nil:
			err = f.secret(s.Secret.Name, s.Secret.Items, mode, optional(s.Secret.Optional))
		case s.DownwardAPI != nil:
			err = f.downward(s.DownwardAPI.Items, mode)
		case s.ServiceAccountToken != nil:
			err = soonest(v.token(ctx, f, s.ServiceAccountToken, mode))
		case s.PodCertificate != nil:
			err = soonest(v.certificate(ctx, f, certificateKey{f.pod.UID, vol.Name, i}, s.PodCertificate, mode))
		case s.ClusterTrustBundle != nil:
			var anchors []byte
			if anchors, err = trustAnchors(s.ClusterTrustBundle, f.objects.ClusterTrustBundles()); err == nil {
				f.put(s.ClusterTrustBundle.Path, anchors, nil, mode)
			}
		default:
			err = fmt.Errorf("a source of the projected volume has a type that is not supported")
		}
		failed = both(failed, err)
	}
	return again, failed
}

func (f *files) put(name string, data []byte, mode, otherwise *int32) {
	m := int32(0o644)
	if otherwise != nil {
		m = *otherwise
	}
	if mode != nil {
		m = *mode
	}
	f.payload[name] = volumeutil.FileProjection{Data: data, Mode: m}
}

// own puts what is the pod's alone. One user for all containers owns it; with that or a group, nobody else may read it.
func (f *files) own(name string, data []byte, mode *int32) {
	f.put(name, data, nil, mode)
	file := f.payload[name]
	if user := onlyUser(f.pod); user != nil {
		file.FsUser, file.Mode = user, 0o600
	} else if fsGroup(f.pod) != nil {
		file.Mode = 0o600
	}
	f.payload[name] = file
}

// keys puts all values, or the items that are asked for.
func (f *files) keys(what string, data map[string][]byte, items []corev1.KeyToPath, mode *int32, optional bool) error {
	if len(items) == 0 {
		for _, k := range slices.Sorted(maps.Keys(data)) {
			f.put(k, data[k], nil, mode)
		}
		return nil
	}
	for _, item := range items {
		value, ok := data[item.Key]
		if !ok {
			if optional {
				continue
			}
			return fmt.Errorf("%s references non-existent %s key: %s", what, what, item.Key)
		}
		f.put(item.Path, value, item.Mode, mode)
	}
	return nil
}

func (f *files) configMap(name string, items []corev1.KeyToPath, mode *int32, optional bool) error {
	cm, ok := f.objects.ConfigMap(f.pod.Namespace, name)
	if !ok {
		if optional {
			return nil
		}
		return fmt.Errorf("configmap %q not found", name)
	}
	data := make(map[string][]byte, len(cm.Data)+len(cm.BinaryData))
	for k, v := range cm.Data {
		data[k] = []byte(v)
	}
	maps.Copy(data, cm.BinaryData)
	return f.keys("configmap", data, items, mode, optional)
}

func (f *files) secret(name string, items []corev1.KeyToPath, mode *int32, optional bool) error {
	secret, ok := f.objects.Secret(f.pod.Namespace, name)
	if !ok {
		if optional {
			return nil
		}
		return fmt.Errorf("secret %q not found", name)
	}
	return f.keys("secret", secret.Data, items, mode, optional)
}

func (f *files) downward(items []corev1.DownwardAPIVolumeFile, mode *int32) error {
	for _, item := range items {
		var value string
		var err error
		switch {
		case item.FieldRef != nil:
			value, err = pod.FieldValue(item.FieldRef.FieldPath, f.pod)
		case item.ResourceFieldRef != nil:
			value, err = resource.ExtractResourceValueByContainerNameAndNodeAllocatable(item.ResourceFieldRef, f.pod,
				item.ResourceFieldRef.ContainerName, pod.MachineResources())
		}
		if err != nil {
			return err
		}
		f.put(item.Path, []byte(value), item.Mode, mode)
	}
	return nil
}

type tokenKey struct {
	pod                      types.UID
	serviceAccount, audience string
	seconds                  int64
}

type token struct {
	text    string
	refresh time.Time
}

// token puts a service account's token, made anew when 80 % of its life is over, or a day.
func (v *Volumes) token(ctx context.Context, f *files, s *corev1.ServiceAccountTokenProjection, mode *int32) (time.Time, error) {
	if v.cfg.Tokens == nil {
		return time.Time{}, fmt.Errorf("failed to fetch token: this node has no issuer of tokens")
	}
	account := f.pod.Spec.ServiceAccountName
	if account == "" {
		account = "default"
	}
	seconds := int64(3600)
	if s.ExpirationSeconds != nil {
		seconds = *s.ExpirationSeconds
	}
	key := tokenKey{f.pod.UID, account, s.Audience, seconds}
	v.mu.Lock()
	have, ok := v.tokens[key]
	v.mu.Unlock()
	if now := time.Now(); !ok || now.After(have.refresh) {
		text, expires, err := v.cfg.Tokens(ctx, f.pod.Namespace, account, s.Audience, seconds, f.pod)
		if err != nil {
			return time.Time{}, fmt.Errorf("failed to fetch token: %w", err)
		}
		have = token{text, now.Add(min(expires.Sub(now)*8/10, 24*time.Hour))}
		v.mu.Lock()
		v.tokens[key] = have
		v.mu.Unlock()
	}
	f.own(strings.TrimPrefix(s.Path, "/"), []byte(have.text), mode)
	// Also one that is good for long may be void soon: see RenewTokens.
	if again := time.Now().Add(lookAtTokens); again.Before(have.refresh) {
		return again, nil
	}
	return have.refresh, nil
}

// lookAtTokens is how often a pod's tokens are looked at.
const lookAtTokens = 2 * time.Minute

// RenewTokens has the tokens of all pods made anew, each when it is looked at next: the key that signed them is being replaced.
func (v *Volumes) RenewTokens() {
	v.mu.Lock()
	defer v.mu.Unlock()
	clear(v.tokens)
}

// onlyUser is the user that every container of the pod runs as, nil if they differ or do not say.
func onlyUser(p *corev1.Pod) *int64 {
	var user *int64
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		var u *int64
		if p.Spec.SecurityContext != nil {
			u = p.Spec.SecurityContext.RunAsUser
		}
		if c.SecurityContext != nil && c.SecurityContext.RunAsUser != nil {
			u = c.SecurityContext.RunAsUser
		}
		if u == nil || user != nil && *user != *u {
			return nil
		}
		user = u
	}
	return user
}

func (v *Volumes) forgetTokens(uid types.UID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	maps.DeleteFunc(v.tokens, func(k tokenKey, _ token) bool { return k.pod == uid })
}
