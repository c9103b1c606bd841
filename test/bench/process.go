package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// cpu is what a process has used.
func cpu(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// Fields 14 and 15, counted from behind the name, in ticks of 10 ms.
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond, nil
}

// resident is a process's resident memory in MB, and what of it is its own and not pages of a file.
func resident(pid int) (all, own float64, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.SplitSeq(string(status), "\n") {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kib, _ := strconv.ParseFloat(f[1], 64)
		switch f[0] {
		case "VmRSS:":
			all = kib * 1024 / 1e6
		case "RssAnon:":
			own = kib * 1024 / 1e6
		}
	}
	return all, own, nil
}

// sent is how many bytes have left through an interface of a process's network namespace.
func sent(pid int, link string) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		name, counters, ok := strings.Cut(line, ":")
		// Eight counters of what came in are first.
		if f := strings.Fields(counters); ok && strings.TrimSpace(name) == link && len(f) > 8 {
			return strconv.ParseFloat(f[8], 64)
		}
	}
	return 0, errors.New("there is no interface " + link)
}
