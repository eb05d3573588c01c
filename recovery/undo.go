package recovery

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"

	"github.com/reprieve-dev/reprieve/workload"
)

// Undo removes everything that Prepare made: the container (killing what runs in
// it), the veths, the network namespace. It attempts everything, joins the
// errors, and may be repeated; nil when nothing is left.
func (r *Replacer) Undo(ctx context.Context, p Prepared) error {
	if p.Incident == "" {
		return errors.New("undo replacement: incident has no id")
	}
	return r.undo(ctx, p.Incident, []workload.Ref{p.Workload.Ref})
}

// UndoIncident is Undo for an agent that has nothing but the incident's id, since
// an earlier one died in Prepare.
func (r *Replacer) UndoIncident(ctx context.Context, incident string) error {
	p, found, err := readRecord(r.recordPath(incident))
	if err != nil {
		return fmt.Errorf("undo replacement of incident %s: %w", incident, err)
	}
	if found {
		return r.Undo(ctx, p)
	}
	refs, err := r.labelled(ctx, incident)
	return errors.Join(err, r.undo(ctx, incident, refs))
}

// undo removes the record last: until then a crash leaves it to be repeated.
func (r *Replacer) undo(ctx context.Context, incident string, refs []workload.Ref) error {
	var errs []error
	for _, ref := range refs {
		errs = append(errs, r.removeContainer(ctx, ref))
	}
	errs = append(errs, removeVeths(incident), removeNetNS(r.netnsPath(incident)))
	err := errors.Join(errs...)
	if err == nil {
		err = removeRecord(r.recordPath(incident))
	}
	if err != nil {
		return fmt.Errorf("undo replacement of incident %s: %w", incident, err)
	}
	return nil
}

func (r *Replacer) removeContainer(ctx context.Context, ref workload.Ref) error {
	runtime, err := r.runtime(ref.Runtime)
	if err != nil {
		return err
	}
	return runtime.Remove(ctx, ref)
}

// labelled finds the replacements of an incident of which no record is left.
func (r *Replacer) labelled(ctx context.Context, incident string) ([]workload.Ref, error) {
	var refs []workload.Ref
	var errs []error
	for _, runtime := range r.runtimes {
		all, err := runtime.List(ctx)
		if err != nil {
			errs = append(errs, err)
		}
		for _, w := range all {
			if w.Labels[LabelIncident] == incident {
				refs = append(refs, w.Ref)
			}
		}
	}
	return refs, errors.Join(errs...)
}

// removeVeths deletes the host's ends, and with them the ends inside.
func removeVeths(incident string) error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	var errs []error
	for _, link := range links {
		if !isVethOf(incident, link.Attrs().Name) {
			continue
		}
		if err := netlink.LinkDel(link); err != nil && !isNotFound(err) {
			errs = append(errs, fmt.Errorf("delete %s: %w", link.Attrs().Name, err))
		}
	}
	return errors.Join(errs...)
}
