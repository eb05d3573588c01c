// Package reprieve_test holds what concerns the whole house.
package reprieve_test

import (
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/reprieve-dev/reprieve/"

// floors says what each room may import of the others, and why. A room within a
// room (isolate/evidence) has its own line.
func floors() map[string][]string {
	lower := []string{"loader", "workload"}
	return map[string][]string{
		"gen":                   {},                      // made from bpf/, which imports nothing
		"loader":                {"gen"},                 // the only door to the kernel
		"workload":              {},                      // who is who, whatever happens to them
		"detect":                lower,                   // finds faults, changes nothing
		"isolate":               lower,                   // done to the failed workload
		"isolate/exithold":      lower,                   //
		"isolate/network":       lower,                   //
		"isolate/evidence":      append(lower, "detect"), // a bundle tells the fault
		"recovery":              lower,                   // done to get service back; never isolate
		"incident/policy":       append(lower, "detect"), // names faults and selects workloads
		"incident/journal":      append(lower, "detect"), // keeps faults and workloads
		"incident":              {"loader", "workload", "detect", "isolate", "isolate/exithold", "isolate/network", "isolate/evidence", "recovery", "incident/policy", "incident/journal"},
		"api":                   {"loader", "workload", "detect", "incident", "incident/journal", "isolate/evidence", "api/reprieve/v1", "api/reprieve/v1/reprievev1connect"},
		"api/reprieve/v1":       {},
		"vmtest":                {"vmtest/internal/wire"}, // boots kernels, knows nothing of the product
		"vmtest/require":        {},
		"workload/workloadtest": {"workload", "vmtest/require"},
	}
}

func TestImportsGoDownOnly(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	allowed := floors()
	checked := 0
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		room := strings.TrimPrefix(words[0], module)
		may, known := allowed[room]
		if !known {
			continue
		}
		checked++
		for _, imported := range words[1:] {
			other, ours := strings.CutPrefix(imported, module)
			if ours && !contains(may, other) {
				t.Errorf("%s imports %s: it may import %v (see \"The house\" in docs/design.md)", room, other, may)
			}
		}
	}
	if checked < 10 {
		t.Errorf("only %d rooms were found", checked)
	}
}

func contains(all []string, one string) bool {
	for _, x := range all {
		if x == one {
			return true
		}
	}
	return false
}
