package api

import (
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/reprieve-dev/reprieve/api/reprieve/v1"
	"github.com/reprieve-dev/reprieve/incident"
	"github.com/reprieve-dev/reprieve/workload"
)

// WorkloadMessage is w as the API tells it.
func WorkloadMessage(w workload.Workload) *v1.Workload {
	return valid(&v1.Workload{
		Ref:        w.Ref.String(),
		Runtime:    w.Runtime,
		Namespace:  w.Namespace,
		Id:         w.ID,
		Name:       w.Name,
		Image:      w.Image,
		Digest:     w.Digest,
		Labels:     maps.Clone(w.Labels),
		Status:     string(w.Status),
		Created:    timestamp(w.Created),
		InitPid:    int64(w.InitPID),
		CgroupPath: w.CgroupPath,
		CgroupId:   w.CgroupID,
		Netns:      w.NetNS,
		Bundle:     w.Bundle,
		Rootfs:     w.RootFS,
		UpperDir:   w.UpperDir,
		LogPath:    w.LogPath,
	})
}

// StatusMessage is s as the API tells it.
func StatusMessage(s incident.Status) *v1.WorkloadStatus {
	m := &v1.WorkloadStatus{
		Workload:  WorkloadMessage(s.Workload),
		Policy:    s.Policy,
		Mode:      s.Mode,
		Condition: string(s.Condition),
		Guarded:   s.Guarded,
		ExitHold:  s.ExitHold,
		Held:      slices.Clone(s.Held),
		HeldCount: s.HeldCount,
		Incident:  s.Incident,
	}
	if s.Deadline != nil {
		m.Deadline = timestamp(*s.Deadline)
	}
	if s.Gap != nil {
		m.Gap = durationpb.New(*s.Gap)
	}
	return valid(m)
}

// names says whether a person who writes name means w.
func names(name string, w workload.Ref, called string) bool {
	return name == w.String() || name == w.ID || name == called
}

// timestamp is nil for the zero time, which JSON then leaves out.
func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
