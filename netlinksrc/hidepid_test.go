package netlinksrc

import "testing"

// What /proc's mount options say of hidden processes.
func TestHidepid(t *testing.T) {
	const before = "22 28 0:21 / /sys rw,nosuid - sysfs sysfs rw\n"
	for _, tt := range []struct {
		mounts string
		hides  bool
		exempt int
	}{
		{before + "23 28 0:22 / /proc rw,nosuid,nodev,noexec,relatime shared:14 - proc proc rw\n", false, 0},
		{before + "23 28 0:22 / /proc rw,relatime - proc proc rw,hidepid=invisible\n", true, 0},
		{before + "23 28 0:22 / /proc rw,relatime - proc proc rw,gid=27,hidepid=2\n", true, 27},
		{before + "23 28 0:22 / /proc rw,relatime - proc proc rw,hidepid=ptraceable\n", true, noGroup},
		{before + "23 28 0:22 / /proc rw,relatime - proc proc rw,hidepid=4,gid=27\n", true, noGroup},
		{"23 28 0:22 / /proc rw,relatime - proc proc rw,hidepid=noaccess\n", false, 0}, // they are listed
		{"23 28 0:22 / /proc rw - proc proc rw,hidepid=2\n24 23 0:23 / /proc rw - proc proc rw\n", false, 0},
		{"23 28 0:22 / /proc/sys rw - proc proc rw,hidepid=2\n", false, 0},
		{"odd", false, 0},
	} {
		if hides, exempt := hidepid(tt.mounts); hides != tt.hides || exempt != tt.exempt {
			t.Errorf("%q: got %v, group %d", tt.mounts, hides, exempt)
		}
	}
}
