package storage

import (
	"reflect"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func TestNulls(t *testing.T) {
	deep := apiextensionsv1.JSONSchemaProps{Items: &apiextensionsv1.JSONSchemaPropsOrArray{Schema: &apiextensionsv1.JSONSchemaProps{}}}
	for _, c := range []struct {
		obj  any
		want bool
	}{
		{corev1.ConfigMap{Data: map[string]string{"a": ""}, BinaryData: map[string][]byte{"b": {}}}, false},
		{corev1.ConfigMap{BinaryData: map[string][]byte{"b": nil}}, true},
		{corev1.Secret{Data: map[string][]byte{"a": {1}, "b": nil}}, true},
		{corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Args: nil}}}}, false},
		{corev1.Pod{ObjectMeta: metav1.ObjectMeta{ManagedFields: []metav1.ManagedFieldsEntry{{FieldsV1: metav1.NewFieldsV1("{}")}}}}, false},
		{appsv1.ControllerRevision{}, false},
		{appsv1.ControllerRevision{Data: runtime.RawExtension{Raw: []byte(`{"a":null}`)}}, true},
		{certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{Extra: map[string]certificatesv1.ExtraValue{"a": nil}}}, true},
		{apiextensionsv1.CustomResourceValidation{}, false},
		{apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &deep}, true},
	} {
		of := nullsOf(reflect.TypeOf(c.obj), nil)
		if got := of != nil && of(reflect.ValueOf(c.obj)); got != c.want {
			t.Errorf("nulls in %T %+v: %v", c.obj, c.obj, got)
		}
	}
	if nullsOf(reflect.TypeFor[rbacv1.ClusterRole](), nil) != nil {
		t.Error("ClusterRoles are looked through, and have no place for nulls")
	}
}
