// Command guest is PID 1 of a VM test's guest. It mounts what a systemd host would have, runs the commands of the
// wire.Job in the initial RAM disk in a child of its own, reaps orphans, and reports over a virtio serial port. It ends
// with the machine; the host pulls the plug once it has read the last frame.
package main

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/vmtest/internal/wire"
)

// portFD is the frames' port in the runner.
const portFD = 3

func main() {
	if os.Getpid() != 1 {
		os.Exit(runner(os.NewFile(portFD, "frames"), os.Stdin))
	}
	if err := machine(); err != nil {
		fmt.Fprintln(os.Stderr, "vmtest guest:", err)
	}
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// machine is the life of PID 1.
func machine() error {
	job, port, err := start()
	if port == nil {
		return err
	}
	if err == nil {
		err = supervise(job, port)
	}
	if err != nil {
		return wire.WriteEvent(port, wire.Event{Name: wire.Failed, Message: err.Error()})
	}
	return nil
}

// supervise runs this program again as the runner and reaps every orphan until the runner ends.
func supervise(job, port *os.File) error {
	pid, err := syscall.ForkExec("/proc/self/exe", []string{"vmtest-runner"}, &syscall.ProcAttr{
		Env:   environment(),
		Files: []uintptr{job.Fd(), 1, 2, port.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("start runner: %w", err)
	}
	for {
		var status unix.WaitStatus
		dead, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return fmt.Errorf("wait for runner: %w", err)
		case dead == pid && status.ExitStatus() != 0:
			return fmt.Errorf("run commands: the runner ended with status %#x", int(status))
		case dead == pid:
			return nil
		}
	}
}

func environment() []string {
	return []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "USER=root", "LOGNAME=root",
		"SHELL=/bin/sh", "LANG=C.UTF-8", "TERM=dumb", "TMPDIR=/tmp", "REPRIEVE_VM=1",
	}
}
