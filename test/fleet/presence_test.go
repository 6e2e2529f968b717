package main

import (
	"context"
	"testing"
	"time"

	"ifacebridge/test/natstest"
)

// What it costs the servers, three with everything on each, that so many hosts say that they
// are there, beside 2,000 events a second: their CPU of that, with presence at six times the
// rate that it has by default and without; and the share that it is at the default.
func BenchmarkPresence(b *testing.B) {
	hosts := number(b, "IFACE_TEST_FLEET_HOSTS", 1000)
	const rate = 2000
	for b.Loop() {
		without, _ := measurePresence(b, hosts, rate, "0")
		with, puts := measurePresence(b, hosts, rate, "5s")
		b.ReportMetric(float64(without.Milliseconds()), "servers-ms/s-without")
		b.ReportMetric(float64(with.Milliseconds()), "servers-ms/s-with")
		b.ReportMetric(float64((with-without).Microseconds())/puts, "servers-µs/put")
		byDefault := float64(with-without) / puts * float64(hosts) / 27 // 24 to 30 s
		b.ReportMetric(100*byDefault/float64(without), "percent")
	}
}

// measurePresence returns what the servers use of the CPU in a second of so many events, and
// how often hosts say in it that they are there.
func measurePresence(t testing.TB, hosts, rate int, presence string) (used time.Duration, puts float64) {
	t.Helper()
	const seconds = 30
	servers := natstest.StartCluster(t)
	cl := connect(t, servers...)
	s := simulate(t, servers, hosts, 10, "example.com", "IFACE_PRESENCE="+presence)
	cpus := func() (all time.Duration) {
		for _, server := range servers {
			all += cpu(t, server.Pid())
		}
		return all
	}
	said := func() (seq uint64) {
		if presence == "0" {
			return 0
		}
		cl.eventually("the bucket of hosts", func(ctx context.Context) bool {
			st, err := cl.js.Stream(ctx, "KV_iface_hosts")
			if err == nil {
				seq = st.CachedInfo().State.LastSeq
			}
			return err == nil
		})
		return seq
	}
	powerUp(cl, s, hosts, 10)
	time.Sleep(5 * time.Second) // what the start has left to do
	events := 0
	cpus0, said0, began := cpus(), said(), time.Now()
	s.command(&events, "load %d %d", rate, seconds)
	time.Sleep(2 * time.Second) // and the load
	took := time.Since(began).Seconds()
	used, puts = time.Duration(float64(cpus()-cpus0)/took), float64(said()-said0)/took
	t.Logf("%d hosts, %d events in %v: the servers took %v in a second, with %.0f puts", hosts, events, took, used, puts)
	s.end()
	for _, server := range servers {
		server.Kill()
	}
	return used, puts
}
