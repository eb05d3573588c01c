package evidence

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// WriteText prints the summary for people.
func (s Summary) WriteText(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	line := func(format string, args ...any) { fmt.Fprintf(t, format+"\n", args...) } // errors come from Flush
	line("cause\t%s", s.Cause)
	line("workload\t%s %s", s.Workload, s.Image)
	line("evidence\t%s, %s in %d files, %d things left out", s.ID, bytesText(uint64(s.Bytes)), s.Files, s.Omitted)
	line("taken\t%s on %s, Linux %s", s.Taken.Format(time.RFC3339Nano), s.Host, s.Kernel)
	if s.Partial {
		line("PARTIAL\t%s", s.Why)
	}
	if s.Examining != "" {
		line("examined by\t%s", s.Examining)
	}
	s.writeSignals(line)
	s.writeProcesses(line)
	s.writeMemory(line)
	s.writeSockets(line)
	return t.Flush()
}

func (s Summary) writeSignals(line func(string, ...any)) {
	if len(s.Signals) > 0 {
		line("\nBEFORE FAULT\tWHAT\tSIGNAL\tTARGET\tSENDER\t")
	}
	for _, e := range s.Signals {
		line("%s\t%s\t%s\t%s\t%s\t%s", e.Before, e.Kind, e.Signal, e.Target, e.Sender, e.Comment)
	}
}

func (s Summary) writeProcesses(line func(string, ...any)) {
	if len(s.Processes) > 0 {
		line("\nPID\tPARENT\tSTATE\tTHREADS\tRSS\tCORE\tCOMMAND")
	}
	for _, p := range s.Processes {
		core := "no"
		if p.Core {
			core = "yes"
		}
		line("%d\t%d\t%s\t%d\t%s\t%s\t%s", p.PID, p.PPID, p.State, p.Threads, bytesText(p.RSS), core, p.Command)
	}
}

func (s Summary) writeMemory(line func(string, ...any)) {
	const top = 12
	if len(s.Memory) > 0 {
		line("\nMEMORY\tMAPPINGS\tSIZE\tRESIDENT\tSAVED")
	}
	for _, m := range s.Memory[:min(top, len(s.Memory))] {
		line("%s\t%d\t%s\t%s\t%s", m.Name, m.Mappings, bytesText(m.Size), bytesText(m.Resident), bytesText(m.Saved))
	}
	if more := len(s.Memory) - top; more > 0 {
		line("... %d more", more)
	}
}

func (s Summary) writeSockets(line func(string, ...any)) {
	if len(s.Sockets) > 0 {
		line("\nSOCKET\tSTATE\tLOCAL\tREMOTE\tRECV-Q\tSEND-Q\tPIDS")
	}
	for _, k := range s.Sockets {
		line("%s\t%s\t%s\t%s\t%d\t%d\t%s", k.Protocol, k.State, k.Local, k.Remote, k.RQueue, k.WQueue,
			strings.Trim(fmt.Sprint(k.PIDs), "[]"))
	}
}

// bytesText is "12.3 MiB".
func bytesText(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/1024, 0
	for v >= 1024 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	return fmt.Sprintf("%.1f %ciB", v, units[i])
}
