package workload

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// specEdit is what makes a replacement's OCI specification from the original's
// (config.json of the OCI runtime specification). Empty fields change nothing.
type specEdit struct {
	id     string            // new identity, for the cgroup
	root   string            // root.path
	base   string            // directory that relative bind sources start from
	netNS  string            // path of the network namespace
	labels map[string]string // added to the annotations
}

// object is JSON as it is: what a newer runtime put there and this program does
// not know must reach the replacement too, so no typed form is used.
type object = map[string]any

// apply returns the edited specification.
func (e specEdit) apply(raw []byte) ([]byte, error) {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber() // a float64 would damage 64-bit limits
	var spec object
	if err := decoder.Decode(&spec); err != nil {
		return nil, fmt.Errorf("parse specification: %w", err)
	}
	if spec == nil {
		return nil, fmt.Errorf("parse specification: it is null")
	}
	for _, edit := range []func(object) error{e.editRoot, editTerminal, e.editMounts, e.editNetwork, e.editCgroup, e.editAnnotations} {
		if err := edit(spec); err != nil {
			return nil, fmt.Errorf("edit specification: %w", err)
		}
	}
	return json.Marshal(spec)
}

func (e specEdit) editRoot(spec object) error {
	if e.root == "" {
		return nil
	}
	root, err := child(spec, "root")
	if err == nil {
		root["path"] = e.root
	}
	return err
}

// editTerminal takes the terminal away: a replacement has nobody who would hold
// the other end, and runc create refuses without a console socket.
func editTerminal(spec object) error {
	process, err := child(spec, "process")
	if err == nil {
		process["terminal"] = false
		delete(process, "consoleSize")
	}
	return err
}

// editMounts makes sources of bind mounts absolute: runtimes take relative ones
// from the bundle's directory, and the replacement has another.
func (e specEdit) editMounts(spec object) error {
	mounts, _ := spec["mounts"].([]any)
	for _, m := range mounts {
		mount, _ := m.(object)
		source, _ := mount["source"].(string)
		if e.base != "" && source != "" && !filepath.IsAbs(source) && isBind(mount) {
			mount["source"] = filepath.Join(e.base, source)
		}
	}
	return nil
}

func isBind(mount object) bool {
	if mount["type"] == "bind" {
		return true
	}
	options, _ := mount["options"].([]any)
	for _, o := range options {
		if o == "bind" || o == "rbind" {
			return true
		}
	}
	return false
}

func (e specEdit) editNetwork(spec object) error {
	if e.netNS == "" {
		return nil
	}
	linux, err := child(spec, "linux")
	if err != nil {
		return err
	}
	namespaces, _ := linux["namespaces"].([]any)
	for _, n := range namespaces {
		if ns, _ := n.(object); ns["type"] == "network" {
			ns["path"] = e.netNS
			return nil
		}
	}
	linux["namespaces"] = append(namespaces, object{"type": "network", "path": e.netNS})
	return nil
}

func (e specEdit) editCgroup(spec object) error {
	linux, err := child(spec, "linux")
	if err != nil {
		return err
	}
	if old, _ := linux["cgroupsPath"].(string); old != "" && e.id != "" {
		linux["cgroupsPath"] = siblingCgroup(old, e.id)
	}
	return nil
}

func (e specEdit) editAnnotations(spec object) error {
	if len(e.labels) == 0 {
		return nil
	}
	annotations, err := child(spec, "annotations")
	for key, value := range e.labels {
		annotations[key] = value
	}
	return err
}

// child returns the object under key, made when it is absent or null.
func child(parent object, key string) (object, error) {
	switch value := parent[key].(type) {
	case object:
		return value, nil
	case nil:
		fresh := object{}
		parent[key] = fresh
		return fresh, nil
	default:
		return object{}, fmt.Errorf("field %q is a %T, not an object", key, value)
	}
}

// siblingCgroup is a cgroupsPath beside another one, for the container id. It
// knows both forms of runc: a path, and "slice:prefix:name" of its systemd
// driver.
func siblingCgroup(cgroupsPath, id string) string {
	if slice, prefix, ok := systemdCgroup(cgroupsPath); ok {
		return slice + ":" + prefix + ":" + id
	}
	return path.Join(path.Dir(cgroupsPath), id)
}

// systemdCgroup splits "slice:prefix:name"; ok tells that it has this form.
func systemdCgroup(cgroupsPath string) (slice, prefix string, ok bool) {
	parts := strings.Split(cgroupsPath, ":")
	if len(parts) != 3 || strings.Contains(cgroupsPath, "/") {
		return "", "", false
	}
	return parts[0], parts[1], true
}

// specSummary is what a Workload tells of its specification.
type specSummary struct {
	netNS      string
	cgroup     string // name that the cgroup's last component has
	cgroupPath string // cgroupsPath where it is a path
}

func summarize(raw []byte, id string) (specSummary, error) {
	var spec specs.Spec
	if err := json.Unmarshal(raw, &spec); err != nil {
		return specSummary{}, fmt.Errorf("parse specification of %s: %w", id, err)
	}
	s := specSummary{cgroup: id, cgroupPath: "/" + id}
	if spec.Linux == nil {
		return s, nil
	}
	for _, ns := range spec.Linux.Namespaces {
		if ns.Type == specs.NetworkNamespace {
			s.netNS = ns.Path
		}
	}
	if spec.Linux.CgroupsPath == "" {
		return s, nil
	}
	if _, prefix, ok := systemdCgroup(spec.Linux.CgroupsPath); ok {
		name := spec.Linux.CgroupsPath[strings.LastIndex(spec.Linux.CgroupsPath, ":")+1:]
		s.cgroup, s.cgroupPath = prefix+"-"+name+".scope", ""
		return s, nil
	}
	s.cgroupPath = path.Join("/", spec.Linux.CgroupsPath)
	s.cgroup = path.Base(s.cgroupPath)
	return s, nil
}

// containerCgroup cuts a process's cgroup after the container's own directory:
// a container with systemd inside puts its processes further below.
func containerCgroup(processCgroup, name string) string {
	parts := strings.Split(processCgroup, "/")
	for i, part := range parts {
		if part == name && name != "" {
			return strings.Join(parts[:i+1], "/")
		}
	}
	return processCgroup
}

// rootOf is the root of a specification; its zero value when there is none.
func rootOf(raw []byte) (specs.Root, error) {
	var spec specs.Spec
	if err := json.Unmarshal(raw, &spec); err != nil {
		return specs.Root{}, fmt.Errorf("parse specification: %w", err)
	}
	if spec.Root == nil {
		return specs.Root{}, nil
	}
	return *spec.Root, nil
}
