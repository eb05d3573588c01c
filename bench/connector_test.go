package main

import (
	"encoding/binary"

	"os/exec"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/vmtest/require"
)

// message is a connector's message as the kernel sends it.
func message(what, tid, pid uint32, tail int) []byte {
	le := binary.NativeEndian
	body := le.AppendUint32(nil, cnProc)
	body = le.AppendUint32(body, cnProc)
	body = append(body, make([]byte, cnHeader-8)...)
	body = le.AppendUint32(body, what)
	body = append(body, make([]byte, procHeader-4)...)
	body = le.AppendUint32(body, tid)
	body = le.AppendUint32(body, pid)
	body = append(body, make([]byte, tail)...)
	m := le.AppendUint32(nil, uint32(netlinkHeader+len(body)))
	return append(append(m, make([]byte, netlinkHeader-4)...), body...)
}

func TestParseProcEvents(t *testing.T) {
	foreign := message(eventExit, 7, 7, 16)
	foreign[netlinkHeader] = 9
	for _, c := range []struct {
		name string
		data []byte
		want []procEvent
		bad  bool
	}{
		{name: "nothing"},
		{name: "exit", data: message(eventExit, 7, 7, 16), want: []procEvent{{pid: 7}}},
		{name: "coredump", data: message(eventCoredump, 7, 7, 8), want: []procEvent{{pid: 7, coredump: true}}},
		{name: "a thread's exit", data: message(eventExit, 8, 7, 16)},
		{name: "fork", data: message(1, 7, 7, 16)},
		{name: "another connector", data: foreign},
		{name: "two in one", data: slices.Concat(message(eventCoredump, 7, 7, 8), message(eventExit, 9, 9, 16)),
			want: []procEvent{{pid: 7, coredump: true}, {pid: 9}}},
		{name: "acknowledgement", data: message(eventExit, 7, 7, 16)[:netlinkHeader], bad: true},
		{name: "cut header", data: make([]byte, netlinkHeader-1), bad: true},
		{name: "length of 0", data: make([]byte, 64), bad: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parseProcEvents(c.data)
			if !slices.Equal(got, c.want) || (err != nil) != c.bad {
				t.Errorf("%v, %v; want %v, error %v", got, err, c.want, c.bad)
			}
		})
	}
}

func FuzzParseProcEvents(f *testing.F) {
	f.Add(message(eventExit, 7, 7, 16))
	f.Add(slices.Concat(message(eventCoredump, 7, 7, 9), message(eventExit, 9, 9, 16)))
	f.Add(subscription(eventExit))
	f.Fuzz(func(t *testing.T, data []byte) {
		events, _ := parseProcEvents(data)
		if len(events)*(netlinkHeader+cnHeader+procHeader+procPIDs) > len(data) {
			t.Errorf("%d events of %d bytes", len(events), len(data))
		}
	})
}

// TestConnectorTells reads what the running kernel sends.
func TestConnectorTells(t *testing.T) {
	require.Root(t)
	socket, err := listenConnector()
	if err != nil {
		t.Skip(err) // kernels without it are good kernels
	}
	defer unix.Close(socket)
	child := exec.Command("/proc/self/exe", "-test.run=^$")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if err := child.Wait(); err != nil {
		t.Fatal(err)
	}
	saw, before := sightings{}, time.Now()
	if _, err := receive(socket, child.Process.Pid, 1, saw); err != nil || saw[connectorExit] == 0 {
		t.Errorf("saw %v after %v: %v", saw, time.Since(before), err)
	}
}
