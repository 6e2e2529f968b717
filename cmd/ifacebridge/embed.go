//go:build !noembed

package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"ifacebridge/bridge/config"
)

const withoutURL = `Without NATS_URL it serves a NATS server
of its own on 127.0.0.1:4222, with JetStream.`

// embedded is where the embedded server listens: loopback only, because it asks
// nobody who they are.
const (
	embeddedHost = "127.0.0.1"
	embeddedPort = 4222
)

// forEmbedded returns the configuration for the embedded server.
func forEmbedded(cfg config.Config) (config.Config, error) { return cfg.ForEmbedded(embeddedURL) }

// serveNATS starts the embedded server, at [embeddedURL]. The caller shuts it down.
func serveNATS(cfg config.Config, log *slog.Logger) (shutdown func(), err error) {
	if err := prepareStore(cfg.StoreDir); err != nil {
		return nil, err
	}
	// The server would try for seconds; a port that is taken is known at once.
	address := net.JoinHostPort(embeddedHost, fmt.Sprint(embeddedPort))
	probe, err := net.Listen("tcp", address)
	if err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			return nil, fmt.Errorf("cannot serve NATS on %s: the port is taken; "+
				"to publish to the server that has it, set NATS_URL=nats://%s", address, address)
		}
		return nil, fmt.Errorf("cannot serve NATS: %w", err)
	}
	probe.Close()

	opts := &server.Options{
		ServerName: "ifacebridge-embedded", Host: embeddedHost, Port: embeddedPort,
		JetStream: true, StoreDir: cfg.StoreDir, NoSigs: true, NoLog: true,
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("embedded NATS server: %w", err)
	}
	failed := &serverLog{log: log}
	srv.SetLoggerV2(failed, false, false, false)
	srv.Start()
	if !srv.ReadyForConnections(time.Minute) || !srv.JetStreamEnabled() {
		srv.Shutdown()
		return nil, fmt.Errorf("embedded NATS server does not start with its store in %s: %s",
			cfg.StoreDir, failed.last())
	}
	log.Info("NATS_URL is unset: serving NATS with JetStream, on this machine only",
		"url", embeddedURL, "store", cfg.StoreDir, "subscribe", "ifacebridge watch, or: nats sub '"+cfg.Prefix+".>'")
	return func() { srv.Shutdown(); srv.WaitForShutdown() }, nil
}

// prepareStore makes the directory in which the embedded server keeps its streams.
func prepareStore(dir string) error {
	if dir == "" {
		return errors.New("no store directory: neither XDG_STATE_HOME nor HOME is set; set IFACE_STORE_DIR")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("store directory: %w; set IFACE_STORE_DIR to one that can be written", err)
	}
	probe, err := os.CreateTemp(dir, ".writable-*")
	if err != nil {
		return fmt.Errorf("store directory: %w; set IFACE_STORE_DIR to one that can be written", err)
	}
	probe.Close()
	return os.Remove(probe.Name())
}
