package workload_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/reprieve-dev/reprieve/workload"
	"github.com/reprieve-dev/reprieve/workload/workloadtest"
)

// conformance is what every Runtime must do, tried with the real programs. The
// cases share one fixture, and each leaves it as it was.
var conformance = []struct {
	name string
	test func(t *testing.T, f *workloadtest.Fixture)
}{
	{"tells all statuses", tellsStatuses},
	{"describes a workload", describes},
	{"finds processes by cgroup", findsByCgroup},
	{"locates by cgroup path", locates},
	{"replaces a running one", replacesRunning},
	{"replaces a dead one", replacesDead},
	{"replaces a stopped one", replacesSIGSTOPped},
	{"replaces a read-only one", replacesReadOnly},
	{"starts before the original ends", keepsOriginal},
	{"joins the planned network", joinsNetwork},
	{"keeps the original's network", keepsNetwork},
	{"keeps file changes apart", keepsFilesApart},
	{"puts the cgroup beside the original's", placesCgroup},
	{"undoes a failed create", undoesCreate},
	{"undoes a create cut off by its deadline", undoesLateCreate},
	{"refuses a bad plan", refusesPlan},
	{"knows nothing of unknown ones", knowsUnknown},
	{"removes twice", removesTwice},
	{"starts twice", startsTwice},
	{"lists while workloads vanish", listsVanishing},
	{"ends with its context", endsWithContext},
}

func TestRuntime(t *testing.T) {
	workloadtest.Each(t, func(t *testing.T, f *workloadtest.Fixture) {
		for _, c := range conformance {
			t.Run(c.name, func(t *testing.T) {
				before := f.Leftovers(t)
				c.test(t, f)
				removeNew(t, f)
				sameList(t, before, f.Leftovers(t))
			})
		}
	})
}

// removeNew removes what a case left running.
func removeNew(t *testing.T, f *workloadtest.Fixture) {
	t.Helper()
	for _, w := range mustList(t, f) {
		mustRemove(t, f, w.Ref)
	}
}

// sameList ignores the originals' bundles, which the fixture keeps.
func sameList(t *testing.T, before, after []string) {
	t.Helper()
	left := slices.DeleteFunc(after, func(item string) bool {
		return slices.Contains(before, item) || strings.Contains(item, "/originals/")
	})
	if len(left) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
}

func mustList(t testing.TB, f *workloadtest.Fixture) []workload.Workload {
	t.Helper()
	all, err := f.Runtime.List(workloadtest.Context(t))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func mustRemove(t testing.TB, f *workloadtest.Fixture, ref workload.Ref) {
	t.Helper()
	if err := f.Runtime.Remove(workloadtest.Context(t), ref); err != nil {
		t.Fatal(err)
	}
}

func mustCreate(t testing.TB, f *workloadtest.Fixture, original workload.Workload, plan workload.Plan) workload.Workload {
	t.Helper()
	if plan.ID == "" {
		plan.ID = f.NewID()
	}
	w, err := f.Runtime.Create(workloadtest.Context(t), original, plan)
	if err != nil {
		t.Fatal(err)
	}
	if w.Status != workload.Created || w.ID != plan.ID {
		t.Fatalf("Create gave %s in status %s, want %s created", w.Ref, w.Status, plan.ID)
	}
	return w
}

func mustStart(t testing.TB, f *workloadtest.Fixture, ref workload.Ref) workload.Workload {
	t.Helper()
	w, err := f.Runtime.Start(workloadtest.Context(t), ref)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func tellsStatuses(t *testing.T, f *workloadtest.Fixture) {
	want := map[string]workload.Status{
		f.Create(t, workloadtest.Spec{}).ID:                                                workload.Created,
		f.Start(t, workloadtest.Spec{}).ID:                                                 workload.Running,
		f.Kill(t, f.Start(t, workloadtest.Spec{})).ID:                                      workload.Stopped,
		mustCreate(t, f, f.Start(t, workloadtest.Spec{ID: f.NewID()}), workload.Plan{}).ID: workload.Created,
	}
	found := map[string]workload.Workload{}
	for _, w := range mustList(t, f) {
		found[w.ID] = w
	}
	for id, status := range want {
		listed := found[id]
		if listed.Status != status {
			t.Errorf("%s is listed as %q, want %q", id, listed.Status, status)
		}
		if (listed.InitPID != 0) != (status != workload.Stopped) {
			t.Errorf("%s, %s, has init %d", id, status, listed.InitPID)
		}
		if inspected := f.Inspect(t, f.Ref(id)); inspected.Status != status || inspected.InitPID != listed.InitPID {
			t.Errorf("Inspect gives %+v, List %+v", inspected, listed)
		}
	}
}

func describes(t *testing.T, f *workloadtest.Fixture) {
	began := time.Now().Add(-time.Second)
	ns := workloadtest.NetNS(t)
	w := f.Start(t, workloadtest.Spec{
		Args: workloadtest.Shell("echo up; exec sleep 86400"), NetNS: ns, Labels: map[string]string{"team": "a=b", "empty": ""},
	})
	if w.Created.Before(began) || w.Created.After(time.Now().Add(time.Second)) {
		t.Errorf("created %v, want after %v", w.Created, began)
	}
	if w.Labels["team"] != "a=b" || w.Labels["bundle"] != "" {
		t.Errorf("labels are %v", w.Labels)
	}
	if w.NetNS != ns || w.Name != w.ID || w.Image == "" {
		t.Errorf("netns %q, name %q, image %q; want %q, %q and one", w.NetNS, w.Name, w.Image, ns, w.ID)
	}
	if (f.Runtime.Name() == workload.ContainerdName) != strings.HasPrefix(w.Digest, "sha256:") {
		t.Errorf("digest is %q", w.Digest)
	}
	workloadtest.Await(t, "the output in LogPath", func() bool { return workloadtest.Log(t, w) == "up" })
	for _, file := range []string{filepath.Join(w.Bundle, "config.json"), filepath.Join(w.RootFS, "bin/busybox")} {
		if _, err := os.Stat(file); err != nil {
			t.Error(err)
		}
	}
	mustWrite(t, workloadtest.InRoot(w, "/data/mark"), "x")
	if _, err := os.Stat(filepath.Join(w.UpperDir, "data/mark")); err != nil {
		t.Errorf("a write does not show in UpperDir: %v", err)
	}
}

func findsByCgroup(t *testing.T, f *workloadtest.Fixture) {
	cgroups := mustCgroups(t)
	w := f.Start(t, workloadtest.Spec{Args: workloadtest.Shell("sleep 86400 & sleep 86400 & wait")})
	if id, err := cgroups.ID(w.CgroupPath); err != nil || id != w.CgroupID || id == 0 {
		t.Errorf("id of %q is %d, %v; the workload has %d", w.CgroupPath, id, err, w.CgroupID)
	}
	if path, err := cgroups.PathByID(w.CgroupID); err != nil || path != w.CgroupPath {
		t.Errorf("path of %d is %q, %v; want %q", w.CgroupID, path, err, w.CgroupPath)
	}
	if path, err := cgroups.PathOf(w.InitPID); err != nil || path != w.CgroupPath {
		t.Errorf("cgroup of init is %q, %v; want %q", path, err, w.CgroupPath)
	}
	workloadtest.Await(t, "three processes in the cgroup", func() bool {
		pids, err := cgroups.PIDs(w.CgroupPath)
		return err == nil && len(pids) == 3 && slices.Contains(pids, w.InitPID)
	})
}

func replacesRunning(t *testing.T, f *workloadtest.Fixture) {
	checkReplacement(t, f, func(w workload.Workload) workload.Workload { return w })
}

func replacesDead(t *testing.T, f *workloadtest.Fixture) {
	checkReplacement(t, f, func(w workload.Workload) workload.Workload { return f.Kill(t, w) })
}

func replacesSIGSTOPped(t *testing.T, f *workloadtest.Fixture) {
	checkReplacement(t, f, func(w workload.Workload) workload.Workload {
		if err := unix.Kill(w.InitPID, unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		return f.Inspect(t, w.Ref)
	})
}

// checkReplacement replaces a workload after something happened to it, and
// compares the replacement with it.
func checkReplacement(t *testing.T, f *workloadtest.Fixture, happen func(workload.Workload) workload.Workload) {
	t.Helper()
	shared := t.TempDir()
	original := happen(f.Start(t, workloadtest.Spec{
		Args: workloadtest.Shell("echo up; hostname; exec sleep 86400"), Labels: map[string]string{"team": "a", "color": "red"},
		Mounts: []specs.Mount{{Destination: "/shared", Type: "bind", Source: shared, Options: []string{"rbind", "rw"}}},
	}))
	created := mustCreate(t, f, original, workload.Plan{Labels: map[string]string{"color": "blue", "role": "replacement"}})
	if created.InitPID == 0 || created.CgroupID == 0 || created.CgroupID == original.CgroupID {
		t.Errorf("created with init %d in cgroup %d, original is in %d", created.InitPID, created.CgroupID, original.CgroupID)
	}
	if log := workloadtest.Log(t, created); log != "" {
		t.Errorf("program ran before Start: %q", log)
	}
	running := mustStart(t, f, created.Ref)
	if running.Status != workload.Running || running.InitPID != created.InitPID || running.CgroupID != created.CgroupID {
		t.Errorf("Start made %+v of %+v", running, created)
	}
	workloadtest.Await(t, "the replacement's output", func() bool { return workloadtest.Log(t, running) == "up\nbox" })
	want := map[string]string{"team": "a", "color": "blue", "role": "replacement"}
	for key, value := range want {
		if running.Labels[key] != value {
			t.Errorf("label %s is %q, want %q", key, running.Labels[key], value)
		}
	}
	mustWrite(t, filepath.Join(shared, "here"), "x")
	mustRead(t, workloadtest.InRoot(running, "/shared/here"))
	if after := f.Inspect(t, original.Ref); after.Status != original.Status || after.InitPID != original.InitPID || after.Labels["color"] != "red" {
		t.Errorf("original was %+v, is %+v", original, after)
	}
	if running.Image != original.Image && f.Runtime.Name() == workload.ContainerdName {
		t.Errorf("image is %q, want %q", running.Image, original.Image)
	}
}

func replacesReadOnly(t *testing.T, f *workloadtest.Fixture) {
	original := f.Start(t, workloadtest.Spec{ReadOnly: true})
	running := mustStart(t, f, mustCreate(t, f, original, workload.Plan{}).Ref)
	mustRead(t, workloadtest.InRoot(running, "/etc/passwd"))
	if err := os.WriteFile(workloadtest.InRoot(running, "/data/x"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("write in a read-only root gives %v, want EROFS", err)
	}
}

func keepsOriginal(t *testing.T, f *workloadtest.Fixture) {
	original := f.Start(t, workloadtest.Spec{})
	running := mustStart(t, f, mustCreate(t, f, original, workload.Plan{}).Ref)
	mustRemove(t, f, original.Ref)
	if again := f.Inspect(t, running.Ref); again.Status != workload.Running {
		t.Errorf("replacement is %s once the original is removed", again.Status)
	}
	second := mustStart(t, f, mustCreate(t, f, running, workload.Plan{}).Ref)
	mustRemove(t, f, running.Ref)
	mustRead(t, workloadtest.InRoot(second, "/etc/passwd"))
}

func joinsNetwork(t *testing.T, f *workloadtest.Fixture) {
	for _, spec := range []workloadtest.Spec{{}, {HostNetwork: true}, {NetNS: workloadtest.NetNS(t)}} {
		ns := workloadtest.NetNS(t)
		w := mustStart(t, f, mustCreate(t, f, f.Start(t, spec), workload.Plan{NetNS: ns}).Ref)
		if w.NetNS != ns || mustNetwork(t, w).NetNS != mustInode(t, ns) {
			t.Errorf("replacement is in %q (%d), want %q (%d)", w.NetNS, mustNetwork(t, w).NetNS, ns, mustInode(t, ns))
		}
	}
}

func keepsNetwork(t *testing.T, f *workloadtest.Fixture) {
	ns := workloadtest.NetNS(t)
	joined := mustStart(t, f, mustCreate(t, f, f.Start(t, workloadtest.Spec{NetNS: ns}), workload.Plan{}).Ref)
	if got := mustNetwork(t, joined).NetNS; got != mustInode(t, ns) {
		t.Errorf("replacement is in %d, the original's network is %d", got, mustInode(t, ns))
	}
	host := mustStart(t, f, mustCreate(t, f, f.Start(t, workloadtest.Spec{HostNetwork: true}), workload.Plan{}).Ref)
	if n := mustNetwork(t, host); !n.Host || len(n.Interfaces) != 0 {
		t.Errorf("replacement of one on the host's network is on %+v", n)
	}
}

func keepsFilesApart(t *testing.T, f *workloadtest.Fixture) {
	original := f.Start(t, workloadtest.Spec{})
	mustWrite(t, workloadtest.InRoot(original, "/data/evidence"), "original")
	mustWrite(t, workloadtest.InRoot(original, "/etc/passwd"), "changed")
	running := mustStart(t, f, mustCreate(t, f, original, workload.Plan{}).Ref)
	if _, err := os.Stat(workloadtest.InRoot(running, "/data/evidence")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the replacement sees a file of the original: %v", err)
	}
	if got := mustRead(t, workloadtest.InRoot(running, "/etc/passwd")); got == "changed" {
		t.Error("the replacement sees a change of the original")
	}
	mustWrite(t, workloadtest.InRoot(running, "/data/own"), "replacement")
	mustWrite(t, workloadtest.InRoot(running, "/etc/passwd"), "mine")
	mustRemove(t, f, running.Ref)
	if got := mustRead(t, workloadtest.InRoot(original, "/data/evidence")) + mustRead(t, workloadtest.InRoot(original, "/etc/passwd")); got != "originalchanged" {
		t.Errorf("the original's files hold %q", got)
	}
	if _, err := os.Stat(workloadtest.InRoot(original, "/data/own")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the original sees a file of the replacement: %v", err)
	}
}

func placesCgroup(t *testing.T, f *workloadtest.Fixture) {
	parent := "/" + f.NewID()
	t.Cleanup(func() { removeCgroups(t, parent) })
	original := f.Start(t, workloadtest.Spec{Cgroup: parent})
	created := mustCreate(t, f, original, workload.Plan{})
	if want := filepath.Join(parent, created.ID); created.CgroupPath != want {
		t.Errorf("cgroup is %q, want %q", created.CgroupPath, want)
	}
	ids, err := mustCgroups(t).Ancestors(created.CgroupPath)
	if id, idErr := mustCgroups(t).ID(parent); err != nil || idErr != nil || !slices.Equal(ids, []uint64{id}) {
		t.Errorf("ancestors are %v, %v; want %d, %v", ids, err, id, idErr)
	}
	removeNew(t, f)
	removeCgroups(t, parent)
}

// removeCgroups removes the parent that runc made for a test and does not remove.
func removeCgroups(t testing.TB, parent string) {
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		found, err := filepath.Glob(pattern + parent)
		if err != nil {
			t.Fatal(err)
		}
		for _, dir := range found {
			if err := unix.Rmdir(dir); err != nil {
				t.Errorf("remove cgroup %s: %v", dir, err)
			}
		}
	}
}

func undoesCreate(t *testing.T, f *workloadtest.Fixture) {
	original := f.Start(t, workloadtest.Spec{})
	before := f.Leftovers(t)
	_, err := f.Runtime.Create(workloadtest.Context(t), original, workload.Plan{ID: f.NewID(), NetNS: filepath.Join(f.Dir, "absent")})
	if err == nil || !strings.Contains(err.Error(), "absent") {
		t.Errorf("Create in a network that does not exist: %v", err)
	}
	sameList(t, before, f.Leftovers(t))
	if w := f.Inspect(t, original.Ref); w.Status != workload.Running {
		t.Errorf("the original is %s", w.Status)
	}
}

func undoesLateCreate(t *testing.T, f *workloadtest.Fixture) {
	original := f.Start(t, workloadtest.Spec{})
	before := f.Leftovers(t)
	for limit := time.Millisecond; limit < 200*time.Millisecond; limit = limit*4/3 + time.Millisecond {
		ctx, cancel := context.WithTimeout(workloadtest.Context(t), limit)
		w, err := f.Runtime.Create(ctx, original, workload.Plan{ID: f.NewID()})
		cancel()
		if err == nil {
			mustRemove(t, f, w.Ref)
		} else if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after %v: %v", limit, err)
		}
		sameList(t, before, f.Leftovers(t))
	}
}

func refusesPlan(t *testing.T, f *workloadtest.Fixture) {
	original := f.Start(t, workloadtest.Spec{})
	other := f.Start(t, workloadtest.Spec{})
	before := f.Leftovers(t)
	for _, id := range []string{"", "..", "a/b", "../../x", original.ID, other.ID, strings.Repeat("x", 300)} {
		if _, err := f.Runtime.Create(workloadtest.Context(t), original, workload.Plan{ID: id}); err == nil {
			t.Errorf("Create took the id %q", id)
		}
	}
	sameList(t, before, f.Leftovers(t))
	for _, w := range []workload.Workload{original, other} {
		if after := f.Inspect(t, w.Ref); after.InitPID != w.InitPID {
			t.Errorf("%s was touched: init %d, was %d", w.Ref, after.InitPID, w.InitPID)
		}
	}
}

func knowsUnknown(t *testing.T, f *workloadtest.Fixture) {
	ctx := workloadtest.Context(t)
	unknown := f.Ref(f.NewID())
	for _, ref := range []workload.Ref{unknown, {}, {Runtime: "other", ID: "x"}, f.Ref("../x"), f.Ref("")} {
		if _, err := f.Runtime.Inspect(ctx, ref); !errors.Is(err, workload.ErrNotFound) {
			t.Errorf("Inspect %q: %v, want ErrNotFound", ref, err)
		}
		if _, err := f.Runtime.Start(ctx, ref); !errors.Is(err, workload.ErrNotFound) {
			t.Errorf("Start %q: %v, want ErrNotFound", ref, err)
		}
		if err := f.Runtime.Remove(ctx, ref); err != nil {
			t.Errorf("Remove %q: %v", ref, err)
		}
	}
	if _, err := f.Runtime.Create(ctx, workload.Workload{Ref: unknown}, workload.Plan{ID: f.NewID()}); err == nil {
		t.Error("Create replaced an unknown workload")
	}
}

func removesTwice(t *testing.T, f *workloadtest.Fixture) {
	original := f.Start(t, workloadtest.Spec{})
	before := f.Leftovers(t)
	created := mustCreate(t, f, original, workload.Plan{})
	running := mustStart(t, f, mustCreate(t, f, original, workload.Plan{}).Ref)
	stopped := mustStart(t, f, mustCreate(t, f, original, workload.Plan{}).Ref)
	if err := unix.Kill(stopped.InitPID, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	dead := f.Kill(t, mustStart(t, f, mustCreate(t, f, original, workload.Plan{}).Ref))
	for _, w := range []workload.Workload{created, running, stopped, dead} {
		mustRemove(t, f, w.Ref)
		mustRemove(t, f, w.Ref)
		if _, err := f.Runtime.Inspect(workloadtest.Context(t), w.Ref); !errors.Is(err, workload.ErrNotFound) {
			t.Errorf("Inspect after Remove: %v", err)
		}
	}
	sameList(t, before, f.Leftovers(t))
}

func startsTwice(t *testing.T, f *workloadtest.Fixture) {
	running := mustStart(t, f, mustCreate(t, f, f.Start(t, workloadtest.Spec{}), workload.Plan{}).Ref)
	if again := mustStart(t, f, running.Ref); again.InitPID != running.InitPID {
		t.Errorf("second Start gives init %d, was %d", again.InitPID, running.InitPID)
	}
	f.Kill(t, running)
	if _, err := f.Runtime.Start(workloadtest.Context(t), running.Ref); err == nil {
		t.Error("Start ran a workload that had ended")
	}
}

func listsVanishing(t *testing.T, f *workloadtest.Fixture) {
	original := f.Start(t, workloadtest.Spec{})
	ended := make(chan error)
	go func() {
		var err error
		for i := 0; i < 8 && err == nil; i++ {
			plan := workload.Plan{ID: f.NewID()}
			_, err = f.Runtime.Create(t.Context(), original, plan)
			err = errors.Join(err, f.Runtime.Remove(t.Context(), f.Ref(plan.ID)))
		}
		ended <- err
	}()
	for {
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
			return
		default:
		}
		if all := mustList(t, f); !slices.ContainsFunc(all, func(w workload.Workload) bool { return w.ID == original.ID }) {
			t.Fatalf("the original is missing in %v", all)
		}
	}
}

func endsWithContext(t *testing.T, f *workloadtest.Fixture) {
	original := f.Start(t, workloadtest.Spec{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	calls := map[string]func() error{
		"Ping":    func() error { return f.Runtime.Ping(ctx) },
		"List":    func() error { _, err := f.Runtime.List(ctx); return err },
		"Inspect": func() error { _, err := f.Runtime.Inspect(ctx, original.Ref); return err },
		"Create":  func() error { _, err := f.Runtime.Create(ctx, original, workload.Plan{ID: f.NewID()}); return err },
		"Start":   func() error { _, err := f.Runtime.Start(ctx, original.Ref); return err },
		"Remove":  func() error { return f.Runtime.Remove(ctx, original.Ref) },
	}
	for name, call := range calls {
		if err := call(); !errors.Is(err, context.Canceled) {
			t.Errorf("%s with an ended context: %v", name, err)
		}
	}
}

func mustCgroups(t testing.TB) workload.Cgroups {
	t.Helper()
	cgroups, err := workload.OpenCgroups()
	if err != nil {
		t.Fatal(err)
	}
	return cgroups
}

func mustNetwork(t testing.TB, w workload.Workload) workload.Network {
	t.Helper()
	n, err := workload.NetworkOf(w.InitPID)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func mustInode(t testing.TB, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatalf("stat %s: %v", path, err)
	}
	return st.Ino
}

func mustWrite(t testing.TB, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func mustRead(t testing.TB, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func locates(t *testing.T, f *workloadtest.Fixture) {
	w := f.Start(t, workloadtest.Spec{})
	if refs := f.Runtime.Locate(w.CgroupPath); !slices.Equal(refs, []workload.Ref{w.Ref}) {
		t.Errorf("%s is located as %v, want %v", w.CgroupPath, refs, w.Ref)
	}
	scope := "/system.slice/cri-containerd-" + w.ID + ".scope"
	if refs := f.Runtime.Locate(scope); !slices.Equal(refs, []workload.Ref{w.Ref}) {
		t.Errorf("%s is located as %v, want %v", scope, refs, w.Ref)
	}
	for _, other := range []string{"", "/", "/..", "/*", "/system.slice/cron.service", "/a/.scope"} {
		if refs := f.Runtime.Locate(other); len(refs) != 0 {
			t.Errorf("%q is located as %v", other, refs)
		}
	}
}
