package test

import (
	"bufio"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ifacebridge/fleet"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

// A fleet's second month: of many bridges some are killed for good, some of those are
// forgotten, and some hosts get another name. Within three of the intervals in which hosts
// say that they are there, and 10 s, every kind of reader agrees on who is there, who is
// silent, and who is gone: fleets by each join, those that were there all the time and those
// that come late, the buckets as the nats command lists them, links, and watch.
func TestLifeOfAFleet(t *testing.T) {
	k := netnstest.Parallel(t)
	cli := netnstest.Tool(t, "nats")
	count := number(t, "IFACE_TEST_LIFE_HOSTS", 10) // 50 in the long form
	interval := duration(t, "IFACE_TEST_LIFE_PRESENCE", 2*time.Second)
	kills, forgotten, renames := count/5, count/10, max(1, count*3/50)
	s := natstest.Start(t, "")
	one := func(name string) *process {
		return bridge(t, s, "IFACE_HOST="+name, "IFACE_HTTP_ADDR=", "GOMAXPROCS=1", fmt.Sprint("IFACE_PRESENCE=", interval))
	}
	_, err := k.Add("ifb9", 0, netnstest.Kind{Name: "ifb"})
	must(t, err)
	bridges := map[string]*process{}
	for i := range count {
		name := fmt.Sprintf("host%02d", i)
		bridges[name] = one(name)
	}
	var readers []*reader
	join := func() {
		for j := range fleet.Join(3) {
			readers = append(readers, read(t, s.URL, fleet.Options{Join: j}))
		}
	}
	join()
	for _, r := range readers {
		eventually(t, "all hosts are known", func() bool {
			view := r.fleet.View()
			return len(view) == count && !slices.ContainsFunc(view, func(h fleet.Host) bool { return !h.Whole })
		})
	}
	watch := start(t, []string{"NATS_URL=" + s.URL}, "watch", "--json")
	watch.Says("connected to NATS")

	// want is what becomes of each: there, silent, or "", gone.
	want, retire := map[string]string{}, []string{}
	for i, name := range slices.Sorted(maps.Keys(bridges)) {
		switch {
		case i < kills+forgotten:
			bridges[name].Kill()
			want[name] = "silent"
			if i < forgotten {
				want[name] = ""
				retire = append(retire, name)
			}
		case i < kills+forgotten+renames: // as when an operator gives it another name
			bridges[name].Signal(unix.SIGTERM)
			bridges[name].Wait()
			one(name + "-renamed")
			want[name], want[name+"-renamed"] = "", "there"
			retire = append(retire, name)
		default:
			want[name] = "there"
		}
	}
	maps.DeleteFunc(want, func(_, standing string) bool { return standing == "" })
	began := time.Now()
	ends(t, func() *process { // whether their bridges are there is asked for a second, which a busy machine may miss
		p := start(t, []string{"NATS_URL=" + s.URL}, append([]string{"forget"}, retire...)...)
		p.Wait()
		retire = slices.DeleteFunc(retire, func(name string) bool {
			return strings.Contains(p.Output(), "forgot "+name+": ")
		})
		return p
	}, 0)
	join()
	differ := func(got map[string]string) string {
		if maps.Equal(got, want) {
			return ""
		}
		return fmt.Sprintf("got %v, want %v", got, want)
	}
	agree := func(who string, sees func() map[string]string) {
		t.Helper()
		last := ""
		defer func() {
			if t.Failed() {
				t.Logf("%s: %s", who, last)
			}
		}()
		eventually(t, who+" sees what has become of the hosts", func() bool { last = differ(sees()); return last == "" })
	}
	for i, r := range readers {
		agree(fmt.Sprint("fleet ", i, " by ", fleet.Join(i%3)), func() map[string]string {
			got := map[string]string{}
			for _, h := range r.fleet.View() {
				if got[h.Name] = "there"; h.Quiet {
					got[h.Name] = "silent"
				}
			}
			return got
		})
	}
	agree("the nats command", func() map[string]string {
		got := map[string]string{}
		for _, key := range kvKeys(t, cli, s, "iface_links") {
			name, _, _ := strings.Cut(key, ".")
			got[name] = "silent"
		}
		for _, name := range kvKeys(t, cli, s, "iface_hosts") {
			got[name] = "there"
		}
		return got
	})
	agree("links", func() map[string]string {
		list := start(t, []string{"NATS_URL=" + s.URL}, "links")
		list.Wait()
		got := map[string]string{}
		for line := range strings.Lines(list.Output()) {
			name, _, _ := strings.Cut(line, " ")
			if got[name] = "there"; strings.Contains(line, "silent since ") {
				got[name] = "silent"
			}
		}
		return got
	})
	took := time.Since(began)
	t.Logf("%d bridges, %d killed, %d of them forgotten, %d renamed: all readers agree after %v",
		count, kills+forgotten, forgotten, renames, took.Round(100*time.Millisecond))
	for name, standing := range want {
		if standing == "silent" {
			eventually(t, "watch reports "+name, func() bool {
				out := bufio.NewScanner(strings.NewReader(watch.Output()))
				for out.Scan() {
					text := out.Text()
					if strings.Contains(text, "host is silent") && strings.Contains(text, "host="+name+" ") {
						return true
					}
				}
				return false
			})
		}
	}
	if limit := 3*interval + 10*time.Second; took > limit {
		t.Logf("slower than the %v that were meant: on a busy machine, it may be", limit)
	}
}

// kvKeys are the keys of a bucket, as `nats kv ls` lists them.
func kvKeys(t testing.TB, cli string, s *natstest.Server, bucket string) []string {
	t.Helper()
	place := netnstest.Where(t)
	cmd := exec.Command(cli, "--server", s.URL, "kv", "ls", bucket)
	cmd.Env = []string{"HOME=" + t.TempDir(), natsPatience}
	var out strings.Builder
	cmd.Stdout = &out
	must(t, place.Enter())
	if err := cmd.Run(); err != nil {
		return nil
	}
	return strings.Fields(out.String())
}
