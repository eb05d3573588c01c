package api

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/reprieve-dev/reprieve/incident"
	"github.com/reprieve-dev/reprieve/incident/journal"
)

// snapshot is the agent at the moment of a scrape, as a prometheus.Collector.
type snapshot struct {
	health    incident.Health
	statuses  []incident.Status
	incidents []journal.Incident
}

// metrics serves a snapshot of its own to each scrape.
func (s *Server) metrics(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	shot, err := s.snapshot(ctx)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(shot)
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, r)
}

func (s *Server) snapshot(ctx context.Context) (shot snapshot, err error) {
	if shot.health, err = s.agent.Health(ctx); err != nil {
		return shot, err
	}
	if shot.statuses, err = s.agent.Statuses(ctx); err != nil {
		return shot, err
	}
	shot.incidents, err = s.agent.Incidents(ctx, journal.Filter{Limit: mostIncidents})
	return shot, err
}

// Describe implements prometheus.Collector; none given: the registry takes what
// comes.
func (snapshot) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (s snapshot) Collect(out chan<- prometheus.Metric) {
	s.collectHealth(out)
	s.collectCounters(out)
	s.collectWorkloads(out)
	s.collectIncidents(out)
}

func (s snapshot) collectHealth(out chan<- prometheus.Metric) {
	h := s.health
	out <- gauge("reprieve_agent_info", "1, with the versions of agent and kernel.", 1,
		labels{"version": h.Version, "kernel": h.Features.Kernel})
	out <- gauge("reprieve_agent_start_time_seconds", "When the agent started, as a Unix time.",
		float64(h.Since.UnixNano())/1e9, nil)
	for tier, on := range map[string]bool{
		"guard": h.Features.Guard, "move": h.Features.Move, "watch": h.Features.Watch,
		"drops": h.Features.Drops, "fence": h.Features.Fence,
	} {
		out <- gauge("reprieve_tier_available", "1 where this kernel carries the tier.", bit(on), labels{"tier": tier})
	}
	for name, state := range h.Runtimes {
		out <- gauge("reprieve_runtime_up", "1 where the runtime can be used.", bit(state == "ok"), labels{"runtime": name})
	}
}

// collectCounters splits what is counted by kind of event from the rest.
func (s snapshot) collectCounters(out chan<- prometheus.Metric) {
	for name, n := range s.health.Counters {
		value := float64(n)
		if kind, ok := strings.CutPrefix(name, "sent-"); ok {
			out <- counter("reprieve_events_sent_total", "Events that the kernel side sent.", value, labels{"kind": kind})
		} else if kind, ok := strings.CutPrefix(name, "lost-"); ok {
			out <- counter("reprieve_events_lost_total", "Events that were lost.", value, labels{"kind": kind})
		} else {
			out <- counter("reprieve_counter_total", "All other counters of the kernel side and the agent.", value, labels{"counter": name})
		}
	}
}

func (s snapshot) collectWorkloads(out chan<- prometheus.Metric) {
	conditions := map[incident.Condition]int{incident.Healthy: 0, incident.Faulty: 0, incident.Quarantined: 0}
	var guarded, exitHold int
	for _, status := range s.statuses {
		conditions[status.Condition]++
		guarded += int(bit(status.Guarded))
		exitHold += int(bit(status.ExitHold))
	}
	for condition, n := range conditions {
		out <- gauge("reprieve_workloads", "Known workloads by condition.", float64(n), labels{"condition": string(condition)})
	}
	out <- gauge("reprieve_workloads_guarded", "Known workloads with an armed guard.", float64(guarded), nil)
	out <- gauge("reprieve_workloads_exit_hold", "Known workloads whose exit would be held.", float64(exitHold), nil)
}

func (s snapshot) collectIncidents(out chan<- prometheus.Metric) {
	states := map[journal.State]int{journal.StateOpen: 0, journal.StateQuarantined: 0}
	for _, i := range s.incidents {
		states[i.State]++
	}
	for state, n := range states {
		out <- gauge("reprieve_incidents", "The last 1000 incidents by state.", float64(n), labels{"state": string(state)})
	}
}

type labels = map[string]string

func gauge(name, help string, value float64, l labels) prometheus.Metric {
	return prometheus.MustNewConstMetric(prometheus.NewDesc(name, help, nil, l), prometheus.GaugeValue, value)
}

func counter(name, help string, value float64, l labels) prometheus.Metric {
	return prometheus.MustNewConstMetric(prometheus.NewDesc(name, help, nil, l), prometheus.CounterValue, value)
}

func bit(on bool) float64 {
	if on {
		return 1
	}
	return 0
}
