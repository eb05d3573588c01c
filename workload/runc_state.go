package workload

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
)

// runcState is what is read of runc's ROOT/ID/state.json (libcontainer's State,
// runc 1.0 to 1.5). runc replaces the file by rename, so a reader never sees
// half of it. Fields that are not named here are ignored.
type runcState struct {
	ID          string            `json:"id"`
	InitPID     int               `json:"init_process_pid"`
	InitStart   uint64            `json:"init_process_start"` // clock ticks since boot
	Created     time.Time         `json:"created"`
	CgroupPaths map[string]string `json:"cgroup_paths"` // directories by v1 controller; "" is v2
	Stdio       []string          `json:"external_descriptors"`
	Config      struct {
		RootFS     string   `json:"rootfs"`
		Labels     []string `json:"labels"` // "key=value"; annotations, then bundle=DIR
		Namespaces []struct {
			Type string `json:"type"`
			Path string `json:"path"`
		} `json:"namespaces"`
		Cgroups struct {
			Systemd bool
		} `json:"cgroups"`
	} `json:"config"`
}

func parseRuncState(data []byte) (runcState, error) {
	var s runcState
	if err := json.Unmarshal(data, &s); err != nil {
		return runcState{}, fmt.Errorf("parse runc state: %w", err)
	}
	if s.ID == "" {
		return runcState{}, fmt.Errorf("parse runc state: no id (written by another runtime?)")
	}
	return s, nil
}

// readRuncState reads one container's state; ErrNotFound when there is none,
// or none yet.
func readRuncState(dir string) (runcState, error) {
	data, err := os.ReadFile(filepath.Join(dir, "state.json"))
	if gone(err) {
		return runcState{}, ErrNotFound
	}
	if err != nil {
		return runcState{}, fmt.Errorf("read runc state: %w", err)
	}
	return parseRuncState(data)
}

// annotations splits the labels into the annotations of the spec and the bundle.
func (s runcState) annotations() (labels map[string]string, bundle string) {
	labels = map[string]string{}
	for _, label := range s.Config.Labels {
		key, value, _ := strings.Cut(label, "=")
		if key == "bundle" {
			bundle = value // runc appends its own last, so the last one counts
			continue
		}
		labels[key] = value
	}
	return labels, bundle
}

func (s runcState) netNS() string {
	for _, ns := range s.Config.Namespaces {
		if ns.Type == "NEWNET" {
			return ns.Path
		}
	}
	return ""
}

// log is the file that the container's output goes to, where it is a file.
func (s runcState) log() string {
	if len(s.Stdio) < 2 {
		return ""
	}
	if info, err := os.Stat(s.Stdio[1]); err != nil || !info.Mode().IsRegular() {
		return ""
	}
	return s.Stdio[1]
}

// status does what runc state does (libcontainer's refreshState): runc keeps the
// answer nowhere. dir is ROOT/ID.
func (s runcState) status(dir string) Status {
	switch {
	case !alive(s.InitPID, s.InitStart):
		return Stopped
	case s.frozen():
		return Paused
	case exists(filepath.Join(dir, "exec.fifo")):
		return Created
	default:
		return Running
	}
}

func (s runcState) frozen() bool {
	v1, v2 := s.CgroupPaths["freezer"], s.CgroupPaths[""]
	return v1 != "" && fileSays(filepath.Join(v1, "freezer.state"), "FROZEN") ||
		v2 != "" && fileSays(filepath.Join(v2, "cgroup.freeze"), "1")
}

func fileSays(file, want string) bool {
	data, err := os.ReadFile(file)
	return err == nil && strings.TrimSpace(string(data)) == want
}

func exists(file string) bool {
	_, err := os.Lstat(file)
	return err == nil
}

// host is what all descriptions of one List share.
type host struct {
	cgroups Cgroups
	mounts  []*mountinfo.Info // overlays
}

func readHost() (host, error) {
	cgroups, err := OpenCgroups()
	if err != nil {
		return host{}, err
	}
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("overlay"))
	if err != nil {
		return host{}, fmt.Errorf("read /proc/self/mountinfo: %w (is /proc mounted?)", err)
	}
	return host{cgroups: cgroups, mounts: mounts}, nil
}

// describe makes the snapshot of one container from its state directory.
func (h host) describe(dir string) (Workload, error) {
	s, err := readRuncState(dir)
	if err != nil {
		return Workload{}, err
	}
	labels, bundle := s.annotations()
	w := Workload{
		Ref: Ref{Runtime: RuncName, ID: s.ID}, Name: s.ID, Image: bundle, Labels: labels, Created: s.Created,
		Status: s.status(dir), NetNS: s.netNS(), Bundle: bundle, RootFS: s.Config.RootFS,
		UpperDir: upperDir(overlayVFSOptions(h.mounts, s.Config.RootFS)), LogPath: s.log(),
	}
	current := ""
	if w.Status != Stopped {
		w.InitPID = s.InitPID
		current, _ = h.cgroups.PathOf(s.InitPID) // it may end meanwhile
	}
	own := ""
	if v2 := s.CgroupPaths[""]; v2 != "" {
		own, _ = h.cgroups.below(v2) // empty where this process mounts cgroups elsewhere
	}
	w.cgroupOf(h.cgroups, own, current)
	return w, nil
}

// containerDirs are the directories of a runc root; none when it does not exist.
func containerDirs(root string) ([]string, error) {
	entries, err := os.ReadDir(root)
	if gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list runc root: %w (run as root)", err)
	}
	var dirs []string
	for _, entry := range entries {
		if entry.Type() == fs.ModeDir {
			dirs = append(dirs, filepath.Join(root, entry.Name()))
		}
	}
	return dirs, nil
}
