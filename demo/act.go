package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	v1 "github.com/reprieve-dev/reprieve/api/reprieve/v1"
)

// act is one scenario with one runtime.
type act struct {
	*victim
	scenario
	began    int64 // just before the deed
	fault    int64 // the first that the kernel, or the app, knows of it
	moments  []moment
	proofs   []proof
	incident *v1.Incident
	removal  chan outcome // of a removal that goes on meanwhile
	bytes    int64        // of the evidence
}

// moment is a line of the timeline; at is nanoseconds of CLOCK_BOOTTIME.
type moment struct {
	at   int64
	text string
}

// proof is what must hold.
type proof struct {
	what string
	err  error
}

func (a *act) tell(at int64, format string, args ...any) {
	a.moments = append(a.moments, moment{at, fmt.Sprintf(format, args...)})
}

func (a *act) prove(what string, err error) { a.proofs = append(a.proofs, proof{what, err}) }

// playAll goes on after a scenario that failed: the next may tell more.
func (s *stage) playAll(ctx context.Context) (all []result, err error) {
	var errs []error
	for _, e := range s.engines {
		for _, sc := range s.scenarios() {
			if ctx.Err() != nil {
				return all, errors.Join(append(errs, errors.New("stopped"))...)
			}
			r, err := s.playOne(ctx, e, sc)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s, %s: %w", e.name(), sc.name, err))
				continue
			}
			all = append(all, r)
		}
	}
	return all, errors.Join(errs...)
}

func (s *stage) playOne(ctx context.Context, e engine, sc scenario) (result, error) {
	s.say.head(e.name() + ", " + sc.name + ": " + sc.title)
	word := strings.ToLower(strings.NewReplacer(" ", "", ".", "").Replace(sc.name))
	v, err := s.newVictim(ctx, e, strings.Join([]string{s.prefix, sc.mode, e.name(), word}, "-"), sc.small)
	if err != nil {
		return result{}, err
	}
	defer v.close()
	a := &act{victim: v, scenario: sc}
	err = a.play(ctx)
	a.printTimeline()
	if err == nil {
		err = a.conclude(ctx)
	}
	for _, p := range a.proofs {
		s.say.proof(p.err, p.what)
		if p.err != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", p.what, p.err))
		}
	}
	return a.result(), err
}

// play is the story up to the quarantine.
func (a *act) play(ctx context.Context) error {
	a.client.quick.Store(true)
	time.Sleep(50 * time.Millisecond) // some answers at the quick pace
	a.began = bootTime()
	if err := a.deed(ctx, a); err != nil {
		return fmt.Errorf("%s: %w", a.name, err)
	}
	err := a.await(ctx, "the quarantine of "+a.ref, func() (bool, error) { return a.quarantined(ctx) })
	if err != nil {
		return err
	}
	err = a.await(ctx, "an answer of the replacement", func() (bool, error) {
		_, ok := a.client.other(a.identity)
		return ok, nil
	})
	if err != nil {
		return err
	}
	a.proveExaminer()
	if a.after == nil {
		return nil
	}
	return a.after(ctx, a)
}

// quarantined asks for the incident; one that was lost never gets there.
func (a *act) quarantined(ctx context.Context) (bool, error) {
	resp, err := a.agent.api.ListIncidents(ctx, &v1.ListIncidentsRequest{Workload: a.ref})
	if err != nil || len(resp.Incidents) == 0 {
		return false, err
	}
	full, err := a.agent.api.GetIncident(ctx, &v1.GetIncidentRequest{Id: resp.Incidents[0].Id})
	if err != nil {
		return false, err
	}
	a.incident = full.Incident
	return a.incident.State == "quarantined", nil
}

// step is when a step of the incident was done; 0: it was not.
func (a *act) step(name string) int64 {
	for _, s := range a.incident.GetSteps() {
		if s.Name == name && s.Phase == "done" {
			return int64(s.AtNs) + int64(s.Took.AsDuration())
		}
	}
	return 0
}

// result are the figures, from the fault.
func (a *act) result() result {
	r := result{
		Part: a.part, Runtime: a.engine.name(), Scenario: a.name, EvidenceMB: float64(a.bytes) / 1e6,
		DetectedUS: (a.verdictAt() - a.fault) / 1000, FencedUS: (a.fencedAt() - a.fault) / 1000,
	}
	if back, ok := a.client.other(a.identity); ok {
		r.ServiceMS = float64(back.first-a.fault) / 1e6
	}
	return r
}

func (a *act) printTimeline() {
	a.collect()
	for _, m := range a.moments {
		a.say.line("%12s us  %s", signed((m.at-a.fault)/1000), m.text)
	}
}
