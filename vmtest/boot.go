package vmtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/reprieve-dev/reprieve/vmtest/internal/wire"
)

// Command is one process to run in the guest.
type Command struct {
	Name    string        // for messages; empty is Args[0]
	Args    []string      // program, looked up in the guest's PATH, and arguments
	Env     []string      // NAME=value, added to the guest's basic environment
	Dir     string        // working directory in the guest; empty is /root
	Timeout time.Duration // SIGQUIT after this long, which makes Go print its goroutines; SIGKILL follows; zero is none
	Output  io.Writer     // gets stdout and stderr as they come; nil is Spec.Output
}

// Spec says what a guest consists of and does.
type Spec struct {
	Files    []File        // placed on the root disk besides the standard programs; unused with Disk
	Disk     string        // root disk made by MakeDisk, may be shared by guests running at once; empty: made from Files
	Modules  []string      // loaded with modprobe before the first command; most modules load by themselves on use
	Commands []Command     // run one after the other, also after one failed
	Cmdline  string        // added to the kernel's command line
	MemoryMB int           // zero is 3072
	CPUs     int           // zero is 2
	Deadline time.Duration // for the whole guest; zero is 10 minutes
	Output   io.Writer     // where commands without their own writer write; nil discards
	Console  string        // file that keeps the kernel's messages; empty: only the end of them, inside an error
	Fetch    []string      // guest paths to bring out after the last command
	FetchTo  string        // host folder that receives them
	Accel    Accel         // empty is DetectAccel's answer

	// OnExit, when set, is called as each command ends, with its index in Commands.
	OnExit func(index int, e Exit)
}

// Exit is how one command ended.
type Exit struct {
	Name     string
	Code     int    // exit code; -1 when a signal ended it
	Signal   string // such as "killed"; empty after a normal exit
	TimedOut bool
	Message  string // why it did not start, if it did not
	Duration time.Duration
}

// OK tells whether the command ran and returned zero.
func (e Exit) OK() bool { return e.Code == 0 && e.Signal == "" && !e.TimedOut && e.Message == "" }

// Result is what one guest did.
type Result struct {
	Release string        // uname -r
	Boot    time.Duration // from the start of QEMU until the first command could start
	Total   time.Duration // from the start of QEMU until its end
	Accel   Accel
	Exits   []Exit // one for each command that ended, in order
}

// Failed is the error of a guest that ended before it had run all of its commands: a kernel panic, a failed mount, or
// a deadline.
type Failed struct {
	Cause   error
	Console string // the kernel's messages from its first complaint on, or the last of them
}

func (f *Failed) Error() string {
	return fmt.Sprintf("run guest: %v; console ends:\n%s", f.Cause, f.Console)
}

// Unwrap returns the cause.
func (f *Failed) Unwrap() error { return f.Cause }

// Boot runs one guest from start to end. It returns an error, a *Failed where the guest was running already, when not
// every command could be run; a command that fails is no error, see Exit.OK. QEMU and all temporary files are gone when
// Boot returns, also after ctx was cancelled; QEMU also dies with the calling process.
func (k Kernel) Boot(ctx context.Context, spec Spec) (Result, error) {
	spec = spec.withDefaults()
	ctx, cancel := context.WithTimeoutCause(ctx, spec.Deadline, fmt.Errorf("deadline of %s passed", spec.Deadline))
	defer cancel()
	dir, err := os.MkdirTemp("", "vmtest-")
	if err != nil {
		return Result{}, fmt.Errorf("create folder for guest: %w", err)
	}
	defer os.RemoveAll(dir)
	if spec.Accel == "" {
		if spec.Accel, err = DetectAccel(ctx, k); err != nil {
			return Result{}, err
		}
	}
	if spec.Disk == "" {
		spec.Disk = filepath.Join(dir, "root.img")
		if err := MakeDisk(ctx, spec.Disk, spec.Files); err != nil {
			return Result{}, err
		}
	}
	if spec.Console == "" {
		spec.Console = filepath.Join(dir, "console")
	}
	initrd := filepath.Join(dir, "initrd")
	if err := k.writeInitrd(ctx, initrd, spec); err != nil {
		return Result{}, err
	}
	return k.start(ctx, initrd, spec)
}

func (s Spec) withDefaults() Spec {
	if s.MemoryMB == 0 {
		s.MemoryMB = 3072
	}
	if s.CPUs == 0 {
		s.CPUs = 2
	}
	if s.Deadline == 0 {
		s.Deadline = 10 * time.Minute
	}
	if s.Output == nil {
		s.Output = io.Discard
	}
	return s
}

// start runs QEMU and follows the guest's frames.
func (k Kernel) start(ctx context.Context, initrd string, spec Spec) (Result, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	cmd := exec.CommandContext(ctx, qemuProgram, k.qemuArgs(initrd, spec)...)
	var said cappedBuffer
	cmd.Stderr = &said
	cmd.SysProcAttr = dieWithParent()
	runtime.LockOSThread() // the thread that QEMU dies with must not end before Boot does
	defer runtime.UnlockOSThread()
	// QEMU closes the guest's port when its standard input ends, so that stays open, though nothing is sent.
	_, silent := cmd.StdinPipe()
	frames, err := cmd.StdoutPipe()
	if err := errors.Join(silent, err); err != nil {
		return Result{}, fmt.Errorf("open guest port: %w", err)
	}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return Result{}, fmt.Errorf("start QEMU: %w (apt-get install %s)", err, qemuPackage)
	}
	f := &follower{spec: spec, begin: begin, result: Result{Accel: spec.Accel}}
	followed := f.follow(frames)
	cause := context.Cause(ctx)
	stop() // the guest said that it is done, or is gone: nothing of it is needed any more
	waited := cmd.Wait()
	f.result.Total = time.Since(begin)
	if followed == nil {
		return f.result, nil
	}
	switch {
	case cause != nil:
		followed = cause
	case said.Len() > 0:
		followed = errors.Join(followed, fmt.Errorf("qemu: %s (%v)", tail(said.Bytes(), 5), waited))
	}
	console, _ := os.ReadFile(spec.Console)
	return f.result, &Failed{Cause: followed, Console: lastWords(console)}
}

// bootModules are what the guest needs before it can mount its disks and report; where built in, nothing is loaded.
func (k Kernel) bootModules() ([]string, error) {
	tree, err := openModuleTree(k.Modules)
	if err != nil {
		return nil, err
	}
	return tree.closure("virtio_pci", "virtio_blk", "virtio_console", "ext4")
}

// writeInitrd packs the guest program, the modules it needs before it can mount disks, and the job.
func (k Kernel) writeInitrd(ctx context.Context, path string, spec Spec) (err error) {
	program, err := guestProgram(ctx)
	if err != nil {
		return err
	}
	modules, err := k.bootModules()
	if err != nil {
		return err
	}
	file, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("create initial RAM disk: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	archive, job := &cpioWriter{w: file}, spec.job()
	for _, name := range []string{"dev", "proc", "root"} {
		if err := archive.Dir(name, 0o755); err != nil {
			return err
		}
	}
	for _, module := range modules {
		content, err := os.ReadFile(filepath.Join(k.Modules, module))
		if err != nil {
			return fmt.Errorf("pack module: %w", err)
		}
		name := filepath.Base(module)
		job.BootModules = append(job.BootModules, "/"+name)
		if err := archive.File(name, 0o644, content); err != nil {
			return err
		}
	}
	text, err := json.Marshal(job)
	if err != nil {
		return fmt.Errorf("encode job: %w", err)
	}
	return errors.Join(archive.File("init", 0o755, program), archive.File(wire.JobPath[1:], 0o644, text), archive.Close())
}

// job is the guest's part of the spec.
func (s Spec) job() wire.Job {
	job := wire.Job{Modules: s.Modules, Fetch: s.Fetch}
	for _, c := range s.Commands {
		job.Commands = append(job.Commands, wire.Command{Args: c.Args, Env: c.Env, Dir: c.Dir, Timeout: c.Timeout})
	}
	return job
}

var complaint = regexp.MustCompile(`(?m)^.*(BUG: |Oops|Kernel panic|general protection|sysrq: Trigger a crash|rcu: INFO).*$`)

// lastWords returns up to 80 lines of the kernel's messages, from the first sign of trouble, or else the last 40.
func lastWords(console []byte) string {
	if at := complaint.FindIndex(console); at != nil {
		lines := strings.SplitN(string(console[at[0]:]), "\n", 81)
		return strings.Join(lines[:min(80, len(lines))], "\n")
	}
	return tail(console, 40)
}
