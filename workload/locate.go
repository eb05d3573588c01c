package workload

import (
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// idOfCgroup is the container id in a cgroup path. Runtimes name the last
// directory after the container, within a systemd scope or not:
// "/kubepods/.../cri-containerd-ID.scope", "/docker/ID", "/ID".
func idOfCgroup(cgroup string) string {
	id := path.Base(cgroup)
	scope, isScope := strings.CutSuffix(id, ".scope")
	if !isScope {
		return id
	}
	for _, prefix := range []string{"cri-containerd-", "docker-", "libpod-", "runc-", "crio-"} {
		if id, ok := strings.CutPrefix(scope, prefix); ok {
			return id
		}
	}
	return scope
}

// plainName refuses what would leave the directory it is joined to, or match
// more than itself.
func plainName(id string) bool {
	return id != "" && id != "." && id != ".." && !strings.ContainsAny(id, `/*?[\`)
}

// Locate implements Runtime.
func (r *Runc) Locate(cgroup string) []Ref {
	id := idOfCgroup(cgroup)
	if !plainName(id) {
		return nil
	}
	for _, root := range r.roots {
		if _, err := os.Lstat(filepath.Join(root, id)); err == nil {
			return []Ref{{Runtime: RuncName, ID: id}}
		}
	}
	return nil
}

// Locate implements Runtime. It goes by the bundle directories of running
// tasks, which are there when the daemon does not answer, too.
func (c *Containerd) Locate(cgroup string) []Ref {
	id := idOfCgroup(cgroup)
	if !plainName(id) {
		return nil
	}
	bundles, err := filepath.Glob(filepath.Join(c.state, "io.containerd.runtime.v2.task", "*", id))
	if err != nil {
		return nil // the state directory's own name has a pattern in it
	}
	var refs []Ref
	for _, bundle := range bundles {
		namespace := filepath.Base(filepath.Dir(bundle))
		if len(c.only) == 0 || slices.Contains(c.only, namespace) {
			refs = append(refs, Ref{Runtime: ContainerdName, Namespace: namespace, ID: id})
		}
	}
	return refs
}
