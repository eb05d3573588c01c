package vmtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
)

// makeDisk writes an ext4 image with the content of dir and free space (bytes) beside it. The file is sparse. There is
// no journal: the image lives as long as one guest.
func makeDisk(ctx context.Context, path, dir string, free int64) error {
	size, files, err := measure(dir)
	if err != nil {
		return err
	}
	const kib = 1 << 10
	blocks := (size + size/16 + free) / kib
	inodes := files + 16<<10
	cmd := exec.CommandContext(ctx, "mkfs.ext4", "-q", "-F", "-d", dir, "-L", "vmtest", "-m", "0",
		"-O", "^has_journal,^resize_inode", "-E", "root_owner=0:0,lazy_itable_init=1,nodiscard",
		"-b", "4096", "-I", "256", "-N", strconv.FormatInt(inodes, 10), path, strconv.FormatInt(blocks, 10)+"k")
	if err := run(cmd); err != nil {
		return fmt.Errorf("make disk image: %w (apt-get install e2fsprogs)", err)
	}
	return nil
}

// measure returns the space in bytes, in whole blocks, and the number of files below dir.
func measure(dir string) (size, files int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		files++
		info, err := d.Info()
		if err != nil {
			return err
		}
		size += (info.Size() + 4095) &^ 4095
		return nil
	})
	if err != nil {
		return 0, 0, fmt.Errorf("measure %s: %w", dir, err)
	}
	return size, files, nil
}

// copyFile copies a regular file, following links, with its permission bits.
func copyFile(from, to string, perm fs.FileMode) (err error) {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return fmt.Errorf("create folder for %s: %w", to, err)
	}
	source, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("copy file: %w", err)
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, perm.Perm()|0o200)
	if err != nil {
		return fmt.Errorf("copy file: %w", err)
	}
	_, err = io.Copy(target, source)
	if err := errors.Join(err, target.Close()); err != nil {
		return fmt.Errorf("copy %s to %s: %w", from, to, err)
	}
	return nil
}
