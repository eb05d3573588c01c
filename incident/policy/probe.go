package policy

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Probe asks the workload whether it still serves: what fails Failures times in a
// row is the fault hang. Exactly one of HTTP and TCP is set.
type Probe struct {
	HTTP     string // URL; a status below 400 is success. No host: the workload's own address
	TCP      string // host:port; a connection is success. No host: the workload's own address
	Period   time.Duration
	Timeout  time.Duration // of one try; at most Period
	Grace    time.Duration // after the start, in which failures do not count
	Failures int           // in a row that are a fault
	// Successes in a row after which the workload counts as serving, for the
	// first time and again.
	Successes int
}

func newProbe() Probe {
	return Probe{Period: time.Second, Timeout: 500 * time.Millisecond, Grace: 5 * time.Second, Failures: 3, Successes: 1}
}

func (p *Probe) value() value {
	return section{finish: p.finish, fields: []field{
		{"http", maybe(text(&p.HTTP, checkURL), &p.HTTP)},
		{"tcp", maybe(text(&p.TCP, checkAddress), &p.TCP)},
		{"period", duration(&p.Period, 10*time.Millisecond, time.Hour)},
		{"timeout", duration(&p.Timeout, time.Millisecond, time.Hour)},
		{"grace", duration(&p.Grace, 0, 24*time.Hour)},
		{"failures", number(&p.Failures, 1, 1000)},
		{"successes", number(&p.Successes, 1, 1000)},
	}}
}

func (p *Probe) finish(s *scope) {
	if !s.has("timeout") {
		p.Timeout = min(p.Timeout, p.Period)
	}
	s.atMost("timeout", p.Timeout, "period", p.Period, "tries would pile up")
	switch {
	case s.has("http") && s.has("tcp"):
		s.fail("tcp", "is given beside http (a probe is one of both)")
	case !s.has("http") && !s.has("tcp"):
		s.fail("", `asks nothing (give it http: "http://:8080/healthz" or tcp: ":8080")`)
	}
}

func checkURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("%q is no URL of http or https (write such as http://:8080/healthz)", s)
	}
	if u.User != nil || u.Fragment != "" || u.Opaque != "" {
		return fmt.Errorf("%q has more than address, path and query (leave user and fragment out)", u.Redacted())
	}
	if strings.HasSuffix(u.Host, ":") {
		return fmt.Errorf("%q has a colon and no port (write such as http://:8080/healthz)", s)
	}
	if u.Port() == "" {
		return nil
	}
	return checkPort(u.Port())
}

func checkAddress(s string) error {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf("%q is not host:port (write such as :8080)", s)
	}
	return checkPort(port)
}

func checkPort(s string) error {
	if n, err := strconv.ParseUint(s, 10, 16); err != nil || n == 0 {
		return errors.New("port " + strconv.Quote(s) + " is none (from 1 to 65535)")
	}
	return nil
}
