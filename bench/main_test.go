package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/typeurl/v2"

	"github.com/reprieve-dev/reprieve/vmtest/require"
)

func TestParse(t *testing.T) {
	s, err := parse([]string{"-only", "cost", "-rounds", "7", "-budget", "9s", "-out", "x"}, io.Discard)
	if err != nil || s.only != "cost" || s.rounds != 7 || s.budget != 9*time.Second || s.out != "x" {
		t.Errorf("%+v, %v", s, err)
	}
	if filepath.Base(s.victim) != "reprieve-victim" {
		t.Errorf("victim's program %q is not beside the benchmark", s.victim)
	}
	for _, args := range []string{"-rounds 0", "-budget -1s", "more"} {
		if _, err := parse(strings.Fields(args), io.Discard); err == nil {
			t.Errorf("%s: accepted", args)
		}
	}
}

func TestUnknownBenchmark(t *testing.T) {
	err := run(context.Background(), []string{"-only", "costs"}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "detect-latency") {
		t.Errorf("%v: want the names that there are", err)
	}
}

func TestExitOf(t *testing.T) {
	for _, c := range []struct {
		event any
		id    string
		ok    bool
	}{
		{&apievents.TaskExit{ContainerID: "a", ID: "a"}, "a", true},
		{&apievents.TaskExit{ContainerID: "a", ID: "exec-1"}, "a", false}, // not the init
		{&apievents.TaskStart{ContainerID: "a"}, "", false},
	} {
		value, err := typeurl.MarshalAny(c.event)
		if err != nil {
			t.Fatal(err)
		}
		id, ok := exitOf(&events.Envelope{Event: value})
		if ok != c.ok || ok && id != c.id {
			t.Errorf("%T: %q, %v; want %q, %v", c.event, id, ok, c.id, c.ok)
		}
	}
}

// TestNothingIsLeft makes a bed with the kernel side, as every benchmark does.
func TestNothingIsLeft(t *testing.T) {
	require.Root(t)
	root := require.Cgroup2(t)
	// A program that ends when its standard input does: no victim is wanted here.
	b, err := newBed(settings{victim: require.Binary(t, "true")})
	if err != nil {
		t.Fatal(err)
	}
	k, err := b.openKernel()
	if err != nil {
		t.Fatal(err)
	}
	b.later(func() error { return closeKernel(k) })
	if _, err := os.Stat(pins); err != nil {
		t.Errorf("nothing is pinned: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if err := b.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	if _, err := os.Stat(pins); err == nil {
		t.Errorf("%s is left", pins)
	}
	if left, _ := filepath.Glob(filepath.Join(root, name+"*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
