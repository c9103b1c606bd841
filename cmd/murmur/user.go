package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"murmur/node"
)

func userCommand() *cobra.Command {
	c := &cobra.Command{Use: "user", Short: "Give people and robots credentials of their own"}
	onlyWords(c)
	c.AddCommand(userCreateCommand())
	return c
}

func userCreateCommand() *cobra.Command {
	var d daemonFlags
	var groups []string
	var ttl time.Duration
	c := &cobra.Command{
		Use: "create NAME", Short: "Print a kubeconfig of a user",
		Long: `Print a kubeconfig with a client certificate of the user NAME in the groups given. What the user may do, roles bound to
the name or to a group say: for example

    murmur user create ann --group dev --ttl 720h > ann.kubeconfig
    murmur kubectl create rolebinding ann --clusterrole=edit --user=ann -n team

The key is made here and goes nowhere but into what is printed. The certificate cannot be taken back before it ends: keep the
time short, and take the rights away by the role binding.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || args[0] == "" {
				return errors.New("user create: name one user")
			}
			return nil
		},
	}
	d.add(c)
	c.Flags().StringSliceVar(&groups, "group", nil, "group of the user; may be repeated")
	c.Flags().DurationVar(&ttl, "ttl", 30*24*time.Hour, "how long the certificate is good, from 10m to 8760h")
	c.RunE = func(c *cobra.Command, args []string) error {
		name := args[0]
		if ttl < 10*time.Minute || ttl > 365*24*time.Hour {
			return fmt.Errorf("--ttl %s: want from 10m to 8760h", ttl)
		}
		if strings.HasPrefix(name, "system:") {
			return fmt.Errorf("%q: names that begin with system: are the cluster's own", name)
		}
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name, Organization: groups}}, key)
		if err != nil {
			return err
		}
		reply, err := d.admin().CreateUser(c.Context(), node.UserRequest{Request: request, TTL: ttl})
		if err != nil {
			return err
		}
		der, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			return err
		}
		out, err := yaml.Marshal(map[string]any{
			"apiVersion": "v1", "kind": "Config", "current-context": "murmur",
			"clusters": []any{map[string]any{"name": "murmur", "cluster": map[string]any{"server": reply.Server, "certificate-authority-data": reply.CA}}},
			"users": []any{map[string]any{"name": name, "user": map[string]any{"client-certificate-data": reply.Certificate,
				"client-key-data": pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})}}},
			"contexts": []any{map[string]any{"name": "murmur", "context": map[string]any{"cluster": "murmur", "user": name}}},
		})
		if err != nil {
			return err
		}
		_, err = c.OutOrStdout().Write(out)
		return err
	}
	return c
}
