package incident

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/reprieve-dev/reprieve/loader"
)

// hub hands notices to subscribers. A slow one loses notices, never delays; the
// sequence numbers show it the gap.
type hub struct {
	mu   sync.Mutex
	next uint64
	to   map[chan Notice]struct{}
	lost uint64
}

func newHub() *hub { return &hub{to: map[chan Notice]struct{}{}} }

func (h *hub) send(n Notice) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.next++
	n.Sequence = h.next
	for c := range h.to {
		select {
		case c <- n:
		default:
			h.lost++
		}
	}
}

func (h *hub) losses() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lost
}

// Subscribe hands out notices from now on, until ctx ends; then the channel is
// closed. A reader who falls behind by more than buffer loses some, and sees it
// by the gap in Sequence.
func (a *Agent) Subscribe(ctx context.Context, buffer int) <-chan Notice {
	c := make(chan Notice, max(buffer, 1))
	h := a.notices
	h.mu.Lock()
	h.to[c] = struct{}{}
	h.mu.Unlock()
	context.AfterFunc(ctx, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.to, c)
		close(c)
	})
	return c
}

// tell sends a notice of the agent's own.
func (a *Agent) tell(kind, workload, incident, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	a.Log.Info(text, "kind", kind, "workload", workload, "incident", incident)
	a.notices.send(Notice{
		At: loader.Now(), Wall: time.Now(), Kind: kind, Workload: workload, Incident: incident, Text: text,
	})
}
