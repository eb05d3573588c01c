package api

import (
	v1 "github.com/reprieve-dev/reprieve/api/reprieve/v1"
	"github.com/reprieve-dev/reprieve/incident"
	"github.com/reprieve-dev/reprieve/loader"
)

// NoticeMessage is n as the API tells it.
func NoticeMessage(n incident.Notice) *v1.Event {
	m := &v1.Event{
		Sequence: n.Sequence,
		AtNs:     uint64(n.At),
		Time:     timestamp(n.Wall),
		Kind:     n.Kind,
		Workload: n.Workload,
		Incident: n.Incident,
		Text:     n.Text,
	}
	if n.Event != nil {
		m.Kernel = kernelEvent(*n.Event)
	}
	return valid(m)
}

func kernelEvent(e loader.Event) *v1.KernelEvent {
	m := &v1.KernelEvent{
		AtNs:          uint64(e.At),
		Cgroup:        e.Cgroup,
		Kind:          e.Kind.String(),
		Flags:         flagNames(e),
		Signal:        int64(e.Signal),
		Code:          int64(e.Code),
		Pid:           int64(e.PID),
		Tid:           int64(e.TID),
		Command:       e.Command,
		SenderPid:     int64(e.Sender),
		SenderCommand: e.SenderCommand,
		Name:          e.Name,
	}
	if (e.Kind == loader.Held || e.Kind == loader.Audit) && e.Way() != 0 {
		m.Way = e.Way().String()
	}
	return m
}

func flagNames(e loader.Event) []string {
	var names []string
	for _, flag := range []struct {
		bit  loader.Flags
		name string
	}{
		{loader.FlagInit, "init"}, {loader.FlagFaulty, "faulty"}, {loader.FlagFenced, "fenced"},
		{loader.FlagKernel, "kernel"}, {loader.FlagLast, "last"}, {loader.FlagGuarded, "guarded"},
	} {
		if e.Has(flag.bit) {
			names = append(names, flag.name)
		}
	}
	return names
}
