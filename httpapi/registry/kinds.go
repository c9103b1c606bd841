package registry

import (
	"maps"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/registry/customresourcedefinition"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	core "k8s.io/kubernetes/pkg/apis/core"
	kubeletclient "k8s.io/kubernetes/pkg/kubelet/client"
	mutatingwebhookstore "k8s.io/kubernetes/pkg/registry/admissionregistration/mutatingwebhookconfiguration/storage"
	validatingwebhookstore "k8s.io/kubernetes/pkg/registry/admissionregistration/validatingwebhookconfiguration/storage"
	controllerrevisionstore "k8s.io/kubernetes/pkg/registry/apps/controllerrevision/storage"
	daemonsetstore "k8s.io/kubernetes/pkg/registry/apps/daemonset/storage"
	deploymentstore "k8s.io/kubernetes/pkg/registry/apps/deployment/storage"
	replicasetstore "k8s.io/kubernetes/pkg/registry/apps/replicaset/storage"
	statefulsetstore "k8s.io/kubernetes/pkg/registry/apps/statefulset/storage"
	"k8s.io/kubernetes/pkg/registry/authentication/selfsubjectreview"
	"k8s.io/kubernetes/pkg/registry/authentication/tokenreview"
	"k8s.io/kubernetes/pkg/registry/authorization/localsubjectaccessreview"
	"k8s.io/kubernetes/pkg/registry/authorization/selfsubjectaccessreview"
	"k8s.io/kubernetes/pkg/registry/authorization/selfsubjectrulesreview"
	"k8s.io/kubernetes/pkg/registry/authorization/subjectaccessreview"
	autoscalerstore "k8s.io/kubernetes/pkg/registry/autoscaling/horizontalpodautoscaler/storage"
	cronjobstore "k8s.io/kubernetes/pkg/registry/batch/cronjob/storage"
	jobstore "k8s.io/kubernetes/pkg/registry/batch/job/storage"
	certificatestore "k8s.io/kubernetes/pkg/registry/certificates/certificates/storage"
	trustbundlestore "k8s.io/kubernetes/pkg/registry/certificates/clustertrustbundle/storage"
	podcertificatestore "k8s.io/kubernetes/pkg/registry/certificates/podcertificaterequest/storage"
	leasestore "k8s.io/kubernetes/pkg/registry/coordination/lease/storage"
	configmapstore "k8s.io/kubernetes/pkg/registry/core/configmap/storage"
	endpointsstore "k8s.io/kubernetes/pkg/registry/core/endpoint/storage"
	eventstore "k8s.io/kubernetes/pkg/registry/core/event/storage"
	limitrangestore "k8s.io/kubernetes/pkg/registry/core/limitrange/storage"
	namespacestore "k8s.io/kubernetes/pkg/registry/core/namespace/storage"
	nodestore "k8s.io/kubernetes/pkg/registry/core/node/storage"
	volumestore "k8s.io/kubernetes/pkg/registry/core/persistentvolume/storage"
	claimstore "k8s.io/kubernetes/pkg/registry/core/persistentvolumeclaim/storage"
	podstore "k8s.io/kubernetes/pkg/registry/core/pod/storage"
	podtemplatestore "k8s.io/kubernetes/pkg/registry/core/podtemplate/storage"
	replicationcontrollerstore "k8s.io/kubernetes/pkg/registry/core/replicationcontroller/storage"
	quotastore "k8s.io/kubernetes/pkg/registry/core/resourcequota/storage"
	secretstore "k8s.io/kubernetes/pkg/registry/core/secret/storage"
	"k8s.io/kubernetes/pkg/registry/core/service/ipallocator"
	servicestore "k8s.io/kubernetes/pkg/registry/core/service/storage"
	serviceaccountstore "k8s.io/kubernetes/pkg/registry/core/serviceaccount/storage"
	endpointslicestore "k8s.io/kubernetes/pkg/registry/discovery/endpointslice/storage"
	flowschemastore "k8s.io/kubernetes/pkg/registry/flowcontrol/flowschema/storage"
	prioritylevelstore "k8s.io/kubernetes/pkg/registry/flowcontrol/prioritylevelconfiguration/storage"
	ingressstore "k8s.io/kubernetes/pkg/registry/networking/ingress/storage"
	ingressclassstore "k8s.io/kubernetes/pkg/registry/networking/ingressclass/storage"
	ipaddressstore "k8s.io/kubernetes/pkg/registry/networking/ipaddress/storage"
	servicecidrstore "k8s.io/kubernetes/pkg/registry/networking/servicecidr/storage"
	runtimeclassstore "k8s.io/kubernetes/pkg/registry/node/runtimeclass/storage"
	budgetstore "k8s.io/kubernetes/pkg/registry/policy/poddisruptionbudget/storage"
	clusterrolepolicy "k8s.io/kubernetes/pkg/registry/rbac/clusterrole/policybased"
	clusterrolestore "k8s.io/kubernetes/pkg/registry/rbac/clusterrole/storage"
	clusterrolebindingpolicy "k8s.io/kubernetes/pkg/registry/rbac/clusterrolebinding/policybased"
	clusterrolebindingstore "k8s.io/kubernetes/pkg/registry/rbac/clusterrolebinding/storage"
	rolepolicy "k8s.io/kubernetes/pkg/registry/rbac/role/policybased"
	rolestore "k8s.io/kubernetes/pkg/registry/rbac/role/storage"
	rolebindingpolicy "k8s.io/kubernetes/pkg/registry/rbac/rolebinding/policybased"
	rolebindingstore "k8s.io/kubernetes/pkg/registry/rbac/rolebinding/storage"
	priorityclassstore "k8s.io/kubernetes/pkg/registry/scheduling/priorityclass/storage"
	csidriverstore "k8s.io/kubernetes/pkg/registry/storage/csidriver/storage"
	csinodestore "k8s.io/kubernetes/pkg/registry/storage/csinode/storage"
	csicapacitystore "k8s.io/kubernetes/pkg/registry/storage/csistoragecapacity/storage"
	storageclassstore "k8s.io/kubernetes/pkg/registry/storage/storageclass/storage"
	attachmentstore "k8s.io/kubernetes/pkg/registry/storage/volumeattachment/storage"
	volumeattributesstore "k8s.io/kubernetes/pkg/registry/storage/volumeattributesclass/storage"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
	"k8s.io/utils/clock"

	"murmur/httpapi/custom"
	"murmur/httpapi/informers"
	"murmur/httpapi/storage"
	"murmur/httpapi/stream"
	"murmur/httpapi/usage"
)

// kind is one row of the table: a resource, how its objects are stored, and upstream's registry for it. The
// registry brings the strategies, subresources, short names, categories, selectable fields and table columns, and says
// whether the kind is namespaced.
type kind struct {
	// Version is also the first that is served.
	storage.Kind
	// also are further group versions that serve the same stored objects.
	also []schema.GroupVersion
	// form is how they are represented, if not as storage.Native says.
	form func(*Registry, *kind) storage.Form
	// rest makes the resource ("") and its subresources ("status").
	rest func(*Registry) (map[string]rest.Storage, error)
}

// alone is a registry that makes a kind without subresources.
func alone[S rest.Storage](make func(generic.RESTOptionsGetter) (S, error)) func(*Registry) (map[string]rest.Storage, error) {
	return func(r *Registry) (map[string]rest.Storage, error) {
		s, err := make(r)
		return map[string]rest.Storage{"": s}, err
	}
}

// reported is a registry that makes a kind with a status.
func reported[S, T rest.Storage](make func(generic.RESTOptionsGetter) (S, T, error)) func(*Registry) (map[string]rest.Storage, error) {
	return func(r *Registry) (map[string]rest.Storage, error) {
		s, status, err := make(r)
		return map[string]rest.Storage{"": s, "status": status}, err
	}
}

// kinds is the table. One more kind is one more row. A row may use what rows above it have made.
func kinds() []*kind {
	coreKind := func(name string) schema.GroupResource { return core.Resource(name) }
	rbacKind := func(name string) schema.GroupResource { return rbacv1.Resource(name) }
	return append([]*kind{
		{Kind: storage.Typed[corev1.Namespace](coreKind("namespaces"), corev1.SchemeGroupVersion), rest: func(r *Registry) (map[string]rest.Storage, error) {
			s, status, finalize, err := namespacestore.NewREST(r)
			return map[string]rest.Storage{"": s, "status": status, "finalize": finalize}, err
		}},
		{Kind: storage.Typed[corev1.Node](coreKind("nodes"), corev1.SchemeGroupVersion), rest: func(r *Registry) (map[string]rest.Storage, error) {
			s, err := nodestore.NewStorage(r, kubeletclient.KubeletClientConfig{}, r.proxy)
			if err != nil {
				return nil, err
			}
			return map[string]rest.Storage{"": s.Node, "status": s.Status}, nil
		}},
		{Kind: storage.Typed[corev1.Secret](coreKind("secrets"), corev1.SchemeGroupVersion), rest: func(r *Registry) (map[string]rest.Storage, error) {
			s, err := secretstore.NewREST(r)
			return map[string]rest.Storage{"": s}, err
		}},
		{Kind: storage.Typed[corev1.ConfigMap](coreKind("configmaps"), corev1.SchemeGroupVersion), rest: func(r *Registry) (map[string]rest.Storage, error) {
			s, err := configmapstore.NewREST(r)
			return map[string]rest.Storage{"": s}, err
		}},
		{Kind: storage.Typed[corev1.Pod](coreKind("pods"), corev1.SchemeGroupVersion), rest: func(r *Registry) (map[string]rest.Storage, error) {
			s, err := podstore.NewStorage(r, stream.PlacedOn{}, r.proxy, r.cfg.Client.PolicyV1(), r.cfg.Authorizer)
			if err != nil {
				return nil, err
			}
			if r.cfg.Pods != nil {
				r.cfg.Pods(s.Pod.Store)
			}
			out := stream.New(r.cfg.Streams, s.Pod.Store)
			maps.Copy(out, map[string]rest.Storage{
				"": s.Pod, "status": s.Status, "resize": s.Resize, "binding": s.Binding, "eviction": s.Eviction,
				"ephemeralcontainers": s.EphemeralContainers, "proxy": s.Proxy,
			})
			return out, nil
		}},
		{Kind: storage.Typed[corev1.Service](coreKind("services"), corev1.SchemeGroupVersion), rest: func(r *Registry) (map[string]rest.Storage, error) {
			s, status, proxy, err := servicestore.NewREST(r, core.IPv4Protocol,
				map[core.IPFamily]ipallocator.Interface{core.IPv4Protocol: r.cfg.Numbers.Addresses()}, r.cfg.Numbers.Ports(), informers.EndpointSlices(r.cfg.Store), r.store("pods"), r.proxy)
			if err != nil {
				return nil, err
			}
			r.cfg.Numbers.Install(s.Store)
			return map[string]rest.Storage{"": s, "status": status, "proxy": proxy}, nil
		}},
		{Kind: storage.Typed[corev1.ServiceAccount](coreKind("serviceaccounts"), corev1.SchemeGroupVersion), rest: func(r *Registry) (map[string]rest.Storage, error) {
			s, err := serviceaccountstore.NewREST(r, r.cfg.Issuer, r.cfg.Audiences, r.cfg.Authorizer, r.cfg.MaxTokenLife, r.store("pods"), r.store("secrets"), r.store("nodes"),
				getter[*admissionregistrationv1.ValidatingWebhookConfiguration](read[admissionregistrationv1.ValidatingWebhookConfiguration](r.cfg.Store, storage.ValidatingWebhooks)),
				getter[*admissionregistrationv1.MutatingWebhookConfiguration](read[admissionregistrationv1.MutatingWebhookConfiguration](r.cfg.Store, storage.MutatingWebhooks)), true, min(r.cfg.MaxTokenLife, r.cfg.ExtendedTokenLife))
			if err != nil {
				return nil, err
			}
			out := map[string]rest.Storage{"": s}
			if s.Token != nil {
				out["token"] = r.cfg.Tokens(s.Token)
			}
			return out, nil
		}},
		{Kind: storage.Typed[corev1.Endpoints](coreKind("endpoints"), corev1.SchemeGroupVersion), rest: func(r *Registry) (map[string]rest.Storage, error) {
			s, err := endpointsstore.NewREST(r)
			return map[string]rest.Storage{"": s}, err
		}},
		{Kind: storage.Typed[corev1.Event](coreKind("events"), corev1.SchemeGroupVersion), also: []schema.GroupVersion{eventsv1.SchemeGroupVersion}, rest: func(r *Registry) (map[string]rest.Storage, error) {
			s, err := eventstore.NewREST(r, uint64(r.cfg.EventLife.Seconds()))
			return map[string]rest.Storage{"": s}, err
		}},
		{Kind: storage.Typed[discoveryv1.EndpointSlice](discoveryv1.Resource("endpointslices"), discoveryv1.SchemeGroupVersion), rest: func(r *Registry) (map[string]rest.Storage, error) {
			s, err := endpointslicestore.NewREST(r)
			return map[string]rest.Storage{"": s}, err
		}},
		{Kind: storage.Typed[appsv1.ReplicaSet](appsv1.Resource("replicasets"), appsv1.SchemeGroupVersion), rest: func(r *Registry) (map[string]rest.Storage, error) {
			s, err := replicasetstore.NewStorage(r)
			return map[string]rest.Storage{"": s.ReplicaSet, "status": s.Status, "scale": s.Scale}, err
		}},
		{Kind: storage.Typed[appsv1.Deployment](appsv1.Resource("deployments"), appsv1.SchemeGroupVersion), rest: func(r *Registry) (map[string]rest.Storage, error) {
			s, err := deploymentstore.NewStorage(r)
			return map[string]rest.Storage{"": s.Deployment, "status": s.Status, "scale": s.Scale}, err
		}},
		{Kind: storage.Typed[coordinationv1.Lease](coordinationv1.Resource("leases"), coordinationv1.SchemeGroupVersion), rest: func(r *Registry) (map[string]rest.Storage, error) {
			s, err := leasestore.NewREST(r)
			return map[string]rest.Storage{"": s}, err
		}},
		{Kind: storage.Typed[rbacv1.Role](rbacKind("roles"), rbacv1.SchemeGroupVersion), rest: func(r *Registry) (map[string]rest.Storage, error) {
			s, err := rolestore.NewREST(r)
			return map[string]rest.Storage{"": rolepolicy.NewStorage(s, r.cfg.Authorizer, r.cfg.Rules)}, err
		}},
		{Kind: storage.Typed[rbacv1.ClusterRole](rbacKind("clusterroles"), rbacv1.SchemeGroupVersion), rest: func(r *Registry) (map[string]rest.Storage, error) {
			s, err := clusterrolestore.NewREST(r)
			return map[string]rest.Storage{"": clusterrolepolicy.NewStorage(s, r.cfg.Authorizer, r.cfg.Rules)}, err
		}},
		{Kind: storage.Typed[rbacv1.RoleBinding](rbacKind("rolebindings"), rbacv1.SchemeGroupVersion), rest: func(r *Registry) (map[string]rest.Storage, error) {
			s, err := rolebindingstore.NewREST(r)
			return map[string]rest.Storage{"": rolebindingpolicy.NewStorage(s, r.cfg.Authorizer, r.cfg.Rules)}, err
		}},
		{Kind: storage.Typed[rbacv1.ClusterRoleBinding](rbacKind("clusterrolebindings"), rbacv1.SchemeGroupVersion), rest: func(r *Registry) (map[string]rest.Storage, error) {
			s, err := clusterrolebindingstore.NewREST(r)
			return map[string]rest.Storage{"": clusterrolebindingpolicy.NewStorage(s, r.cfg.Authorizer, r.cfg.Rules)}, err
		}},

		{Kind: storage.Typed[corev1.ReplicationController](coreKind("replicationcontrollers"), corev1.SchemeGroupVersion), rest: func(r *Registry) (map[string]rest.Storage, error) {
			s, err := replicationcontrollerstore.NewStorage(r)
			return map[string]rest.Storage{"": s.Controller, "status": s.Status, "scale": s.Scale}, err
		}},
		{Kind: storage.Typed[appsv1.StatefulSet](appsv1.Resource("statefulsets"), appsv1.SchemeGroupVersion), rest: func(r *Registry) (map[string]rest.Storage, error) {
			s, err := statefulsetstore.NewStorage(r)
			return map[string]rest.Storage{"": s.StatefulSet, "status": s.Status, "scale": s.Scale}, err
		}},
		{Kind: storage.Typed[appsv1.DaemonSet](appsv1.Resource("daemonsets"), appsv1.SchemeGroupVersion), rest: reported(daemonsetstore.NewREST)},
		{Kind: storage.Typed[appsv1.ControllerRevision](appsv1.Resource("controllerrevisions"), appsv1.SchemeGroupVersion), rest: alone(controllerrevisionstore.NewREST)},
		{Kind: storage.Typed[corev1.PodTemplate](coreKind("podtemplates"), corev1.SchemeGroupVersion), rest: alone(podtemplatestore.NewREST)},
		{Kind: storage.Typed[batchv1.Job](batchv1.Resource("jobs"), batchv1.SchemeGroupVersion), rest: reported(jobstore.NewREST)},
		{Kind: storage.Typed[batchv1.CronJob](batchv1.Resource("cronjobs"), batchv1.SchemeGroupVersion), rest: reported(cronjobstore.NewREST)},
		{Kind: storage.Typed[autoscalingv2.HorizontalPodAutoscaler](autoscalingv2.Resource("horizontalpodautoscalers"), autoscalingv2.SchemeGroupVersion), also: []schema.GroupVersion{autoscalingv1.SchemeGroupVersion},
			rest: reported(autoscalerstore.NewREST)},
		{Kind: storage.Typed[policyv1.PodDisruptionBudget](policyv1.Resource("poddisruptionbudgets"), policyv1.SchemeGroupVersion), rest: reported(budgetstore.NewREST)},
		{Kind: storage.Typed[corev1.ResourceQuota](coreKind("resourcequotas"), corev1.SchemeGroupVersion), rest: reported(quotastore.NewREST)},
		{Kind: storage.Typed[corev1.LimitRange](coreKind("limitranges"), corev1.SchemeGroupVersion), rest: alone(limitrangestore.NewREST)},
		{Kind: storage.Typed[schedulingv1.PriorityClass](schedulingv1.Resource("priorityclasses"), schedulingv1.SchemeGroupVersion), rest: alone(priorityclassstore.NewREST)},
		{Kind: storage.Typed[nodev1.RuntimeClass](nodev1.Resource("runtimeclasses"), nodev1.SchemeGroupVersion), rest: alone(runtimeclassstore.NewREST)},

		{Kind: storage.Typed[networkingv1.Ingress](networkingv1.Resource("ingresses"), networkingv1.SchemeGroupVersion), rest: reported(ingressstore.NewREST)},
		{Kind: storage.Typed[networkingv1.IngressClass](networkingv1.Resource("ingressclasses"), networkingv1.SchemeGroupVersion), rest: alone(ingressclassstore.NewREST)},
		{Kind: storage.Typed[networkingv1.IPAddress](networkingv1.Resource("ipaddresses"), networkingv1.SchemeGroupVersion), rest: alone(ipaddressstore.NewREST)},
		{Kind: storage.Typed[networkingv1.ServiceCIDR](networkingv1.Resource("servicecidrs"), networkingv1.SchemeGroupVersion), rest: reported(servicecidrstore.NewREST)},

		{Kind: storage.Typed[corev1.PersistentVolume](coreKind("persistentvolumes"), corev1.SchemeGroupVersion), rest: reported(volumestore.NewREST)},
		{Kind: storage.Typed[corev1.PersistentVolumeClaim](coreKind("persistentvolumeclaims"), corev1.SchemeGroupVersion), rest: reported(claimstore.NewREST)},
		{Kind: storage.Typed[storagev1.StorageClass](storagev1.Resource("storageclasses"), storagev1.SchemeGroupVersion), rest: alone(storageclassstore.NewREST)},
		{Kind: storage.Typed[storagev1.VolumeAttributesClass](storagev1.Resource("volumeattributesclasses"), storagev1.SchemeGroupVersion), rest: alone(volumeattributesstore.NewREST)},
		{Kind: storage.Typed[storagev1.VolumeAttachment](storagev1.Resource("volumeattachments"), storagev1.SchemeGroupVersion), rest: func(r *Registry) (map[string]rest.Storage, error) {
			s, err := attachmentstore.NewStorage(r)
			if err != nil {
				return nil, err
			}
			return map[string]rest.Storage{"": s.VolumeAttachment, "status": s.Status}, nil
		}},
		{Kind: storage.Typed[storagev1.CSIDriver](storagev1.Resource("csidrivers"), storagev1.SchemeGroupVersion), rest: func(r *Registry) (map[string]rest.Storage, error) {
			s, err := csidriverstore.NewStorage(r)
			if err != nil {
				return nil, err
			}
			return map[string]rest.Storage{"": s.CSIDriver}, nil
		}},
		{Kind: storage.Typed[storagev1.CSINode](storagev1.Resource("csinodes"), storagev1.SchemeGroupVersion), rest: func(r *Registry) (map[string]rest.Storage, error) {
			s, err := csinodestore.NewStorage(r)
			if err != nil {
				return nil, err
			}
			return map[string]rest.Storage{"": s.CSINode}, nil
		}},
		{Kind: storage.Typed[storagev1.CSIStorageCapacity](storagev1.Resource("csistoragecapacities"), storagev1.SchemeGroupVersion), rest: func(r *Registry) (map[string]rest.Storage, error) {
			s, err := csicapacitystore.NewStorage(r)
			if err != nil {
				return nil, err
			}
			return map[string]rest.Storage{"": s.CSIStorageCapacity}, nil
		}},

		{Kind: storage.Typed[certificatesv1.CertificateSigningRequest](certificatesv1.Resource("certificatesigningrequests"), certificatesv1.SchemeGroupVersion), rest: func(r *Registry) (map[string]rest.Storage, error) {
			s, status, approval, err := certificatestore.NewREST(r)
			return map[string]rest.Storage{"": s, "status": status, "approval": approval}, err
		}},
		{Kind: storage.Typed[certificatesv1.ClusterTrustBundle](certificatesv1.Resource("clustertrustbundles"), certificatesv1.SchemeGroupVersion), rest: alone(trustbundlestore.NewREST)},
		{Kind: storage.Typed[certificatesv1.PodCertificateRequest](certificatesv1.Resource("podcertificaterequests"), certificatesv1.SchemeGroupVersion), rest: func(r *Registry) (map[string]rest.Storage, error) {
			s, status, err := podcertificatestore.NewREST(r, r.cfg.Authorizer, clock.RealClock{})
			return map[string]rest.Storage{"": s, "status": status}, err
		}},
		{Kind: storage.Typed[flowcontrolv1.FlowSchema](flowcontrolv1.Resource("flowschemas"), flowcontrolv1.SchemeGroupVersion), rest: reported(flowschemastore.NewREST)},
		{Kind: storage.Typed[flowcontrolv1.PriorityLevelConfiguration](flowcontrolv1.Resource("prioritylevelconfigurations"), flowcontrolv1.SchemeGroupVersion), rest: reported(prioritylevelstore.NewREST)},

		{Kind: storage.Typed[apiextensionsv1.CustomResourceDefinition](apiextensionsv1.Resource("customresourcedefinitions"), apiextensionsv1.SchemeGroupVersion),
			form: func(r *Registry, k *kind) storage.Form {
				return custom.DefinitionForm{Native: storage.Native{Kind: &k.Kind}, Store: r.cfg.Store}
			},
			rest: func(r *Registry) (map[string]rest.Storage, error) {
				s, err := customresourcedefinition.NewREST(legacyscheme.Scheme, r)
				if err != nil {
					return nil, err
				}
				return map[string]rest.Storage{"": s, "status": customresourcedefinition.NewStatusREST(legacyscheme.Scheme, s)}, nil
			}},

		{Kind: storage.Typed[admissionregistrationv1.MutatingWebhookConfiguration](admissionregistrationv1.Resource("mutatingwebhookconfigurations"), admissionregistrationv1.SchemeGroupVersion), rest: alone(mutatingwebhookstore.NewREST)},
		{Kind: storage.Typed[admissionregistrationv1.ValidatingWebhookConfiguration](admissionregistrationv1.Resource("validatingwebhookconfigurations"), admissionregistrationv1.SchemeGroupVersion), rest: alone(validatingwebhookstore.NewREST)},

		{Kind: storage.Typed[apiregistrationv1.APIService](apiregistrationv1.Resource("apiservices"), apiregistrationv1.SchemeGroupVersion), rest: newAPIServices},

		answered(metricsv1beta1.Resource("nodes"), metricsv1beta1.SchemeGroupVersion, func(r *Registry) rest.Storage { return usage.Nodes(r.cfg.Usage) }),
		answered(metricsv1beta1.Resource("pods"), metricsv1beta1.SchemeGroupVersion, func(r *Registry) rest.Storage { return usage.Pods(r.cfg.Usage) }),
		answered(authenticationv1.Resource("tokenreviews"), authenticationv1.SchemeGroupVersion, func(r *Registry) rest.Storage {
			return tokenreview.NewREST(r.cfg.Known, r.cfg.Audiences)
		}),
		answered(authenticationv1.Resource("selfsubjectreviews"), authenticationv1.SchemeGroupVersion, func(*Registry) rest.Storage {
			return selfsubjectreview.NewREST()
		}),
		answered(authorizationv1.Resource("subjectaccessreviews"), authorizationv1.SchemeGroupVersion, func(r *Registry) rest.Storage {
			return subjectaccessreview.NewREST(r.cfg.Authorizer, legacyscheme.Scheme)
		}),
		answered(authorizationv1.Resource("localsubjectaccessreviews"), authorizationv1.SchemeGroupVersion, func(r *Registry) rest.Storage {
			return localsubjectaccessreview.NewREST(r.cfg.Authorizer, legacyscheme.Scheme)
		}),
		answered(authorizationv1.Resource("selfsubjectaccessreviews"), authorizationv1.SchemeGroupVersion, func(r *Registry) rest.Storage {
			return selfsubjectaccessreview.NewREST(r.cfg.Authorizer, legacyscheme.Scheme)
		}),
		answered(authorizationv1.Resource("selfsubjectrulesreviews"), authorizationv1.SchemeGroupVersion, func(r *Registry) rest.Storage {
			return selfsubjectrulesreview.NewREST(r.cfg.Resolver)
		}),
	}, policyKinds()...)
}

func answered(resource schema.GroupResource, version schema.GroupVersion, make func(*Registry) rest.Storage) *kind {
	return &kind{Kind: storage.Kind{Resource: resource, Version: version}, rest: func(r *Registry) (map[string]rest.Storage, error) {
		return map[string]rest.Storage{"": make(r)}, nil
	}}
}

// Stored are the kinds of the table that are stored.
func Stored() []storage.Kind {
	var out []storage.Kind
	for _, k := range kinds() {
		if k.Decode != nil {
			out = append(out, k.Kind)
		}
	}
	return out
}
