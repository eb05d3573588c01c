package main

import (
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/bench/victim"
	"github.com/reprieve-dev/reprieve/loader"
)

// A fault is a way to die.
type fault string

const (
	crash  fault = "crash"  // SIGSEGV by own doing
	exit   fault = "exit"   // exit(3)
	killed fault = "killed" // SIGKILL from outside
)

// sightings say when a detector's handler was told, by case without the group.
type sightings map[string]loader.BootTime

// A detector learns of the end of one process at a time.
type detector interface {
	// cases are those that the detector has for this fault.
	cases(f fault) []string
	// watched says in which cgroup its victims run.
	watched() bool
	// arm gets ready for one victim. The function that it returns waits for what
	// there is to see, gives back all that arm took, and must be called.
	arm(v *victim.Victim, f fault) (func(deadline time.Time) (sightings, error), error)
}

// inThread runs f in a thread of its own and returns where the result will be:
// f is in a blocking system call, which is the fastest way to learn of anything.
func inThread(f func() (loader.BootTime, error)) <-chan told {
	c := make(chan told, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		at, err := f()
		c <- told{at, err}
	}()
	return c
}

type told struct {
	at  loader.BootTime
	err error
}

// errUntold says that a detector was not told in time.
var errUntold = errors.New("was not told")

// pidfdDetector waits in epoll_wait(2) for a pidfd.
type pidfdDetector struct{}

func (pidfdDetector) cases(fault) []string { return []string{"peer/process/pidfd"} }
func (pidfdDetector) watched() bool        { return false }

func (d pidfdDetector) arm(v *victim.Victim, f fault) (func(time.Time) (sightings, error), error) {
	fd, err := unix.PidfdOpen(v.PID, 0)
	if err != nil {
		return nil, fmt.Errorf("pidfd_open: %w", err)
	}
	poll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	if err := unix.EpollCtl(poll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN}); err != nil {
		return nil, errors.Join(err, unix.Close(fd), unix.Close(poll))
	}
	result := inThread(func() (loader.BootTime, error) { return epollWait(poll) })
	return func(time.Time) (sightings, error) {
		r := <-result
		return sightings{d.cases(f)[0]: r.at}, errors.Join(r.err, unix.Close(fd), unix.Close(poll))
	}, nil
}

// epollWait waits for as long as a trial may take.
func epollWait(poll int) (loader.BootTime, error) {
	events := make([]unix.EpollEvent, 1)
	for {
		n, err := unix.EpollWait(poll, events, int(trialTime.Milliseconds()))
		at := loader.Now()
		switch {
		case n == 1:
			return at, nil
		case err == nil:
			return 0, errUntold
		case err != unix.EINTR:
			return 0, err
		}
	}
}

// waitidDetector is the parent of the victim, which waits in waitid(2) as
// container shims do.
type waitidDetector struct{}

func (waitidDetector) cases(fault) []string { return []string{"peer/process/waitid"} }
func (waitidDetector) watched() bool        { return false }

func (d waitidDetector) arm(v *victim.Victim, f fault) (func(time.Time) (sightings, error), error) {
	await, err := v.Await()
	if err != nil {
		return nil, err
	}
	return func(deadline time.Time) (sightings, error) {
		at, err := await(deadline)
		return sightings{d.cases(f)[0]: loader.BootTime(at)}, err
	}, nil
}
