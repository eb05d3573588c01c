package journal

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// crashPath tells a child of TestKill which journal to write.
const crashPath = "JOURNAL_CRASH_PATH"

func TestMain(m *testing.M) {
	if path := os.Getenv(crashPath); path != "" {
		writeUntilKilled(path)
	}
	os.Exit(m.Run())
}

// writeUntilKilled writes incidents and tells on its output what the journal has
// acknowledged, one line for each.
func writeUntilKilled(path string) {
	ctx := context.Background()
	fatal := func(err error) {
		if err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
	}
	j, err := Open(ctx, path)
	fatal(err)
	for {
		i, err := j.Create(ctx, story())
		fatal(err)
		fmt.Println(i.ID, "create")
		for n := range 10 {
			step := fmt.Sprint("step-", n)
			fatal(j.Begin(ctx, i.ID, step, json.RawMessage(fmt.Sprint(n))))
			fmt.Println(i.ID, step, Begun)
			fatal(j.Done(ctx, i.ID, step, "", nil))
			fmt.Println(i.ID, step, Done)
		}
		fatal(j.SetState(ctx, i.ID, StateClosed))
		fmt.Println(i.ID, StateClosed)
	}
}

// TestKill kills a writer with SIGKILL at random moments. After each, the journal
// is whole, has everything acknowledged, and at most the one record more that was
// on its way.
func TestKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.db")
	acknowledged := map[string]int{} // incident -> records
	for round := range 8 {
		last := runUntilKilled(t, path, 5+rand.IntN(400), acknowledged)
		j := mustOpen(t, path)
		if j.MovedAside() != "" {
			t.Fatalf("round %d: damaged, see %s", round, j.MovedAside())
		}
		checkAcknowledged(t, j, acknowledged, last)
		must(t, j.Close())
	}
	if len(acknowledged) < 8 {
		t.Errorf("only %d incidents were written", len(acknowledged))
	}
}

// runUntilKilled lets a child write n records and some, and counts them.
func runUntilKilled(t *testing.T, path string, n int, acknowledged map[string]int) (last string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	child := exec.CommandContext(ctx, os.Args[0])
	child.Env = append(os.Environ(), crashPath+"="+path)
	out, err := child.StdoutPipe()
	must(t, err)
	must(t, child.Start())
	lines := bufio.NewScanner(out)
	for ; lines.Scan(); n-- {
		id, _, _ := strings.Cut(lines.Text(), " ")
		if id == "error:" {
			t.Fatal(lines.Text())
		}
		acknowledged[id]++
		last = id
		if n == 0 {
			must(t, child.Process.Kill())
		}
	}
	if err := child.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("child: %v", err)
	}
	return last
}

func checkAcknowledged(t *testing.T, j *Journal, acknowledged map[string]int, last string) {
	t.Helper()
	var integrity string
	must(t, j.reader.QueryRowContext(t.Context(), "PRAGMA integrity_check").Scan(&integrity))
	if integrity != "ok" {
		t.Fatalf("integrity: %s", integrity)
	}
	list, err := j.List(t.Context(), Filter{Limit: 1 << 20})
	must(t, err)
	found := map[string]int{}
	for _, i := range list {
		found[i.ID] = records(t, i)
	}
	extra := 0
	for id, n := range found {
		want, known := acknowledged[id]
		if n > want {
			extra += n - want
			acknowledged[id] = n
		}
		if n > want && known && id != last {
			t.Errorf("incident %s has %d records, %d were acknowledged", id, n, want)
		}
	}
	for id, want := range acknowledged {
		if found[id] < want {
			t.Errorf("incident %s has %d records, %d were acknowledged", id, found[id], want)
		}
	}
	if extra > 1 {
		t.Errorf("%d records more than acknowledged, at most one was on its way", extra)
	}
}

// records counts what was written of an incident, and checks that nothing is
// missing in between.
func records(t *testing.T, i Incident) int {
	t.Helper()
	n := 1
	for k, s := range i.Steps {
		if s.Name != fmt.Sprint("step-", k) || string(s.Data) != fmt.Sprint(k) || s.Phase == Begun && k != len(i.Steps)-1 {
			t.Errorf("step %d of %s: %+v", k, i.ID, s)
		}
		n++
		if s.Phase == Done {
			n++
		}
	}
	if i.State.Ended() {
		n++
	}
	return n
}
