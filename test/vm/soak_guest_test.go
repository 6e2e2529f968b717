package vm

import (
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"ifacebridge/netlinksrc"
	"ifacebridge/schema"
)

// soak is how long the guest's links are changed, and how long a bond is left broken.
const soak = time.Minute

// For a minute links of many kinds change all the time, and beside them there is a bond of
// which the ARP target does not answer. In the end what is published is what the kernel has;
// what it says of the broken bond again and again is not published again and again.
func TestGuestSoak(t *testing.T) {
	guest(t)
	clean(t)
	modprobe(t, "dummy numdummies=0", "bonding max_bonds=0", "mac80211_hwsim radios=2")
	setUp(t, `netns add red
link add x0 type veth peer name y0
link add x1 type veth peer name y1
link set y0 up
link set y1 up
link add c-base type dummy
link set c-base up
link add broken type bond mode active-backup arp_interval 100 arp_ip_target 192.0.2.9 arp_validate all
link set x0 master broken
link set x1 master broken
link set broken up
address add 192.0.2.8/24 dev broken`)
	k, b := listen(t), startBridge(t, "IFACE_RESYNC=2s", "IFACE_NETNS=self,red")
	wireless(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	began, rounds, heard := time.Now(), 0, k.count()
	n := b.count()
	for ; time.Since(began) < soak; rounds++ {
		churn(random)
		wander(random)
	}
	said := k.about(heard, "broken", "x0", "x1")
	events := 0
	for _, a := range b.since(n) {
		if e := &a.event; e.Netns == "" && slices.Contains([]string{"broken", "x0", "x1"}, e.Link.Name) {
			if events++; events > 10 {
				continue
			}
			t.Logf("%s %v %s, was %s", e.Link.Name, e.Changed.Names(), e.Link.Info.SlaveData, e.Previous.Info.SlaveData)
		}
	}
	t.Logf("%d rounds in %v: the kernel sent %d notifications, %d events came; "+
		"of the broken bond and its slaves %d and %d",
		rounds, time.Since(began).Round(time.Second), k.count()-heard, b.count()-n, said, events)
	if events >= 10 {
		t.Errorf("%d events of a bond that is broken", events)
	}
	values, links, diffs := b.compare(30 * time.Second)
	t.Logf("%d values of %d links compared, %d differ", values, links, len(diffs))
	for _, d := range diffs {
		t.Error(d)
	}
	b.follow(t)
}

// stories are what happens to links, each in its order. Some of the lines are for the
// namespace red, after those before them.
var stories = [][]string{
	{"link add c-dummy type dummy", "link set c-dummy up", "link set c-dummy mtu 1400", "link set c-dummy down",
		"link set c-dummy address 02:00:00:00:00:01", "link del c-dummy"},
	{"link add c-moving type dummy", "link set c-moving up", "link set c-moving netns red",
		"red link set c-moving up", "red link set c-moving name c-elsewhere", "red link set c-elsewhere netns 1",
		"red link del c-elsewhere"},
	{"link del c-elsewhere"},
	{"link add c-bond type bond mode active-backup miimon 50", "link add c-s1 type dummy", "link add c-s2 type dummy",
		"link set c-s1 master c-bond", "link set c-s2 master c-bond", "link set c-bond up",
		"link set c-bond type bond active_slave c-s2", "link set c-s2 down", "link set c-s2 up", "link set c-s1 nomaster",
		"link del c-bond", "link del c-s1", "link del c-s2"},
	{"link add c-under type dummy", "link set c-under up", "link add c-vlan link c-under type vlan id 5",
		"link set c-vlan up", "link set c-vlan mtu 1400", "link add c-vrf type vrf table 7", "link set c-vrf up",
		"link set c-vlan master c-vrf", "link set c-vlan nomaster", "link del c-vrf", "link del c-under"},
	{"link add c-bridge type bridge stp_state 1 forward_delay 200", "link set c-bridge up",
		"link add c-port type veth peer name c-far", "link set c-port master c-bridge", "link set c-port up",
		"link set c-far up", "link set c-port type bridge_slave cost 9 hairpin on",
		"link set c-bridge type bridge vlan_filtering 1", "link set c-far down", "link set c-far up",
		"link set c-port type bridge_slave cost 19 isolated on", "link set c-port nomaster",
		"link del c-port", "link del c-bridge"},
	{"link add c-team type team", "link add c-mate type dummy", "link set c-mate master c-team", "link set c-team up",
		"link set c-mate up", "link set c-mate nomaster", "link del c-team", "link del c-mate"},
	{"link add c-macvlan link c-base type macvlan mode bridge", "link set c-macvlan up", "link set c-macvlan protodown on",
		"link set c-macvlan protodown off", "link del c-macvlan"},
	{"link add c-wg type wireguard", "link set c-wg up", "link set c-wg mtu 1300", "link del c-wg"},
	{"link add c-vxlan type vxlan id 77 remote 192.0.2.3 dstport 4789 dev c-base", "link set c-vxlan up",
		"link set c-vxlan type vxlan id 77 remote 192.0.2.4", "link del c-vxlan"},
	{"link add c-veth type veth peer name c-peer", "link set c-veth up", "link set c-peer up", "link set c-peer mtu 1300",
		"link set c-veth alias busy", "link property add dev c-veth altname c-veth-by-another-name",
		"link property del dev c-veth altname c-veth-by-another-name", "link set c-veth down",
		"link set c-veth name c-renamed", "link set c-renamed up", "link set c-peer netns red",
		"red link set c-peer up", "red link set c-peer down", "link del c-renamed"},
	{"netns add c-space", "link add c-in type veth peer name c-out netns c-space", "link set c-in up",
		"netns del c-space"},
	{"red link add r-dummy type dummy", "red link set r-dummy up", "red link del r-dummy"},
	{"link set wlan0 down", "link set wlan0 name c-wlan", "link set c-wlan name wlan0", "link set wlan0 up"},
}

// churn does what happens in some stories, in any order, a line of ten left out.
func churn(random *rand.Rand) {
	var here, red strings.Builder
	do := func() {
		_, _ = script(here.String()) // what cannot be done at the moment is not done
		_, _ = script(red.String(), "-n", "red")
		here.Reset()
		red.Reset()
	}
	for _, story := range random.Perm(len(stories)) {
		for _, line := range stories[story] {
			if random.IntN(10) == 0 {
				continue
			}
			inside, isRed := strings.CutPrefix(line, "red ")
			switch {
			case isRed:
				red.WriteString(inside + "\n")
			case red.Len() > 0:
				do()
				fallthrough
			default:
				here.WriteString(line + "\n")
			}
		}
	}
	do()
}

// wireless says whether there are radios.
func wireless(t *testing.T) {
	t.Helper()
	if out, err := exec.Command("iw", "dev").CombinedOutput(); err != nil || !strings.Contains(string(out), "wlan0") {
		t.Errorf("there is no wlan0: %v\n%s", err, out)
	}
}

// wander has radios be something else, meet, and part.
func wander(random *rand.Rand) {
	ways := []string{
		"link set wlan0 down; iw dev wlan0 set type ibss; link set wlan0 up; iw dev wlan0 ibss join here 2412",
		"link set wlan1 down; iw dev wlan1 set type ibss; link set wlan1 up; iw dev wlan1 ibss join here 2412",
		"iw dev wlan0 ibss leave; iw dev wlan1 ibss leave",
		"link set wlan1 down; iw dev wlan1 set type monitor; link set wlan1 up",
		"link set wlan0 down; iw dev wlan0 set type managed; iw dev wlan0 interface add c-mesh type mp",
		"link set c-mesh up; iw dev c-mesh mesh join net; iw dev c-mesh del",
	}
	for line := range strings.SplitSeq(ways[random.IntN(len(ways))], "; ") {
		words := strings.Fields(line)
		if words[0] == "link" {
			words = append([]string{"ip"}, words...)
		}
		_ = exec.Command(words[0], words[1:]...).Run() // one that cannot be done now is not done
	}
}

// follow holds the links of the other namespace to what ip says there.
func (b *bridge) follow(t *testing.T) {
	t.Helper()
	within(t, 30*time.Second, "the links of the other namespace", func() bool {
		out, err := exec.Command("ip", "-n", "red", "-br", "link", "show").Output()
		must(t, err)
		there := map[string]bool{}
		for line := range strings.Lines(string(out)) {
			name, _, _ := strings.Cut(strings.Fields(line)[0], "@")
			there[name] = true
		}
		published := map[int32]string{}
		for _, a := range b.since(0) {
			switch e := &a.event; {
			case e.Netns != "red":
			case e.Kind == schema.New:
				published[e.Link.Index] = e.Link.Name
			default:
				delete(published, e.Link.Index)
			}
		}
		for _, name := range published {
			if !there[name] {
				return false
			}
			delete(there, name)
		}
		return len(there) == 0
	})
}

func (k *kernel) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.heard)
}

// about returns how many notifications after n others name one of these links.
func (k *kernel) about(n int, names ...string) (count int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range k.heard[n:] {
		m := &k.heard[n+i]
		for _, name := range names {
			if m.Kind == netlinksrc.New && m.Link.Name == name {
				count++
			}
		}
	}
	return count
}
