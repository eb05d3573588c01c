package loader

import (
	"bytes"
	"testing"
	"unsafe"

	"github.com/reprieve-dev/reprieve/gen"
)

// record is an event as the kernel side lays it out.
func record(kind uint32) []byte {
	raw := gen.WatchEvent{TsNs: 1, Cgroup: 2, Kind: kind, Flags: 3, Sig: -4, Code: -5, Pid: 6, Tid: 7, Sender: 8, Detail: 9}
	copy(raw.Comm[:], []int8{'c', 'o', 'm', 'm'})
	copy(raw.SenderComm[:], []int8{'s', 'e', 'n', 'd', 'e', 'r', '-', 'w', 'i', 't', 'h', '-', 'a', '-', '1', '6'})
	copy(raw.Name[:], []int8{'/', 'n'})
	return bytes.Clone(unsafe.Slice((*byte)(unsafe.Pointer(&raw)), unsafe.Sizeof(raw)))
}

func TestDecodeEvent(t *testing.T) {
	got, err := decodeEvent(record(uint32(Held)))
	if err != nil {
		t.Fatal(err)
	}
	want := Event{
		At: 1, Cgroup: 2, Kind: Held, Flags: 3, Signal: -4, Code: -5, PID: 6, TID: 7, Sender: 8, Detail: 9,
		Command: "comm", SenderCommand: "sender-with-a-16", Name: "/n",
	}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestDecodeEventRefuses(t *testing.T) {
	for name, raw := range map[string][]byte{
		"empty":        nil,
		"short":        record(uint32(Held))[:eventSize-1],
		"kind none":    record(0),
		"kind unknown": record(uint32(kinds)),
	} {
		if e, err := decodeEvent(raw); err == nil {
			t.Errorf("%s: decoded to %+v", name, e)
		}
	}
}

func TestKindNames(t *testing.T) {
	for k := Held; k < kinds; k++ {
		if k.String() == "" {
			t.Errorf("kind %d has no name", k)
		}
	}
}

func FuzzDecodeEvent(f *testing.F) {
	f.Add(record(uint32(Exit)))
	f.Add([]byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := decodeEvent(raw)
		if err == nil && (e.Kind == 0 || e.Kind >= kinds) {
			t.Errorf("accepted kind %d", e.Kind)
		}
	})
}
