package workload

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
)

func TestParseProcCgroup(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"0::/system.slice/x.scope\n", "/system.slice/x.scope"},
		{"4:memory:/a\n0::/b", "/b"},
		{"0::/\n", "/"},
		{"0::/gone (deleted)\n", "/gone"},
		{"0::/with space\n", "/with space"},
		{"0::/../other\n", ""},
		{"0::relative\n", ""},
		{"1:cpu:/a\n", ""},
		{"", ""},
	} {
		got, err := parseProcCgroup(c.in)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%q gives %q, %v; want %q", c.in, got, err, c.want)
		}
	}
}

func FuzzParseProcCgroup(f *testing.F) {
	f.Add("1:cpu,cpuacct:/a\n0::/b\n")
	f.Add("0::/../x")
	f.Fuzz(func(t *testing.T, in string) {
		got, err := parseProcCgroup(in)
		if err == nil && (!strings.HasPrefix(got, "/") || strings.HasPrefix(got, "/../")) {
			t.Errorf("%q gives %q", in, got)
		}
		parseOwnCgroups(in)
	})
}

func TestParseStat(t *testing.T) {
	state, start, err := parseStat([]byte("7 (a) b) (c)) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21\n"))
	if state != 'S' || start != 4711 || err != nil {
		t.Errorf("got %c %d %v, want S 4711", state, start, err)
	}
	self, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	if _, start, err = parseStat(self); err != nil || !alive(os.Getpid(), start) || alive(os.Getpid(), start+1) {
		t.Errorf("this process, started at %d, is not told from another: %v", start, err)
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("7 (a) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20"))
	f.Add([]byte(")"))
	f.Fuzz(func(_ *testing.T, in []byte) { _, _, _ = parseStat(in) })
}

func TestPickCgroupMount(t *testing.T) {
	at := func(root, point string) *mountinfo.Info { return &mountinfo.Info{Root: root, Mountpoint: point} }
	for _, c := range []struct {
		mounts []*mountinfo.Info
		want   string
	}{
		{nil, ""},
		{[]*mountinfo.Info{at("/", "/sys/fs/cgroup")}, "/sys/fs/cgroup"},
		{[]*mountinfo.Info{at("/", "/mnt"), at("/", "/sys/fs/cgroup/unified")}, "/sys/fs/cgroup/unified"},
		{[]*mountinfo.Info{at("/x", "/sys/fs/cgroup"), at("/", "/host/sys/fs/cgroup")}, "/host/sys/fs/cgroup"},
		{[]*mountinfo.Info{at("/x", "/sys/fs/cgroup")}, ""},
	} {
		if got := pickCgroupMount(c.mounts); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

func TestCgroupsOfNothing(t *testing.T) {
	c, err := OpenCgroups()
	if err != nil {
		t.Skipf("needs cgroup v2: %v", err)
	}
	if _, err := c.ID("/no/such"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ID: %v", err)
	}
	if _, err := c.PIDs("/no/such"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("PIDs: %v", err)
	}
	if _, err := c.PathByID(1 << 60); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("PathByID: %v", err)
	}
	if _, err := c.byWalk(1 << 60); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("byWalk: %v", err)
	}
	root, err := c.ID("/")
	if err != nil {
		t.Fatal(err)
	}
	for _, find := range []func(uint64) (string, error){c.PathByID, c.byWalk} {
		if path, err := find(root); path != "/" || err != nil {
			t.Errorf("path of the root's id %d is %q, %v", root, path, err)
		}
	}
}

func TestLowerDirs(t *testing.T) {
	for _, c := range []struct {
		options string
		want    []string
	}{
		{"rw,lowerdir=/a:/b,upperdir=/u,workdir=/w", []string{"/a", "/b"}},
		{`rw,lowerdir=/a\134:x:/b\040c\054d`, []string{"/a:x", "/b c,d"}},
		{"rw,lowerdir+=/a,lowerdir+=/b:c", []string{"/a", "/b:c"}},
		{"rw,upperdir=/u", nil},
	} {
		if got := lowerDirs(c.options); !slices.Equal(got, c.want) {
			t.Errorf("%s gives %q, want %q", c.options, got, c.want)
		}
	}
	if got := upperDir(`rw,lowerdir=/a,upperdir=/u\040v,workdir=/w`); got != "/u v" {
		t.Errorf("upper directory is %q", got)
	}
}

// FuzzOverlayOptions checks that layers survive what mount(2) takes and mountinfo
// shows.
func FuzzOverlayOptions(f *testing.F) {
	f.Add("/a:b", `/c\d,e`)
	f.Add("00,", `\`)
	const others = ",upperdir=/bundle/upper,workdir=/bundle/work"
	f.Fuzz(func(t *testing.T, first, second string) {
		options := overlayOptions("/bundle", []string{"/" + first, "/" + second})
		layers := strings.TrimSuffix(strings.TrimPrefix(options, "lowerdir="), others)
		// The kernel shows the value as it was given, with octal escapes.
		shown := "lowerdir=" + strings.NewReplacer(`\`, `\134`, ",", `\054`, " ", `\040`).Replace(layers) + others
		if got := lowerDirs(shown); !slices.Equal(got, []string{"/" + first, "/" + second}) {
			t.Errorf("%q, %q come back as %q from %s", first, second, got, shown)
		}
	})
}

func TestSiblingCgroup(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"/old", "/new"},
		{"/kubepods/podX/old", "/kubepods/podX/new"},
		{"old", "new"},
		{"machine.slice:libpod:old", "machine.slice:libpod:new"},
	} {
		if got := siblingCgroup(c.in, "new"); got != c.want {
			t.Errorf("%s gives %s, want %s", c.in, got, c.want)
		}
	}
}

func TestContainerCgroup(t *testing.T) {
	for _, c := range []struct{ in, name, want string }{
		{"/ns/box/init.scope", "box", "/ns/box"},
		{"/ns/box", "box", "/ns/box"},
		{"/elsewhere", "box", "/elsewhere"},
		{"", "box", ""},
	} {
		if got := containerCgroup(c.in, c.name); got != c.want {
			t.Errorf("%s gives %s, want %s", c.in, got, c.want)
		}
	}
}

const originalSpec = `{"ociVersion":"9.9","future":{"limit":18446744073709551615},
 "process":{"terminal":true,"consoleSize":{"width":80},"args":["x"]},"root":{"path":"rootfs","readonly":true},
 "mounts":[{"destination":"/a","type":"bind","source":"rel"},{"destination":"/b","options":["rbind"],"source":"/abs"},{"destination":"/p","type":"proc","source":"proc"}],
 "annotations":{"keep":"1","change":"1"},"linux":{"cgroupsPath":"/x/old","namespaces":[{"type":"pid"},{"type":"network","path":"/old"}]}}`

const editedSpec = `{"annotations":{"change":"2","keep":"1"},"future":{"limit":18446744073709551615},
 "linux":{"cgroupsPath":"/x/new","namespaces":[{"type":"pid"},{"path":"/net","type":"network"}]},
 "mounts":[{"destination":"/a","source":"/base/rel","type":"bind"},{"destination":"/b","options":["rbind"],"source":"/abs"},{"destination":"/p","source":"proc","type":"proc"}],
 "ociVersion":"9.9","process":{"args":["x"],"terminal":false},"root":{"path":"/image","readonly":true}}`

func TestSpecEdit(t *testing.T) {
	edit := specEdit{id: "new", root: "/image", base: "/base", netNS: "/net", labels: map[string]string{"change": "2"}}
	got, err := edit.apply([]byte(originalSpec))
	if err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	if err := json.Compact(&want, []byte(editedSpec)); err != nil {
		t.Fatal(err)
	}
	if string(got) != want.String() {
		t.Errorf("got  %s\nwant %s", got, want.String())
	}
}

func FuzzSpecEdit(f *testing.F) {
	f.Add([]byte(originalSpec))
	f.Add([]byte(`{"linux":null,"mounts":[null,1],"process":3}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, in []byte) {
		edit := specEdit{id: "new", root: "/r", base: "/b", netNS: "/n", labels: map[string]string{"a": "b"}}
		out, err := edit.apply(in)
		if err != nil {
			return
		}
		if again, err := edit.apply(out); err != nil || !bytes.Equal(out, again) {
			t.Errorf("editing twice gives %s, %v after %s", again, err, out)
		}
		_, _ = summarize(out, "new")
	})
}

// The states under testdata were written by the runc of their name.
func TestParseRuncState(t *testing.T) {
	files, err := filepath.Glob("testdata/runc-*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no states in testdata: %v", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		s, err := parseRuncState(data)
		labels, bundle := s.annotations()
		if err != nil || s.ID != "box" || s.InitPID < 2 || s.InitStart == 0 || s.Created.IsZero() || s.CgroupPaths[""] == "" ||
			s.Config.RootFS != "/bundle/rootfs" || bundle != "/bundle" || labels["team"] != "a=b" || s.netNS() != "/run/netns/x" {
			t.Errorf("%s reads as %+v, %v", file, s, err)
		}
	}
}

func FuzzParseRuncState(f *testing.F) {
	f.Add([]byte(`{"id":"x","init_process_pid":7,"config":{"labels":["a","bundle=/b"],"namespaces":[{"type":"NEWNET"}]}}`))
	f.Fuzz(func(_ *testing.T, in []byte) {
		if s, err := parseRuncState(in); err == nil {
			s.annotations()
			s.netNS()
		}
	})
}

func TestValidRuncID(t *testing.T) {
	for id, want := range map[string]bool{"a": true, "a_+-.9": true, "": false, ".": false, "..": false, "a/b": false, "a b": false, "ä": false} {
		if validRuncID(id) != want {
			t.Errorf("%s is valid: %s, want %t", strconv.Quote(id), strconv.FormatBool(!want), want)
		}
	}
}
