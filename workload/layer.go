package workload

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// The root file system of a replacement that runc makes. runc knows no images:
// what a bundle's rootfs holds at that moment is the image. The files that the
// failed container changed are evidence, so the replacement gets an overlay of
// its own above them and never writes into them. Where the original's rootfs
// is an overlay itself, its lower layers are the image, and the replacement
// starts from those, clean of the original's changes.

// Names inside of a replacement's bundle.
const (
	layerRoot  = "rootfs"
	layerUpper = "upper"
	layerWork  = "work"
)

// mountLayer mounts an overlay of the given lower directories, topmost first, at
// bundle/rootfs. A crash right after it leaves a mount that unmountLayer, called
// by Remove, takes away.
func mountLayer(bundle string, lowers []string) error {
	for _, name := range []string{layerRoot, layerUpper, layerWork} {
		// 0711: with a user namespace, others than root must pass to the rootfs.
		if err := os.Mkdir(filepath.Join(bundle, name), 0o711); err != nil {
			return fmt.Errorf("make overlay for replacement: %w", err)
		}
	}
	if err := copyMode(lowers[0], filepath.Join(bundle, layerUpper)); err != nil {
		return fmt.Errorf("make overlay for replacement: %w", err)
	}
	target := filepath.Join(bundle, layerRoot)
	options := overlayOptions(bundle, lowers)
	if err := unix.Mount("overlay", target, "overlay", 0, options); err != nil {
		return fmt.Errorf("mount overlay %s over %s: %w (the bundle directory must be on a file system that overlayfs takes as upper layer, such as ext4, xfs or tmpfs)",
			target, strings.Join(lowers, ":"), err)
	}
	return nil
}

// copyMode gives the upper directory, which becomes the root directory, the mode
// and owner of the image's.
func copyMode(from, to string) error {
	var st unix.Stat_t
	if err := unix.Stat(from, &st); err != nil {
		return fmt.Errorf("stat %s: %w", from, err)
	}
	if err := unix.Chown(to, int(st.Uid), int(st.Gid)); err != nil {
		return fmt.Errorf("chown %s: %w", to, err)
	}
	return unix.Chmod(to, st.Mode&0o7777)
}

// unmountLayer takes the overlay away; nil when it is not mounted. A container
// that still runs keeps its own copy of the mount.
func unmountLayer(bundle string) error {
	target := filepath.Join(bundle, layerRoot)
	for {
		err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", target, err)
		}
	}
}

// maxMountData is what mount(2) takes as options: a page with its final zero.
const maxMountData = 4095

// overlayOptions builds the option string of overlayfs, in which a backslash
// escapes itself, the colon between layers and the comma between options.
func overlayOptions(bundle string, lowers []string) string {
	escape := strings.NewReplacer(`\`, `\\`, `:`, `\:`, `,`, `\,`)
	escaped := make([]string, len(lowers))
	for i, lower := range lowers {
		escaped[i] = escape.Replace(lower)
	}
	return "lowerdir=" + strings.Join(escaped, ":") +
		",upperdir=" + escape.Replace(filepath.Join(bundle, layerUpper)) +
		",workdir=" + escape.Replace(filepath.Join(bundle, layerWork))
}

// imageLayers are the directories, topmost first, that hold the image below a
// rootfs: the lower layers when it is an overlay whose layers can be named from
// here, else the rootfs itself.
func imageLayers(rootfs string, bundle string) ([]string, error) {
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) { return m.Mountpoint != rootfs, false })
	if err != nil {
		return nil, fmt.Errorf("read /proc/self/mountinfo: %w (is /proc mounted?)", err)
	}
	lowers := lowerDirs(overlayVFSOptions(mounts, rootfs))
	for _, dir := range lowers {
		// containerd and Podman mount with relative names when there are many.
		if info, err := os.Stat(dir); !filepath.IsAbs(dir) || err != nil || !info.IsDir() {
			lowers = nil
			break
		}
	}
	if len(lowers) == 0 || len(overlayOptions(bundle, lowers)) > maxMountData {
		lowers = []string{rootfs}
	}
	if _, err := os.Stat(lowers[0]); err != nil {
		return nil, fmt.Errorf("find root file system of original: %w", err)
	}
	return lowers, nil
}

// overlayVFSOptions are the superblock options of the overlay mounted at a
// directory, empty when another file system or none is. The last mount hides
// those before it.
func overlayVFSOptions(mounts []*mountinfo.Info, dir string) string {
	options := ""
	for _, m := range mounts {
		if m.Mountpoint != dir {
			continue
		}
		options = ""
		if m.FSType == "overlay" {
			options = m.VFSOptions
		}
	}
	return options
}

// lowerDirs takes the lower layers, topmost first, from an overlay's options in
// mountinfo: "lowerdir=A:B", or one "lowerdir+=A" each since Linux 6.5.
func lowerDirs(options string) []string {
	var dirs []string
	for option := range strings.SplitSeq(options, ",") {
		name, value, _ := strings.Cut(option, "=")
		switch name {
		case "lowerdir":
			dirs = append(dirs, splitLayers(unescapeOctal(value))...)
		case "lowerdir+":
			dirs = append(dirs, unescapeOctal(value))
		}
	}
	return dirs
}

// upperDir takes the writable layer from an overlay's options in mountinfo.
func upperDir(options string) string {
	for option := range strings.SplitSeq(options, ",") {
		if value, ok := strings.CutPrefix(option, "upperdir="); ok {
			return unescapeOctal(value)
		}
	}
	return ""
}

// splitLayers cuts at colons that no backslash escapes.
func splitLayers(layers string) []string {
	var dirs []string
	var dir strings.Builder
	for i := 0; i < len(layers); i++ {
		switch c := layers[i]; {
		case c == '\\' && i+1 < len(layers):
			i++
			dir.WriteByte(layers[i])
		case c == ':':
			dirs = append(dirs, dir.String())
			dir.Reset()
		default:
			dir.WriteByte(c)
		}
	}
	return append(dirs, dir.String())
}

// unescapeOctal undoes \ooo, as the kernel's seq_escape() writes space, comma,
// equals sign and backslash in mountinfo.
func unescapeOctal(text string) string {
	var plain strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+3 < len(text) {
			if code, err := strconv.ParseUint(text[i+1:i+4], 8, 8); err == nil {
				plain.WriteByte(byte(code))
				i += 3
				continue
			}
		}
		plain.WriteByte(text[i])
	}
	return plain.String()
}

// removeTree deletes a directory that this package made; nil when it is gone.
func removeTree(dir string) error {
	if err := os.RemoveAll(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	return nil
}
