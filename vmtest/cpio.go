package vmtest

import (
	"fmt"
	"io"
	"io/fs"
)

// cpioWriter writes the "newc" archive format that the kernel unpacks as initial RAM disk
// (Documentation/driver-api/early-userspace/buffer-format.rst). It is not compressed: QEMU puts the file into guest
// memory for nothing, while unpacking is emulated work.
type cpioWriter struct {
	w      io.Writer
	inode  int
	offset int64
}

const cpioTrailer = "TRAILER!!!"

// Dir adds a directory.
func (c *cpioWriter) Dir(name string, perm fs.FileMode) error {
	return c.entry(name, 0o040000|uint32(perm.Perm()), nil)
}

// File adds a regular file.
func (c *cpioWriter) File(name string, perm fs.FileMode, content []byte) error {
	return c.entry(name, 0o100000|uint32(perm.Perm()), content)
}

// Close writes the trailer. It does not close the underlying writer.
func (c *cpioWriter) Close() error {
	return c.entry(cpioTrailer, 0, nil)
}

func (c *cpioWriter) entry(name string, mode uint32, content []byte) error {
	if name != cpioTrailer {
		c.inode++
	}
	const uid, gid, links, mtime, dev = 0, 0, 1, 0, 0
	header := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		c.inode, mode, uid, gid, links, mtime, len(content), dev, dev, dev, dev, len(name)+1, 0, name)
	for _, part := range [][]byte{[]byte(header), content} {
		if err := c.padded(part); err != nil {
			return fmt.Errorf("write cpio entry %s: %w", name, err)
		}
	}
	return nil
}

// padded writes b and zeros up to the next multiple of four.
func (c *cpioWriter) padded(b []byte) error {
	n, err := c.w.Write(b)
	c.offset += int64(n)
	if err != nil {
		return err
	}
	n, err = c.w.Write(make([]byte, -c.offset&3))
	c.offset += int64(n)
	return err
}
