package detect

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Probe asks a workload from inside its own network namespace whether it makes
// progress, so that neither fences nor routes of the host stand between.
type Probe struct {
	PID      int           // a process in the namespace to ask from
	HTTP     string        // URL; any status below 400 is well
	TCP      string        // host:port; an accepted connection is well
	Period   time.Duration // jittered by a tenth
	Timeout  time.Duration // of one try
	Failures int           // so many in a row are a hang
	// Successes so many in a row say that it serves at all; until then, and
	// within Grace, failures do not count.
	Successes int
	// Serving is told once, when that is so. May be nil.
	Serving func()
	Grace   time.Duration
}

// Watch probes until ctx ends, or until the failures in a row are a hang: then
// it returns the last failure. nil: ctx ended first.
func (p Probe) Watch(ctx context.Context) error {
	space, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", p.PID))
	if err != nil {
		return nil // it is gone: its exit tells more than a probe could
	}
	defer space.Close()
	try := p.try(int(space.Fd()))
	started, well, failed := time.Now(), 0, 0
	for p.pause(ctx) {
		err := try(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			well, failed = well+1, 0
			if well == p.Successes && p.Serving != nil {
				p.Serving()
			}
		case well >= p.Successes || time.Since(started) > p.Grace:
			failed++
		default:
			well = 0 // it does not serve yet
		}
		if failed >= p.Failures {
			return fmt.Errorf("%d probes in a row failed, the last: %w", failed, err)
		}
	}
	return nil
}

// pause waits a period, give or take a tenth; false when ctx ends first.
func (p Probe) pause(ctx context.Context) bool {
	jitter := time.Duration((rand.Float64() - 0.5) * 0.2 * float64(p.Period))
	timer := time.NewTimer(p.Period + jitter)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// try is one probe. Every one makes a connection of its own: a kept one would
// tell of a thread that lives, not of a service that accepts.
func (p Probe) try(space int) func(context.Context) error {
	dial := dialIn(space)
	if p.TCP != "" {
		return func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, p.Timeout)
			defer cancel()
			conn, err := dial(ctx, "tcp", p.TCP)
			if err != nil {
				return err
			}
			return conn.Close()
		}
	}
	client := &http.Client{
		Timeout:       p.Timeout,
		Transport:     &http.Transport{DialContext: dial, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return func(ctx context.Context) error { return get(ctx, client, p.HTTP) }
}

func get(ctx context.Context, client *http.Client, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.CopyN(io.Discard, response.Body, 64<<10); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if response.StatusCode >= 400 {
		return fmt.Errorf("GET %s: %s", url, response.Status)
	}
	return nil
}

// dialIn dials from a network namespace. The socket belongs to the namespace of
// the thread that makes it, whoever uses it later; the thread is given up rather
// than trusted to have come back.
func dialIn(space int) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		type result struct {
			conn net.Conn
			err  error
		}
		done := make(chan result, 1)
		go func() {
			runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
			if err := unix.Setns(space, unix.CLONE_NEWNET); err != nil {
				done <- result{err: fmt.Errorf("enter network namespace: %w (needs CAP_SYS_ADMIN)", err)}
				return
			}
			var d net.Dialer
			conn, err := d.DialContext(ctx, network, address)
			done <- result{conn, err}
		}()
		r := <-done
		return r.conn, r.err
	}
}
