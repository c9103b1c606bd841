// Package audit records who did what through the API of this node.
//
// Its one law: the record is upstream's, by upstream's policy, evaluation and backends, so that what reads a Kubernetes
// audit log reads this one. Each node records the requests that it serves. One that is handed to the node of a pod is
// recorded on both, under one audit ID.
//
// # Backends
//
// A log file of one JSON event a line, rotated by size and age, and a webhook. Either may be absent, both may be there.
// The log is written with the request. A webhook gets events in batches, beside the requests; what it does not take in
// time is dropped and counted, as in upstream. A disk that does not take the log refuses no request: the error is logged
// and counted.
//
// # What is recorded
//
// The requests of the API come by way of Filter. What the daemon does and is asked past them is an Act: what its controllers, its
// kubelet and the API itself write in the process, as the accounts that upstream's have; the commands over the daemon's own socket, by
// system:admin-socket with the user ID of who ran them; machines that join, by system:bootstrap and the ID of their token; and what
// members ask one that holds the CA's key. Begin makes an event of an Act, Requests one of each request to a handler. What follows from
// another event names it in the annotation audit.murmur.io/cause.
//
// # The policy
//
// Without a file, the metadata of writes, of reads of Secrets, of backups, and of streams into pods is recorded; never a body. The
// file is read again when it changes. One that cannot be read stops a start; later, the old one stays, and the log says
// so. What is sent to the daemon's own socket and by joiners is recorded under no policy, nor is what the process itself writes to Secrets.
//
// # What it does not do
//
// It does not see what a node says of its own pods and of itself: their statuses, where a pod was placed, the events of the daemon. Nor what
// other nodes have written: each records what it was asked and what it did.
package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"gopkg.in/natefinch/lumberjack.v2"
	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/audit/policy"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/apiserver/plugin/pkg/audit/buffered"
	"k8s.io/apiserver/plugin/pkg/audit/truncate"
	auditwebhook "k8s.io/apiserver/plugin/pkg/audit/webhook"

	"murmur/httpapi/configfile"
)

// Config is what is recorded, and where. The zero value records nothing.
type Config struct {
	// PolicyFile is a policy in upstream's format. Empty: the default one.
	PolicyFile string
	// LogPath is the log file; "-" is standard output; empty: none.
	LogPath string
	// MaxAge is how many days a rotated file is kept, MaxBackups how many are, MaxSize how many megabytes one has. 0
	// keeps them for ever, keeps all, and is 100.
	MaxAge, MaxBackups, MaxSize int
	// WebhookFile is a kubeconfig that says where events are sent; empty: nowhere.
	WebhookFile string
	Log         *slog.Logger
}

// Recorder records requests.
type Recorder struct {
	cfg    Config
	sink   audit.Backend
	out    io.Closer
	policy atomic.Pointer[evaluator]
	file   *configfile.File // nil: the default policy
}

type evaluator struct{ audit.PolicyRuleEvaluator }

// The buffer of the webhook, upstream's defaults.
const (
	bufferSize    = 10000
	batchSize     = 400
	batchWait     = 30 * time.Second
	throttleQPS   = 10
	throttleBurst = 15
	// An event is cut at maxEvent bytes, a batch at maxBatch.
	maxEvent = 100 << 10
	maxBatch = 10 << 20
)

// New makes a recorder. It opens the log, and starts nothing. Nil, without an error: nothing is to be recorded.
func New(cfg Config) (*Recorder, error) {
	if cfg.LogPath == "" && cfg.WebhookFile == "" {
		if cfg.PolicyFile != "" {
			return nil, errors.New("an audit policy without a log file or a webhook records nothing: give one, or leave the policy out")
		}
		return nil, nil
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	r := &Recorder{cfg: cfg}
	wanted := defaultPolicy()
	if cfg.PolicyFile != "" {
		var err error
		if r.file, err = configfile.Read(cfg.PolicyFile); err != nil {
			return nil, fmt.Errorf("audit policy: %w", err)
		}
		if wanted, err = parse(r.file); err != nil {
			return nil, err
		}
	}
	r.policy.Store(&evaluator{policy.NewPolicyRuleEvaluator(wanted)})
	gv := auditv1.SchemeGroupVersion
	var backends []audit.Backend
	if cfg.WebhookFile != "" {
		b, err := auditwebhook.NewBackend(cfg.WebhookFile, gv, webhook.DefaultRetryBackoffWithInitialDelay(auditwebhook.DefaultInitialBackoffDelay), nil)
		if err != nil {
			return nil, fmt.Errorf("audit webhook %s: %w", cfg.WebhookFile, err)
		}
		b = truncate.NewBackend(b, truncate.Config{MaxEventSize: maxEvent, MaxBatchSize: maxBatch}, gv)
		backends = append(backends, buffered.NewBackend(b, buffered.BatchConfig{BufferSize: bufferSize, MaxBatchSize: batchSize, MaxBatchWait: batchWait,
			ThrottleEnable: true, ThrottleQPS: throttleQPS, ThrottleBurst: throttleBurst, AsyncDelegate: true}))
	}
	switch cfg.LogPath {
	case "":
	case "-":
		backends = append(backends, lines{os.Stdout})
	default:
		if err := writable(cfg.LogPath); err != nil {
			return nil, fmt.Errorf("audit log: %w", err)
		}
		out := &lumberjack.Logger{Filename: cfg.LogPath, MaxAge: cfg.MaxAge, MaxBackups: cfg.MaxBackups, MaxSize: cfg.MaxSize}
		r.out = out
		backends = append(backends, lines{out})
	}
	r.sink = audit.Union(backends...)
	return r, nil
}

// writable makes a file that only its owner reads, if it is not there.
func writable(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// Run sends what is recorded until ctx ends, then what is left.
func (r *Recorder) Run(ctx context.Context) error {
	if err := r.sink.Run(ctx.Done()); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	if r.file != nil {
		r.file.Follow(ctx, configfile.FollowEvery, r.cfg.Log, func(f *configfile.File) error {
			p, err := parse(f)
			if err == nil {
				r.policy.Store(&evaluator{policy.NewPolicyRuleEvaluator(p)})
			}
			return err
		})
	}
	<-ctx.Done()
	r.sink.Shutdown()
	if r.out != nil {
		return r.out.Close()
	}
	return nil
}

// EvaluatePolicyRule asks the policy as it is now.
func (r *Recorder) EvaluatePolicyRule(a authorizer.Attributes) audit.RequestAuditConfig {
	return r.policy.Load().EvaluatePolicyRule(a)
}

// Filter records the requests that an authenticated caller makes.
func (r *Recorder) Filter(longRunning request.LongRunningRequestCheck) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler { return filters.WithAudit(h, r.sink, r, longRunning) }
}

// Failed records the requests of those who could not say who they are: at least that there was one, whatever the policy
// says of what they asked for.
func (r *Recorder) Failed(refuse http.Handler) http.Handler {
	return filters.WithFailedAuthenticationAudit(refuse, r.sink, atLeast{r})
}

// atLeast records the metadata of what the policy leaves out.
type atLeast struct{ *Recorder }

func (a atLeast) EvaluatePolicyRule(of authorizer.Attributes) audit.RequestAuditConfig {
	c := a.Recorder.EvaluatePolicyRule(of)
	if c.Level == auditinternal.LevelNone {
		c.Level = auditinternal.LevelMetadata
	}
	return c
}
