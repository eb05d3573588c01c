package vmtest

import (
	"reflect"
	"strings"
	"testing"
)

const modulesDep = `kernel/a/virtio.ko:
kernel/a/virtio_ring.ko: kernel/a/virtio.ko
kernel/a/virtio_pci.ko: kernel/a/virtio-pci-lib.ko kernel/a/virtio_ring.ko kernel/a/virtio.ko
kernel/a/virtio-pci-lib.ko:
kernel/b/virtio_blk.ko.xz: kernel/a/virtio_ring.ko kernel/a/virtio.ko
`

func TestModuleClosure(t *testing.T) {
	tree, err := readModuleTree(strings.NewReader(modulesDep), strings.NewReader("kernel/fs/ext4/ext4.ko\n"))
	if err != nil {
		t.Fatal(err)
	}
	const a = "kernel/a/"
	tests := map[string]struct{ names, want []string }{
		"leaf":     {[]string{"virtio"}, []string{a + "virtio.ko"}},
		"chain":    {[]string{"virtio_pci"}, []string{a + "virtio.ko", a + "virtio_ring.ko", a + "virtio-pci-lib.ko", a + "virtio_pci.ko"}},
		"dash":     {[]string{"virtio_pci_lib"}, []string{a + "virtio-pci-lib.ko"}},
		"built in": {[]string{"ext4"}, nil},
		"shared":   {[]string{"virtio_ring", "virtio-blk"}, []string{a + "virtio.ko", a + "virtio_ring.ko", "kernel/b/virtio_blk.ko.xz"}},
	}
	for name, test := range tests {
		got, err := tree.closure(test.names...)
		if err != nil || !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: got %q, %v; want %q", name, got, err, test.want)
		}
	}
	if _, err := tree.closure("virtio", "nonsense"); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("unknown module: %v", err)
	}
}

func TestModuleTreeRefusesNonsense(t *testing.T) {
	if _, err := readModuleTree(strings.NewReader("no colon here\n"), strings.NewReader("")); err == nil {
		t.Error("no error for a line without colon")
	}
}

func TestParseLdd(t *testing.T) {
	const out = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n"
	got, err := parseLdd(out)
	want := []string{"/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	if _, err := parseLdd("\tlibgone.so.1 => not found\n"); err == nil {
		t.Error("no error for a missing library")
	}
}

func TestGuestPath(t *testing.T) {
	for path, want := range map[string]string{
		"/bin/sh": "/usr/bin/sh", "/lib64/ld.so": "/usr/lib64/ld.so", "/usr/bin/x": "/usr/bin/x", "/library/x": "/library/x", "/a/../sbin/y": "/usr/sbin/y",
	} {
		if got := guestPath(path); got != want {
			t.Errorf("%s: got %s, want %s", path, got, want)
		}
	}
}
