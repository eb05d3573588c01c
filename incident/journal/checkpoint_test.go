package journal

import (
	"fmt"
	"os"
	"testing"
	"time"
)

// TestCheckpoint: the log is moved into the database beside the writes, and its
// file is used again instead of growing.
func TestCheckpoint(t *testing.T) {
	j := mustNew(t)
	before := fileSize(t, j.path)
	for n := range checkpointAfter / 2 {
		must(t, j.Begin(t.Context(), mustCreate(t, j, story()).ID, fmt.Sprint(n), nil))
	}
	deadline := time.Now().Add(30 * time.Second)
	for j.keeper.moved.Load() == 0 {
		if time.Now().After(deadline) {
			t.Fatal("no checkpoint within 30 s, which is 3 times as long as it waits for a quiet moment")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if after := fileSize(t, j.path); after <= before {
		t.Errorf("the database has %d bytes, %d before", after, before)
	}
	log := fileSize(t, j.path+"-wal")
	for range 100 {
		mustCreate(t, j, story())
	}
	if now := fileSize(t, j.path+"-wal"); now > log {
		t.Errorf("the log has grown from %d to %d bytes after it was moved", log, now)
	}
}

func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	return info.Size()
}
