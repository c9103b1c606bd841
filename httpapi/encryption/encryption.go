// Package encryption seals objects for the disk as upstream's EncryptionConfiguration says (apiserver.config.k8s.io, v1).
//
// Its one law: what a file means is upstream's. Resources are found as there (the first list that has one, with *. and *.*),
// the first provider of the list and its first key write, all of them read, and what is written is in upstream's format by upstream's
// transformers: "k8s:enc:secretbox:v1:KEY:" and so on. What begins otherwise is not encrypted, and is read, whatever the providers.
//
// # What it does not do
//
// It has the providers secretbox, aesgcm and identity. aescbc is open to padding oracles, as upstream's documentation says, and kms needs a server
// beside the daemon, without which a box that boots alone would not start: both are refused.
package encryption

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/install"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	"k8s.io/apiserver/pkg/storage/value"
	aestransformer "k8s.io/apiserver/pkg/storage/value/encrypt/aes"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"
	"k8s.io/apiserver/pkg/storage/value/encrypt/secretbox"

	"murmur/httpapi/configfile"
)

// prefix begins what any provider but identity has written.
const prefix = "k8s:enc:"

// Encryption is what is encrypted and how. It is immutable.
type Encryption struct {
	rules []rule
	file  *configfile.File // nil: it was not read from one
}

// rule is what is done with some resources.
type rule struct {
	resources []schema.GroupResource
	all       value.Transformer
	// writes names the provider and the key that write; empty if they do not encrypt.
	writes string
}

// Key is a key for Secrets.
type Key struct {
	Name  string
	Bytes [32]byte
}

// Load reads an EncryptionConfiguration.
func Load(path string) (*Encryption, error) {
	f, err := configfile.Read(path)
	if err != nil {
		return nil, fmt.Errorf("encryption configuration: %w", err)
	}
	return parse(f)
}

// Follow gives what the file says whenever it says something else, until ctx ends. A file that is wrong, or that take refuses, is logged, and
// what was taken last stays.
func (e *Encryption) Follow(ctx context.Context, log *slog.Logger, take func(*Encryption) error) {
	e.follow(ctx, configfile.FollowEvery, log, take)
}

func (e *Encryption) follow(ctx context.Context, every time.Duration, log *slog.Logger, take func(*Encryption) error) {
	e.file.Follow(ctx, every, log, func(f *configfile.File) error {
		next, err := parse(f)
		if err != nil {
			return err
		}
		return take(next)
	})
}

func parse(f *configfile.File) (*Encryption, error) {
	e, err := read(f)
	if err != nil {
		return nil, fmt.Errorf("encryption configuration: %w", err)
	}
	return e, nil
}

func read(f *configfile.File) (*Encryption, error) {
	scheme := runtime.NewScheme()
	install.Install(scheme)
	c := &apiserver.EncryptionConfiguration{}
	if err := f.Decode(scheme, c); err != nil {
		return nil, err
	}
	// What is not there is said before what is wrong with it.
	for i, r := range c.Resources {
		for j, p := range r.Providers {
			for name, given := range map[string]bool{"aescbc": p.AESCBC != nil, "kms": p.KMS != nil} {
				if given {
					at := fmt.Sprintf("resources[%d].providers[%d].%s", i, j, name)
					return nil, f.Error(at, at+": the provider "+name+" is not there; there are secretbox, aesgcm and identity")
				}
			}
		}
	}
	if err := f.Invalid(validation.ValidateEncryptionConfiguration(c, false)); err != nil {
		return nil, err
	}
	e := &Encryption{file: f}
	for i, r := range c.Resources {
		one, err := ruleOf(r)
		if err != nil {
			at := fmt.Sprintf("resources[%d].providers", i)
			return nil, f.Error(at, at+": "+err.Error())
		}
		e.rules = append(e.rules, one)
	}
	return e, nil
}

// OfSecrets encrypts Secrets with the first of some keys, and reads with any of them. With none it reads what is plain.
func OfSecrets(keys ...Key) (*Encryption, error) {
	r := apiserver.ResourceConfiguration{Resources: []string{"secrets"}}
	if len(keys) > 0 {
		box := &apiserver.SecretboxConfiguration{}
		for _, k := range keys {
			box.Keys = append(box.Keys, apiserver.Key{Name: k.Name, Secret: base64.StdEncoding.EncodeToString(k.Bytes[:])})
		}
		r.Providers = []apiserver.ProviderConfiguration{{Secretbox: box}}
	}
	return of(r)
}

// NoLonger writes plain what was encrypted with some keys.
func NoLonger(keys ...Key) (*Encryption, error) {
	e, err := OfSecrets(keys...)
	if err != nil {
		return nil, err
	}
	e.rules[0].all = value.NewPrefixTransformers(errors.New("no provider reads it"),
		value.PrefixTransformer{Prefix: []byte{}, Transformer: identity.NewEncryptCheckTransformer()},
		value.PrefixTransformer{Prefix: []byte(prefix), Transformer: cut{e.rules[0].all}})
	e.rules[0].writes = ""
	return e, nil
}

// cut gives a transformer the prefix back that another has taken.
type cut struct{ value.Transformer }

func (c cut) TransformFromStorage(ctx context.Context, data []byte, at value.Context) ([]byte, bool, error) {
	return c.Transformer.TransformFromStorage(ctx, append([]byte(prefix), data...), at)
}

func of(r apiserver.ResourceConfiguration) (*Encryption, error) {
	one, err := ruleOf(r)
	if err != nil {
		return nil, err
	}
	return &Encryption{rules: []rule{one}}, nil
}

func ruleOf(c apiserver.ResourceConfiguration) (rule, error) {
	out := rule{}
	for _, name := range c.Resources {
		out.resources = append(out.resources, schema.ParseGroupResource(name))
	}
	var all []value.PrefixTransformer
	for i, p := range c.Providers {
		var keys []apiserver.Key
		var name string
		make := func([]byte) (value.Transformer, error) { return nil, nil }
		switch {
		case p.Identity != nil:
			all = append(all, value.PrefixTransformer{Prefix: []byte{}, Transformer: identity.NewEncryptCheckTransformer()})
			continue
		case p.Secretbox != nil:
			keys, name = p.Secretbox.Keys, "secretbox"
			make = func(b []byte) (value.Transformer, error) { return secretbox.NewSecretboxTransformer([32]byte(b)), nil }
		case p.AESGCM != nil:
			keys, name = p.AESGCM.Keys, "aesgcm"
			make = func(b []byte) (value.Transformer, error) {
				block, err := aes.NewCipher(b)
				if err != nil {
					return nil, err
				}
				return aestransformer.NewGCMTransformer(block)
			}
		}
		var of []value.PrefixTransformer
		for j, k := range keys {
			b, err := base64.StdEncoding.DecodeString(k.Secret)
			if err != nil {
				return out, fmt.Errorf("key %s is no base64", k.Name)
			}
			t, err := make(b)
			if err != nil {
				return out, fmt.Errorf("key %s: %w", k.Name, err)
			}
			of = append(of, value.PrefixTransformer{Prefix: []byte(k.Name + ":"), Transformer: t})
			if i == 0 && j == 0 {
				// The name alone would not do: another key may have it.
				sum := sha256.Sum256(append([]byte("murmur encryption key "), b...))
				out.writes = fmt.Sprintf("%s:%s:%x", name, k.Name, sum[:6])
			}
		}
		all = append(all, value.PrefixTransformer{
			Prefix:      []byte(prefix + name + ":v1:"),
			Transformer: value.NewPrefixTransformers(fmt.Errorf("no key of the provider %s has written it", name), of...),
		})
	}
	out.all = value.NewPrefixTransformers(errors.New("no provider of the configuration has written it"), all...)
	return out, nil
}

// rule finds what is done with a resource, "group/resource" or that alone for the core group.
func (e *Encryption) rule(resource string) *rule {
	gr := schema.GroupResource{Resource: resource}
	if group, name, ok := strings.Cut(resource, "/"); ok {
		gr = schema.GroupResource{Group: group, Resource: name}
	}
	for i := range e.rules {
		for _, r := range e.rules[i].resources {
			if r == gr || r.Resource == "*" && (r.Group == "*" || r.Group == gr.Group) {
				return &e.rules[i]
			}
		}
	}
	return nil
}

// ID names what is written how: it changes with the resources, and with the first provider and key of any.
func (e *Encryption) ID() string {
	h := sha256.New()
	any := false
	for _, r := range e.rules {
		fmt.Fprintln(h, r.resources, r.writes)
		any = any || r.writes != ""
	}
	if !any {
		return ""
	}
	return hex.EncodeToString(h.Sum(nil)[:12])
}

// Writes says, for people, which resources are encrypted and by which provider and key.
func (e *Encryption) Writes() (out []string) {
	for _, r := range e.rules {
		by := "not encrypted"
		if r.writes != "" {
			by = r.writes[:strings.LastIndexByte(r.writes, ':')]
		}
		for _, name := range r.resources {
			out = append(out, name.String()+": "+by)
		}
	}
	return out
}

// Seal is what is stored of an object's encoding; name is that of the object in the store, to which what is sealed is bound
// as far as the provider can (aesgcm).
func (e *Encryption) Seal(resource, name string, plain []byte) ([]byte, error) {
	r := e.rule(resource)
	if r == nil || r.writes == "" {
		return plain, nil
	}
	return r.all.TransformToStorage(context.Background(), plain, value.DefaultContext(name))
}

// Open is the encoding of what was stored. stale tells that it would be stored otherwise now.
func (e *Encryption) Open(resource, name string, stored []byte) (plain []byte, stale bool, err error) {
	r := e.rule(resource)
	switch encrypted := bytes.HasPrefix(stored, []byte(prefix)); {
	case !encrypted:
		return stored, r != nil && r.writes != "", nil
	case r == nil:
		return nil, false, fmt.Errorf("%s is encrypted, and no provider is named for it", resource)
	}
	return r.all.TransformFromStorage(context.Background(), stored, value.DefaultContext(name))
}
