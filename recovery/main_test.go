package recovery

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/vmtest/require"
)

// inHost tells a process of these tests that it is in the private host already.
const inHost = "REPRIEVE_TEST_IN_HOST"

// TestMain runs the tests in a network namespace of their own, which stands in
// for the host's: the kernel removes with it what a test leaves.
func TestMain(m *testing.M) {
	if os.Getenv(crashAt) != "" {
		os.Exit(crashMain())
	}
	if os.Geteuid() == 0 && os.Getenv(inHost) == "" {
		os.Exit(inPrivateHost())
	}
	os.Exit(m.Run())
}

func inPrivateHost() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inHost+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "tests in a network namespace of their own:", err)
		return 1
	}
	return 0
}

func requireRoot(tb testing.TB) {
	tb.Helper()
	require.Root(tb)
	must(tb, netlink.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: loopback}}))
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
