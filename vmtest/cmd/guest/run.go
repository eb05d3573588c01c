package main

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/reprieve-dev/reprieve/vmtest/internal/wire"
)

// runner runs the job's commands and returns its exit status.
func runner(port *os.File, job io.Reader) int {
	syscall.CloseOnExec(portFD)
	r := &report{port: port}
	if err := runJob(r, job); err != nil {
		r.event(wire.Event{Name: wire.Failed, Message: err.Error()})
		return 0
	}
	if err := r.event(wire.Event{Name: wire.Done}); err != nil {
		return 1
	}
	return 0
}

func runJob(r *report, source io.Reader) error {
	var job wire.Job
	if err := json.NewDecoder(source).Decode(&job); err != nil {
		return fmt.Errorf("parse job: %w", err)
	}
	if err := r.event(wire.Event{Name: wire.Booted, Release: release()}); err != nil {
		return err
	}
	for i, c := range job.Commands {
		if err := r.event(wire.Event{Name: wire.Started, Index: i}); err != nil {
			return err
		}
		e := runCommand(c, r)
		e.Name, e.Index = wire.Exited, i
		if err := r.event(e); err != nil {
			return err
		}
	}
	if len(job.Fetch) == 0 {
		return nil
	}
	return sendFiles(r, job.Fetch)
}

// report writes frames, one at a time.
type report struct {
	mu   sync.Mutex
	port io.Writer
}

func (r *report) event(e wire.Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return wire.WriteEvent(r.port, e)
}

// Write sends p as output of the running command.
func (r *report) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(p), wire.Write(r.port, wire.KindOutput, p)
}

// runCommand runs one command in a session of its own, and kills what is left of its process group.
func runCommand(c wire.Command, output io.Writer) wire.Event {
	cmd := exec.Command(c.Args[0], c.Args[1:]...)
	cmd.Dir, cmd.Env = c.Dir, append(os.Environ(), c.Env...)
	if cmd.Dir == "" {
		cmd.Dir = "/root"
	}
	cmd.Stdout, cmd.Stderr = output, output
	cmd.WaitDelay = 5 * time.Second // for children that keep the output open
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return wire.Event{Code: -1, Message: err.Error()}
	}
	stop := killAfter(cmd.Process.Pid, c.Timeout)
	err := cmd.Wait()
	e := wire.Event{Duration: time.Since(begin), Code: cmd.ProcessState.ExitCode(), TimedOut: stop()}
	if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signaled() {
		e.Signal = status.Signal().String()
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		e.Message = err.Error()
	}
	syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	return e
}

// killAfter quits, then kills, the process group after timeout. The returned function ends the watch and tells whether
// the time had passed.
func killAfter(pid int, timeout time.Duration) (stop func() bool) {
	if timeout == 0 {
		return func() bool { return false }
	}
	const grace = 10 * time.Second
	quit := time.AfterFunc(timeout, func() { syscall.Kill(pid, syscall.SIGQUIT) })
	kill := time.AfterFunc(timeout+grace, func() { syscall.Kill(-pid, syscall.SIGKILL) })
	return func() bool {
		kill.Stop()
		return !quit.Stop()
	}
}

// sendFiles sends the regular files at and below paths as one tar archive, named relative to the root.
func sendFiles(r *report, paths []string) error {
	archive := tar.NewWriter(archiveFrames{r})
	for _, path := range paths {
		err := filepath.WalkDir(path, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			return sendFile(archive, path)
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("fetch %s: %w", path, err)
		}
	}
	return archive.Close()
}

func sendFile(archive *tar.Writer, path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	header := &tar.Header{Name: strings.TrimPrefix(path, "/"), Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))}
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err = archive.Write(content)
	return err
}

// archiveFrames sends what is written to it as pieces of the archive.
type archiveFrames struct{ r *report }

func (a archiveFrames) Write(p []byte) (int, error) {
	a.r.mu.Lock()
	defer a.r.mu.Unlock()
	return len(p), wire.Write(a.r.port, wire.KindArchive, p)
}
