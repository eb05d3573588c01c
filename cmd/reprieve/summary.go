package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/reprieve-dev/reprieve/isolate/evidence"
)

func (a *app) evidenceShow(open opener) *cobra.Command {
	return &cobra.Command{
		Use:   "show ID",
		Short: "Show the first screen of a bundle",
		Long: `Show the first screen of a bundle: the cause, the last signals, processes,
memory, sockets and cgroup figures. The rest is in the bundle's files.`,
		Example: "  reprieve evidence show ID\n  reprieve evidence show ID -o json",
		Args:    exactly(1, "one bundle's id"),
		RunE: func(_ *cobra.Command, args []string) error {
			store, err := open()
			if err != nil {
				return err
			}
			summary, err := store.Show(args[0])
			if err != nil {
				return err
			}
			if a.asJSON() {
				return a.printJSON(summary)
			}
			return printSummary(a.out, summary)
		},
	}
}

// part is one table of a page.
type part struct {
	title  string
	header []string
	rows   [][]string
}

// printParts prints the tables that have rows, each under its title.
func printParts(w io.Writer, parts []part) error {
	for _, p := range parts {
		if len(p.rows) == 0 {
			continue
		}
		if p.title != "" {
			fmt.Fprintf(w, "\n%s\n", p.title)
		}
		if err := printTable(w, p.header, p.rows); err != nil {
			return err
		}
	}
	return nil
}

func printSummary(w io.Writer, s evidence.Summary) error {
	return printParts(w, []part{
		{rows: summaryHead(s)},
		{"SIGNALS", []string{"BEFORE FAULT", "KIND", "SIGNAL", "TARGET", "SENDER", "COMMENT"}, signalRows(s)},
		{"PROCESSES", []string{"PID", "PPID", "STATE", "THREADS", "RSS", "CORE", "COMMAND"}, processRows(s)},
		{"MEMORY", []string{"NAME", "MAPPINGS", "SIZE", "RESIDENT", "SAVED"}, memoryRows(s)},
		{"SOCKETS", []string{"PROTOCOL", "STATE", "LOCAL", "REMOTE", "PIDS"}, socketRows(s)},
		{title: "CGROUP", rows: cgroupRows(s)},
	})
}

func summaryHead(s evidence.Summary) [][]string {
	rows := [][]string{{"evidence", s.ID}}
	for _, row := range [][]string{
		{"incident", s.Incident}, {"cause", s.Cause}, {"workload", refText(s)}, {"image", s.Image},
		{"host", s.Host}, {"kernel", s.Kernel}, {"examined by", s.Examining},
	} {
		if row[1] != "" {
			rows = append(rows, row)
		}
	}
	rows = append(rows, []string{"taken", s.Taken.Local().Format(time.DateTime)}, []string{"size", fmt.Sprintf("%s in %d files", bytesText(s.Bytes), s.Files)})
	if s.Partial {
		rows = append(rows, []string{"partial", s.Why})
	}
	if s.Omitted > 0 {
		rows = append(rows, []string{"omitted", fmt.Sprintf("%d items (see manifest.json)", s.Omitted)})
	}
	return rows
}

func refText(s evidence.Summary) string {
	if s.Workload.ID == "" {
		return ""
	}
	return s.Workload.String()
}

func signalRows(s evidence.Summary) (rows [][]string) {
	for _, l := range s.Signals {
		rows = append(rows, []string{l.Before.Round(time.Microsecond).String(), l.Kind, or(l.Signal, "-"), l.Target, or(l.Sender, "-"), l.Comment})
	}
	return rows
}

func processRows(s evidence.Summary) (rows [][]string) {
	for _, p := range s.Processes {
		rows = append(rows, []string{fmt.Sprint(p.PID), fmt.Sprint(p.PPID), p.State, fmt.Sprint(p.Threads),
			bytesText(int64(p.RSS)), yes(p.Core), p.Command})
	}
	return rows
}

func memoryRows(s evidence.Summary) (rows [][]string) {
	for _, m := range s.Memory {
		rows = append(rows, []string{m.Name, fmt.Sprint(m.Mappings), bytesText(int64(m.Size)),
			bytesText(int64(m.Resident)), bytesText(int64(m.Saved))})
	}
	return rows
}

func socketRows(s evidence.Summary) (rows [][]string) {
	for _, k := range s.Sockets {
		rows = append(rows, []string{k.Protocol, k.State, k.Local, or(k.Remote, "-"), fmt.Sprint(k.PIDs)})
	}
	if s.MoreSockets > 0 {
		rows = append(rows, []string{"", fmt.Sprintf("and %d more", s.MoreSockets)})
	}
	return rows
}

func cgroupRows(s evidence.Summary) (rows [][]string) {
	for _, name := range slices.Sorted(maps.Keys(s.Cgroup)) {
		rows = append(rows, []string{name, s.Cgroup[name]})
	}
	return rows
}
