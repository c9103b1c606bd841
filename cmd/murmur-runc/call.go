package main

import (
	"slices"
	"strings"
)

// call is a command line of runc's, as far as it concerns us.
type call struct {
	args []string // of all of it, the program's name first

	root, log, logFormat string
	command              string
	commandAt            int
	id                   string
	flags                map[string]place // of the command
}

// place is where in args the value of a flag is.
type place struct {
	at     int
	prefix string // that is before it in the same argument: --bundle=
}

// The flags of runc that have a value, by the command that they are of. Others are switches. Those that have two names are kept by the long one.
var (
	globalFlags = []string{"root", "log", "log-format", "criu", "rootless"}
	startFlags  = []string{"bundle", "console-socket", "pidfd-socket", "pid-file", "preserve-fds"}
	execFlags   = []string{"console-socket", "pidfd-socket", "cwd", "env", "user", "additional-gids", "process", "pid-file", "process-label", "apparmor", "cap", "preserve-fds", "cgroup"}

	startShort = map[string]string{"b": "bundle"}
	execShort  = map[string]string{"e": "env", "u": "user", "g": "additional-gids", "p": "process", "c": "cap"}
)

// parse reads a command line as runc does: global flags, a command, its flags and what they are for. Of a start, flags may also stand
// after the id; of an exec, what follows the id is not runc's.
func parse(args []string) *call {
	c := &call{args: slices.Clone(args), flags: map[string]place{}}
	global := map[string]place{}
	i := c.scan(1, globalFlags, nil, global)
	get := func(name string) string { return c.at(global, name) }
	c.root, c.log, c.logFormat = get("root"), get("log"), get("log-format")
	if i >= len(args) {
		return c
	}
	c.command, c.commandAt = args[i], i
	switch c.command {
	case "create", "run":
		for i++; i < len(args); i++ {
			if i = c.scan(i, startFlags, startShort, c.flags); i < len(args) && c.id == "" {
				c.id = args[i]
			}
		}
	case "exec":
		if i = c.scan(i+1, execFlags, execShort, c.flags); i < len(args) {
			c.id = args[i]
		}
	}
	return c
}

// scan reads flags from i on and returns where they end.
func (c *call) scan(i int, withValue []string, short map[string]string, into map[string]place) int {
	for ; i < len(c.args); i++ {
		arg := c.args[i]
		if arg == "--" {
			return i + 1
		}
		if len(arg) < 2 || arg[0] != '-' {
			return i
		}
		name, _, inline := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-"), "=")
		if long, ok := short[name]; ok {
			name = long
		}
		switch {
		case !slices.Contains(withValue, name):
		case inline:
			into[name] = place{i, arg[:strings.IndexByte(arg, '=')+1]}
		case i+1 < len(c.args):
			i++
			into[name] = place{i, ""}
		}
	}
	return i
}

func (c *call) at(flags map[string]place, name string) string {
	p, ok := flags[name]
	if !ok {
		return ""
	}
	return c.args[p.at][len(p.prefix):]
}

// value is that of a flag of the command, or "".
func (c *call) value(flag string) string { return c.at(c.flags, flag) }

// set gives a flag of the command another value.
func (c *call) set(flag, value string) {
	if p, ok := c.flags[flag]; ok {
		c.args[p.at] = p.prefix + value
		return
	}
	c.args = slices.Insert(c.args, c.commandAt+1, "--"+flag, value)
}
