package vmtest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// moduleTree is what modules.dep and modules.builtin say: which file holds a module, what must be loaded before it.
type moduleTree struct {
	file    map[string]string   // module name -> path relative to the module directory
	needs   map[string][]string // path -> paths it depends on
	builtin map[string]bool     // module name -> compiled into the kernel
}

// moduleName turns kernel/net/ipv4/tcp-diag.ko.xz into tcp_diag: the kernel knows no dash.
func moduleName(path string) string {
	base, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return strings.ReplaceAll(base, "-", "_")
}

// readModuleTree reads dep (the text of modules.dep) and builtin (of modules.builtin); see modules.dep(5).
func readModuleTree(dep, builtin io.Reader) (moduleTree, error) {
	tree := moduleTree{file: map[string]string{}, needs: map[string][]string{}, builtin: map[string]bool{}}
	lines := bufio.NewScanner(dep)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		path, needs, ok := strings.Cut(lines.Text(), ":")
		if !ok {
			return tree, fmt.Errorf("parse modules.dep: line %q has no colon (run depmod again)", lines.Text())
		}
		tree.file[moduleName(path)] = path
		tree.needs[path] = strings.Fields(needs)
	}
	if err := lines.Err(); err != nil {
		return tree, fmt.Errorf("read modules.dep: %w", err)
	}
	lines = bufio.NewScanner(builtin)
	for lines.Scan() {
		tree.builtin[moduleName(lines.Text())] = true
	}
	if err := lines.Err(); err != nil {
		return tree, fmt.Errorf("read modules.builtin: %w", err)
	}
	return tree, nil
}

// closure returns the files to load for the named modules, dependencies first, each once. Built-in modules need none.
func (t moduleTree) closure(names ...string) ([]string, error) {
	var order []string
	seen := map[string]bool{}
	var visit func(path string)
	visit = func(path string) {
		if seen[path] {
			return
		}
		seen[path] = true
		for _, need := range slices.Backward(t.needs[path]) {
			visit(need)
		}
		order = append(order, path)
	}
	for _, name := range names {
		name = moduleName(name)
		path, ok := t.file[name]
		switch {
		case ok:
			visit(path)
		case !t.builtin[name]:
			return nil, fmt.Errorf("find module %s: neither in modules.dep nor built in (is the name right?)", name)
		}
	}
	return order, nil
}

// openModuleTree reads the tree of one module directory, such as /lib/modules/6.1.0-50-cloud-amd64.
func openModuleTree(dir string) (moduleTree, error) {
	dep, err := os.Open(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return moduleTree{}, fmt.Errorf("open module tree: %w", err)
	}
	defer dep.Close()
	builtin, err := os.Open(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return moduleTree{}, fmt.Errorf("open module tree: %w", err)
	}
	defer builtin.Close()
	return readModuleTree(dep, builtin)
}

// prepareModules unpacks compressed modules below root/lib/modules/release and writes modules.dep anew: the emulated
// guest would need about 30 ms for each nf_tables-sized xz file, the host needs three seconds once for all of them.
func prepareModules(ctx context.Context, root, release string) error {
	dir := filepath.Join(root, "lib/modules", release)
	var packed []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".ko.xz") {
			packed = append(packed, path)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("list modules: %w", err)
	}
	for chunk := range slices.Chunk(packed, 200) {
		if err := run(exec.CommandContext(ctx, "xz", append([]string{"-T0", "-d", "--"}, chunk...)...)); err != nil {
			return fmt.Errorf("unpack modules: %w (apt-get install xz-utils)", err)
		}
	}
	if err := run(exec.CommandContext(ctx, "depmod", "-b", root, release)); err != nil {
		return fmt.Errorf("index modules: %w (apt-get install kmod)", err)
	}
	return nil
}
