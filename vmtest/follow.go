package vmtest

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/reprieve-dev/reprieve/vmtest/internal/wire"
)

// follower turns the frames of one guest into a Result and the commands' output.
type follower struct {
	spec    Spec
	begin   time.Time
	result  Result
	current int // index of the running command
}

// follow reads until the guest says that it is done. It drains r, so that the guest is never blocked by an error here.
func (f *follower) follow(r io.Reader) error {
	pieces, archive := io.Pipe()
	unpacked := make(chan error, 1)
	go func() {
		err := unpack(pieces, f.spec.FetchTo)
		_, drained := io.Copy(io.Discard, pieces)
		unpacked <- errors.Join(err, drained)
	}()
	err := f.frames(r, archive)
	archive.Close()
	return errors.Join(err, <-unpacked)
}

func (f *follower) frames(r io.Reader, archive io.Writer) error {
	var failed error
	for {
		kind, payload, err := wire.Read(r)
		if err == io.EOF {
			err = errors.New("the guest died (kernel panic?)")
		}
		if err != nil {
			return errors.Join(failed, err)
		}
		switch kind {
		case wire.KindOutput:
			_, err = f.output().Write(payload)
		case wire.KindArchive:
			_, err = archive.Write(payload)
		case wire.KindEvent:
			var done bool
			if done, err = f.event(payload); done {
				return errors.Join(failed, err)
			}
		}
		if failed == nil {
			failed = err
		}
	}
}

func (f *follower) output() io.Writer {
	if f.current < len(f.spec.Commands) && f.spec.Commands[f.current].Output != nil {
		return f.spec.Commands[f.current].Output
	}
	return f.spec.Output
}

// event notes one event; done is true when no further frame follows.
func (f *follower) event(payload []byte) (done bool, err error) {
	var e wire.Event
	if err := json.Unmarshal(payload, &e); err != nil {
		return false, fmt.Errorf("parse event: %w", err)
	}
	switch e.Name {
	case wire.Booted:
		f.result.Boot, f.result.Release = time.Since(f.begin), e.Release
	case wire.Started:
		f.current = e.Index
	case wire.Exited:
		exit := Exit{Name: f.name(e.Index), Code: e.Code, Signal: e.Signal,
			TimedOut: e.TimedOut, Message: e.Message, Duration: e.Duration}
		f.result.Exits = append(f.result.Exits, exit)
		if f.spec.OnExit != nil {
			f.spec.OnExit(e.Index, exit)
		}
	case wire.Failed:
		return true, fmt.Errorf("guest: %s", e.Message)
	case wire.Done:
		return true, nil
	}
	return false, nil
}

func (f *follower) name(index int) string {
	c := f.spec.Commands[index]
	if c.Name == "" {
		return c.Args[0]
	}
	return c.Name
}

// unpack writes the regular files of a tar archive below dir. An empty stream is an empty archive.
func unpack(r io.Reader, dir string) error {
	archive := tar.NewReader(r)
	for {
		header, err := archive.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read fetched files: %w", err)
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		if !filepath.IsLocal(header.Name) {
			return fmt.Errorf("fetch %s: the name leaves the folder", header.Name)
		}
		if err := unpackFile(filepath.Join(dir, header.Name), archive); err != nil {
			return err
		}
	}
}

func unpackFile(path string, content io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("fetch file: %w", err)
	}
	file, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("fetch file: %w", err)
	}
	_, err = io.Copy(file, content)
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("fetch %s: %w", path, err)
	}
	return nil
}
