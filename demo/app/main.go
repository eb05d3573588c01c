// Command app is the demo's victim: a small web service that breaks on order.
// It runs as PID 1 of a container and reads nothing but its two ports:
//
//	:80    /              its identity, which only this process has
//	:6060  /whoami        the same, also when the service hangs
//	       /plant?half=X  two halves of a secret, put together in its memory
//	       /secret        the whole
//	       /fault/KIND    hang, crash, exit or oom
package main

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// app is the service.
type app struct {
	identity string
	crashes  chan struct{} // closed by the order to crash
	serving  sync.Mutex    // held for ever when the service hangs

	mu     sync.Mutex
	halves [][]byte
	secret []byte // in no file, and in no packet before the fault, as a whole
}

func main() {
	a := &app{identity: newIdentity(), crashes: make(chan struct{})}
	go a.endOrderly()
	runtime.LockOSThread() // to the first thread: a crash is that one's, as of most programs
	failed := make(chan error, 2)
	go func() { failed <- listen(":6060", a.door()) }()
	go func() { failed <- listen(":80", http.HandlerFunc(a.serve)) }()
	select {
	case <-a.crashes:
		crash()
	case err := <-failed:
		fmt.Fprintln(os.Stderr, "app:", err)
	}
	os.Exit(1)
}

func newIdentity() string {
	raw := make([]byte, 6)
	_, _ = rand.Read(raw) // it never fails
	return hex.EncodeToString(raw)
}

func listen(address string, h http.Handler) error {
	server := &http.Server{Addr: address, Handler: h, ReadHeaderTimeout: 5 * time.Second}
	return server.ListenAndServe()
}

// door is what an examiner, or the demo, asks.
func (a *app) door() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /whoami", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, a.identity) })
	mux.HandleFunc("GET /plant", a.plant)
	mux.HandleFunc("GET /secret", a.tell)
	mux.HandleFunc("GET /fault/{kind}", a.fault)
	return mux
}

func (a *app) serve(w http.ResponseWriter, _ *http.Request) {
	a.serving.Lock()
	defer a.serving.Unlock()
	fmt.Fprintln(w, a.identity)
}

// plant keeps halves until there are two.
func (a *app) plant(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.halves = append(a.halves, []byte(r.FormValue("half")))
	if len(a.halves) == 2 {
		a.secret = append(append([]byte(nil), a.halves[0]...), a.halves[1]...)
	}
	fmt.Fprintf(w, "%d halves\n", len(a.halves))
}

func (a *app) tell(w http.ResponseWriter, _ *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	fmt.Fprintf(w, "%s\n", a.secret)
}

// endOrderly answers SIGTERM as a good service does: it finishes the request
// under way and ends. One that hangs never gets there.
func (a *app) endOrderly() {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	<-term
	a.serving.Lock()
	os.Exit(0)
}
