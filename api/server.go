package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"connectrpc.com/connect"

	"github.com/reprieve-dev/reprieve/api/reprieve/v1/reprievev1connect"
)

// Options bound what a server gives. Zero fields take the defaults.
type Options struct {
	// Streams is how many streams of events there may be at once. Default 64.
	Streams int
	// Buffer is how many events a slow reader may fall behind before it misses
	// some. Default 1024.
	Buffer int
	// Unary is how long a call other than WatchEvents may take. Default 1m.
	Unary time.Duration
}

// Bounds of one message. An answer carries at most 1000 incidents.
const (
	maxRequest  = 64 << 10
	maxResponse = 64 << 20
)

// drain is how long Serve waits for calls under way once its ctx has ended.
const drain = 5 * time.Second

func (o Options) withDefaults() Options {
	if o.Streams <= 0 {
		o.Streams = 64
	}
	if o.Buffer <= 0 {
		o.Buffer = 1024
	}
	if o.Unary <= 0 {
		o.Unary = time.Minute
	}
	return o
}

// Server serves one agent.
type Server struct {
	agent   Agent
	options Options
	streams chan struct{} // a token for each stream under way
}

// New makes a server of agent; Serve runs it.
func New(agent Agent, o Options) *Server {
	o = o.withDefaults()
	return &Server{agent: agent, options: o, streams: make(chan struct{}, o.Streams)}
}

// Handler serves the API, /metrics and /healthz.
func (s *Server) Handler() http.Handler {
	path, service := reprievev1connect.NewAgentServiceHandler(handlers{s},
		connect.WithReadMaxBytes(maxRequest),
		connect.WithSendMaxBytes(maxResponse),
		connect.WithInterceptors(connect.UnaryInterceptorFunc(s.bound)),
	)
	mux := http.NewServeMux()
	mux.Handle(path, service)
	mux.HandleFunc("GET /metrics", s.metrics)
	mux.HandleFunc("GET /healthz", s.healthz)
	return mux
}

// bound ends a call that takes too long, and codes its error.
func (s *Server) bound(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		ctx, cancel := context.WithTimeout(ctx, s.options.Unary)
		defer cancel()
		resp, err := next(ctx, req)
		return resp, coded(err)
	}
}

// Serve answers on l until ctx ends. Then streams end, calls under way get 5 s,
// and l is closed. It returns nil for an end that ctx asked for.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	calls, hangUp := context.WithCancel(context.WithoutCancel(ctx))
	defer hangUp()
	server := s.httpServer(calls)
	server.RegisterOnShutdown(hangUp)
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	err := server.Shutdown(limit)
	if errors.Is(err, context.DeadlineExceeded) {
		err = server.Close()
	}
	<-failed // http.ErrServerClosed
	return err
}

// httpServer speaks HTTP/1.1 and, for gRPC, HTTP/2 without TLS. A stream is
// never cut by a time-out of the server: it may be quiet for days.
func (s *Server) httpServer(calls context.Context) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:           s.Handler(),
		Protocols:         &protocols,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 2 * s.options.Streams},
		BaseContext:       func(net.Listener) context.Context { return calls },
	}
}

// healthz is 200 while the agent answers.
func (s *Server) healthz(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
	defer cancel()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if _, err := s.agent.Health(ctx); err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, err)
		return
	}
	fmt.Fprintln(w, "ok")
}
