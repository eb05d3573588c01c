package evidence

import (
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/reprieve-dev/reprieve/vmtest/require"
)

// BenchmarkTake takes, seals and syncs the evidence of a process of bigSize.
func BenchmarkTake(b *testing.B) {
	require.Root(b)
	v := startVictim(b, bigVictim, nil, denseVariable+"=1")
	s := mustOpen(b, Limits{MaxCount: 1})
	b.SetBytes(bigSize)
	for b.Loop() {
		mustTake(b, s, Request{Incident: "bench", PIDs: []int{v.pid}, Memory: true})
	}
}

// BenchmarkGcore is what people have today: gdb's gcore on the same process,
// neither compressed nor synced.
func BenchmarkGcore(b *testing.B) {
	require.Root(b)
	gcore := require.Binary(b, "gcore")
	v := startVictim(b, bigVictim, nil, denseVariable+"=1")
	b.SetBytes(bigSize)
	for b.Loop() {
		to := filepath.Join(b.TempDir(), "core")
		if out, err := exec.Command(gcore, "-o", to, strconv.Itoa(v.pid)).CombinedOutput(); err != nil {
			b.Fatalf("gcore: %v\n%s", err, out)
		}
	}
}
