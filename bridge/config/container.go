package config

import (
	"iter"

	"ifacebridge/schema"
)

// ContainerAdvice is what to do about a bridge that is [InContainer].
const ContainerAdvice = "run it in the host's network: docker run --network host, network_mode: host, or " +
	"hostNetwork: true"

// InContainer reports whether the links of the bridge's own network namespace look like
// those that a container has for itself: nothing there is hardware, and at least one
// link has its other end in another namespace, as the eth0 that Docker makes.
func InContainer(links iter.Seq[*schema.Link]) bool {
	const loopback = 772 // ARPHRD_LOOPBACK
	outside := false
	for l := range links {
		if l.Info.Kind == "" && l.Type != loopback {
			return false
		}
		id, elsewhere := l.LowerNetnsID.Get()
		outside = outside || elsewhere && id >= 0 && l.LowerIndex != 0
	}
	return outside
}
