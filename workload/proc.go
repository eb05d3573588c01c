package workload

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// parseStat takes the state letter (field 3) and the start time in clock ticks
// since boot (field 22) from /proc/PID/stat, proc_pid_stat(5). The name in
// field 2 may hold anything, parentheses too: fields are counted from the last.
func parseStat(data []byte) (state byte, start uint64, err error) {
	end := bytes.LastIndexByte(data, ')')
	fields := bytes.Fields(data[end+1:])
	if end < 0 || len(fields) < 20 {
		return 0, 0, fmt.Errorf("parse process stat: %d fields after the name, want 20 or more", len(fields))
	}
	start, err = strconv.ParseUint(string(fields[19]), 10, 64)
	if err != nil {
		return 0, 0, fmt.Errorf("parse start time of process: %w", err)
	}
	return fields[0][0], start, nil
}

// alive says whether pid is still the process that started at this time and
// has not ended. A zombie has ended.
func alive(pid int, start uint64) bool {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	state, began, err := parseStat(data)
	return err == nil && began == start && state != 'Z' && state != 'X'
}
