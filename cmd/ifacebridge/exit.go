package main

import (
	"errors"

	"ifacebridge/bridge"
	"ifacebridge/bridge/config"
)

// Exit statuses, which scripts and service managers rely on. A bridge has the first three
// of them, those who ask NATS (links, watch, doctor, forget) all.
const (
	exitOK        = 0
	exitFailure   = 1
	exitConfig    = 2 // bad configuration or command line: starting again won't help
	exitNoAnswer  = 4 // nobody answers: no server, or nobody behind it; it may be worth trying again
	exitForbidden = 5 // the server does not let this user in, or refuses what was asked for
)

// A statusError is an error of which the exit status is known.
type statusError struct {
	error
	status int
}

func (e *statusError) Unwrap() error { return e.error }

// usageError is a mistake on the command line.
type usageError struct{ error }

// exitStatus is that of a command that has returned err.
func exitStatus(err error) int {
	var (
		settings config.Error
		usage    *usageError
		known    *statusError
	)
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &settings), errors.As(err, &usage):
		return exitConfig
	case errors.As(err, &known):
		return known.status
	}
	return exitFailure
}

// exitFor is the exit status of a command that failed for a reason that NATS had.
func exitFor(reason bridge.Reason) int {
	switch {
	case reason.IsForbidden():
		return exitForbidden
	case reason.IsNoAnswer():
		return exitNoAnswer
	}
	return exitFailure
}

// exitForAll is [exitFor] where there are several. One that is neither counts before the
// others; and who may not ask gets no answer, too.
func exitForAll(reasons []bridge.Reason) int {
	status := exitOK
	for _, reason := range reasons {
		switch one := exitFor(reason); {
		case one == exitFailure:
			return exitFailure
		case one > status:
			status = one
		}
	}
	return status
}
