package evidence

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

const statTail = " 1 2 3 0 -1 4194560 1 2 3 4 150 50 5 6 20 -5 7 0 4242 1000 20 18446744073709551615"

func TestParseStat(t *testing.T) {
	for _, comm := range []string{"server", "a b", "x) R 9 (y", "))", "((", "", "new\nline", "\xff\xfe", "S (S) S"} {
		s, err := parseStat([]byte("12 (" + comm + ") S" + statTail))
		want := stat{pid: 12, ppid: 1, pgrp: 2, session: 3, comm: comm, state: 'S', threads: 7, start: 4242, utime: 150, stime: 50,
			nice: -5, flags: 4194560}
		if err != nil || s != want {
			t.Errorf("%q: %+v, %v", comm, s, err)
		}
	}
	for _, bad := range []string{"", "12", "12 (x", "(x) S" + statTail, "12 (x) S 1 2", "a (x) S" + statTail, "12 (x) SS" + statTail} {
		if s, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q was accepted: %+v", bad, s)
		}
	}
}

func TestParseStatus(t *testing.T) {
	got, err := parseStatus([]byte("Name:\tx: y\nUid:\t1\t2\t3\t4\nGid:\t5\t6\nVmRSS:\t  12 kB\nSigPnd:\t0000000000000100\nSigBlk:\tff\nodd\n:\n"))
	if want := (status{uid: 1, gid: 5, rssKB: 12, pending: 0x100, blocked: 0xff}); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := parseStatus([]byte("Uid:\tx\n")); err == nil {
		t.Error("nonsense was accepted")
	}
}

func TestParseCmdline(t *testing.T) {
	for in, want := range map[string][]string{"": nil, "a\x00b c\x00": {"a", "b c"}, "a\x00\x00": {"a", ""}, "title": {"title"},
		"\xff\n\x00": {`\xff\n`}, "ä\x00": {"ä"}} {
		if got := parseCmdline([]byte(in)); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestParseSyscall(t *testing.T) {
	got, err := parseSyscall([]byte("202 0x1 0x2 0x3 0x4 0x5 0x6 0x7ffd 0x7f01\n"))
	if want := (syscallState{number: 202, args: [6]uint64{1, 2, 3, 4, 5, 6}, sp: 0x7ffd, pc: 0x7f01}); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := parseSyscall([]byte("-1 0x7ffd 0x7f01\n")); err != nil || got.number != -1 || got.pc != 0x7f01 {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "running\n", "1 2", "x 0x1 0x2"} {
		if _, err := parseSyscall([]byte(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

const smaps = `00400000-00452000 r-xp 00001000 08:02 173521      /usr/bin/a b (deleted)
Rss:                   8 kB
Anonymous:             4 kB
Swap:                  4 kB
VmFlags: rd ex mr mw me ht dd io
7f0000000000-7f0000001000 rw-s 00000000 00:01 5 /with\012newline
7ffd00000000-7ffd00001000 rw-p 00000000 00:00 0
Rss:       nonsense
`

func TestParseMappings(t *testing.T) {
	got, err := parseMappings(strings.NewReader(smaps))
	want := []mapping{
		{start: 0x400000, end: 0x452000, perms: "r-xp", offset: 0x1000, inode: 173521, name: "/usr/bin/a b (deleted)", detailed: true,
			rss: 8 << 10, swap: 4 << 10, anonymous: 4 << 10, hugetlb: true, dontDump: true, isIO: true},
		{start: 0x7f0000000000, end: 0x7f0000001000, perms: "rw-s", inode: 5, name: "/with\nnewline"},
		{start: 0x7ffd00000000, end: 0x7ffd00001000, perms: "rw-p", detailed: true},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"x", "1000-1000 r--p 0 0:0 0", "1001-2000 r--p 0 0:0 0", "2000-1000 r--p 0 0:0 0",
		"Rss: 1 kB", "1000-2000 r-- 0 0:0 0", strings.Repeat("a", 1<<17)} {
		if _, err := parseMappings(strings.NewReader(bad)); err == nil {
			t.Errorf("%.40q was accepted", bad)
		}
	}
	if own, err := readMappingsFile("/proc/self/smaps"); err != nil || len(own) == 0 {
		t.Errorf("own smaps: %d, %v", len(own), err)
	}
}

func TestFilterExtent(t *testing.T) {
	file := func(m mapping) mapping { m.inode, m.name, m.detailed = 1, "/f"+m.name, true; return m }
	for name, c := range map[string]struct {
		m    mapping
		want extent
	}{
		"anonymous":        {mapping{perms: "rw-p"}, extentResident},
		"stack":            {mapping{perms: "rw-p", name: "[stack]"}, extentResident},
		"vdso":             {mapping{perms: "r-xp", name: "[vdso]"}, extentAll},
		"vvar":             {mapping{perms: "r--p", name: "[vvar_vclock]", isIO: true}, extentNone},
		"dontdump":         {mapping{perms: "rw-p", dontDump: true}, extentNone},
		"device":           {file(mapping{perms: "rw-s", isIO: true}), extentNone},
		"clean file":       {file(mapping{perms: "r-xp", offset: 4096}), extentNone},
		"file head":        {file(mapping{perms: "r--p"}), extentHeader},
		"written file":     {file(mapping{perms: "rw-p", anonymous: 4096}), extentResident},
		"swapped file":     {file(mapping{perms: "rw-p", swap: 4096}), extentResident},
		"shared anonymous": {file(mapping{perms: "rw-s", name: " (deleted)"}), extentResident},
		"shared file":      {file(mapping{perms: "rw-s", offset: 4096}), extentNone},
		"huge":             {mapping{perms: "rw-p", hugetlb: true}, extentResident},
		"shared huge":      {file(mapping{perms: "rw-s", hugetlb: true, offset: 4096}), extentNone},
	} {
		if got, why := filterDefault.extent(&c.m); got != c.want || got == extentNone && why == "" {
			t.Errorf("%s: %q (%s), want %q", name, got, why, c.want)
		}
	}
	clean := file(mapping{perms: "r-xp", offset: 4096})
	if got, _ := filterFilePrivate.extent(&clean); got != extentResident {
		t.Errorf("clean file with filter 4: %q", got)
	}
	if got := readFilter(t.Context(), os.Getpid()); got&filterAnonPrivate == 0 {
		t.Errorf("own filter: %#x", got)
	}
}

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"A=b": "A=b", "PASSWORD=x": "PASSWORD=[redacted]", "my_api_key=x": "my_api_key=[redacted]", "TOKEN=": "TOKEN=", "TOKEN": "TOKEN",
		"AWS_SECRET_ID=a=b": "AWS_SECRET_ID=[redacted]", "Credentials=x": "Credentials=[redacted]", "": "",
		"URL=postgres://u:p%40ss@h/d?x=1": "URL=postgres://u:[redacted]@h/d?x=1", "URL=http://h:80/a@b": "URL=http://h:80/a@b",
	} {
		if got := redactVariable(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if got := string(redactEnviron([]byte("A=1\x00TOKEN=2\x00\xff\x00"))); got != "A=1\x00TOKEN=[redacted]\x00\xff\x00" {
		t.Errorf("environ: %q", got)
	}
	for _, same := range []string{`{}`, `{"process":{}}`} {
		if got, err := redactSpec([]byte(same)); err != nil || string(got) != same {
			t.Errorf("%s: %s, %v", same, got, err)
		}
	}
	for _, bad := range []string{``, `[]`, `{"process":1}`, `{"process":{"env":{}}}`} {
		if _, err := redactSpec([]byte(bad)); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}

func TestCgroupV1Dir(t *testing.T) {
	mounts := parseMounts([]byte("1 2 0:3 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n" +
		"junk\n4 2 0:5 /docker /sys/fs/cgroup/me\\040mory rw shared:1 - cgroup cgroup rw,memory\n6 2 0:7 / /u rw - cgroup2 cgroup2 rw\n"))
	for line, want := range map[string]string{
		"4:cpu,cpuacct:/a": "/sys/fs/cgroup/cpu,cpuacct/a", "9:memory:/docker/x": "/sys/fs/cgroup/me mory/x", "9:memory:/other": "",
		"3:pids:/a": "", "4:cpu,cpuacct:/": "/sys/fs/cgroup/cpu,cpuacct",
	} {
		got, _ := cgroupV1Dir(mounts, parseCgroups([]byte(line + "\n"))[0])
		if got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
	if got := parseCgroups([]byte("0::/a:b\nbad\n1:x:relative\n")); len(got) != 1 || got[0].path != "/a:b" {
		t.Errorf("cgroups: %+v", got)
	}
}

func TestParseNet(t *testing.T) {
	tcp := "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n" +
		"   0: 0100007F:1F90 00000000:0000 0A 00000001:00000002 00:00000000 00000000  7        0 99 1 0 100 0 0 10 0\nbad line\n"
	want := []Socket{{Protocol: "tcp", State: "LISTEN", Local: "127.0.0.1:8080", WQueue: 1, RQueue: 2, UID: 7, Inode: 99}}
	if got := parseNetInet("tcp", []byte(tcp)); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	if got, err := procAddress("00000000000000000000000001000000:0050"); err != nil || got != "[::1]:80" {
		t.Errorf("%s, %v", got, err)
	}
	unix := "Num       RefCount Protocol Flags    Type St Inode Path\n" +
		"0000000000000000: 00000002 00000000 00010000 0001 01 42 /run/a b.sock\n0000000000000000: 00000003 00000000 00000000 0001 03 43\n"
	got := parseNetUnix([]byte(unix))
	if len(got) != 2 || got[0].State != "LISTEN" || got[0].Local != "/run/a b.sock" || got[1].State != "ESTABLISHED" || got[1].Inode != 43 {
		t.Errorf("%+v", got)
	}
}

func TestParseSums(t *testing.T) {
	sum := strings.Repeat("ab", 32)
	if got, err := parseSums([]byte(sum + "  a/b\n" + sum + "  with  spaces\n")); err != nil || len(got) != 2 || got[1].Path != "with  spaces" {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{sum, sum + "  a", sum + "  ../a\n", sum + "  /a\n", "ab  a\n", "\n", sum + "  \n"} {
		if _, err := parseSums([]byte(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func FuzzProc(f *testing.F) {
	f.Add([]byte("12 (a) b) S" + statTail))
	f.Add([]byte("Uid:\t1\nSigBlk:\tff\n"))
	f.Add([]byte("202 0x1 0x2 0x3 0x4 0x5 0x6 0x7ffd 0x7f01\n"))
	f.Add([]byte("a\x00\xff\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if s, err := parseStat(data); err == nil && !strings.Contains(string(data), "("+s.comm+")") {
			t.Errorf("comm %q", s.comm)
		}
		_, _ = parseStatus(data)
		_, _ = parseSyscall(data)
		_ = parseCmdline(data)
		_ = redactEnviron(data)
		_, _ = redactSpec(data)
	})
}

func FuzzMappings(f *testing.F) {
	f.Add(smaps)
	f.Add("1000-2000 rw-p 00000000 00:00 0 \n")
	f.Fuzz(func(t *testing.T, data string) {
		list, _ := parseMappings(strings.NewReader(data))
		for i := range list {
			if list[i].end <= list[i].start {
				t.Errorf("empty mapping %+v", list[i])
			}
			_, _ = filterDefault.extent(&list[i])
		}
		_ = fileNote(list)
	})
}

func FuzzMountsAndSockets(f *testing.F) {
	f.Add([]byte("4 2 0:5 /docker /sys/fs/me\\040mory rw shared:1 - cgroup cgroup rw,memory\n"))
	f.Add([]byte("9:memory:/docker/x\n"))
	f.Add([]byte("   0: 0100007F:1F90 00000000:0000 0A 00000001:00000002 00:00000000 00000000  7        0 99 1\n"))
	f.Add([]byte("0: 00000002 00000000 00010000 0001 01 42 /run/a\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, m := range parseCgroups(data) {
			if dir, ok := cgroupV1Dir(parseMounts(data), m); ok && strings.Contains(dir, "/../") {
				t.Errorf("%q leads to %s", data, dir)
			}
		}
		_, _ = parseNetInet("tcp", data), parseNetUnix(data)
		_, _ = socketInode(string(data))
	})
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"schema":1,"id":"x","files":[{"path":"a","size":1}]}`))
	f.Add(fmt.Appendf(nil, "%s  a\n", strings.Repeat("ab", 32)))
	f.Fuzz(func(t *testing.T, data []byte) {
		if m, err := decodeManifest(data); err == nil && m.Schema != ManifestSchema {
			t.Errorf("schema %d", m.Schema)
		}
		files, _ := parseSums(data)
		for _, file := range files {
			if strings.HasPrefix(file.Path, "/") || strings.HasPrefix(file.Path, "../") {
				t.Errorf("path %q", file.Path)
			}
		}
	})
}
