package node

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ReleaseStartup gives back the memory that only starting needed: the heap's free pages, and those pages of the program's file
// that were read once. What is needed of them again is mapped again from the page cache.
func ReleaseStartup() error {
	debug.FreeOSMemory()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		from, to, ok := constant(lines.Text(), self)
		if !ok {
			continue
		}
		if e := madvise(from, to-from, unix.MADV_DONTNEED); e != nil {
			err = errors.Join(err, fmt.Errorf("release %x-%x of %s: %w", from, to, self, e))
		}
	}
	return err
}

// constant is the range of a line of /proc/PID/maps if it maps a file's pages that nobody can have changed.
func constant(line, file string) (from, to uintptr, ok bool) {
	f := strings.Fields(line)
	if len(f) < 6 || f[5] != file || len(f[1]) != 4 || f[1][1] == 'w' {
		return 0, 0, false
	}
	a, b, _ := strings.Cut(f[0], "-")
	x, err1 := strconv.ParseUint(a, 16, 64)
	y, err2 := strconv.ParseUint(b, 16, 64)
	return uintptr(x), uintptr(y), err1 == nil && err2 == nil && x < y
}

func madvise(at, size uintptr, advice int) error {
	// The range is of this process's own mappings, as the kernel has just listed them; nothing is read or written through it.
	b := unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&at))), int(size))
	return unix.Madvise(b, advice)
}
