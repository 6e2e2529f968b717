package vm

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sys/unix"

	"ifacebridge/test/harness"
)

// An order is something to do in a machine, once, however often it comes.
type order struct{ ID, Command string }

// TestDriven runs in the machines of TestMachine, and does what that asks of it.
func TestDriven(t *testing.T) {
	url := os.Getenv("IFACE_VM_NATS")
	if url == "" {
		t.Skip("runs in the machine that TestMachine boots")
	}
	nc, err := nats.Connect(url, nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond),
		nats.PingInterval(time.Second), nats.MaxPingsOutstanding(5))
	must(t, err)
	over := make(chan struct{})
	var once sync.Once
	answers := map[string]*nats.Msg{}
	_, err = nc.Subscribe("machines", func(m *nats.Msg) {
		var o order
		must(t, json.Unmarshal(m.Data, &o))
		answer := answers[o.ID]
		if answer == nil {
			out, err := obey(o.Command)
			answer = nats.NewMsg("")
			if answer.Data = out; err != nil {
				answer.Header.Set("Error", err.Error())
			}
			answers[o.ID] = answer
		}
		id, _ := nc.GetClientID() // of this machine, not of one that goes on from the same memory
		answer.Header.Set("Connection", fmt.Sprint(id))
		answer.Subject = m.Reply
		_ = nc.PublishMsg(answer) // it is asked again
		if o.Command == "poweroff" {
			_ = nc.FlushTimeout(harness.Patience)
			once.Do(func() { close(over) })
		}
	})
	must(t, err)
	<-over
}

// obey does what a command says, and returns what it writes.
func obey(command string) ([]byte, error) {
	words := strings.Fields(command)
	switch words[0] {
	case "ip":
		return exec.Command("ip", words[1:]...).CombinedOutput()
	case "bridge": // with these variables
		return nil, driveBridge(words[1:])
	case "kill": // the bridge that was begun last
		_ = driven.Process.Kill()
		_ = driven.Wait()
		return nil, nil
	case "log":
		return os.ReadFile(bridgeLog)
	case "get":
		return get(words[1])
	case "clock": // set it by so much, and tell it
		by, err := time.ParseDuration(words[1])
		if err == nil && by != 0 {
			to := unix.NsecToTimespec(time.Now().Add(by).UnixNano())
			err = unix.ClockSettime(unix.CLOCK_REALTIME, &to)
		}
		return []byte(time.Now().Format(time.RFC3339Nano)), err
	case "watch": // for what is to be seen
		return watchFor(words[1], words[2], words[3:])
	case "hidden":
		return hidden(words[1:])
	case "poweroff":
		return nil, nil
	}
	return nil, fmt.Errorf("no command %q", words[0])
}

const bridgeLog = "/tmp/bridge.log"

var driven *exec.Cmd // the bridge that was begun last

func driveBridge(env []string) error {
	log, err := os.Create(bridgeLog)
	if err != nil {
		return err
	}
	cmd := exec.Command("ifacebridge")
	cmd.Env = append([]string{"HOME=/tmp/home", "PATH=/bin"}, env...)
	both := io.MultiWriter(log, os.Stdout) // the console, which is shown when the test fails
	cmd.Stdout, cmd.Stderr = both, both
	driven = cmd
	return cmd.Start()
}

// hidden mounts /proc so that others' processes are not listed, and returns what doctor says to
// a user who is nobody special.
func hidden(env []string) ([]byte, error) {
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_REMOUNT, "hidepid=2"); err != nil {
		return nil, err
	}
	cmd := exec.Command("ifacebridge", "doctor")
	cmd.Env = append([]string{"HOME=/tmp/home", "PATH=/bin"}, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
	out, _ := cmd.CombinedOutput() // its status tells of more than this
	return out, nil
}

// watchFor returns what ifacebridge watch prints until that has what is looked for, or for as
// long as that may take.
func watchFor(wanted, server string, args []string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ifacebridge", append([]string{"watch", "--json"}, args...)...)
	cmd.Env = []string{"HOME=/tmp/home", "PATH=/bin", "NATS_URL=" + server}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	var seen []byte
	for lines := bufio.NewScanner(out); !bytes.Contains(seen, []byte(wanted)) && lines.Scan(); {
		seen = append(append(seen, lines.Bytes()...), '\n')
	}
	cancel()
	_ = cmd.Wait() // it is ended
	return seen, nil
}

// get asks the bridge over HTTP.
func get(path string) ([]byte, error) {
	resp, err := http.Get("http://127.0.0.1:9469" + path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}
