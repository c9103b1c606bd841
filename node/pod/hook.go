package pod

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	httpprobe "k8s.io/kubernetes/pkg/probe/http"
)

// hookClient asks containers, from this node's place in the network: one that answers with another host's address leads it nowhere.
var hookClient = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true},
	CheckRedirect: httpprobe.RedirectChecker(false)}

// hook runs a lifecycle handler of a container.
func (t *turn) hook(ctx context.Context, id string, c *corev1.Container, h *corev1.LifecycleHandler) error {
	switch {
	case h.Exec != nil:
		output, code, err := t.k.cfg.Runtime.Exec(ctx, id, h.Exec.Command, 0)
		if err == nil && code != 0 {
			err = fmt.Errorf("command '%v' exited with %d: %s", h.Exec.Command, code, output)
		}
		if err != nil {
			return fmt.Errorf("Exec lifecycle hook (%v) for Container %q in Pod %q failed - error: %w, message: %q", h.Exec.Command, c.Name, format(t.pod), err, output)
		}
	case h.HTTPGet != nil:
		if err := t.hookHTTP(ctx, c, h.HTTPGet); err != nil {
			return fmt.Errorf("HTTP lifecycle hook (%s) for Container %q in Pod %q failed - error: %w", h.HTTPGet.Path, c.Name, format(t.pod), err)
		}
	case h.Sleep != nil:
		select {
		case <-time.After(time.Duration(h.Sleep.Seconds) * time.Second):
		case <-ctx.Done():
			//lint:ignore ST1005 events say it in the kubelet's words
			return fmt.Errorf("Sleep lifecycle hook (%d) for Container %q in Pod %q failed - error: %w", h.Sleep.Seconds, c.Name, format(t.pod), ctx.Err())
		}
	default:
		//lint:ignore ST1005 events say it in the kubelet's words
		return fmt.Errorf("Cannot run handler: invalid handler: %v", h)
	}
	return nil
}

func (t *turn) hookHTTP(ctx context.Context, c *corev1.Container, get *corev1.HTTPGetAction) error {
	ip := get.Host
	if ip == "" {
		ips := t.addresses()
		if len(ips) == 0 {
			return fmt.Errorf("the pod has no address")
		}
		ip = ips[0]
	}
	request, err := httpprobe.NewRequestForHTTPGetAction(get, c, ip, "lifecycle")
	if err != nil {
		return err
	}
	response, err := hookClient.Do(request.WithContext(ctx))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 10<<10))
	return nil
}
