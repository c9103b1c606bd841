package main

import (
	"strings"
	"testing"
)

// TestCall: where the bundle, the process and the container's id are on the command lines that containerd's shim gives to runc, and on others that runc takes; and that
// only what is set is changed.
func TestCall(t *testing.T) {
	const global = "runc --root /r/k8s.io --log /b/log.json --log-format json "
	for _, c := range []struct{ line, command, root, log, flag, value, id, set string }{
		{"runc", "", "", "", "bundle", "", "", ""},
		{"runc features", "features", "", "", "bundle", "", "", ""},
		{global + "create --bundle /b --pid-file /b/init.pid id", "create", "/r/k8s.io", "/b/log.json", "bundle", "/b", "id", global + "create --bundle NEW --pid-file /b/init.pid id"},
		{global + "create --bundle=/b --no-pivot id", "create", "/r/k8s.io", "/b/log.json", "bundle", "/b", "id", global + "create --bundle=NEW --no-pivot id"},
		{global + "create -b /b id", "create", "/r/k8s.io", "/b/log.json", "bundle", "/b", "id", global + "create -b NEW id"},
		{global + "create id --bundle /b", "create", "/r/k8s.io", "/b/log.json", "bundle", "/b", "id", global + "create id --bundle NEW"},
		{global + "--systemd-cgroup run -d id", "run", "/r/k8s.io", "/b/log.json", "bundle", "", "id", global + "--systemd-cgroup run --bundle NEW -d id"},
		{"runc -root=/r --debug create create", "create", "/r", "", "bundle", "", "create", "runc -root=/r --debug create --bundle NEW create"},
		{"runc --root create create id", "create", "create", "", "bundle", "", "id", "runc --root create create --bundle NEW id"},
		{global + "exec --process /tmp/runc-process1 --detach --pid-file /b/1.pid id", "exec", "/r/k8s.io", "/b/log.json", "process", "/tmp/runc-process1", "id",
			global + "exec --process NEW --detach --pid-file /b/1.pid id"},
		{global + "exec -t -p /p id", "exec", "/r/k8s.io", "/b/log.json", "process", "/p", "id", global + "exec -t -p NEW id"},
		{global + "exec --console-socket /c --env A=b -u 1 id sh --process /p", "exec", "/r/k8s.io", "/b/log.json", "process", "", "id", ""},
		{global + "exec -- id --process /p", "exec", "/r/k8s.io", "/b/log.json", "process", "", "id", ""},
		{global + "kill --all id 9", "kill", "/r/k8s.io", "/b/log.json", "bundle", "", "", ""},
		{"runc --root", "", "", "", "bundle", "", "", ""},
	} {
		got := parse(strings.Fields(c.line))
		if got.command != c.command || got.root != c.root || got.log != c.log || got.value(c.flag) != c.value || got.id != c.id {
			t.Errorf("%s: %+v", c.line, got)
		}
		if c.set != "" {
			got.set(c.flag, "NEW")
			if line := strings.Join(got.args, " "); line != c.set {
				t.Errorf("%s became\n%s, want\n%s", c.line, line, c.set)
			}
			if again := parse(got.args); again.value(c.flag) != "NEW" || again.id != c.id {
				t.Errorf("%s: read again %+v", c.line, again)
			}
		}
	}
}
