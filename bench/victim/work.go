package victim

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// startWorker starts a worker in a network namespace of its own.
func startWorker(cgroup int) (int, error) {
	p, err := os.StartProcess("/proc/self/exe", []string{"reprieve-victim", roleWork}, &os.ProcAttr{
		Files: []*os.File{os.NewFile(fdWorkIn, "in"), os.NewFile(fdWorkOut, "out"), os.Stderr},
		Sys: &syscall.SysProcAttr{
			UseCgroupFD: true, CgroupFD: cgroup, Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL,
		},
	})
	if err != nil {
		return 0, err
	}
	return p.Pid, nil
}

// work does what it is told line by line, and answers each SIGUSR1 with a line.
func work(in io.Reader, out *os.File) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGUSR1)
	go func() {
		for range signals {
			fmt.Fprintln(out, "signal")
		}
	}()
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		name, arg, _ := strings.Cut(lines.Text(), " ")
		if err := obeyWork(name, arg, out); err != nil {
			fmt.Fprintln(out, "error", err)
		}
	}
	return lines.Err()
}

func obeyWork(name, arg string, out io.Writer) error {
	switch name {
	case "calls": // of getppid
		n, err := strconv.Atoi(arg)
		if err != nil {
			return err
		}
		fmt.Fprintln(out, "took", calls(n).Nanoseconds())
	case "spawn":
		took, err := spawn()
		if err != nil {
			return err
		}
		fmt.Fprintln(out, "took", took.Nanoseconds())
	case "serve":
		if err := serve(arg); err != nil {
			return err
		}
		fmt.Fprintln(out, "serving")
	}
	return nil
}

func calls(n int) time.Duration {
	start := time.Now()
	for range n {
		_, _, _ = unix.RawSyscall(unix.SYS_GETPPID, 0, 0, 0)
	}
	return time.Since(start)
}

// spawn starts a program that ends at once, and waits for it.
func spawn() (time.Duration, error) {
	cmd := exec.Command("/proc/self/exe", roleNothing)
	start := time.Now()
	err := cmd.Run()
	return time.Since(start), err
}

// serve answers on an address: by UDP each datagram whose first byte is not 0,
// by TCP every Chunk bytes, with one byte.
func serve(address string) error {
	listener, err := net.Listen("tcp4", address)
	if err != nil {
		return err
	}
	packets, err := net.ListenPacket("udp4", address)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	go serveTCP(listener)
	go serveUDP(packets)
	return nil
}

// Chunk is how many bytes by TCP the worker answers.
const Chunk = 1 << 20

func serveTCP(l net.Listener) {
	buffer := make([]byte, Chunk)
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		for {
			if _, err := io.ReadFull(c, buffer); err != nil {
				break
			}
			if _, err := c.Write(buffer[:1]); err != nil {
				break
			}
		}
		_ = c.Close() // its peer has gone
	}
}

func serveUDP(c net.PacketConn) {
	var buffer [2048]byte
	for {
		n, from, err := c.ReadFrom(buffer[:])
		if err != nil {
			return
		}
		if n > 0 && buffer[0] != 0 {
			_, _ = c.WriteTo(buffer[:1], from) // a loss shows as a timeout there
		}
	}
}
