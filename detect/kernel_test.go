package detect

import (
	"strings"
	"syscall"
	"testing"

	"github.com/reprieve-dev/reprieve/loader"
	"github.com/reprieve-dev/reprieve/workload"
)

func TestFromEvent(t *testing.T) {
	const exit3, segv, term = 3 << 8, int(syscall.SIGSEGV), int(syscall.SIGTERM)
	init := loader.FlagInit
	for name, c := range map[string]struct {
		event loader.Event
		kind  Kind // empty: no fault
		words string
	}{
		"segv of init":        {loader.Event{Kind: loader.Fatal, Flags: init, Signal: segv}, FatalSignal, "SIGSEGV"},
		"segv of a child":     {loader.Event{Kind: loader.Fatal, Signal: segv}, "", ""},
		"segv that counts":    {loader.Event{Kind: loader.Fatal, Signal: segv, Flags: loader.FlagFaulty}, FatalSignal, ""},
		"segv while stopping": {loader.Event{Kind: loader.Fatal, Flags: init | loader.FlagStopping, Signal: segv}, "", ""},
		"exit 3":              {loader.Event{Kind: loader.Exit, Flags: init, Code: exit3}, Exit, "status 3"},
		"exit 3 of a child":   {loader.Event{Kind: loader.Exit, Code: exit3}, "", ""},
		"exit 0":              {loader.Event{Kind: loader.Exit, Flags: init}, "", ""},
		"exit 3 told to stop": {loader.Event{Kind: loader.Exit, Flags: init | loader.FlagStopping, Code: exit3}, Stop, "exit status 3"},
		"exit 0 told to stop": {loader.Event{Kind: loader.Exit, Flags: init | loader.FlagStopping}, Stop, ""},
		"died of TERM":        {loader.Event{Kind: loader.Exit, Flags: init, Code: term}, Stop, "SIGTERM"},
		"died of SEGV":        {loader.Event{Kind: loader.Exit, Flags: init, Code: segv | 0x80}, FatalSignal, "SIGSEGV"},
		"died of OOM":         {loader.Event{Kind: loader.Exit, Flags: init, Code: 9, Detail: uint32(loader.ReasonOOM)}, OOM, "OOM"},
		"OOM victim":          {loader.Event{Kind: loader.OOM, Flags: init}, OOM, ""},
		"held TERM":           {loader.Event{Kind: loader.Held, Signal: term, Sender: 7, SenderCommand: "runc"}, Stop, "runc (7) sent SIGTERM"},
		"held ptrace":         {loader.Event{Kind: loader.Held, Detail: 4}, "", ""},
		"held while faulty":   {loader.Event{Kind: loader.Held, Signal: term, Flags: loader.FlagFaulty}, "", ""},
		"drops":               {loader.Event{Kind: loader.Drops, Code: 1000}, Drops, "1000 packets"},
		"signal that passed":  {loader.Event{Kind: loader.Sent, Flags: init, Signal: term}, "", ""},
	} {
		f, ok := FromEvent(c.event, workload.Ref{Runtime: "runc", ID: "x"})
		if ok != (c.kind != "") || ok && (f.Kind != c.kind || !strings.Contains(f.Detail, c.words)) {
			t.Errorf("%s: %v %+v, want %q %q", name, ok, f, c.kind, c.words)
		}
	}
}

func TestFromEnd(t *testing.T) {
	for _, c := range []struct {
		end  End
		kind Kind
	}{
		{End{Status: 0}, ""},
		{End{Status: 0, Stopping: true}, Stop},
		{End{Status: 1 << 8}, Exit},
		{End{Status: 1 << 8, Stopping: true}, Stop},
		{End{Status: 9}, Stop},
		{End{Status: 9, OOM: true, Stopping: true}, OOM},
		{End{Status: 11}, FatalSignal},
	} {
		if f, ok := FromEnd(c.end); f.Kind != c.kind || ok != (c.kind != "") || ok && !f.Held {
			t.Errorf("%+v: %v %+v, want %q", c.end, ok, f, c.kind)
		}
	}
}

func TestEveryKindHasItsReason(t *testing.T) {
	seen := map[loader.Reason]Kind{}
	for _, kind := range Kinds() {
		reason := kind.KernelReason()
		if other, twice := seen[reason]; twice || reason == loader.ReasonNone {
			t.Errorf("%s and %s are both %d in the kernel", kind, other, reason)
		}
		seen[reason] = kind
	}
}
