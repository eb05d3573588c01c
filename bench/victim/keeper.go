package victim

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Patience is how long the keeper and its victims may take for anything but
// dying.
const Patience = 20 * time.Second

// Options of StartKeeper.
type Options struct {
	Program        string   // path of reprieve-victim
	Watched, Other *os.File // directories of the two cgroups that victims run in
}

// Keeper is the process that starts victims, one at a time, and reaps them. Not
// safe for concurrent use.
type Keeper struct {
	cmd   *exec.Cmd
	page  *Page
	file  *os.File
	to    *os.File
	from  *bufio.Reader
	raw   *os.File
	ready *os.File
	word  *os.File

	// WorkIn takes the worker's orders, WorkOut has its answers.
	WorkIn, WorkOut *os.File
}

// Victim is a process that is ready to die.
type Victim struct {
	PID    int
	keeper *Keeper
}

// pipes are the far ends of the keeper's pipes, which only the child keeps.
type pipes struct {
	far []*os.File
	err error
}

// in makes a pipe that the keeper reads.
func (p *pipes) in() (near, far *os.File) { far, near = p.pair(); p.far = append(p.far, far); return }

// out makes a pipe that the keeper writes.
func (p *pipes) out() (near, far *os.File) { near, far = p.pair(); p.far = append(p.far, far); return }

func (p *pipes) pair() (r, w *os.File) {
	r, w, err := os.Pipe()
	p.err = errors.Join(p.err, err)
	return r, w
}

func (p *pipes) close() {
	for _, f := range p.far {
		_ = f.Close() // read by the child now
	}
}

// StartKeeper starts a keeper; Close ends it with all its victims.
func StartKeeper(o Options) (*Keeper, error) {
	k := &Keeper{}
	if err := k.share(); err != nil {
		return nil, err
	}
	var p pipes
	defer p.close()
	k.cmd = exec.Command(o.Program, roleKeeper)
	k.cmd.Stderr = os.Stderr
	// A group of its own: Ctrl-C at the terminal is the benchmark's, which then
	// ends this in order. When the benchmark is killed, standard input ends.
	k.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	k.cmd.Env = []string{"GOGC=off"}
	var in, out, ready, word, workIn, workOut *os.File
	k.to, in = p.in()
	k.raw, out = p.out()
	k.ready, ready = p.out()
	k.word, word = p.in()
	k.WorkIn, workIn = p.in()
	k.WorkOut, workOut = p.out()
	if p.err != nil {
		return nil, errors.Join(p.err, k.Close())
	}
	k.from = bufio.NewReader(k.raw)
	k.cmd.Stdin, k.cmd.Stdout = in, out
	k.cmd.ExtraFiles = []*os.File{k.file, ready, word, o.Watched, o.Other, workIn, workOut}
	if err := k.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start keeper: %w (build it: make bench)", err), k.Close())
	}
	return k, nil
}

// share makes the page that victims stamp.
func (k *Keeper) share() error {
	fd, err := unix.MemfdCreate("reprieve-bench", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("make shared memory: %w", err)
	}
	k.file = os.NewFile(uintptr(fd), "shared page")
	if err := k.file.Truncate(pageSize); err != nil {
		return errors.Join(err, k.file.Close())
	}
	k.page, err = MapPage(k.file)
	return err
}

// ask gives an order and returns what follows this word in the answer.
func (k *Keeper) ask(answer, format string, args ...any) (int64, error) {
	if _, err := fmt.Fprintf(k.to, format+"\n", args...); err != nil {
		return 0, fmt.Errorf("tell keeper: %w", err)
	}
	return k.answer(answer, time.Now().Add(Patience))
}

func (k *Keeper) answer(word string, deadline time.Time) (int64, error) {
	if err := k.raw.SetReadDeadline(deadline); err != nil {
		return 0, fmt.Errorf("ask keeper: %w", err)
	}
	line, err := k.from.ReadString('\n')
	if err != nil {
		return 0, fmt.Errorf("wait for the keeper to say %q: %w", word, err)
	}
	said, number, _ := strings.Cut(strings.TrimSpace(line), " ")
	n, err := strconv.ParseInt(number, 10, 64)
	if said != word || err != nil {
		return 0, fmt.Errorf("keeper said %q, not %q", line, word)
	}
	return n, nil
}

// Play starts a victim that touches bytes of memory, in the watched cgroup or the
// other one, and waits until it is ready.
func (k *Keeper) Play(watched bool, bytes int) (*Victim, error) {
	k.page.Clear()
	cgroup := fdOther
	if watched {
		cgroup = fdCgroup
	}
	pid, err := k.ask("started", "play %d %d", cgroup, bytes)
	if err != nil {
		return nil, err
	}
	v := &Victim{PID: int(pid), keeper: k}
	var one [1]byte
	err = k.ready.SetReadDeadline(time.Now().Add(Patience))
	if err == nil {
		_, err = io.ReadFull(k.ready, one[:])
	}
	if err != nil {
		_, end := v.End()
		return nil, errors.Join(fmt.Errorf("wait for the victim to be ready: %w (is there memory for %d bytes?)", err, bytes), end)
	}
	return v, nil
}

// Work starts the worker in the watched cgroup, in a network namespace of its own.
func (k *Keeper) Work() (*Victim, error) {
	pid, err := k.ask("started", "work %d", fdCgroup)
	return &Victim{PID: int(pid), keeper: k}, err
}

// Tell gives the victim a word to die of.
func (v *Victim) Tell(word byte) error {
	if _, err := v.keeper.word.Write([]byte{word}); err != nil {
		return fmt.Errorf("tell victim: %w", err)
	}
	return nil
}

// Stamp is when the victim was about to die; see Page.Stamp.
func (v *Victim) Stamp() uint64 { return v.keeper.page.Stamp() }

// Await makes the keeper, the victim's parent, wait for the end by waitid(2) in a
// thread; the function it returns gives the time at which that returned.
func (v *Victim) Await() (func(deadline time.Time) (uint64, error), error) {
	if _, err := v.keeper.ask("waiting", "await %d", v.PID); err != nil {
		return nil, err
	}
	return func(deadline time.Time) (uint64, error) {
		at, err := v.keeper.answer("ended", deadline)
		return uint64(at), err
	}, nil
}

// End kills the victim, if it lives, and reaps it.
func (v *Victim) End() (unix.WaitStatus, error) {
	killed := unix.Kill(v.PID, unix.SIGKILL)
	if killed == unix.ESRCH {
		killed = nil
	}
	status, err := v.keeper.ask("reaped", "reap %d", v.PID)
	return unix.WaitStatus(status), errors.Join(killed, err)
}

// Close ends the keeper and all that it started. It may be called twice.
func (k *Keeper) Close() error {
	var errs []error
	for _, f := range []*os.File{k.to, k.WorkIn} {
		if f != nil {
			_ = f.Close() // the second time it is closed already
		}
	}
	if k.cmd != nil && k.cmd.Process != nil && k.cmd.ProcessState == nil {
		errs = append(errs, k.cmd.Wait())
	}
	for _, f := range []*os.File{k.file, k.raw, k.ready, k.word, k.WorkOut} {
		if f != nil {
			_ = f.Close()
		}
	}
	if k.page != nil {
		errs = append(errs, k.page.Close())
	}
	return errors.Join(errs...)
}
