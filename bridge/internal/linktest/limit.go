package linktest

import (
	"math"

	"ifacebridge/bridge/config"
)

// Events is the limit of a queue that holds so many events, whatever memory they take.
func Events(n int) config.QueueLimit { return config.QueueLimit{Events: n, Bytes: math.MaxInt} }

// Bytes is the limit of a queue that holds as many events as take so many bytes.
func Bytes(n int) config.QueueLimit { return config.QueueLimit{Events: math.MaxInt, Bytes: n} }
