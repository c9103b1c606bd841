package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// setClock sets the clock of a node's programs, as they run, so far ahead of this machine's, or behind it. What time it is a program
// asks the vDSO, code that the kernel maps into every process: in the node's it is replaced by a system call and an addition.
// The monotonic clock is not touched, as when a real clock is set. A program that is started later has the right time again.
func (l *lab) setClock(n *labNode, ahead time.Duration) error {
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("clock: not on %s", runtime.GOARCH)
	}
	if ahead%time.Second != 0 {
		return fmt.Errorf("clock: %s: want whole seconds", ahead)
	}
	if !n.alive() {
		return fmt.Errorf("the daemon of %s does not run", n.Name)
	}
	bin, err := binDir()
	if err != nil {
		return err
	}
	for _, pid := range l.processes(n) {
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		if err != nil || filepath.Dir(exe) != bin {
			continue // a container's: it has its own idea of time from its image, if it has any
		}
		if err := setProcessClock(pid, ahead); err != nil {
			return fmt.Errorf("clock of %s, process %d: %w", filepath.Base(exe), pid, err)
		}
	}
	return nil
}

// skewed is clock_gettime for amd64 that adds seconds to what the kernel says of the clock of the day.
func skewed(seconds int64) []byte {
	code := []byte{
		0xb8, 0xe4, 0x00, 0x00, 0x00, // mov $228, %eax: clock_gettime(%edi, %rsi)
		0x0f, 0x05, // syscall
		0x85, 0xff, // test %edi, %edi: CLOCK_REALTIME is 0
		0x75, 0x0d, // jne to ret
		0x48, 0xb9, // movabs $seconds, %rcx
	}
	code = binary.LittleEndian.AppendUint64(code, uint64(seconds))
	return append(code,
		0x48, 0x01, 0x0e, // add %rcx, (%rsi)
		0xc3, // ret
	)
}

func setProcessClock(pid int, ahead time.Duration) error {
	from, to, err := vdso(pid)
	if err != nil {
		return err
	}
	memory, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer memory.Close()
	image := make([]byte, to-from)
	if _, err := memory.ReadAt(image, int64(from)); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the vDSO: %w", err)
	}
	at, size, err := symbol(image, "__vdso_clock_gettime")
	if err != nil {
		return err
	}
	code := skewed(int64(ahead / time.Second))
	if size < uint64(len(code)) {
		return fmt.Errorf("the vDSO's clock_gettime has %d bytes, too few for %d", size, len(code))
	}
	// No thread may be inside what is replaced.
	defer func() { _ = syscall.Kill(pid, syscall.SIGCONT) }()
	for deadline := time.Now().Add(5 * time.Second); ; {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			return err
		}
		if outside, err := stoppedOutside(pid, from, to); err != nil {
			return err
		} else if outside {
			break
		}
		if time.Now().After(deadline) {
			return errors.New("its threads do not stop outside of the vDSO")
		}
		_ = syscall.Kill(pid, syscall.SIGCONT)
		time.Sleep(time.Millisecond)
	}
	_, err = memory.WriteAt(code, int64(from+at))
	return err
}

// vdso finds where the kernel has mapped it.
func vdso(pid int) (from, to uint64, err error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(maps)) {
		if strings.HasSuffix(strings.TrimSpace(line), "[vdso]") {
			_, err := fmt.Sscanf(line, "%x-%x", &from, &to)
			return from, to, err
		}
	}
	return 0, 0, errors.New("it has no vDSO")
}

func symbol(image []byte, name string) (at, size uint64, err error) {
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return 0, 0, fmt.Errorf("the vDSO: %w", err)
	}
	all, err := f.DynamicSymbols()
	if err != nil {
		return 0, 0, fmt.Errorf("the vDSO: %w", err)
	}
	for _, s := range all {
		if s.Name == name {
			return s.Value, s.Size, nil
		}
	}
	return 0, 0, fmt.Errorf("the vDSO has no %s", name)
}

// stoppedOutside waits for all threads of a process to stop, and tells whether all are outside of a range of addresses.
func stoppedOutside(pid int, from, to uint64) (bool, error) {
	for range 1000 {
		threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			return false, err
		}
		stopped, outside := true, true
		for _, t := range threads {
			dir := fmt.Sprintf("/proc/%d/task/%s", pid, t.Name())
			b, err := os.ReadFile(dir + "/stat")
			if err != nil {
				continue // it has ended
			}
			_, rest, _ := strings.Cut(string(b), ") ")
			if !strings.HasPrefix(rest, "T") {
				stopped = false
				break
			}
			// "NUMBER ARGUMENTS... SP PC" in a system call, else "-1 SP PC".
			where, err := os.ReadFile(dir + "/syscall")
			if err != nil {
				return false, err
			}
			words := strings.Fields(string(where))
			pc, err := strconv.ParseUint(strings.TrimPrefix(words[len(words)-1], "0x"), 16, 64)
			if err != nil || pc >= from && pc < to {
				outside = false
			}
		}
		if stopped {
			return outside, nil
		}
		time.Sleep(100 * time.Microsecond)
	}
	return false, nil
}
