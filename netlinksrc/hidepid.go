package netlinksrc

import (
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// errHidden says that /proc does not list all processes: it leaves those out, without a
// word, that this process may not look at.
var errHidden = fmt.Errorf("/proc is mounted with hidepid, which leaves out the processes of other users: %w",
	fs.ErrPermission)

// hidesProcesses reports whether /proc is mounted so that this process does not see those
// of other users (proc(5), hidepid).
func hidesProcesses() bool {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false // as far as is known
	}
	hides, exempt := hidepid(string(mounts))
	groups, _ := unix.Getgroups() // cannot fail
	return hides && !mayTrace() && !slices.Contains(append(groups, unix.Getegid()), exempt)
}

// noGroup is the group of nobody.
const noGroup = -1

// hidepid returns what /proc's mount options say: whether processes are hidden, and the
// group from which they are not. Where only processes are shown that may be traced, the
// kernel exempts no group, whatever gid says (has_pid_permissions in fs/proc/base.c).
func hidepid(mountinfo string) (hides bool, exempt int) {
	for line := range strings.Lines(mountinfo) {
		mount, super, _ := strings.Cut(line, " - ")
		at, is := strings.Fields(mount), strings.Fields(super)
		if len(at) < 5 || at[4] != "/proc" || len(is) < 3 || is[0] != "proc" {
			continue
		}
		hides, exempt = false, 0 // the last mount there counts; without gid it is the group of root
		traceable := false
		for option := range strings.SplitSeq(is[2], ",") {
			switch name, value, _ := strings.Cut(option, "="); name {
			case "hidepid":
				traceable = value == "4" || value == "ptraceable"
				hides = traceable || value == "2" || value == "invisible"
			case "gid":
				exempt, _ = strconv.Atoi(value) // the kernel wrote it
			}
		}
		if traceable {
			exempt = noGroup
		}
	}
	return hides, exempt
}

// mayTrace reports whether this process may look at all others (CAP_SYS_PTRACE).
func mayTrace() bool {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	err := unix.Capget(&head, &sets[0])
	return err == nil && sets[0].Effective&(1<<unix.CAP_SYS_PTRACE) != 0
}
