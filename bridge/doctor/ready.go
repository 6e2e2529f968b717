package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"
)

// AskReady asks the bridge that serves an address, written as IFACE_HTTP_ADDR is, whether it is
// ready, and returns why it is not; nothing when it is. The error is that it does not answer
// within 5 s, or that what answers is no bridge.
func AskReady(ctx context.Context, address string) (reasons []string, err error) {
	host, port, _ := net.SplitHostPort(address) // was checked
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+"/readyz", nil)
	if err != nil {
		return nil, err
	}
	client := http.Client{
		Transport: &http.Transport{DisableKeepAlives: true}, // and no proxy: it is this host that is asked
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse // no bridge's
		},
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode == http.StatusOK:
		return nil, nil
	case resp.StatusCode != http.StatusServiceUnavailable:
		return nil, fmt.Errorf("it is no bridge that answers: %s", resp.Status)
	}
	return strings.Split(strings.TrimSpace(string(body)), "\n"), nil
}

// checkBridge has the bridge that runs on this host, if one does, tell itself whether it is
// ready. It is the last check: where another has failed, that is the reason, and this one does
// not count; where none has, it is what only the bridge can know.
func (e *examination) checkBridge(ctx context.Context) {
	if e.cfg.HTTPAddr == "" {
		return
	}
	reasons, err := AskReady(ctx, e.cfg.HTTPAddr)
	text := fmt.Sprintf("the one that serves %s ", e.cfg.HTTPAddr)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return // none runs, or it serves none
	case err != nil:
		text += "does not answer: " + err.Error()
	case len(reasons) > 0:
		text += "is not ready: " + strings.Join(reasons, "; ")
	default:
		e.good("bridge", "%s", text+"is ready")
		return
	}
	if e.failed {
		e.warn("bridge", text, "")
	} else {
		e.fail("bridge", text, "its log tells since when; where it has other settings than this, give doctor the same")
	}
}
