package evidence

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/vmtest/require"
)

// victim is a process of the test binary that has planted a secret in its memory.
type victim struct {
	*exec.Cmd
	pid     int
	address uint64 // of the secret
	listens string // host:port
	stdin   io.WriteCloser
}

// secretOf is in no file: both sides compute it.
func secretOf(kind string, pid int) []byte {
	return fmt.Appendf(nil, "%s-%s-%d", "pla"+"nted", kind, pid)
}

const (
	denseVariable = "REPRIEVE_EVIDENCE_DENSE" // no sparse TiB, with which gcore takes half a minute
	plainVictim   = "plain"
	bigVictim     = "big"
	takerVictim   = "taker"
	sparseSize    = 1 << 40
	forbiddenKind = "forbidden" // in memory that MADV_DONTDUMP excludes
	hiddenKind    = "hidden"    // in memory without read permission
	sharedKind    = "shared"
)

func runVictim(kind string) int {
	if kind == takerVictim {
		return runTaker()
	}
	address := plantSecret(secretOf(plainVictim, os.Getpid()))
	for range 3 {
		go func() { runtime.LockOSThread(); select {} }()
	}
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	go greet(l)
	if kind == bigVictim {
		growBig()
	}
	fmt.Printf("ready %#x 127.0.0.1:%d\n", address, l.Addr().(*net.TCPAddr).Port)
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test ends
	return 0
}

// greet says when a connection was accepted.
func greet(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = conn.Write([]byte{'!'})
	}
}

func mustMap(size, prot, flags int) []byte {
	m, err := unix.Mmap(-1, 0, size, prot, flags|unix.MAP_ANONYMOUS)
	if err != nil {
		panic(err)
	}
	return m
}

const readWrite = unix.PROT_READ | unix.PROT_WRITE

// plantSecret puts it behind a hole, where only pages around are touched.
func plantSecret(secret []byte) uintptr {
	m := mustMap(8<<20, readWrite, unix.MAP_PRIVATE)
	m[0] = 1
	copy(m[4<<20:], secret)
	return uintptr(unsafe.Pointer(&m[4<<20]))
}

// growBig touches bigSize bytes of which half compresses, one page in 64 GiB of a
// sparse TiB, and memory that must not, or not easily, be read.
func growBig() {
	m := mustMap(bigSize, readWrite, unix.MAP_PRIVATE)
	r := rand.NewPCG(1, 2)
	for i := 0; i < len(m); i += 8 {
		if i%(2*pageSize) < pageSize {
			binary.NativeEndian.PutUint64(m[i:], r.Uint64())
		} else {
			m[i] = 7
		}
	}
	if os.Getenv(denseVariable) == "" {
		growSparse()
	}
	pid := os.Getpid()
	forbidden := mustMap(1<<20, readWrite, unix.MAP_PRIVATE)
	copy(forbidden, secretOf(forbiddenKind, pid))
	_ = unix.Madvise(forbidden, unix.MADV_DONTDUMP)
	hidden := mustMap(1<<20, readWrite, unix.MAP_PRIVATE)
	copy(hidden, secretOf(hiddenKind, pid))
	_ = unix.Mprotect(hidden, unix.PROT_NONE)
	copy(mustMap(1<<20, readWrite, unix.MAP_SHARED), secretOf(sharedKind, pid))
}

// startVictim starts one and waits until it is ready. The test's end kills it.
func startVictim(tb testing.TB, kind string, attr *syscall.SysProcAttr, env ...string) *victim {
	tb.Helper()
	v := &victim{Cmd: exec.Command("/proc/self/exe", "argument with spaces")}
	v.Env = append(append(os.Environ(), victimVariable+"="+kind, "GOMAXPROCS=2"), env...)
	v.Stderr, v.SysProcAttr = os.Stderr, attr
	out, err := v.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if v.stdin, err = v.StdinPipe(); err != nil {
		tb.Fatal(err)
	}
	if kind == bigVictim {
		needMemory(tb, 4*bigSize)
	}
	if err := v.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = v.Process.Kill(); _ = v.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		tb.Fatalf("victim did not get ready: %v", err)
	}
	if _, err := fmt.Sscanf(line, "ready %v %s", &v.address, &v.listens); err != nil {
		tb.Fatalf("victim said %q: %v", line, err)
	}
	v.pid = v.Process.Pid
	return v
}

// runTaker takes evidence of the pid in TARGET into the store STORE.
func runTaker() int {
	s, err := Open(os.Getenv("STORE"), Limits{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var pid int
	_, _ = fmt.Sscan(os.Getenv("TARGET"), &pid)
	if _, err := s.Take(context.Background(), Request{Incident: "cut", PIDs: []int{pid}, Memory: true}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// needMemory skips in small VMs, where the temporary directory is in memory too.
func needMemory(tb testing.TB, bytes uint64) {
	tb.Helper()
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		tb.Fatal(err)
	}
	if free := (info.Freeram + info.Bufferram) * uint64(info.Unit); free < bytes {
		tb.Skipf("needs %d MiB of memory, %d are free", bytes>>20, free>>20)
	}
}

// mustCgroup makes an empty cgroup v2 and removes it at the end of the test.
func mustCgroup(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp(require.Cgroup2(tb), "reprieve-evidence-")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { waitFor(tb, "cgroup to be empty", func() bool { return unix.Rmdir(dir) == nil }) })
	return dir
}

func mustWrite(tb testing.TB, path, text string) {
	tb.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
}

// waitFor polls until ready, for at most 20 s.
func waitFor(tb testing.TB, what string, ready func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ready(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("waited 20 s for %s", what)
		}
	}
}

func mustFreeze(tb testing.TB, cgroup string) {
	tb.Helper()
	mustWrite(tb, filepath.Join(cgroup, "cgroup.freeze"), "1")
	waitFor(tb, "cgroup to freeze", func() bool {
		data, _ := os.ReadFile(filepath.Join(cgroup, "cgroup.events"))
		return strings.Contains(string(data), "frozen 1")
	})
}

func growSparse() {
	sparse := mustMap(sparseSize, readWrite, unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	for i := 0; i < len(sparse); i += 64 << 30 {
		sparse[i] = 1
	}
}

func takerCommand(store string, target int) *exec.Cmd {
	taker := exec.Command("/proc/self/exe")
	taker.Env = append(os.Environ(), victimVariable+"="+takerVictim, "STORE="+store, fmt.Sprintf("TARGET=%d", target))
	taker.Stderr = os.Stderr
	return taker
}
