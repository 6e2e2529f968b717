// Command fleet simulates the bridges of many hosts in one process: the bridge's own
// code from its table on, each with a connection to NATS of its own, over hosts that
// are made up (host.go) and behave like such that run containers.
//
// It is configured like the bridge, by the environment, and told what to do on its
// standard input; what came of each command is one line of JSON on its output:
//
//	start                starts every bridge at once, as when a rack gets power
//	load RATE SECONDS    has the hosts make so many notifications a second
//	truth                tells what must have arrived of each host
//
// At the end of its input it stops the bridges, and exits 1 when one of them
// could not go on. The tests beside it run it against a cluster of nats-servers.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"ifacebridge/bridge"
	"ifacebridge/bridge/config"
)

func main() {
	log.SetFlags(0)
	count := flag.Int("hosts", 1000, "how many hosts there are")
	links := flag.Int("links", 50, "how many links each of them has")
	domain := flag.String("domain", "example.com", "what the hosts' names end with")
	flag.Parse()
	cfg, err := config.Parse(append(os.Environ(), "IFACE_HTTP_ADDR="))
	if err != nil {
		log.Fatal(err)
	}
	f := &fleet{cfg: cfg}
	for i := range *count {
		f.hosts = append(f.hosts, newHost(fmt.Sprintf("host%05d.%s", i, *domain), *links))
	}
	if err := f.obey(os.Stdin, json.NewEncoder(os.Stdout)); err != nil {
		log.Fatal(err)
	}
}

// A fleet is the hosts and their bridges.
type fleet struct {
	cfg   config.Config // of all hosts, but for the name
	hosts []*host

	running sync.WaitGroup
	stop    context.CancelFunc // nil until they were started
	mu      sync.Mutex
	failed  int
}

// obey does what the input says.
func (f *fleet) obey(input *os.File, output *json.Encoder) error {
	lines := bufio.NewScanner(input)
	for lines.Scan() {
		answer, err := f.do(lines.Text())
		if err != nil {
			return err
		}
		if err := output.Encode(answer); err != nil {
			return err
		}
	}
	if f.stop != nil {
		f.stop()
	}
	f.running.Wait()
	if f.failed > 0 {
		return fmt.Errorf("%d of %d bridges could not go on", f.failed, len(f.hosts))
	}
	return lines.Err()
}

func (f *fleet) do(command string) (answer any, err error) {
	var rate, seconds int
	switch n, _ := fmt.Sscanf(command, "load %d %d", &rate, &seconds); {
	case command == "start" && f.stop == nil:
		return "started", f.start()
	case n == 2 && rate > 0:
		return f.load(rate, time.Duration(seconds)*time.Second), nil
	case command == "truth":
		answer := map[string]truth{}
		for _, h := range f.hosts {
			answer[h.name] = h.truth()
		}
		return answer, nil
	}
	return nil, fmt.Errorf("%q is none of: start (once), load RATE SECONDS, truth", command)
}

func (f *fleet) start() error {
	configs := make([]config.Config, len(f.hosts))
	for i, h := range f.hosts {
		var err error
		if configs[i], err = f.cfg.WithHost(h.name); err != nil {
			return err
		}
	}
	var ctx context.Context
	ctx, f.stop = context.WithCancel(context.Background())
	for i, h := range f.hosts {
		log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})).With("host", h.name)
		f.running.Go(func() {
			if err := bridge.RunFrom(ctx, configs[i], h, log); err != nil {
				log.Error("the bridge cannot go on", "cause", err)
				f.mu.Lock()
				f.failed++
				f.mu.Unlock()
			}
		})
	}
	return nil
}

// load has random hosts make notifications at a rate a second, and returns how many
// they made.
func (f *fleet) load(rate int, d time.Duration) (made int) {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for began := time.Now(); time.Since(began) < d; <-ticker.C {
		for due := int(float64(rate) * time.Since(began).Seconds()); made < due; {
			made += f.hosts[rand.IntN(len(f.hosts))].act()
		}
	}
	return made
}
