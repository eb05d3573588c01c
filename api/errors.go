package api

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"connectrpc.com/connect"

	"github.com/reprieve-dev/reprieve/incident"
	"github.com/reprieve-dev/reprieve/incident/journal"
	"github.com/reprieve-dev/reprieve/isolate/evidence"
	"github.com/reprieve-dev/reprieve/workload"
)

// coded gives err the code that a caller branches on and keeps its text. What
// has a code already keeps it.
func coded(err error) error {
	var already *connect.Error
	if err == nil || errors.As(err, &already) {
		return err
	}
	return connect.NewError(codeOf(err), err)
}

func codeOf(err error) connect.Code {
	for _, c := range []struct {
		sentinel error
		code     connect.Code
	}{
		{context.DeadlineExceeded, connect.CodeDeadlineExceeded},
		{os.ErrDeadlineExceeded, connect.CodeDeadlineExceeded},
		{context.Canceled, connect.CodeCanceled},
		{journal.ErrNotFound, connect.CodeNotFound},
		{workload.ErrNotFound, connect.CodeNotFound},
		{incident.ErrUnknown, connect.CodeNotFound},
		{incident.ErrNotOpen, connect.CodeFailedPrecondition},
		{incident.ErrReplaced, connect.CodeFailedPrecondition},
		{incident.ErrNoPolicy, connect.CodeFailedPrecondition},
		{incident.ErrAudit, connect.CodeFailedPrecondition},
		{incident.ErrOpen, connect.CodeAlreadyExists},
		{incident.ErrUnclear, connect.CodeInvalidArgument},
		{evidence.ErrNotFound, connect.CodeNotFound},
		{fs.ErrNotExist, connect.CodeNotFound},
		{fs.ErrInvalid, connect.CodeInvalidArgument},
		{errors.ErrUnsupported, connect.CodeFailedPrecondition},
		{journal.ErrExists, connect.CodeAlreadyExists},
		{journal.ErrFull, connect.CodeResourceExhausted},
		{evidence.ErrNoSpace, connect.CodeResourceExhausted},
		{fs.ErrExist, connect.CodeFailedPrecondition},
		{fs.ErrPermission, connect.CodePermissionDenied},
	} {
		if errors.Is(err, c.sentinel) {
			return c.code
		}
	}
	return connect.CodeInternal
}
