package audit

import (
	"bytes"
	"encoding/json"
	"io"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/audit"
	auditlog "k8s.io/apiserver/plugin/pkg/audit/log"
)

// lines is upstream's backend for log files, with the same bytes in the file: an event is a line of JSON, written before ProcessEvents
// returns. Upstream's asks a codec for each event, which costs half as much again, and three times the garbage; every write that the API
// answers pays it (TestLines, BenchmarkLines).
type lines struct {
	out io.Writer
}

var _ audit.Backend = lines{}

// eventKind is what each line says that it is.
var eventKind = metav1.TypeMeta{Kind: "Event", APIVersion: auditv1.SchemeGroupVersion.String()}

// lineBuffers are what lines are encoded in. A large one is not kept: with bodies an event may have megabytes.
var lineBuffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

const maxLineBuffer = 16 << 10

func (l lines) ProcessEvents(events ...*auditinternal.Event) bool {
	ok := true
	for _, e := range events {
		if err := l.write(e); err != nil {
			audit.HandlePluginError(auditlog.PluginName, err, e)
			ok = false
		}
	}
	return ok
}

func (l lines) write(e *auditinternal.Event) error {
	line := auditv1.Event{}
	if err := auditv1.Convert_audit_Event_To_v1_Event(e, &line, nil); err != nil {
		return err
	}
	line.TypeMeta = eventKind
	b := lineBuffers.Get().(*bytes.Buffer)
	defer func() {
		if b.Cap() <= maxLineBuffer {
			b.Reset()
			lineBuffers.Put(b)
		}
	}()
	if err := json.NewEncoder(b).Encode(&line); err != nil {
		return err
	}
	_, err := l.out.Write(b.Bytes())
	return err
}

func (lines) Run(<-chan struct{}) error { return nil }
func (lines) Shutdown()                 {}
func (lines) String() string            { return auditlog.PluginName }
