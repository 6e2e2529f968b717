package test

import (
	"flag"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ifacebridge/test/harness"
	"ifacebridge/test/natstest"
	"ifacebridge/test/netnstest"
	"ifacebridge/test/termsvg"
)

var update = flag.Bool("update", false, "make the picture of watch in docs/watch.svg anew")

const picture, pictureWidth = "../docs/watch.svg", 112

// The picture in the README is one of the real program on real links, and shows what it
// shows today: the same columns, hosts, links and states. How long ago things were, and how
// often, is of the moment. Made anew by
//
//	go test -run TestPictureOfWatch ./test -update
func TestPictureOfWatch(t *testing.T) {
	hosts := startHosts(t, 3)
	s := natstest.NewOn(t, "10.77.0.254", 4222, netnstest.Where(t).Enter, "")
	s.Start()
	env := []string{"NATS_URL=" + s.URL, "IFACE_HTTP_ADDR=", "IFACE_PRESENCE=1s"}
	binary := harness.Command(t)
	var bridges []*process
	for i, name := range []string{"web01.example.com", "web02.example.com", "db01.example.com"} {
		its := append(env, "IFACE_HOST="+name, "IFACE_LABELS=site=fra1")
		bridges = append(bridges, startWith(t, launch{On: hosts[i].k}, binary, its))
	}
	for _, b := range bridges {
		b.Says("read the links of this host") // what comes before is in the snapshot, and was not created
	}
	web01, web02 := hosts[0].k, hosts[1].k
	bridged(t, web01, "app0", "app1")
	hosts[1].run("ip", "link", "add", "vxlan7", "address", "02:00:00:00:00:07", "type", "vxlan", "id", "7",
		"dev", "eth0", "remote", "10.77.0.1", "dstport", "4789")
	vxlan, err := web02.Index("vxlan7")
	must(t, err)
	must(t, web02.SetUint32(vxlan, unix.IFLA_MTU, 1400))
	must(t, web02.Up(vxlan))

	m := startTerminal(t, pictureWidth, 24, []string{"TERM=xterm-256color", "NATS_URL=" + s.URL}, binary+" watch")
	m.shows("all links", "3 hosts  10 links", "vxlan7")
	bridges[2].Kill()
	m.shows("a silent host", "1 silent", "SILENT")
	m.keys("End")
	m.keys("Up")
	m.shows("what is to be seen",
		"app1@app0          UP",
		"app0@app1          UP",
		"br0                UP",
		"vxlan7             UNKNOWN")
	m.keys("Enter")
	m.shows("the link's last events", "ifindex", "created")
	if *update {
		shown := m.run("capture-pane", "-p", "-e")
		must(t, os.WriteFile(picture, termsvg.Draw("ifacebridge watch", shown, pictureWidth), 0o644))
	}
	drawn, err := os.ReadFile(picture)
	must(t, err)
	lines, err := termsvg.Text(drawn)
	must(t, err)
	var want, got []string
	defer func() {
		if t.Failed() {
			t.Errorf("docs/watch.svg shows\n%s\nand the screen\n%s\ngo test -run TestPictureOfWatch ./test -update",
				strings.Join(want, "\n"), strings.Join(got, "\n"))
		}
	}()
	want = lasting(lines)
	eventually(t, "the screen that the picture is of", func() bool {
		got = lasting(strings.Split(m.screen(), "\n"))
		return slices.Equal(got, want)
	})
	m.keys("C-c")
}

// lasting is what of a screen does not depend on the moment: not the columns of times and
// counts, nor which events a link has had last.
func lasting(lines []string) (list []string) {
	at := func(heading, title string) int { return len([]rune(heading[:max(0, strings.Index(heading, title))])) }
	for i, line := range lines {
		runes := []rune(line)
		if strings.HasPrefix(line, "───") {
			break
		}
		for _, titles := range [][2]string{{"SILENT", "LINK"}, {"CHANGED", "KIND"}} {
			for k := at(lines[1], titles[0]); i > 1 && k < at(lines[1], titles[1]) && k < len(runes); k++ {
				runes[k] = ' '
			}
		}
		list = append(list, strings.TrimRight(string(runes), " "))
	}
	return list
}
