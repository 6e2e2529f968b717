//go:build noembed

package main

import (
	"log/slog"

	"ifacebridge/bridge/config"
)

const withoutURL = `NATS_URL has to be set: this build
has no embedded server.`

var errNotEmbedded = config.Error{"NATS_URL: is unset, and this build has no embedded server (-tags noembed); " +
	"accepted: nats://host[:port], tls://, ws:// or wss://, comma-separated"}

// forEmbedded reports that there is no embedded server.
func forEmbedded(cfg config.Config) (config.Config, error) { return cfg, errNotEmbedded }

// serveNATS is not reached.
func serveNATS(config.Config, *slog.Logger) (shutdown func(), err error) { return nil, errNotEmbedded }
