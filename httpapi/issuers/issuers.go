// Package issuers believes the tokens of others: people and robots who prove themselves to an OpenID Connect issuer.
//
// Its one law: what a token means is said by upstream's AuthenticationConfiguration (apiserver.config.k8s.io, KEP-3331)
// and decided by upstream's authenticator: audiences, claims, rules in CEL, mappings and all.
//
// The file is read at the start, where one that is wrong stops it with line and column, and again when it changes, where
// the old one stays and the log says why. An issuer that cannot be reached refuses its own tokens until it can, and
// nobody else's; it is asked for its keys in the background.
//
// # What it does not do
//
// It knows no egress selectors: a file that names one is refused.
package issuers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/install"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	authenticationcel "k8s.io/apiserver/pkg/authentication/cel"
	"k8s.io/apiserver/pkg/authentication/token/union"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/plugin/pkg/authenticator/token/oidc"

	"murmur/httpapi/configfile"
)

// Config is where the issuers are named. All are required.
type Config struct {
	// File is an AuthenticationConfiguration.
	File string
	// Own is the issuer of this cluster's own tokens, which no other may be.
	Own string
	// Audiences are those of this API.
	Audiences authenticator.Audiences
	Log       *slog.Logger
}

// Issuers believes tokens.
type Issuers struct {
	cfg     Config
	scheme  *runtime.Scheme
	file    *configfile.File
	first   *apiserver.AuthenticationConfiguration
	current atomic.Pointer[believed]
	every   time.Duration
	within  time.Duration
}

// believed are the issuers of one state of the file.
type believed struct {
	authenticator.Token
	anonymous *apiserver.AnonymousAuthConfig
	end       context.CancelFunc
	// healthy says whether every issuer has been asked for its keys.
	healthy func() error
}

// New reads the file. It starts nothing; until Run no token is believed.
func New(cfg Config) (*Issuers, error) {
	i := &Issuers{cfg: cfg, scheme: runtime.NewScheme(), every: configfile.FollowEvery, within: keysWithin}
	install.Install(i.scheme)
	f, err := configfile.Read(cfg.File)
	if err != nil {
		return nil, fmt.Errorf("authentication configuration: %w", err)
	}
	i.file = f
	if i.first, err = i.parse(f); err != nil {
		return nil, err
	}
	return i, nil
}

func (i *Issuers) parse(f *configfile.File) (*apiserver.AuthenticationConfiguration, error) {
	c := &apiserver.AuthenticationConfiguration{}
	if err := f.Decode(i.scheme, c); err != nil {
		return nil, fmt.Errorf("authentication configuration: %w", err)
	}
	if err := f.Invalid(validation.ValidateAuthenticationConfiguration(authenticationcel.NewDefaultCompiler(), c, []string{i.cfg.Own})); err != nil {
		return nil, fmt.Errorf("authentication configuration: %w", err)
	}
	for n, one := range c.JWT {
		if one.Issuer.EgressSelectorType != "" {
			return nil, fmt.Errorf("authentication configuration: %w",
				f.Error(fmt.Sprintf("jwt[%d].issuer.egressSelectorType", n), "egress selectors are not there: leave it out"))
		}
	}
	return c, nil
}

// believe makes the authenticators of a configuration. They ask for keys until end is called.
func (i *Issuers) believe(ctx context.Context, c *apiserver.AuthenticationConfiguration) (*believed, error) {
	ctx, cancel := context.WithCancel(ctx)
	var all []authenticator.Token
	var checks []func() error
	for _, one := range c.JWT {
		opts := oidc.Options{JWTAuthenticator: one, SupportedSigningAlgs: oidc.AllValidSigningAlgorithms(), DisallowedIssuers: []string{i.cfg.Own}}
		if ca := one.Issuer.CertificateAuthority; ca != "" {
			content, err := dynamiccertificates.NewStaticCAContent("issuer "+one.Issuer.URL, []byte(ca))
			if err != nil {
				cancel()
				return nil, err
			}
			opts.CAContentProvider = content
		}
		a, err := oidc.New(ctx, opts)
		if err != nil {
			cancel()
			return nil, fmt.Errorf("issuer %s: %w", one.Issuer.URL, err)
		}
		all, checks = append(all, a), append(checks, a.HealthCheck)
	}
	healthy := func() error {
		var errs []error
		for _, check := range checks {
			errs = append(errs, check())
		}
		return errors.Join(errs...)
	}
	return &believed{authenticator.WrapAudienceAgnosticToken(i.cfg.Audiences, union.NewFailOnError(all...)), c.Anonymous, cancel, healthy}, nil
}

// keysWithin is how long the issuers of a changed file may take to say their keys.
const keysWithin = 10 * time.Second

// Run follows the file until ctx ends. At the start an issuer may be away; a changed file is taken when all its issuers have
// answered, so that an edit locks nobody out. The authenticators before are kept for as long as a request may ask them.
func (i *Issuers) Run(ctx context.Context) error {
	first, err := i.believe(ctx, i.first)
	if err != nil {
		return err
	}
	i.current.Store(first)
	var before *believed
	i.file.Follow(ctx, i.every, i.cfg.Log, func(f *configfile.File) error {
		c, err := i.parse(f)
		if err != nil {
			return err
		}
		next, err := i.believe(ctx, c)
		if err != nil {
			return err
		}
		if err := answered(ctx, next, i.within); err != nil {
			next.end()
			return err
		}
		if before != nil {
			before.end()
		}
		before = i.current.Swap(next)
		return nil
	})
	i.current.Load().end()
	if before != nil {
		before.end()
	}
	return nil
}

// answered waits until every issuer has said its keys.
func answered(ctx context.Context, b *believed, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		err := b.healthy()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// AuthenticateToken tells whose token it is. It is of somebody unknown here if it is of no issuer in the file.
func (i *Issuers) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	b := i.current.Load()
	if b == nil {
		return nil, false, errors.New("the issuers of tokens are not known yet")
	}
	return b.AuthenticateToken(ctx, token)
}

// Anonymous is what the file says of those who show nothing; nil if it says nothing.
func (i *Issuers) Anonymous() *apiserver.AnonymousAuthConfig {
	if b := i.current.Load(); b != nil {
		return b.anonymous
	}
	return i.first.Anonymous
}
