package policy

import (
	"strings"

	"github.com/reprieve-dev/reprieve/workload"
)

// Selector chooses workloads. What is empty chooses every one; all that is given
// must fit.
type Selector struct {
	Runtime   string // "runc" or "containerd"
	Name      Glob
	Image     Glob
	Namespace Glob            // the runtime's own namespace
	Labels    map[string]Glob // for runc the annotations of its specification
	Cgroup    Glob            // path below the cgroup v2 mount, with a leading slash
}

// Match says whether the selector chooses w.
func (s Selector) Match(w workload.Workload) bool {
	return (s.Runtime == "" || s.Runtime == w.Runtime) &&
		fits(s.Name, w.Name) && fits(s.Image, w.Image) &&
		fits(s.Namespace, w.Namespace) && fits(s.Cgroup, w.CgroupPath) &&
		s.matchLabels(w.Labels)
}

func (s Selector) matchLabels(labels map[string]string) bool {
	for key, glob := range s.Labels {
		if have, ok := labels[key]; !ok || !glob.Match(have) {
			return false
		}
	}
	return true
}

func fits(g Glob, text string) bool { return g == "" || g.Match(text) }

func (s Selector) everything() bool {
	return s.Runtime == "" && s.Name == "" && s.Image == "" && s.Namespace == "" && s.Cgroup == "" && len(s.Labels) == 0
}

func (s *Selector) fields() []field {
	return []field{
		{"runtime", maybe(oneOf(&s.Runtime, "runtime", []string{"runc", "containerd"}), &s.Runtime)},
		{"name", maybe(glob(&s.Name), &s.Name)},
		{"image", maybe(glob(&s.Image), &s.Image)},
		{"namespace", maybe(glob(&s.Namespace), &s.Namespace)},
		{"labels", labels{&s.Labels}},
		{"cgroup", maybe(glob(&s.Cgroup), &s.Cgroup)},
	}
}

func (s *Selector) finish(c *scope) {
	if s.Cgroup != "" && !strings.ContainsAny(string(s.Cgroup[:1]), `/*?[`) {
		c.fail("cgroup", "%q never matches: cgroup paths begin with a slash (write %q)", s.Cgroup, "/"+s.Cgroup)
	}
	if s.Runtime == "runc" && s.Namespace != "" && c.sound("runtime", "namespace") {
		c.fail("namespace", "never matches: runc has no namespaces (leave it out)")
	}
}
