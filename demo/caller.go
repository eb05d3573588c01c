package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// bootTime is the clock of kernel and agent: nanoseconds of CLOCK_BOOTTIME.
func bootTime() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) // it never fails
	return t.Nano()
}

// sight is what a client saw of one instance of the service.
type sight struct {
	identity string
	first    int64 // when its first answer was complete
	last     int64 // when the last request was sent that it answered
	answers  int
}

// caller asks a service again and again, with a new connection each time, and
// remembers who answered when.
type caller struct {
	address string
	limit   time.Duration // of one try
	pause   time.Duration // between tries while quick, a hundred times that otherwise
	quick   atomic.Bool   // until another instance answers

	stopping chan struct{}
	ended    chan struct{}
	mu       sync.Mutex
	seen     []sight
	failures int
}

// startCaller asks from a network namespace until stop.
func startCaller(ns, address string, limit, pause time.Duration) *caller {
	c := &caller{
		address: address, limit: limit, pause: pause, stopping: make(chan struct{}), ended: make(chan struct{}),
	}
	go func() {
		defer close(c.ended)
		_ = inside(ns, c.loop) // an error is silence, which every proof notices
	}()
	return c
}

func (c *caller) stop() {
	close(c.stopping)
	<-c.ended
}

func (c *caller) loop() error {
	for {
		pause := 100 * c.pause
		if c.quick.Load() {
			pause = c.pause
		}
		select {
		case <-c.stopping:
			return nil
		case <-time.After(pause):
		}
		sent := bootTime()
		identity, err := ask(c.address, c.limit)
		c.note(identity, sent, bootTime(), err)
	}
}

func (c *caller) note(identity string, sent, done int64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.failures++
		return
	}
	for i := range c.seen {
		if c.seen[i].identity == identity {
			c.seen[i].last, c.seen[i].answers = sent, c.seen[i].answers+1
			return
		}
	}
	if len(c.seen) > 0 {
		c.quick.Store(false) // service is back: leave the processor to others
	}
	c.seen = append(c.seen, sight{identity: identity, first: done, last: sent, answers: 1})
}

// of is what was seen of one instance.
func (c *caller) of(identity string) (sight, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.seen {
		if s.identity == identity {
			return s, true
		}
	}
	return sight{}, false
}

// other is the first instance seen besides one.
func (c *caller) other(than string) (sight, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.seen {
		if s.identity != than {
			return s, true
		}
	}
	return sight{}, false
}

// ask makes one request by hand. The connection is reset rather than closed, so
// that thousands a second leave no TIME_WAIT behind.
func ask(address string, limit time.Duration) (string, error) {
	conn, err := net.DialTimeout("tcp4", address, limit)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.(*net.TCPConn).SetLinger(0); err != nil {
		return "", err
	}
	if err := conn.SetDeadline(time.Now().Add(10 * limit)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: service\r\n\r\n"); err != nil {
		return "", err
	}
	answer := make([]byte, 1024)
	n := 0
	for {
		got, err := conn.Read(answer[n:])
		n += got
		_, body, whole := strings.Cut(string(answer[:n]), "\r\n\r\n")
		switch {
		case whole && strings.HasSuffix(body, "\n"):
			return strings.TrimSpace(body), nil
		case err != nil:
			return "", err
		case n == len(answer):
			return "", errors.New("the answer is too long")
		}
	}
}

// get asks for a page from a network namespace: a socket belongs to the
// namespace of the thread that makes it.
func get(ns, address, path string, limit time.Duration) (body string, err error) {
	err = inside(ns, func() error {
		conn, err := net.DialTimeout("tcp4", address, limit)
		if err != nil {
			return err
		}
		defer conn.Close()
		body, err = fetch(conn, address, path, limit)
		return err
	})
	return body, err
}

func fetch(conn net.Conn, host, path string, limit time.Duration) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(limit)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.0\r\nHost: %s\r\n\r\n", path, host); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		return "", err
	}
	head, body, _ := strings.Cut(string(answer), "\r\n\r\n")
	if !strings.Contains(head, " 200 ") {
		return "", fmt.Errorf("GET %s: %s", path, head)
	}
	return strings.TrimSpace(body), nil
}

// connects says whether a TCP connection can be made from a network namespace.
func connects(ns, address string, limit time.Duration) error {
	return inside(ns, func() error {
		conn, err := net.DialTimeout("tcp4", address, limit)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}
