package fleet

import (
	"slices"
	"testing"
	"time"
)

func TestOptionsAreChecked(t *testing.T) {
	for want, o := range map[string]Options{
		"Options.Join: unknown (got 7); accepted: FromStream, FromQuery, FromBucket":  {Join: 7},
		"Options.Join: unknown (got -1); accepted: FromStream, FromQuery, FromBucket": {Join: -1},
		"Options.Presence: too short (got -1ns); accepted: 100ms or more, 0 for 10s":  {Presence: -1},
		"Options.Presence: too short (got 5ns); accepted: 100ms or more, 0 for 10s":   {Presence: 5},
		"Options.Ago: in the future (got -1h0m0s); accepted: a duration such as 10m":  {Ago: -time.Hour},
		"Options.After: a place in a stream (got 5); accepted: with Join FromStream and without Since or Ago": {
			After: 5, Join: FromQuery},
	} {
		if _, err := New(nil, o); err == nil || err.Error() != want {
			t.Errorf("%+v: got %v, want %s", o, err, want)
		}
	}
	if _, err := New(nil, Options{Hosts: []string{""}}); err == nil {
		t.Error("a host without a name is followed")
	}
}

func TestHostsAreFollowedOnce(t *testing.T) {
	named := []string{"web02", "web01", "web02"}
	f, err := New(nil, Options{Hosts: named})
	if err != nil {
		t.Fatal(err)
	}
	if got := f.subjects(); !slices.Equal(got, []string{"iface.web01.*", "iface.web02.*"}) {
		t.Errorf("got %q", got)
	}
	if !slices.Equal(named, []string{"web02", "web01", "web02"}) {
		t.Errorf("the caller's list is %q", named)
	}
}
