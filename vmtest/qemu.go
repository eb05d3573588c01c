package vmtest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

const (
	qemuProgram = "qemu-system-x86_64"
	qemuPackage = "qemu-system-x86"
)

// qemuArgs wires the guest: serial console into a file, the frames' port on standard output, the root disk with
// writes into a temporary file, the module disk read-only, no network card.
func (k Kernel) qemuArgs(initrd string, spec Spec) []string {
	cmdline := "console=ttyS0 panic=-1 oops=panic mitigations=off random.trust_cpu=on " + spec.Cmdline
	args := []string{
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-machine", "q35",
		"-smp", strconv.Itoa(spec.CPUs), "-m", strconv.Itoa(spec.MemoryMB),
		"-kernel", k.Image, "-initrd", initrd, "-append", strings.TrimSpace(cmdline),
		"-chardev", "file,id=console,path=" + comma(spec.Console), "-serial", "chardev:console",
		"-device", "virtio-serial-pci", "-chardev", "stdio,id=frames,signal=off",
		"-device", "virtserialport,chardev=frames,name=frames",
		"-drive", "if=virtio,format=raw,snapshot=on,file=" + comma(spec.Disk),
		"-drive", "if=virtio,format=raw,read-only=on,file=" + comma(k.Disk),
	}
	return append(args, spec.Accel.args()...)
}

// comma doubles commas, as QEMU's option syntax wants.
func comma(path string) string { return strings.ReplaceAll(path, ",", ",,") }

// dieWithParent makes the kernel kill QEMU when the thread that started it ends: nothing is left when the harness
// itself is killed.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}

// cappedBuffer keeps the first 64 KiB.
type cappedBuffer struct{ bytes.Buffer }

func (b *cappedBuffer) Write(p []byte) (int, error) {
	b.Buffer.Write(p[:min(len(p), max(0, 64<<10-b.Len()))])
	return len(p), nil
}

// MakeDisk writes the root disk of a guest to path: the standard programs (busybox, runc, containerd, ip, nft, kmod
// and others of the host, see the package comment) and files.
func MakeDisk(ctx context.Context, path string, files []File) error {
	dir, err := os.MkdirTemp(filepath.Dir(path), "root-")
	if err != nil {
		return fmt.Errorf("create root tree: %w", err)
	}
	defer os.RemoveAll(dir)
	tree, err := newRootTree(dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := tree.add(f); err != nil {
			return err
		}
	}
	if err := tree.addPrograms(ctx); err != nil {
		return err
	}
	const free = 4 << 30
	return makeDisk(ctx, path, dir, free)
}

const guestPackage = "github.com/reprieve-dev/reprieve/vmtest/cmd/guest"

// guestProgram builds PID 1 of the guest. It needs a working directory inside the module.
func guestProgram(ctx context.Context) ([]byte, error) {
	dir, err := os.MkdirTemp("", "vmtest-init-")
	if err != nil {
		return nil, fmt.Errorf("create folder for guest program: %w", err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "init")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, guestPackage)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=")
	if err := run(cmd); err != nil {
		return nil, fmt.Errorf("build guest program: %w", err)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read guest program: %w", err)
	}
	return program, nil
}
