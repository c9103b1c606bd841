package httpapi

import (
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
	"k8s.io/apimachinery/pkg/runtime"
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

	"murmur/crdt"
)

// kind is one row of the table: a resource, how its objects are stored, and upstream's registry for it. The
// registry brings the strategies, subresources, short names, categories, selectable fields and table columns.
type kind struct {
	resource schema.GroupResource
	// storage is the version whose JSON is in the store, and the first that is served.
	storage schema.GroupVersion
	// also are further group versions that serve the same stored objects.
	also []schema.GroupVersion
	// decode gives the entry's typed object, shared. It is nil for kinds that are answered, not stored.
	decode func(*crdt.Entry) (runtime.Object, error)
	// form is how they are represented, if not as native says.
	form func(*Server, *kind) form
	// rest makes the resource ("") and its subresources ("status").
	rest func(*registry) (map[string]rest.Storage, error)
	// namespaced is upstream's word on it, filled in when the row comes to life.
	namespaced bool
	gvk        schema.GroupVersionKind
}

// key is the kind's name in crdt.Key.Resource.
func (k *kind) key() string {
	if k.resource.Group == "" {
		return k.resource.Resource
	}
	return k.resource.Group + "/" + k.resource.Resource
}

func as[T any, P interface {
	*T
	runtime.Object
}](e *crdt.Entry) (runtime.Object, error) {
	t, err := crdt.As[T](e)
	if err != nil {
		return nil, err
	}
	return P(t), nil
}

// alone is a registry that makes a kind without subresources.
func alone[S rest.Storage](make func(generic.RESTOptionsGetter) (S, error)) func(*registry) (map[string]rest.Storage, error) {
	return func(r *registry) (map[string]rest.Storage, error) {
		s, err := make(r)
		return map[string]rest.Storage{"": s}, err
	}
}

// reported is a registry that makes a kind with a status.
func reported[S, T rest.Storage](make func(generic.RESTOptionsGetter) (S, T, error)) func(*registry) (map[string]rest.Storage, error) {
	return func(r *registry) (map[string]rest.Storage, error) {
		s, status, err := make(r)
		return map[string]rest.Storage{"": s, "status": status}, err
	}
}

// kinds is the table. One more kind is one more row. A row may use what rows above it have made.
func kinds() []*kind {
	coreKind := func(name string) schema.GroupResource { return core.Resource(name) }
	rbacKind := func(name string) schema.GroupResource { return rbacv1.Resource(name) }
	return append([]*kind{
		{resource: coreKind("namespaces"), storage: corev1.SchemeGroupVersion, decode: as[corev1.Namespace], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, status, finalize, err := namespacestore.NewREST(r)
			return map[string]rest.Storage{"": s, "status": status, "finalize": finalize}, err
		}},
		{resource: coreKind("nodes"), storage: corev1.SchemeGroupVersion, decode: as[corev1.Node], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, err := nodestore.NewStorage(r, kubeletclient.KubeletClientConfig{}, r.proxy)
			if err != nil {
				return nil, err
			}
			return map[string]rest.Storage{"": s.Node, "status": s.Status}, nil
		}},
		{resource: coreKind("secrets"), storage: corev1.SchemeGroupVersion, decode: as[corev1.Secret], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, err := secretstore.NewREST(r)
			return map[string]rest.Storage{"": s}, err
		}},
		{resource: coreKind("configmaps"), storage: corev1.SchemeGroupVersion, decode: as[corev1.ConfigMap], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, err := configmapstore.NewREST(r)
			return map[string]rest.Storage{"": s}, err
		}},
		{resource: coreKind("pods"), storage: corev1.SchemeGroupVersion, decode: as[corev1.Pod], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, err := podstore.NewStorage(r, placedOn{}, r.proxy, r.own.PolicyV1(), r.authz)
			if err != nil {
				return nil, err
			}
			r.tell(s.Pod.Store)
			stream := streams{server: r.Server, pods: s.Pod.Store}
			return map[string]rest.Storage{
				"": s.Pod, "status": s.Status, "resize": s.Resize, "binding": s.Binding, "eviction": s.Eviction,
				"ephemeralcontainers": s.EphemeralContainers, "proxy": s.Proxy,
				"log": &logREST{stream}, "exec": &execREST{stream}, "attach": &attachREST{stream}, "portforward": &portForwardREST{stream},
			}, nil
		}},
		{resource: coreKind("services"), storage: corev1.SchemeGroupVersion, decode: as[corev1.Service], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, status, proxy, err := servicestore.NewREST(r, core.IPv4Protocol,
				map[core.IPFamily]ipallocator.Interface{core.IPv4Protocol: r.addresses}, r.ports, r.slices(), r.store("pods"), r.proxy)
			if err != nil {
				return nil, err
			}
			r.chooseByName(s.Store)
			return map[string]rest.Storage{"": s, "status": status, "proxy": proxy}, nil
		}},
		{resource: coreKind("serviceaccounts"), storage: corev1.SchemeGroupVersion, decode: as[corev1.ServiceAccount], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, err := serviceaccountstore.NewREST(r, r.issuer, r.audiences, r.authz, r.cfg.MaxTokenLife, r.store("pods"), r.store("secrets"), r.store("nodes"),
				getter[*admissionregistrationv1.ValidatingWebhookConfiguration](tokenSubjects{r.cfg.Store}.GetValidatingWebhookConfiguration),
				getter[*admissionregistrationv1.MutatingWebhookConfiguration](tokenSubjects{r.cfg.Store}.GetMutatingWebhookConfiguration), true, min(r.cfg.MaxTokenLife, extendedTokenLife))
			if err != nil {
				return nil, err
			}
			out := map[string]rest.Storage{"": s}
			if s.Token != nil {
				out["token"] = s.Token
			}
			return out, nil
		}},
		{resource: coreKind("endpoints"), storage: corev1.SchemeGroupVersion, decode: as[corev1.Endpoints], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, err := endpointsstore.NewREST(r)
			return map[string]rest.Storage{"": s}, err
		}},
		{resource: coreKind("events"), storage: corev1.SchemeGroupVersion, also: []schema.GroupVersion{eventsv1.SchemeGroupVersion}, decode: as[corev1.Event], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, err := eventstore.NewREST(r, uint64(eventLife.Seconds()))
			return map[string]rest.Storage{"": s}, err
		}},
		{resource: discoveryv1.Resource("endpointslices"), storage: discoveryv1.SchemeGroupVersion, decode: as[discoveryv1.EndpointSlice], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, err := endpointslicestore.NewREST(r)
			return map[string]rest.Storage{"": s}, err
		}},
		{resource: appsv1.Resource("replicasets"), storage: appsv1.SchemeGroupVersion, decode: as[appsv1.ReplicaSet], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, err := replicasetstore.NewStorage(r)
			return map[string]rest.Storage{"": s.ReplicaSet, "status": s.Status, "scale": s.Scale}, err
		}},
		{resource: appsv1.Resource("deployments"), storage: appsv1.SchemeGroupVersion, decode: as[appsv1.Deployment], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, err := deploymentstore.NewStorage(r)
			return map[string]rest.Storage{"": s.Deployment, "status": s.Status, "scale": s.Scale}, err
		}},
		{resource: coordinationv1.Resource("leases"), storage: coordinationv1.SchemeGroupVersion, decode: as[coordinationv1.Lease], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, err := leasestore.NewREST(r)
			return map[string]rest.Storage{"": s}, err
		}},
		{resource: rbacKind("roles"), storage: rbacv1.SchemeGroupVersion, decode: as[rbacv1.Role], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, err := rolestore.NewREST(r)
			return map[string]rest.Storage{"": rolepolicy.NewStorage(s, r.authz, r.rules)}, err
		}},
		{resource: rbacKind("clusterroles"), storage: rbacv1.SchemeGroupVersion, decode: as[rbacv1.ClusterRole], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, err := clusterrolestore.NewREST(r)
			return map[string]rest.Storage{"": clusterrolepolicy.NewStorage(s, r.authz, r.rules)}, err
		}},
		{resource: rbacKind("rolebindings"), storage: rbacv1.SchemeGroupVersion, decode: as[rbacv1.RoleBinding], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, err := rolebindingstore.NewREST(r)
			return map[string]rest.Storage{"": rolebindingpolicy.NewStorage(s, r.authz, r.rules)}, err
		}},
		{resource: rbacKind("clusterrolebindings"), storage: rbacv1.SchemeGroupVersion, decode: as[rbacv1.ClusterRoleBinding], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, err := clusterrolebindingstore.NewREST(r)
			return map[string]rest.Storage{"": clusterrolebindingpolicy.NewStorage(s, r.authz, r.rules)}, err
		}},

		{resource: coreKind("replicationcontrollers"), storage: corev1.SchemeGroupVersion, decode: as[corev1.ReplicationController], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, err := replicationcontrollerstore.NewStorage(r)
			return map[string]rest.Storage{"": s.Controller, "status": s.Status, "scale": s.Scale}, err
		}},
		{resource: appsv1.Resource("statefulsets"), storage: appsv1.SchemeGroupVersion, decode: as[appsv1.StatefulSet], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, err := statefulsetstore.NewStorage(r)
			return map[string]rest.Storage{"": s.StatefulSet, "status": s.Status, "scale": s.Scale}, err
		}},
		{resource: appsv1.Resource("daemonsets"), storage: appsv1.SchemeGroupVersion, decode: as[appsv1.DaemonSet], rest: reported(daemonsetstore.NewREST)},
		{resource: appsv1.Resource("controllerrevisions"), storage: appsv1.SchemeGroupVersion, decode: as[appsv1.ControllerRevision], rest: alone(controllerrevisionstore.NewREST)},
		{resource: coreKind("podtemplates"), storage: corev1.SchemeGroupVersion, decode: as[corev1.PodTemplate], rest: alone(podtemplatestore.NewREST)},
		{resource: batchv1.Resource("jobs"), storage: batchv1.SchemeGroupVersion, decode: as[batchv1.Job], rest: reported(jobstore.NewREST)},
		{resource: batchv1.Resource("cronjobs"), storage: batchv1.SchemeGroupVersion, decode: as[batchv1.CronJob], rest: reported(cronjobstore.NewREST)},
		{resource: autoscalingv2.Resource("horizontalpodautoscalers"), storage: autoscalingv2.SchemeGroupVersion, also: []schema.GroupVersion{autoscalingv1.SchemeGroupVersion},
			decode: as[autoscalingv2.HorizontalPodAutoscaler], rest: reported(autoscalerstore.NewREST)},
		{resource: policyv1.Resource("poddisruptionbudgets"), storage: policyv1.SchemeGroupVersion, decode: as[policyv1.PodDisruptionBudget], rest: reported(budgetstore.NewREST)},
		{resource: coreKind("resourcequotas"), storage: corev1.SchemeGroupVersion, decode: as[corev1.ResourceQuota], rest: reported(quotastore.NewREST)},
		{resource: coreKind("limitranges"), storage: corev1.SchemeGroupVersion, decode: as[corev1.LimitRange], rest: alone(limitrangestore.NewREST)},
		{resource: schedulingv1.Resource("priorityclasses"), storage: schedulingv1.SchemeGroupVersion, decode: as[schedulingv1.PriorityClass], rest: alone(priorityclassstore.NewREST)},
		{resource: nodev1.Resource("runtimeclasses"), storage: nodev1.SchemeGroupVersion, decode: as[nodev1.RuntimeClass], rest: alone(runtimeclassstore.NewREST)},

		{resource: networkingv1.Resource("ingresses"), storage: networkingv1.SchemeGroupVersion, decode: as[networkingv1.Ingress], rest: reported(ingressstore.NewREST)},
		{resource: networkingv1.Resource("ingressclasses"), storage: networkingv1.SchemeGroupVersion, decode: as[networkingv1.IngressClass], rest: alone(ingressclassstore.NewREST)},
		{resource: networkingv1.Resource("ipaddresses"), storage: networkingv1.SchemeGroupVersion, decode: as[networkingv1.IPAddress], rest: alone(ipaddressstore.NewREST)},
		{resource: networkingv1.Resource("servicecidrs"), storage: networkingv1.SchemeGroupVersion, decode: as[networkingv1.ServiceCIDR], rest: reported(servicecidrstore.NewREST)},

		{resource: coreKind("persistentvolumes"), storage: corev1.SchemeGroupVersion, decode: as[corev1.PersistentVolume], rest: reported(volumestore.NewREST)},
		{resource: coreKind("persistentvolumeclaims"), storage: corev1.SchemeGroupVersion, decode: as[corev1.PersistentVolumeClaim], rest: reported(claimstore.NewREST)},
		{resource: storagev1.Resource("storageclasses"), storage: storagev1.SchemeGroupVersion, decode: as[storagev1.StorageClass], rest: alone(storageclassstore.NewREST)},
		{resource: storagev1.Resource("volumeattributesclasses"), storage: storagev1.SchemeGroupVersion, decode: as[storagev1.VolumeAttributesClass], rest: alone(volumeattributesstore.NewREST)},
		{resource: storagev1.Resource("volumeattachments"), storage: storagev1.SchemeGroupVersion, decode: as[storagev1.VolumeAttachment], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, err := attachmentstore.NewStorage(r)
			if err != nil {
				return nil, err
			}
			return map[string]rest.Storage{"": s.VolumeAttachment, "status": s.Status}, nil
		}},
		{resource: storagev1.Resource("csidrivers"), storage: storagev1.SchemeGroupVersion, decode: as[storagev1.CSIDriver], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, err := csidriverstore.NewStorage(r)
			if err != nil {
				return nil, err
			}
			return map[string]rest.Storage{"": s.CSIDriver}, nil
		}},
		{resource: storagev1.Resource("csinodes"), storage: storagev1.SchemeGroupVersion, decode: as[storagev1.CSINode], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, err := csinodestore.NewStorage(r)
			if err != nil {
				return nil, err
			}
			return map[string]rest.Storage{"": s.CSINode}, nil
		}},
		{resource: storagev1.Resource("csistoragecapacities"), storage: storagev1.SchemeGroupVersion, decode: as[storagev1.CSIStorageCapacity], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, err := csicapacitystore.NewStorage(r)
			if err != nil {
				return nil, err
			}
			return map[string]rest.Storage{"": s.CSIStorageCapacity}, nil
		}},

		{resource: certificatesv1.Resource("certificatesigningrequests"), storage: certificatesv1.SchemeGroupVersion, decode: as[certificatesv1.CertificateSigningRequest], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, status, approval, err := certificatestore.NewREST(r)
			return map[string]rest.Storage{"": s, "status": status, "approval": approval}, err
		}},
		{resource: certificatesv1.Resource("clustertrustbundles"), storage: certificatesv1.SchemeGroupVersion, decode: as[certificatesv1.ClusterTrustBundle], rest: alone(trustbundlestore.NewREST)},
		{resource: certificatesv1.Resource("podcertificaterequests"), storage: certificatesv1.SchemeGroupVersion, decode: as[certificatesv1.PodCertificateRequest], rest: func(r *registry) (map[string]rest.Storage, error) {
			s, status, err := podcertificatestore.NewREST(r, r.authz, clock.RealClock{})
			return map[string]rest.Storage{"": s, "status": status}, err
		}},
		{resource: flowcontrolv1.Resource("flowschemas"), storage: flowcontrolv1.SchemeGroupVersion, decode: as[flowcontrolv1.FlowSchema], rest: reported(flowschemastore.NewREST)},
		{resource: flowcontrolv1.Resource("prioritylevelconfigurations"), storage: flowcontrolv1.SchemeGroupVersion, decode: as[flowcontrolv1.PriorityLevelConfiguration], rest: reported(prioritylevelstore.NewREST)},

		{resource: apiextensionsv1.Resource("customresourcedefinitions"), storage: apiextensionsv1.SchemeGroupVersion, decode: as[apiextensionsv1.CustomResourceDefinition],
			form: func(s *Server, k *kind) form { return definitionForm{native{k}, s} },
			rest: func(r *registry) (map[string]rest.Storage, error) {
				s, err := customresourcedefinition.NewREST(legacyscheme.Scheme, r)
				if err != nil {
					return nil, err
				}
				return map[string]rest.Storage{"": s, "status": customresourcedefinition.NewStatusREST(legacyscheme.Scheme, s)}, nil
			}},

		{resource: admissionregistrationv1.Resource("mutatingwebhookconfigurations"), storage: admissionregistrationv1.SchemeGroupVersion, decode: as[admissionregistrationv1.MutatingWebhookConfiguration], rest: alone(mutatingwebhookstore.NewREST)},
		{resource: admissionregistrationv1.Resource("validatingwebhookconfigurations"), storage: admissionregistrationv1.SchemeGroupVersion, decode: as[admissionregistrationv1.ValidatingWebhookConfiguration], rest: alone(validatingwebhookstore.NewREST)},

		{resource: apiregistrationv1.Resource("apiservices"), storage: apiregistrationv1.SchemeGroupVersion, decode: as[apiregistrationv1.APIService], rest: newAPIServices},

		answered(metricsv1beta1.Resource("nodes"), metricsv1beta1.SchemeGroupVersion, func(r *registry) rest.Storage { return nodeUsage{r.Server} }),
		answered(metricsv1beta1.Resource("pods"), metricsv1beta1.SchemeGroupVersion, func(r *registry) rest.Storage { return podUsage{r.Server} }),
		answered(authenticationv1.Resource("tokenreviews"), authenticationv1.SchemeGroupVersion, func(r *registry) rest.Storage {
			return tokenreview.NewREST(r.known, r.audiences)
		}),
		answered(authenticationv1.Resource("selfsubjectreviews"), authenticationv1.SchemeGroupVersion, func(*registry) rest.Storage {
			return selfsubjectreview.NewREST()
		}),
		answered(authorizationv1.Resource("subjectaccessreviews"), authorizationv1.SchemeGroupVersion, func(r *registry) rest.Storage {
			return subjectaccessreview.NewREST(r.authz, legacyscheme.Scheme)
		}),
		answered(authorizationv1.Resource("localsubjectaccessreviews"), authorizationv1.SchemeGroupVersion, func(r *registry) rest.Storage {
			return localsubjectaccessreview.NewREST(r.authz, legacyscheme.Scheme)
		}),
		answered(authorizationv1.Resource("selfsubjectaccessreviews"), authorizationv1.SchemeGroupVersion, func(r *registry) rest.Storage {
			return selfsubjectaccessreview.NewREST(r.authz, legacyscheme.Scheme)
		}),
		answered(authorizationv1.Resource("selfsubjectrulesreviews"), authorizationv1.SchemeGroupVersion, func(r *registry) rest.Storage {
			return selfsubjectrulesreview.NewREST(r.resolver)
		}),
	}, policyKinds()...)
}

func answered(resource schema.GroupResource, version schema.GroupVersion, storage func(*registry) rest.Storage) *kind {
	return &kind{resource: resource, storage: version, rest: func(r *registry) (map[string]rest.Storage, error) {
		return map[string]rest.Storage{"": storage(r)}, nil
	}}
}
