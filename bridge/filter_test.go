package bridge

import (
	"ifacebridge/bridge/config"
)

// including returns a filter that publishes only what matches the patterns.
func including(patterns string) config.Filter { return filter(patterns, "") }

// excluding returns a filter that publishes what does not match the patterns.
func excluding(patterns string) config.Filter { return filter("", patterns) }

func filter(include, exclude string) config.Filter {
	f, err := config.ParseFilter(include, exclude)
	if err != nil {
		panic(err)
	}
	return f
}
