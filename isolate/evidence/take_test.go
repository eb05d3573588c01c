package evidence

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/detect"
	"github.com/reprieve-dev/reprieve/loader"
	"github.com/reprieve-dev/reprieve/vmtest/require"
	"github.com/reprieve-dev/reprieve/workload"
)

func mustOpen(tb testing.TB, limits Limits) *Store {
	tb.Helper()
	s, err := Open(filepath.Join(tb.TempDir(), "evidence"), limits)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func mustTake(tb testing.TB, s *Store, req Request) Bundle {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	b, err := s.Take(ctx, req)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func mustRead(tb testing.TB, s *Store, id, name string) string {
	tb.Helper()
	data, err := os.ReadFile(filepath.Join(s.dir, id, name))
	if err != nil {
		tb.Fatal(err)
	}
	return string(data)
}

func mustVerify(tb testing.TB, s *Store, b Bundle) {
	tb.Helper()
	r, err := s.Verify(b.ID)
	if err != nil || r.Head != b.Head || r.Files == 0 {
		tb.Fatalf("verify: %v, %+v, want head %s", err, r, b.Head)
	}
}

func mustContain(tb testing.TB, s *Store, id string, secret []byte, want bool) {
	tb.Helper()
	if got, err := s.Contains(id, secret); err != nil || got != want {
		tb.Errorf("contains %q: %v, %v; want %v", secret, got, err, want)
	}
}

// frozenRequest is a frozen workload with all that can be asked of it.
func frozenRequest(tb testing.TB, v *victim, cgroup string) Request {
	dir := tb.TempDir()
	log := filepath.Join(dir, "log")
	mustWrite(tb, log, "first line\nlast line\n")
	mustWrite(tb, filepath.Join(dir, "config.json"), `{"ociVersion":"1.0","process":{"env":["A=b","API_TOKEN=geheim"],"args":["x"]}}`)
	path := "/" + filepath.Base(cgroup)
	return Request{
		Incident: "inc/1", Cgroup: cgroup, Memory: true, Timeline: json.RawMessage(`[{"step":"hold"}]`), MaxLog: 10,
		Workload: workload.Workload{Ref: workload.Ref{Runtime: "runc", ID: "web"}, InitPID: v.pid, CgroupPath: path, LogPath: log, Bundle: dir},
		Fault:    detect.Fault{Kind: detect.FatalSignal, PID: v.pid, Signal: 11, Command: "server", Init: true, At: loader.Now()},
		Events: []loader.Event{{At: loader.Now(), Kind: loader.Held, Signal: 15, PID: v.pid, Command: "server",
			Sender: 77, SenderCommand: "kubelet"}},
	}
}

func TestTakeFrozen(t *testing.T) {
	require.Root(t)
	cgroup := mustCgroup(t)
	v := startVictim(t, plainVictim, nil, "DB_PASSWORD=geheim", "HARMLESS=visible")
	conn, err := net.Dial("tcp", v.listens)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, filepath.Join(cgroup, "cgroup.procs"), strconv.Itoa(v.pid))
	mustFreeze(t, cgroup)
	s := mustOpen(t, Limits{})
	b := mustTake(t, s, frozenRequest(t, v, cgroup))

	mustVerify(t, s, b)
	mustContain(t, s, b.ID, secretOf(plainVictim, v.pid), true)
	mustContain(t, s, b.ID, []byte("this is "+"nowhere at all"), false)
	hits, err := s.Find(b.ID, secretOf(plainVictim, v.pid), 0)
	if err != nil || len(hits) == 0 || !strings.Contains(fmt.Sprint(hits), fmt.Sprint(v.address)) {
		t.Errorf("find: %v, %v; want one at %d", hits, err, v.address)
	}
	checkFrozenFiles(t, s, b.ID, v)
	checkSummary(t, s, b.ID, v)
	checkModes(t, filepath.Join(s.dir, b.ID))
	if state, _ := os.ReadFile(filepath.Join(cgroup, "cgroup.events")); !strings.Contains(string(state), "frozen 1") {
		t.Error("the workload is not frozen any more")
	}
}

func checkFrozenFiles(t *testing.T, s *Store, id string, v *victim) {
	t.Helper()
	proc := fmt.Sprintf("proc/%d/", v.pid)
	for name, want := range map[string]string{
		"processes.json": "argument with spaces", proc + "status": "Threads:", proc + "maps": "[stack]", proc + "limits": "open files",
		proc + "environ": "DB_PASSWORD=[redacted]", proc + "mountinfo": " / ", proc + "fds.ndjson": "socket:[", proc + "smaps_rollup": "Pss",
		"cgroup/v2/cgroup.events": "frozen 1", "events.ndjson": `"sender_command":"kubelet"`, "timeline.json": "hold",
		"log.txt": "last line\n", "spec.json": "API_TOKEN=[redacted]", "manifest.json": `"schema": 1`,
		fmt.Sprintf("cores/%d.json", v.pid): "[vvar]",
	} {
		if got := mustRead(t, s, id, name); !strings.Contains(got, want) {
			t.Errorf("%s lacks %q:\n%.2000s", name, want, got)
		}
	}
	if env := mustRead(t, s, id, proc+"environ"); strings.Contains(env, "geheim") || !strings.Contains(env, "HARMLESS=visible") {
		t.Errorf("environ: %q", env)
	}
	if log := mustRead(t, s, id, "log.txt"); log != "last line\n" {
		t.Errorf("log: %q", log)
	}
}

func checkSummary(t *testing.T, s *Store, id string, v *victim) {
	t.Helper()
	sum, err := s.Show(id)
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := sum.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(v.listens)
	for _, want := range []string{"fatal-signal SIGSEGV of server", "SIGTERM", "kubelet (77)", "LISTEN", "ESTABLISHED", ":" + port,
		"anonymous", "yes", "runc/web"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("summary lacks %q", want)
		}
	}
	if t.Failed() || testing.Verbose() {
		t.Logf("\n%s", text.String())
	}
}

func checkModes(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %s", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestTakeStoppedInExit(t *testing.T) {
	require.Root(t)
	v := startVictim(t, plainVictim, nil)
	s := mustOpen(t, Limits{})
	var b Bundle
	stopInExit(t, v.pid, func() {
		b = mustTake(t, s, Request{Incident: "x", Memory: true, NowMemoryFirst: true,
			Fault: detect.Fault{Kind: detect.OOM, PID: v.pid, Status: 9}})
	})
	mustVerify(t, s, b)
	mustContain(t, s, b.ID, secretOf(plainVictim, v.pid), true)
	m, err := s.Manifest(b.ID)
	if err != nil || len(m.Files) == 0 || !strings.HasPrefix(m.Files[0].Path, "cores/") {
		t.Errorf("memory was not first: %v %v", m.Files, err)
	}
	sum, err := s.Show(b.ID)
	if err != nil || len(sum.Processes) != 1 || !strings.Contains(sum.Cause, "oom by SIGKILL of process") {
		t.Errorf("summary: %+v, %v", sum, err)
	}
}

// stopInExit kills pid and runs do while its leader is stopped in its exit.
func stopInExit(t *testing.T, pid int, do func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(pid), 0, unix.PTRACE_O_TRACEEXIT, 0, 0)
	if errno != 0 {
		t.Fatal(errno)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	var ws unix.WaitStatus
	if _, err := unix.Wait4(pid, &ws, unix.WALL, nil); err != nil || !ws.Stopped() || ws.TrapCause() != unix.PTRACE_EVENT_EXIT {
		t.Fatalf("wait: %v, %#x", err, ws)
	}
	do()
	if err := unix.PtraceDetach(pid); err != nil {
		t.Error(err)
	}
}

func TestTakeBig(t *testing.T) {
	require.Root(t)
	v := startVictim(t, bigVictim, nil)
	s := mustOpen(t, Limits{})
	debug.FreeOSMemory()
	stop, peak := make(chan struct{}), make(chan int64)
	before := ownRSS()
	go func() { peak <- watchRSS(stop) }()
	began := time.Now()
	b := mustTake(t, s, Request{Incident: "big", PIDs: []int{v.pid}, Memory: true})
	took := time.Since(began)
	close(stop)
	grown := <-peak - before
	t.Logf("%d MiB in %v, bundle %d MiB, agent grew by %d MiB", bigSize>>20, took, b.Bytes>>20, grown>>20)
	if grown > 64<<20 && !raceEnabled {
		t.Errorf("the agent grew by %d MiB", grown>>20)
	}
	mustVerify(t, s, b)
	mustContain(t, s, b.ID, secretOf(plainVictim, v.pid), true)
	mustContain(t, s, b.ID, secretOf(hiddenKind, v.pid), true)
	mustContain(t, s, b.ID, secretOf(sharedKind, v.pid), true)
	checkBigCore(t, s, b.ID, v.pid)
}

func checkBigCore(t *testing.T, s *Store, id string, pid int) {
	t.Helper()
	var info CoreInfo
	if err := json.Unmarshal([]byte(mustRead(t, s, id, fmt.Sprintf("cores/%d.json", pid))), &info); err != nil {
		t.Fatal(err)
	}
	if info.Read < bigSize || info.Size > 3*bigSize || info.Lost != 0 || info.Incomplete != "" {
		t.Errorf("core: %d read, %d large, %d lost, %q", info.Read, info.Size, info.Lost, info.Incomplete)
	}
	skipped := 0
	for _, m := range info.Mappings {
		if m.Skipped == "MADV_DONTDUMP" && m.End-m.Start == 1<<20 && m.Saved == 0 {
			skipped++
		}
	}
	if skipped != 1 {
		t.Errorf("%d mappings of 1 MiB left out for MADV_DONTDUMP, want 1", skipped)
	}
}

func ownRSS() int64 {
	data, _ := os.ReadFile("/proc/self/status")
	st, _ := parseStatus(data)
	return int64(st.rssKB) << 10
}

func watchRSS(stop chan struct{}) (peak int64) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		peak = max(peak, ownRSS())
		select {
		case <-stop:
			return peak
		case <-tick.C:
		}
	}
}

func TestTakeBoundedMemory(t *testing.T) {
	require.Root(t)
	v := startVictim(t, bigVictim, nil)
	s := mustOpen(t, Limits{})
	b := mustTake(t, s, Request{Incident: "bound", PIDs: []int{v.pid}, Memory: true, MaxMemory: bigSize / 4})
	mustVerify(t, s, b)
	mustContain(t, s, b.ID, secretOf(plainVictim, v.pid), true) // small mappings come first
	var info CoreInfo
	if err := json.Unmarshal([]byte(mustRead(t, s, b.ID, fmt.Sprintf("cores/%d.json", v.pid))), &info); err != nil {
		t.Fatal(err)
	}
	if info.Read > bigSize/4 || !strings.Contains(mustRead(t, s, b.ID, "manifest.json"), "bound of memory") {
		t.Errorf("%d bytes read", info.Read)
	}
}

func TestTakeOtherNetworkNamespace(t *testing.T) {
	require.Root(t)
	v := startVictim(t, plainVictim, &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET})
	s := mustOpen(t, Limits{})
	before := readLink("/proc/self/ns/net")
	b := mustTake(t, s, Request{Incident: "net", PIDs: []int{v.pid}})
	sum, err := s.Show(b.ID)
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(v.listens)
	if len(sum.Sockets) != 1 || sum.Sockets[0].State != "LISTEN" || !strings.HasSuffix(sum.Sockets[0].Local, ":"+port) ||
		len(sum.Sockets[0].PIDs) != 1 || sum.Sockets[0].PIDs[0] != v.pid {
		t.Errorf("sockets: %+v", sum.Sockets)
	}
	tasks, _ := filepath.Glob("/proc/self/task/*/ns/net")
	for _, task := range tasks {
		if ns := readLink(task); ns != before && ns != "" {
			waitFor(t, "thread in the other namespace to end", func() bool { return readLink(task) == "" })
		}
	}
}

func TestTakeVanished(t *testing.T) {
	require.Root(t)
	gone, alive := startVictim(t, plainVictim, nil), startVictim(t, plainVictim, nil)
	_ = gone.Process.Kill()
	_, _ = gone.Process.Wait()
	s := mustOpen(t, Limits{})
	b := mustTake(t, s, Request{Incident: "v", PIDs: []int{gone.pid, alive.pid}, Memory: true})
	mustVerify(t, s, b)
	m, err := s.Manifest(b.ID)
	if err != nil || b.Partial || !strings.Contains(fmt.Sprint(m.Omitted), fmt.Sprintf("process %d", gone.pid)) {
		t.Errorf("omitted: %v, %v", m.Omitted, err)
	}
	mustContain(t, s, b.ID, secretOf(plainVictim, alive.pid), true)
}

// TestTakeKilledInMidCapture: the memory goes while its core is written.
func TestTakeKilledInMidCapture(t *testing.T) {
	require.Root(t)
	v, other := startVictim(t, bigVictim, nil), startVictim(t, plainVictim, nil)
	s := mustOpen(t, Limits{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		awaitCore(t, s, v.pid)
		_ = v.Process.Kill()
	}()
	b := mustTake(t, s, Request{Incident: "k", PIDs: []int{v.pid, other.pid}, Memory: true, Fault: detect.Fault{PID: v.pid}})
	<-done
	mustVerify(t, s, b)
	m, err := s.Manifest(b.ID)
	if err != nil || b.Partial || !strings.Contains(fmt.Sprint(m.Omitted), fmt.Sprintf("memory of process %d", v.pid)) {
		t.Errorf("omitted: %v, %v", m.Omitted, err)
	}
	mustContain(t, s, b.ID, secretOf(plainVictim, other.pid), true)
}

// TestTakeZombie: its /proc is there, its memory is not.
func TestTakeZombie(t *testing.T) {
	require.Root(t)
	v := startVictim(t, plainVictim, nil)
	_ = v.Process.Kill()
	waitFor(t, "zombie", func() bool { return strings.Contains(line(context.Background(), procPath(v.pid, "stat")), ") Z ") })
	s := mustOpen(t, Limits{})
	b := mustTake(t, s, Request{Incident: "z", PIDs: []int{v.pid}, Memory: true})
	m, err := s.Manifest(b.ID)
	if err != nil || b.Partial || !strings.Contains(fmt.Sprint(m.Omitted), "its memory is gone") {
		t.Errorf("omitted: %v, %v", m.Omitted, err)
	}
}

func TestTakeForeignPID(t *testing.T) {
	require.Root(t)
	cgroup := mustCgroup(t)
	v := startVictim(t, plainVictim, nil) // not in the cgroup: the pid was given anew
	s := mustOpen(t, Limits{})
	b := mustTake(t, s, Request{Incident: "f", Cgroup: cgroup, Memory: true,
		Workload: workload.Workload{InitPID: v.pid, CgroupPath: "/" + filepath.Base(cgroup)}})
	if sum, err := s.Show(b.ID); err != nil || len(sum.Processes) != 0 {
		t.Errorf("took a foreign process: %+v, %v", sum.Processes, err)
	}
}

func TestTakeDeadline(t *testing.T) {
	require.Root(t)
	v := startVictim(t, bigVictim, nil)
	s := mustOpen(t, Limits{})
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Millisecond)
	defer cancel()
	b, err := s.Take(ctx, Request{Incident: "d", PIDs: []int{v.pid}, Memory: true})
	if !errors.Is(err, context.DeadlineExceeded) || !b.Partial || b.ID == "" {
		t.Fatalf("take: %+v, %v", b, err)
	}
	mustVerify(t, s, b)
}

func TestTakeInvalid(t *testing.T) {
	s := mustOpen(t, Limits{})
	for name, req := range map[string]Request{
		"no incident": {}, "relative cgroup": {Incident: "i", Cgroup: "x"}, "negative bound": {Incident: "i", MaxMemory: -1},
		"timeline": {Incident: "i", Timeline: json.RawMessage("{")},
	} {
		if _, err := s.Take(context.Background(), req); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

// TestDebuggers opens a core with the tools that people have.
func TestDebuggers(t *testing.T) {
	require.Root(t)
	v := startVictim(t, plainVictim, nil)
	s := mustOpen(t, Limits{})
	b := mustTake(t, s, Request{Incident: "g", PIDs: []int{v.pid}, Memory: true, Fault: detect.Fault{Kind: detect.FatalSignal, PID: v.pid, Signal: 6}})
	core := filepath.Join(t.TempDir(), "core")
	unpackCore(t, s, b.ID, v.pid, core)
	notes := runTool(t, "readelf", "--wide", "-n", "-l", core)
	for _, want := range []string{"CORE (Core file)", "NT_PRSTATUS", "NT_PRPSINFO", "NT_AUXV", "NT_FILE", "LOAD"} {
		if !strings.Contains(notes, want) {
			t.Errorf("readelf lacks %q:\n%.3000s", want, notes)
		}
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	hole := fmt.Sprintf("x/gx %#x", v.address+(1<<20)) // never touched: zero
	out := runTool(t, "gdb", "-nx", "-batch", "-ex", "info threads", "-ex", fmt.Sprintf("x/s %#x", v.address), "-ex", hole, exe, core)
	for _, want := range []string{string(secretOf(plainVictim, v.pid)), "SIGABRT", "LWP " + strconv.Itoa(v.pid), "0x0000000000000000"} {
		if !strings.Contains(out, want) {
			t.Errorf("gdb lacks %q:\n%s", want, out)
		}
	}
	t.Logf("%s", out)
}

func unpackCore(t *testing.T, s *Store, id string, pid int, to string) {
	t.Helper()
	r, err := s.OpenCore(id, pid)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	f, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(f, r); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func runTool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(require.Binary(t, name), args...).CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v", name, err)
	}
	return string(out)
}
