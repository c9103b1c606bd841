package secrecy

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// startTPM starts a TPM that is software (swtpm), with a seed of its own, and returns its socket.
func startTPM(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath("swtpm")
	if err != nil {
		t.Fatalf("%v; `make deps` installs it", err)
	}
	dir, err := os.MkdirTemp("", "tpm") // the name of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "tpm.sock")
	var stderr strings.Builder
	cmd := exec.Command(program, "socket", "--tpm2", "--tpmstate", "dir="+dir, "--server", "type=unixio,path="+socket, "--flags", "not-need-init,startup-clear")
	cmd.Stderr, cmd.Stdout = &stderr, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { cmd.Process.Kill(); ended <- <-ended })
	for {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			conn.Close()
			return socket
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("swtpm ended: %v\n%s", err, &stderr)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// TestAnotherTPMOpensNothing: a keyring is worth nothing on another machine, nor to one whose TPM is not there or whose part was changed.
func TestAnotherTPMOpensNothing(t *testing.T) {
	o := outside(t)
	o.TPM = startTPM(t)
	own := opening(t, o)
	if _, err := os.Stat(o.KeyFile); err == nil {
		t.Error("there is a key file, too")
	}
	for name, c := range map[string]struct{ tpm, want string }{
		"another's": {startTPM(t), "does not open the data keys"},
		"none":      {"", "give --secrets-tpm"},
		"not there": {filepath.Join(t.TempDir(), "tpmrm0"), "is its driver loaded?"},
		"a file":    {os.Args[0], "not a device"},
	} {
		o := o
		o.TPM = c.tpm
		if _, err := OpenKeyring(o, time.Unix(1000, 0)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	own.tpm.Private[len(own.tpm.Private)-1] ^= 1
	if _, err := own.tpm.unseal(o.TPM); err == nil {
		t.Error("what was changed is unsealed")
	}
	own.tpm.Public = own.tpm.Public[:3]
	if _, err := own.tpm.unseal(o.TPM); err == nil {
		t.Error("what was cut off is unsealed")
	}
	// Nothing stays loaded: a TPM has room for three objects, and for as many sessions.
	for range 20 {
		opening(t, o)
	}
}
