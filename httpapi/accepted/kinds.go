package accepted

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kubernetes/pkg/apis/admissionregistration"
	"k8s.io/kubernetes/pkg/apis/apps"
	"k8s.io/kubernetes/pkg/apis/autoscaling"
	"k8s.io/kubernetes/pkg/apis/batch"
	"k8s.io/kubernetes/pkg/apis/certificates"
	"k8s.io/kubernetes/pkg/apis/coordination"
	core "k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/discovery"
	"k8s.io/kubernetes/pkg/apis/flowcontrol"
	"k8s.io/kubernetes/pkg/apis/networking"
	"k8s.io/kubernetes/pkg/apis/node"
	"k8s.io/kubernetes/pkg/apis/policy"
	"k8s.io/kubernetes/pkg/apis/rbac"
	"k8s.io/kubernetes/pkg/apis/scheduling"
	"k8s.io/kubernetes/pkg/apis/storage"
)

// Kind is one kind of which the table speaks.
type Kind struct {
	Name string
	// External is the type of its storage version, whose fields the table lists.
	External runtime.Object
	// Internal is what admission sees.
	Internal runtime.Object
}

// Kinds are all kinds that are stored, but those that users define.
func Kinds() []Kind {
	return []Kind{
		{"Pod", &corev1.Pod{}, &core.Pod{}},
		{"PodTemplate", &corev1.PodTemplate{}, &core.PodTemplate{}},
		{"Deployment", &appsv1.Deployment{}, &apps.Deployment{}},
		{"ReplicaSet", &appsv1.ReplicaSet{}, &apps.ReplicaSet{}},
		{"StatefulSet", &appsv1.StatefulSet{}, &apps.StatefulSet{}},
		{"DaemonSet", &appsv1.DaemonSet{}, &apps.DaemonSet{}},
		{"ControllerRevision", &appsv1.ControllerRevision{}, &apps.ControllerRevision{}},
		{"ReplicationController", &corev1.ReplicationController{}, &core.ReplicationController{}},
		{"Job", &batchv1.Job{}, &batch.Job{}},
		{"CronJob", &batchv1.CronJob{}, &batch.CronJob{}},
		{"HorizontalPodAutoscaler", &autoscalingv2.HorizontalPodAutoscaler{}, &autoscaling.HorizontalPodAutoscaler{}},
		{"PodDisruptionBudget", &policyv1.PodDisruptionBudget{}, &policy.PodDisruptionBudget{}},

		{"Service", &corev1.Service{}, &core.Service{}},
		{"Endpoints", &corev1.Endpoints{}, &core.Endpoints{}},
		{"EndpointSlice", &discoveryv1.EndpointSlice{}, &discovery.EndpointSlice{}},
		{"Ingress", &networkingv1.Ingress{}, &networking.Ingress{}},
		{"IngressClass", &networkingv1.IngressClass{}, &networking.IngressClass{}},
		{"IPAddress", &networkingv1.IPAddress{}, &networking.IPAddress{}},
		{"ServiceCIDR", &networkingv1.ServiceCIDR{}, &networking.ServiceCIDR{}},

		{"PersistentVolume", &corev1.PersistentVolume{}, &core.PersistentVolume{}},
		{"PersistentVolumeClaim", &corev1.PersistentVolumeClaim{}, &core.PersistentVolumeClaim{}},
		{"StorageClass", &storagev1.StorageClass{}, &storage.StorageClass{}},
		{"VolumeAttributesClass", &storagev1.VolumeAttributesClass{}, &storage.VolumeAttributesClass{}},
		{"VolumeAttachment", &storagev1.VolumeAttachment{}, &storage.VolumeAttachment{}},
		{"CSIDriver", &storagev1.CSIDriver{}, &storage.CSIDriver{}},
		{"CSINode", &storagev1.CSINode{}, &storage.CSINode{}},
		{"CSIStorageCapacity", &storagev1.CSIStorageCapacity{}, &storage.CSIStorageCapacity{}},

		{"Namespace", &corev1.Namespace{}, &core.Namespace{}},
		{"Node", &corev1.Node{}, &core.Node{}},
		{"ServiceAccount", &corev1.ServiceAccount{}, &core.ServiceAccount{}},
		{"Secret", &corev1.Secret{}, &core.Secret{}},
		{"ConfigMap", &corev1.ConfigMap{}, &core.ConfigMap{}},
		{"Event", &corev1.Event{}, &core.Event{}},
		{"ResourceQuota", &corev1.ResourceQuota{}, &core.ResourceQuota{}},
		{"LimitRange", &corev1.LimitRange{}, &core.LimitRange{}},
		{"Lease", &coordinationv1.Lease{}, &coordination.Lease{}},
		{"PriorityClass", &schedulingv1.PriorityClass{}, &scheduling.PriorityClass{}},
		{"RuntimeClass", &nodev1.RuntimeClass{}, &node.RuntimeClass{}},

		{"Role", &rbacv1.Role{}, &rbac.Role{}},
		{"ClusterRole", &rbacv1.ClusterRole{}, &rbac.ClusterRole{}},
		{"RoleBinding", &rbacv1.RoleBinding{}, &rbac.RoleBinding{}},
		{"ClusterRoleBinding", &rbacv1.ClusterRoleBinding{}, &rbac.ClusterRoleBinding{}},
		{"CertificateSigningRequest", &certificatesv1.CertificateSigningRequest{}, &certificates.CertificateSigningRequest{}},
		{"ClusterTrustBundle", &certificatesv1.ClusterTrustBundle{}, &certificates.ClusterTrustBundle{}},
		{"PodCertificateRequest", &certificatesv1.PodCertificateRequest{}, &certificates.PodCertificateRequest{}},
		{"FlowSchema", &flowcontrolv1.FlowSchema{}, &flowcontrol.FlowSchema{}},
		{"PriorityLevelConfiguration", &flowcontrolv1.PriorityLevelConfiguration{}, &flowcontrol.PriorityLevelConfiguration{}},
		{"CustomResourceDefinition", &apiextensionsv1.CustomResourceDefinition{}, &apiextensions.CustomResourceDefinition{}},
		{"APIService", &apiregistrationv1.APIService{}, &apiregistration.APIService{}},
		{"MutatingWebhookConfiguration", &admissionregistrationv1.MutatingWebhookConfiguration{}, &admissionregistration.MutatingWebhookConfiguration{}},
		{"ValidatingWebhookConfiguration", &admissionregistrationv1.ValidatingWebhookConfiguration{}, &admissionregistration.ValidatingWebhookConfiguration{}},
		{"MutatingAdmissionPolicy", &admissionregistrationv1.MutatingAdmissionPolicy{}, &admissionregistration.MutatingAdmissionPolicy{}},
		{"MutatingAdmissionPolicyBinding", &admissionregistrationv1.MutatingAdmissionPolicyBinding{}, &admissionregistration.MutatingAdmissionPolicyBinding{}},
		{"ValidatingAdmissionPolicy", &admissionregistrationv1.ValidatingAdmissionPolicy{}, &admissionregistration.ValidatingAdmissionPolicy{}},
		{"ValidatingAdmissionPolicyBinding", &admissionregistrationv1.ValidatingAdmissionPolicyBinding{}, &admissionregistration.ValidatingAdmissionPolicyBinding{}},
	}
}
