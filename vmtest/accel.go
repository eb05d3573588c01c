package vmtest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Accel is how QEMU runs the guest's instructions.
type Accel string

// KVM needs /dev/kvm and a host whose KVM boots stock kernels; TCG is software emulation and works everywhere.
const (
	KVM Accel = "kvm"
	TCG Accel = "tcg"
)

func (a Accel) args() []string {
	if a == KVM {
		return []string{"-accel", "kvm", "-cpu", "host"}
	}
	// la57 off: five-level page tables made every boot 1.5 s slower under emulation. qemu64 did not boot 6.12.
	return []string{"-accel", "tcg,thread=multi", "-cpu", "max,-la57"}
}

// DetectAccel tells whether KVM boots a stock kernel here, by booting one: some hosts offer /dev/kvm and then cannot
// run it (paravirtual nesting). The answer is cached beside the kernels for this host's kernel version.
func DetectAccel(ctx context.Context, k Kernel) (Accel, error) {
	device, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return TCG, nil
	}
	device.Close()
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	var host unix.Utsname
	if err := unix.Uname(&host); err != nil {
		return "", fmt.Errorf("read host kernel version: %w", err)
	}
	path := filepath.Join(cache, "accel-"+unix.ByteSliceToString(host.Release[:]))
	if known, err := os.ReadFile(path); err == nil {
		return Accel(known), nil
	}
	accel := TCG
	if kvmBoots(ctx, k.Image) {
		accel = KVM
	}
	if ctx.Err() != nil {
		return "", fmt.Errorf("try KVM: %w", context.Cause(ctx))
	}
	if err := os.WriteFile(path, []byte(accel), 0o644); err != nil {
		return "", fmt.Errorf("remember KVM trial: %w", err)
	}
	return accel, nil
}

// kvmBoots starts a kernel without a root file system: one that runs says so on its console at once and then panics.
func kvmBoots(ctx context.Context, image string) bool {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, qemuProgram, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-machine", "q35", "-m", "512", "-kernel", image, "-append", "console=ttyS0 panic=-1", "-serial", "stdio")
	cmd.Args = append(cmd.Args, KVM.args()...)
	cmd.SysProcAttr = dieWithParent()
	out, _ := cmd.Output()
	return bytes.Contains(out, []byte("Kernel panic - not syncing: VFS"))
}
