package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	v1 "github.com/reprieve-dev/reprieve/api/reprieve/v1"
)

// The ports of the app.
const (
	servicePort = "80"
	doorPort    = "6060"
)

// victim is one container that is going to fail.
type victim struct {
	*stage
	engine   engine
	id, ref  string
	addr     string
	pid      int
	cgroup   string // directory
	identity string
	secret   string
	mem      *os.File // its memory, opened before the fault: later the guard refuses that
	client   *caller
}

// newVictim starts a container, waits until Reprieve protects it, and plants a
// secret in its memory.
func (s *stage) newVictim(ctx context.Context, e engine, id string, small bool) (*victim, error) {
	ns, addr, err := s.net.place()
	if err != nil {
		return nil, err
	}
	v := &victim{stage: s, engine: e, id: id, ref: e.ref(id), addr: addr}
	if err := e.run(ctx, container{id: id, netns: ns, small: small}); err != nil {
		return nil, err
	}
	if err := v.awaitProtection(ctx); err != nil {
		return nil, err
	}
	limit, pause := s.clientPace()
	v.client = startCaller(s.net.client, net.JoinHostPort(addr, servicePort), limit, pause)
	err = s.await(ctx, "a first answer of "+v.ref, func() (bool, error) {
		first, ok := v.client.other("")
		v.identity = first.identity
		return ok, nil
	})
	if err == nil {
		err = v.plant()
	}
	if err == nil {
		v.mem, err = os.Open(v.proc("mem"))
	}
	if err != nil {
		v.close()
	}
	return v, err
}

func (v *victim) close() {
	v.client.stop()
	if v.mem != nil {
		v.mem.Close()
	}
}

// clientPace is how long one request waits for its connection, and how long the
// client rests between two. Under emulation it must not take the whole processor.
func (s *stage) clientPace() (limit, pause time.Duration) {
	if s.slow() {
		return 50 * time.Millisecond, 5 * time.Millisecond
	}
	return 5 * time.Millisecond, 200 * time.Microsecond
}

// awaitProtection waits for what "reprieve ps" tells.
func (v *victim) awaitProtection(ctx context.Context) error {
	return v.await(ctx, "reprieve to protect "+v.ref, func() (bool, error) {
		resp, err := v.agent.api.ListWorkloads(ctx, &v1.ListWorkloadsRequest{})
		if err != nil {
			return false, err
		}
		for _, w := range resp.Workloads {
			if w.Workload.Ref == v.ref && w.ExitHold && (w.Guarded || v.part == native) {
				v.pid, v.cgroup = int(w.Workload.InitPid), filepath.Join(cgroupMount(), w.Workload.CgroupPath)
				return true, nil
			}
		}
		return false, nil
	})
}

// cgroupMount is where cgroup v2 is: beside version 1, or alone.
func cgroupMount() string {
	const mount = "/sys/fs/cgroup"
	if _, err := os.Stat(filepath.Join(mount, "cgroup.controllers")); err == nil {
		return mount
	}
	return filepath.Join(mount, "unified")
}

// plant sends two halves of a secret; only the app's heap has it as a whole.
func (v *victim) plant() error {
	raw := make([]byte, 24)
	_, _ = rand.Read(raw) // it never fails
	v.secret = hex.EncodeToString(raw)
	for _, half := range []string{v.secret[:24], v.secret[24:]} {
		if _, err := v.door(v.net.client, "/plant?half="+half); err != nil {
			return fmt.Errorf("plant secret: %w", err)
		}
	}
	return nil
}

// door asks the app's second port.
func (v *victim) door(ns, path string) (string, error) {
	return get(ns, net.JoinHostPort(v.addr, doorPort), path, v.patience()/4)
}

// hasBody says whether the process still has its memory map.
func (v *victim) hasBody() error {
	maps, err := os.ReadFile(v.proc("maps"))
	if err == nil && len(maps) == 0 {
		err = errors.New("it has no memory any more")
	}
	return err
}

func (v *victim) proc(file string) string { return fmt.Sprintf("/proc/%d/%s", v.pid, file) }

// state is the letter of proc_pid_status(5), such as S, or t for held at its end.
func (v *victim) state() string {
	text, err := os.ReadFile(v.proc("status"))
	if err != nil {
		return "gone"
	}
	_, after, _ := strings.Cut(string(text), "State:\t")
	return after[:min(len(after), 1)]
}

func (v *victim) frozen() bool {
	text, err := os.ReadFile(filepath.Join(v.cgroup, "cgroup.events"))
	return err == nil && strings.Contains(string(text), "frozen 1")
}

// remembers looks for the secret in the live memory of the process.
func (v *victim) remembers() (bool, error) {
	maps, err := os.Open(v.proc("maps"))
	if err != nil {
		return false, err
	}
	defer maps.Close()
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		var start, end int64
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x rw", &start, &end); err != nil {
			continue // not writable
		}
		if ok, err := contains(io.NewSectionReader(v.mem, start, end-start), v.secret); ok || err != nil {
			return ok, err
		}
	}
	return false, lines.Err()
}

// contains reads to the end, or to where memory was never touched.
func contains(r io.Reader, text string) (bool, error) {
	want := []byte(text)
	buffer := make([]byte, 0, 1<<20)
	for {
		n, err := r.Read(buffer[len(buffer):cap(buffer)])
		buffer = buffer[:len(buffer)+n]
		switch {
		case bytes.Contains(buffer, want):
			return true, nil
		case err == io.EOF || errors.Is(err, unix.EIO) || errors.Is(err, unix.EFAULT):
			return false, nil
		case err != nil:
			return false, err
		}
		keep := min(len(buffer), len(want)-1)
		buffer = append(buffer[:0], buffer[len(buffer)-keep:]...)
	}
}
