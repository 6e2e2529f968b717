package linktest

import (
	"ifacebridge/bridge/config"
)

// Including returns a filter that publishes only what matches the patterns.
func Including(patterns string) config.Filter { return filter(patterns, "") }

// Excluding returns a filter that publishes what does not match the patterns.
func Excluding(patterns string) config.Filter { return filter("", patterns) }

func filter(include, exclude string) config.Filter {
	f, err := config.ParseFilter(include, exclude)
	if err != nil {
		panic(err)
	}
	return f
}
