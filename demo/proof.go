package main

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// proveExaminer asks over the quarantine network. An app that hangs still
// answers at its second port; where all its threads are stopped, the kernel of
// its network namespace answers for it.
func (a *act) proveExaminer() {
	if a.name == "hang" {
		said, err := a.door(a.net.examiner, "/whoami")
		if err == nil && said != a.identity {
			err = fmt.Errorf("it says %s, not %s", said, a.identity)
		}
		a.prove("an examiner on the quarantine network asks the original itself: "+said, err)
		a.proveAnswer()
		return
	}
	err := connects(a.net.examiner, net.JoinHostPort(a.addr, servicePort), a.patience()/4)
	a.prove("an examiner on the quarantine network reaches its network stack (TCP to port "+servicePort+")", err)
}

// proveAnswer: who lives can be asked what is in its memory.
func (a *act) proveAnswer() {
	said, err := a.door(a.net.examiner, "/secret")
	if err == nil && said != a.secret {
		err = errors.New("it has forgotten it")
	}
	a.prove("asked by the examiner it still knows the secret "+a.secret[:8]+"... planted before the fault", err)
}

// conclude proves the rest and lets the workload go.
func (a *act) conclude(ctx context.Context) error {
	a.proveFault()
	a.proveBody()
	a.proveEvidence(ctx)
	a.proveBusiness(ctx)
	return a.proveRelease(ctx)
}

func (a *act) proveFault() {
	err := error(nil)
	if got := a.incident.Fault.Kind; got != a.kind {
		err = fmt.Errorf("it was taken for %s", got)
	}
	for _, s := range a.incident.Steps {
		if s.Phase != "done" {
			err = errors.Join(err, fmt.Errorf("step %s is %s: %s", s.Name, s.Phase, s.Detail))
		}
	}
	a.prove("the fault was found ("+a.kind+") and every step of the incident is done", err)
}

// proveBody looks at the process, not at what anybody says of it.
func (a *act) proveBody() {
	err := a.hasBody()
	state, isFrozen := a.state(), a.frozen()
	if err == nil && !a.body.fits(state, isFrozen) {
		err = fmt.Errorf("its state is %s, frozen %v", state, isFrozen)
	}
	a.prove(fmt.Sprintf("process %d is still there: %s (state %s)", a.pid, a.body, state), err)
	a.proveMemory()
}

// proveMemory reads the memory of the process as it is now. Since the fault the
// guard lets nobody open that but the agent, for it can be written to as well.
func (a *act) proveMemory() {
	if a.part == guard {
		file, err := os.Open(a.proc("mem"))
		if err == nil {
			file.Close()
		}
		a.prove("nobody can open its memory any more, not even root", denied(err))
	}
	has, err := a.remembers()
	switch {
	case err == nil && !has && a.kind == "oom":
		a.prove("its memory was taken back by the kernel (as of every OOM victim, after 2 s): the evidence has it", nil)
		return
	case err == nil && !has:
		err = errors.New("it is not there")
	}
	a.prove("its live memory holds the secret "+a.secret[:8]+"... planted before the fault", err)
}

// denied is nil when the kernel said EPERM or EACCES.
func denied(err error) error {
	switch {
	case err == nil:
		return errors.New("it was let through")
	case errors.Is(err, os.ErrPermission):
		return nil
	}
	return err
}

func (b body) fits(state string, isFrozen bool) bool {
	switch b {
	case held:
		return state == "t"
	case frozen:
		return isFrozen && state != "Z"
	}
	return !isFrozen && (state == "S" || state == "R")
}

// proveEvidence checks the seal and looks into the exported bundle.
func (a *act) proveEvidence(ctx context.Context) {
	id := a.incident.Evidence
	err := a.agent.cli(ctx, "evidence", "verify", id).fine("reprieve evidence verify")
	if err == nil {
		a.bytes, err = a.evidenceSize(ctx, id)
	}
	a.prove(fmt.Sprintf("evidence %s is sealed and whole (%.1f MB)", id, float64(a.bytes)/1e6), err)
	if err != nil {
		return
	}
	file := filepath.Join(a.dir, "evidence.tar.zst")
	defer os.Remove(file)
	err = a.agent.cli(ctx, "evidence", "export", id, "--file", file).fine("reprieve evidence export")
	if err == nil {
		err = findSecret(file, a.secret)
	}
	a.prove("the secret is in the evidence of its memory", err)
}

func (a *act) evidenceSize(ctx context.Context, id string) (int64, error) {
	o := a.agent.cli(ctx, "evidence", "ls", "-o", "json")
	if err := o.fine("reprieve evidence ls"); err != nil {
		return 0, err
	}
	var list struct {
		Bundles []struct {
			ID     string
			Bytes  int64
			Sealed bool
		}
	}
	if err := json.Unmarshal([]byte(o.said), &list); err != nil {
		return 0, fmt.Errorf("read reprieve evidence ls: %w", err)
	}
	for _, b := range list.Bundles {
		if b.ID == id && b.Sealed {
			return b.Bytes, nil
		}
	}
	return 0, fmt.Errorf("evidence %s is not listed as sealed", id)
}

// findSecret searches the cores of an exported bundle.
func findSecret(file, secret string) error {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	outer, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return err
	}
	defer outer.Close()
	for files := tar.NewReader(outer); ; {
		head, err := files.Next()
		if errors.Is(err, io.EOF) {
			return errors.New("it is in no core")
		}
		if err != nil {
			return err
		}
		if ok, _ := path.Match("*/cores/*.core.zst", head.Name); !ok {
			continue
		}
		if found, err := searchCore(files, secret); found || err != nil {
			return err
		}
	}
}

func searchCore(r io.Reader, secret string) (bool, error) {
	core, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return false, err
	}
	defer core.Close()
	return contains(core, secret)
}

// proveBusiness: since the fence nobody but the replacement has answered.
func (a *act) proveBusiness(ctx context.Context) {
	original, _ := a.client.of(a.identity)
	var err error
	if fence := a.step("fence"); original.last > fence {
		err = fmt.Errorf("it answered a request sent %d us after the fence", (original.last-fence)/1000)
	}
	a.prove("business traffic no longer reaches it: no answer since the fence", err)
	before, _ := a.client.other(a.identity)
	now := before
	err = a.await(ctx, "another answer", func() (bool, error) {
		now, _ = a.client.of(before.identity)
		return now.answers > before.answers, nil
	})
	a.prove(fmt.Sprintf("the replacement answers at the same address %s, as %s", a.addr, now.identity), err)
}

// proveRelease: the body goes when it is told to, and its runtime learns of it.
func (a *act) proveRelease(ctx context.Context) error {
	fd, err := unix.PidfdOpen(a.pid, 0)
	if err != nil {
		return fmt.Errorf("watch process %d: %w", a.pid, err)
	}
	defer unix.Close(fd)
	err = a.agent.cli(ctx, "release", a.incident.Id, "--die").fine("reprieve release")
	if err == nil {
		err = a.await(ctx, "its end", func() (bool, error) {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			return n > 0, err
		})
	}
	a.prove("reprieve release lets it die", err)
	if err := a.removalEnds(ctx); err != nil {
		return err
	}
	err = a.await(ctx, a.engine.name()+" to learn of it", func() (bool, error) { return a.engine.stopped(ctx, a.id) })
	a.prove(a.engine.name()+" knows that it is dead", err)
	return nil
}
