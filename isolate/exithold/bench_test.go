package exithold

import (
	"os"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A measure returns n samples with the victim seized or not.
type measure func(tb testing.TB, n int, seized bool) []time.Duration

// pair reports both medians and their ratio. Batches alternate, so that other
// load on the machine meets both alike.
func pair(b *testing.B, run measure) {
	const batches, each = 10, 20
	var free, seized []time.Duration
	for b.Loop() {
		for range batches {
			free = append(free, run(b, each, false)...)
			seized = append(seized, run(b, each, true)...)
		}
	}
	f, s := us(median(free)), us(median(seized))
	b.ReportMetric(f, "us-free")
	b.ReportMetric(s, "us-seized")
	b.ReportMetric(s/f, "ratio")
	b.ReportMetric(0, "ns/op")
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

func us(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func BenchmarkSignal(b *testing.B)     { pair(b, signalRoundTrips) }
func BenchmarkSyscalls(b *testing.B)   { pair(b, syscallLoops) }
func BenchmarkForkExec(b *testing.B)   { pair(b, forkExecs) }
func BenchmarkBusySignal(b *testing.B) { pair(b, busySignalRoundTrips) }

// mustVictimFor starts a victim, seized or not; done lets it go.
func mustVictimFor(tb testing.TB, seized bool) (f *family, done func()) {
	tb.Helper()
	f = mustVictim(tb)
	if !seized {
		return f, func() {}
	}
	h, err := New(Options{Judge: func(Exit) time.Duration { return 0 }})
	if err == nil {
		err = h.Seize(f.pid, 1)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return f, func() {
		if err := h.Close(); err != nil {
			tb.Error(err)
		}
	}
}

// signalRoundTrips measures kill, handler, answer.
func signalRoundTrips(tb testing.TB, n int, seized bool) []time.Duration {
	f, done := mustVictimFor(tb, seized)
	defer done()
	return f.signals(n)
}

func (f *family) signals(n int) (took []time.Duration) {
	for range n {
		start := time.Now()
		f.kill(unix.SIGUSR1)
		f.mustAnswer("signal")
		took = append(took, time.Since(start))
	}
	return took
}

// busySignalRoundTrips does so with 32 threads of the victim in system calls.
func busySignalRoundTrips(tb testing.TB, n int, seized bool) []time.Duration {
	f, done := mustVictimFor(tb, seized)
	defer done()
	f.say("spin", 32)
	f.mustAnswer("spinning")
	took := f.signals(n)
	f.kill(unix.SIGKILL)
	f.mustChange("ended")
	return took
}

// syscallLoops measures 10,000 calls of getppid per sample.
func syscallLoops(tb testing.TB, n int, seized bool) []time.Duration {
	return askTimes(tb, n, seized, "syscalls 10000")
}

// forkExecs measures one fork, exec and wait per sample; each sends a SIGCHLD.
func forkExecs(tb testing.TB, n int, seized bool) []time.Duration {
	return askTimes(tb, n, seized, "forks 1")
}

// askTimes gives a command n times and collects the nanoseconds of the answers.
func askTimes(tb testing.TB, n int, seized bool, command string) (took []time.Duration) {
	f, done := mustVictimFor(tb, seized)
	defer done()
	for range n {
		f.say(command)
		ns, err := strconv.ParseInt(f.mustAnswer("took"), 10, 64)
		if err != nil {
			tb.Fatal(err)
		}
		took = append(took, time.Duration(ns))
	}
	return took
}

// BenchmarkMany seizes 1000 processes, kills all at once, and lets them go.
func BenchmarkMany(b *testing.B) {
	const processes = 1000
	for b.Loop() {
		m := manySeized(b, processes)
		b.ReportMetric(us(m.seize)/processes, "us-seize")
		b.ReportMetric(us(m.hold)/processes, "us-hold")
		b.ReportMetric(us(m.close)/processes, "us-close")
		b.ReportMetric(float64(m.rssKB)/processes, "kB-each")
		b.ReportMetric(float64(m.idle)/float64(time.Millisecond), "ms-cpu-per-s-idle")
	}
	b.ReportMetric(0, "ns/op")
}

// many is what a number of seized processes cost.
type many struct {
	seize, hold, close time.Duration // for all together
	idle               time.Duration // processor time of this process in one second of doing nothing
	rssKB              int
}

func manySeized(tb testing.TB, n int) (m many) {
	f := mustFamily(tb, familyOptions{count: n, child: "sleeper"})
	pids := []int{f.pid}
	for len(pids) < n {
		pids = append(pids, f.mustChange("started").PID)
	}
	w := mustWatch(tb, Options{Judge: func(Exit) time.Duration { return long }})
	before := residentKB(tb)
	m.seize = clock(func() {
		for _, pid := range pids {
			if err := w.Seize(pid, 1); err != nil {
				tb.Fatal(err)
			}
		}
	})
	m.rssKB = residentKB(tb) - before
	m.idle = idleCPU()
	m.hold = clock(func() {
		for _, pid := range pids {
			mustKill(tb, pid)
		}
		for range pids {
			w.mustOutcome(Held)
		}
	})
	m.close = clock(func() {
		if err := w.Close(); err != nil {
			tb.Fatal(err)
		}
	})
	for range pids {
		f.mustChange("ended")
	}
	return m
}

func clock(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

// idleCPU is the processor time used during one second of waiting.
func idleCPU() time.Duration {
	runtime.GC()
	var before, after unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &before)
	<-time.After(time.Second)
	_ = unix.Getrusage(unix.RUSAGE_SELF, &after)
	return time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
}

func residentKB(tb testing.TB) int {
	tb.Helper()
	kb, err := statusNumberKB(os.Getpid(), "VmRSS")
	if err != nil {
		tb.Fatal(err)
	}
	return kb
}
