package vmtest

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// File is a host file or folder to place in the guest. Dynamic executables bring their shared libraries with them.
type File struct {
	Host  string
	Guest string // absolute path
}

// needed are the programs of every root disk and their Debian packages.
func needed() map[string]string {
	return map[string]string{
		"busybox": "busybox-static", "runc": "runc", "containerd": "containerd", "ctr": "containerd",
		"containerd-shim-runc-v2": "containerd", "ip": "iproute2", "tc": "iproute2", "nft": "nftables", "kmod": "kmod", "dash": "dash", "bash": "bash",
	}
}

// welcome are programs that a root disk has when the host has them.
func welcome() []string {
	return []string{"crun", "strace", "bpftool", "ss", "ethtool", "criu"}
}

// rootTree is a folder that becomes the guest's root disk.
type rootTree struct {
	dir  string
	done map[string]bool // guest paths already placed
}

// newRootTree creates an empty merged-/usr tree in dir.
func newRootTree(dir string) (*rootTree, error) {
	for _, sub := range []string{
		"usr/bin", "usr/sbin", "usr/lib/modules", "usr/lib64", "etc", "dev", "proc", "sys", "run", "root", "mnt", "opt", "out",
		"var/lib", "var/log", "var/cache", "home", "tmp", "usr/share",
	} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("create root tree: %w", err)
		}
	}
	for name, target := range map[string]string{
		"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64", "var/run": "/run", "etc/mtab": "/proc/self/mounts",
	} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			return nil, fmt.Errorf("create root tree: %w", err)
		}
	}
	tree := &rootTree{dir: dir, done: map[string]bool{}}
	return tree, tree.etc()
}

func (t *rootTree) etc() error {
	for name, text := range map[string]string{
		"passwd":        "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n",
		"group":         "root:x:0:\ndaemon:x:1:\ntty:x:5:\nnogroup:x:65534:\n",
		"hosts":         "127.0.0.1 localhost vmtest\n::1 localhost\n",
		"hostname":      "vmtest\n",
		"machine-id":    "76d0be9f0a3c4cd68a4c2b1f7f1f5a11\n",
		"nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nprotocols: files\nservices: files\n",
		"resolv.conf":   "",
	} {
		if err := os.WriteFile(filepath.Join(t.dir, "etc", name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("write /etc/%s: %w", name, err)
		}
	}
	for _, name := range []string{"/etc/os-release", "/etc/protocols", "/etc/services"} {
		err := t.add(File{Host: name, Guest: name})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// addPrograms places the needed and welcome programs of the host under their host paths, and busybox's applets where
// no real program is.
func (t *rootTree) addPrograms(ctx context.Context) error {
	for name, pkg := range needed() {
		path, err := lookSystem(name)
		if err != nil {
			return fmt.Errorf("find %s: %w (apt-get install %s)", name, err, pkg)
		}
		if err := t.add(File{Host: path, Guest: path}); err != nil {
			return err
		}
	}
	for _, name := range welcome() {
		if path, err := lookSystem(name); err == nil {
			if err := t.add(File{Host: path, Guest: path}); err != nil {
				return err
			}
		}
	}
	// dash, because the shell in Debian's busybox prefers its applets to the programs in PATH: ip would not be ip.
	for name, target := range map[string]string{"/usr/sbin/modprobe": "/usr/bin/kmod", "/usr/bin/sh": "dash"} {
		if err := t.link(target, name); err != nil {
			return err
		}
	}
	return t.applets(ctx)
}

// lookSystem is exec.LookPath with the administrator's folders, which a user's PATH may lack.
func lookSystem(name string) (string, error) {
	for _, dir := range []string{"/usr/sbin", "/usr/bin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return exec.LookPath(name)
}

func (t *rootTree) applets(ctx context.Context) error {
	busybox, err := lookSystem("busybox")
	if err != nil {
		return fmt.Errorf("find busybox: %w (apt-get install busybox-static)", err)
	}
	list, err := exec.CommandContext(ctx, busybox, "--list").Output()
	if err != nil {
		return fmt.Errorf("list busybox applets: %w", err)
	}
	for _, name := range strings.Fields(string(list)) {
		if t.done["/usr/bin/"+name] || t.done["/usr/sbin/"+name] {
			continue
		}
		if err := t.link(guestPath(busybox), "/usr/bin/"+name); err != nil {
			return err
		}
	}
	return nil
}

func (t *rootTree) link(target, guest string) error {
	if t.done[guest] {
		return nil
	}
	t.done[guest] = true
	if err := os.Symlink(target, filepath.Join(t.dir, guest)); err != nil {
		return fmt.Errorf("link %s: %w", guest, err)
	}
	return nil
}

// guestPath maps a path below one of the links of a merged /usr to the real one.
func guestPath(path string) string {
	path = filepath.Clean("/" + path)
	for _, dir := range []string{"/bin/", "/sbin/", "/lib/", "/lib64/"} {
		if strings.HasPrefix(path, dir) {
			return "/usr" + path
		}
	}
	return path
}

// add places a file or folder with the libraries of every executable in it. What is there already stays.
func (t *rootTree) add(f File) error {
	info, err := os.Stat(f.Host)
	if err != nil {
		return fmt.Errorf("place %s: %w", f.Guest, err)
	}
	if !info.IsDir() {
		return t.addFile(f.Host, guestPath(f.Guest), info)
	}
	return filepath.WalkDir(f.Host, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("place %s: %w", f.Guest, err)
		}
		guest := guestPath(filepath.Join(f.Guest, strings.TrimPrefix(path, f.Host)))
		switch d.Type() {
		case fs.ModeDir:
			return os.MkdirAll(filepath.Join(t.dir, guest), 0o755)
		case fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return fmt.Errorf("place %s: %w", f.Guest, err)
			}
			return t.link(target, guest)
		}
		info, err := d.Info()
		if err != nil {
			return fmt.Errorf("place %s: %w", f.Guest, err)
		}
		return t.addFile(path, guest, info)
	})
}

func (t *rootTree) addFile(host, guest string, info fs.FileInfo) error {
	if t.done[guest] || !info.Mode().IsRegular() {
		return nil
	}
	t.done[guest] = true
	if err := copyFile(host, filepath.Join(t.dir, guest), info.Mode()); err != nil {
		return err
	}
	if info.Mode().Perm()&0o111 == 0 {
		return nil
	}
	libraries, err := libraries(host)
	if err != nil {
		return err
	}
	for _, path := range libraries {
		if err := t.add(File{Host: path, Guest: path}); err != nil {
			return err
		}
	}
	return nil
}

// libraries returns the interpreter and shared libraries of a dynamic executable, by ldd(1); nothing for anything else.
func libraries(path string) ([]string, error) {
	file, err := elf.Open(path)
	if err != nil {
		return nil, nil // a script, or not for this machine
	}
	defer file.Close()
	dynamic := false
	for _, segment := range file.Progs {
		dynamic = dynamic || segment.Type == elf.PT_INTERP
	}
	if !dynamic {
		return nil, nil
	}
	out, err := exec.Command("ldd", path).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("list libraries of %s: %w: %s", path, err, bytes.TrimSpace(out))
	}
	return parseLdd(string(out))
}

// parseLdd reads lines such as "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)" and "/lib64/ld-linux... (0x...)".
func parseLdd(out string) ([]string, error) {
	var paths []string
	for line := range strings.Lines(out) {
		if strings.Contains(line, "not found") {
			return nil, fmt.Errorf("find library: %s (install its package)", strings.TrimSpace(line))
		}
		for _, word := range strings.Fields(line) {
			if strings.HasPrefix(word, "/") {
				paths = append(paths, word)
			}
		}
	}
	return paths, nil
}
