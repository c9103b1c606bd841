package admit

import (
	"context"

	"k8s.io/apiserver/pkg/admission"
	core "k8s.io/kubernetes/pkg/apis/core"
)

const placementName = "PlacementRecord"

// placementRecord writes into a new pod who places it. What the maker of the pod said of that is gone by then: see reserved.
type placementRecord struct {
	*admission.Handler
	arbiter func() map[string]string
}

func (p placementRecord) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, ok := a.GetObject().(*core.Pod)
	if !ok || a.GetSubresource() != "" {
		return nil
	}
	for k, v := range p.arbiter() {
		if pod.Annotations == nil {
			pod.Annotations = map[string]string{}
		}
		pod.Annotations[k] = v
	}
	return nil
}
