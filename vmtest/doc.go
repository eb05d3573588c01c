// Package vmtest boots Debian's kernels in QEMU and runs programs in them as root, many in one machine. The command
// vmtest/cmd/vmtest and its package suite are the callers in this repository: they run Go test packages that way.
//
// Find fetches a kernel, Boot runs one guest from start to end. A guest consists of an initial RAM disk (PID 1, from
// vmtest/cmd/guest, and the few modules needed to mount disks), a root disk made for the run, whose changes are thrown
// away, and the kernel's modules on a disk of their own, loaded by the kernel through modprobe as they are used. The
// root disk has busybox, dash, bash, runc, containerd, ctr, iproute2, nftables and kmod of the host, with their shared
// libraries; crun, strace, bpftool, ss, ethtool and criu where the host has them. The machine looks as systemd leaves
// it: pure cgroup2 with all controllers, bpffs, securityfs, tracefs, debugfs, a shared root mount, lo up, no other
// network. REPRIEVE_VM=1 is in every command's environment; what is written to /out can be fetched.
//
// Output, exit codes and fetched files come back in frames over a virtio serial port; the kernel's messages go to a
// file of their own. When the last frame is read QEMU is killed: nothing is worth a shutdown.
//
// The host needs the Debian packages qemu-system-x86, busybox-static, runc, containerd, iproute2, nftables, kmod,
// e2fsprogs and xz-utils; what is missing is named in the error. Where KVM does not boot a stock kernel, software
// emulation is used: see DetectAccel.
//
// # Why not virtme-ng
//
// Under emulation on two cores virtme-ng needs 25 s to boot Debian's 6.12, and its 9p root is slow and serves stale
// pages of rebuilt programs. This package takes 8 seconds of processor time for each of 6.1, 6.12 and 7.2, with the
// making of a 110 MB root disk (0.5 s) and of the initial RAM disk: 5 s on the clock for 6.1, 6 s for 6.12 and 7 s for
// 7.2 from the start of QEMU until the first command. Files are read from a block device. A guest has two virtual CPUs
// and mostly uses one, so two guests at once take no more processor time than one after the other, and less time on
// the clock.
package vmtest
