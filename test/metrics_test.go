package test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"golang.org/x/sys/unix"

	"ifacebridge/schema"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
)

func get(t testing.TB, path string) (status int, body string) {
	t.Helper()
	resp, err := netnstest.Where(t).HTTP().Get("http://127.0.0.1:9469" + path)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp.StatusCode, string(b)
}

// /healthz says that the loops run, /readyz that NATS has what a subscriber needs,
// and neither can be written to.
func TestHealth(t *testing.T) {
	netnstest.Parallel(t)
	s := natstest.New(t, "")
	b := bridge(t, s, "IFACE_RESYNC=500ms")
	becomes := func(path string, status int, says string) {
		t.Helper()
		eventually(t, fmt.Sprintf("%s answers %d %q", path, status, says), func() bool {
			got, body := get(t, path)
			return got == status && strings.Contains(body, says)
		})
	}
	check := func(want int, says string) {
		t.Helper()
		ends(t, func() *process { return start(t, nil, "healthcheck") }, want, says)
	}
	becomes("/healthz", 200, "ok")
	becomes("/readyz", 503, "connect: connection refused\nthe snapshot is not confirmed yet\n")
	check(1, "the bridge is not ready: NATS is not connected: dial tcp "+strings.TrimPrefix(s.URL, "nats://"))
	s.Start()
	becomes("/readyz", 200, "ok")
	check(0, "ready")
	env := []string{"NATS_URL=" + s.URL, "IFACE_HOST=test"}
	doctor(t, env, 0, "ok    bridge          the one that serves 127.0.0.1:9469 is ready")
	s.Kill()
	becomes("/readyz", 503, "NATS is not connected: dial tcp ")
	doctor(t, env, 4, "FAIL  NATS  ",
		"warn  bridge          the one that serves 127.0.0.1:9469 is not ready: NATS is not connected: dial tcp ")
	becomes("/healthz", 200, "ok")
	s.Start()
	becomes("/readyz", 200, "ok")
	resp, err := netnstest.Where(t).HTTP().Post("http://127.0.0.1:9469/healthz", "text/plain", nil)
	must(t, err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("a POST is answered %d", resp.StatusCode)
	}
	b.Signal(unix.SIGSTOP) // which nothing else tells
	doctor(t, env, 1, "FAIL  bridge          the one that serves 127.0.0.1:9469 does not answer: ")
	b.Signal(unix.SIGCONT)
	b.Signal(unix.SIGTERM)
	b.Wait()
	check(1, "the bridge does not answer")
}

// The default address, when another bridge has it, costs no event; one that was
// asked for and cannot be had is an error, and an empty one serves nothing.
func TestHTTPAddressIsTaken(t *testing.T) {
	netnstest.Parallel(t)
	s := natstest.Start(t, "")
	l, err := net.Listen("tcp", "127.0.0.1:9469")
	must(t, err)
	b := bridge(t, s)
	b.Says("another process has the default address; retrying until it is free")
	b.Ready()
	must(t, l.Close())
	b.Says("serving /healthz, /readyz and /metrics")
	asked := start(t, []string{"NATS_URL=" + s.URL, "IFACE_HOST=other", "IFACE_HTTP_ADDR=localhost:9469"})
	if status := asked.Wait(); status != 1 {
		t.Errorf("exit status %d", status)
	}
	asked.Says("IFACE_HTTP_ADDR: cannot serve /healthz, /readyz and /metrics: listen tcp 127.0.0.1:9469: bind: address already in use; set it to an address that is free, or empty to serve none")
	none := start(t, []string{"NATS_URL=" + s.URL, "IFACE_HOST=third", "IFACE_HTTP_ADDR="})
	none.Says("read the links of this host")
	if strings.Contains(none.Output(), "/metrics") {
		t.Errorf("it serves:\n%s", none.Output())
	}
}

// What is counted is what happened, under names that Prometheus's own linter likes.
func TestMetrics(t *testing.T) {
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	b := bridge(t, s, "IFACE_RESYNC=300ms", "IFACE_SPOOL_DIR="+t.TempDir())
	b.Ready()
	holds(t, s)
	a := upLink(t, k)
	must(t, k.Delete(a))
	holds(t, s)
	_, text := get(t, "/metrics")
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	must(t, err)
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	missing := func(line string) bool { return !strings.Contains(text, line) }
	lines := []string{
		`ifacebridge_events_total{action="existing",cause="snapshot",event="new"} 1`,
		`ifacebridge_events_total{action="created",cause="notification",event="new"} 2`,
		`ifacebridge_events_total{action="deleted",cause="notification",event="del"} 2`,
		"ifacebridge_links 1", "ifacebridge_ready 1", "ifacebridge_nats_connected 1", "ifacebridge_queue_limit_events 65536",
		"ifacebridge_netlink_overruns_total 0", "ifacebridge_standby 0", `ifacebridge_epochs_total{reason="start"} 1`, "ifacebridge_bucket_behind_keys 0", "ifacebridge_spool_events 0",
		`ifacebridge_publish_failures_total{reason="permission"} 0`, `ifacebridge_build_info{goversion="`,
	}
	defer func() {
		if t.Failed() {
			t.Logf("no lines %q in\n%s", slices.DeleteFunc(lines, func(line string) bool { return !missing(line) }), grep(text, "ifacebridge_"))
		}
	}()
	eventually(t, "what happened is counted", func() bool {
		_, text = get(t, "/metrics")
		return !slices.ContainsFunc(lines, missing)
	})
}

func grep(text, word string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.Contains(line, word) && !strings.HasPrefix(line, "#") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// expressions are the PromQL of the dashboard and of the alert rules.
func expressions(t *testing.T) (dashboard, alerts []string) {
	t.Helper()
	data, err := os.ReadFile("../deploy/grafana/ifacebridge.json")
	must(t, err)
	var d struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	must(t, json.Unmarshal(data, &d))
	for _, p := range d.Panels {
		if len(p.Targets) == 0 {
			t.Errorf("panel %q shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			dashboard = append(dashboard, strings.NewReplacer("$__rate_interval", "10s", "$instance", ".*").Replace(target.Expr))
		}
	}
	rules, err := os.ReadFile("../deploy/prometheus/alerts.yml")
	must(t, err)
	for _, m := range regexp.MustCompile(`(?m)^ +expr: (.*)$`).FindAllStringSubmatch(string(rules), -1) {
		alerts = append(alerts, m[1])
	}
	return dashboard, alerts
}

// A bridge that stands by is not ready, and wakes nobody: the other one publishes. Who is told
// of it is told that it stands by.
func TestAlertsOfAStandby(t *testing.T) {
	t.Parallel()
	promtool := netnstest.Tool(t, "promtool")
	rules, err := filepath.Abs("../deploy/prometheus/alerts.yml")
	must(t, err)
	file := filepath.Join(t.TempDir(), "test.yml")
	must(t, os.WriteFile(file, fmt.Appendf(nil, `rule_files: [%q]
tests:
  - interval: 1m
    input_series:
      - { series: 'ifacebridge_ready{instance="a"}', values: "0x20" }
      - { series: 'ifacebridge_standby{instance="a"}', values: "1x20" }
      - { series: 'ifacebridge_ready{instance="b"}', values: "0x20" }
      - { series: 'ifacebridge_standby{instance="b"}', values: "0x20" }
    promql_expr_test:
      - expr: ALERTS{alertstate="firing"}
        eval_time: 15m
        exp_samples:
          - labels: 'ALERTS{alertname="IfacebridgeNotReady",alertstate="firing",instance="b",severity="critical"}'
            value: 1
          - labels: 'ALERTS{alertname="IfacebridgeStandsBy",alertstate="firing",instance="a",severity="warning"}'
            value: 1
`, rules), 0o600))
	if out, err := exec.Command(promtool, "test", "rules", file).CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}

// A real Prometheus scrapes a real bridge: each query of the dashboard returns
// data, each alert is about metrics that exist, and none fires when all is well.
func TestDashboardAndAlerts(t *testing.T) {
	prometheus, promtool := netnstest.Tool(t, "prometheus"), netnstest.Tool(t, "promtool")
	if out, err := exec.Command(promtool, "check", "rules", "../deploy/prometheus/alerts.yml").CombinedOutput(); err != nil {
		t.Fatalf("promtool: %v\n%s", err, out)
	}
	k := netnstest.Parallel(t)
	s := natstest.Start(t, "")
	r := record(t, s)
	b := bridge(t, s, "IFACE_RESYNC=500ms", "IFACE_SPOOL_DIR="+t.TempDir())
	r.Snapshot()

	dir := t.TempDir()
	rules, err := filepath.Abs("../deploy/prometheus/alerts.yml")
	must(t, err)
	port := natstest.FreePort(t)
	must(t, os.WriteFile(filepath.Join(dir, "prometheus.yml"), fmt.Appendf(nil, `global: { scrape_interval: 1s, evaluation_interval: 1s }
rule_files: [%q]
scrape_configs: [{ job_name: network, static_configs: [{ targets: ["127.0.0.1:9469"] }] }]
`, rules), 0o600))
	startBinary(t, prometheus, nil, "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"),
		fmt.Sprintf("--web.listen-address=127.0.0.1:%d", port))
	client := netnstest.Where(t).HTTP()
	query := func(expr string) (results int, err error) {
		resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/api/v1/query?query=%s", port, url.QueryEscape(expr)))
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		var answer struct {
			Status, Error string
			Data          struct{ Result []json.RawMessage }
		}
		if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
			return 0, err
		}
		if answer.Status != "success" {
			return 0, fmt.Errorf("%s: %s", expr, answer.Error)
		}
		return len(answer.Data.Result), nil
	}
	a := upLink(t, k)
	dashboard, alerts := expressions(t)
	for _, expr := range dashboard {
		must(t, k.SetAlias(a, expr[:min(len(expr), 200)])) // so that there is a rate
		eventually(t, "data for "+expr, func() bool { n, err := query(expr); return err == nil && n > 0 })
	}
	r.Until(0, "an event", func(e *schema.Event) bool { return e.Changed.Has("ifalias") })
	_, text := get(t, "/metrics")
	for _, expr := range alerts {
		for _, name := range regexp.MustCompile(`ifacebridge_\w+`).FindAllString(expr, -1) {
			if !strings.Contains(text, "\n"+name) {
				t.Errorf("alert %s: there is no metric %s", expr, name)
			}
		}
		if strings.Contains(expr, "receive_buffer") { // small without CAP_NET_ADMIN of the first namespace
			continue
		}
		eventually(t, "all is well, and no alert "+expr, func() bool {
			n, err := query(expr)
			return err == nil && n == 0
		})
	}
	s.Kill()
	begins := func(with string) func(string) bool {
		return func(expr string) bool { return strings.HasPrefix(expr, with) }
	}
	not := slices.IndexFunc(alerts, begins("ifacebridge_ready == 0 "))
	eventually(t, "the alert when NATS is away", func() bool { n, err := query(alerts[not]); return err == nil && n == 1 })
	t.Logf("%d queries of the dashboard return data, %d alerts", len(dashboard), len(alerts))
	s.Start()
	eventually(t, "ready again", func() bool { n, err := query("ifacebridge_ready == 1"); return err == nil && n == 1 })
	b.Signal(unix.SIGKILL)
	down := slices.IndexFunc(alerts, begins("up == 0 "))
	eventually(t, "the alert when the bridge is gone", func() bool {
		n, err := query(alerts[down])
		return err == nil && n == 1
	})
}
