package doctor

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"ifacebridge/bridge/config"
	"ifacebridge/netlinksrc"
	"ifacebridge/schema"
)

// notificationBytes is about how much of the receive buffer a notification takes.
const notificationBytes = 2304

// checkKernel opens netlink as the bridge does, and reads the links.
func (e *examination) checkKernel(ctx context.Context) {
	src, err := netlinksrc.Open(netlinksrc.Config{ReadBuffer: e.cfg.ReadBuffer})
	if err != nil {
		e.fail("netlink", err.Error(), "the sandbox must allow sockets of the family AF_NETLINK")
		return
	}
	defer src.Close()
	var links []*schema.Link
	var leftOut []string
	_, err = src.Dump(ctx, func(m *netlinksrc.Message) {
		link := m.Link // the message is the source's
		links = append(links, &link)
		if !e.cfg.Filter.Publishes(&m.Link, "") {
			leftOut = append(leftOut, strconv.Quote(m.Link.Name))
		}
	})
	if err != nil {
		e.fail("netlink", err.Error(), "")
		return
	}
	e.good("netlink", "%d links, %d of them published", len(links), len(links)-len(leftOut))
	e.checkFilter(leftOut, len(links))
	if config.InContainer(slices.Values(links)) {
		e.warn("netlink", "only a container's own links are visible", config.ContainerAdvice)
	}
	wanted, granted := e.cfg.ReadBuffer, src.ReadBuffer()
	if granted >= wanted {
		e.good("receive buffer", "%d bytes, as asked for", granted)
		return
	}
	e.warn("receive buffer",
		fmt.Sprintf("%d bytes of the %d asked for, about %d notifications", granted, wanted, granted/notificationBytes),
		fmt.Sprintf("sysctl -w net.core.rmem_max=%d, or run with CAP_NET_ADMIN; a burst that does not fit is an overrun, "+
			"which the events tell and a comparison mends", wanted))
}

// checkFilter reports which links the filter leaves out.
func (e *examination) checkFilter(leftOut []string, of int) {
	const advice = "IFACE_INCLUDE and IFACE_EXCLUDE decide; ifacebridge config shows them"
	names := strings.Join(leftOut[:min(len(leftOut), 8)], ", ")
	if more := len(leftOut) - 8; more > 0 {
		names += fmt.Sprintf(" and %d more", more)
	}
	switch {
	case len(leftOut) == 0:
	case len(leftOut) == of:
		e.warn("filter", "it leaves out every link: "+names, advice)
	default:
		e.good("filter", "it leaves out %s; %s", names, advice)
	}
}

// checkNamespaces opens every selected namespace as the bridge does.
func (e *examination) checkNamespaces() {
	if e.cfg.Netns.OnlySelf() {
		return
	}
	finder, err := netlinksrc.NewFinder(e.cfg.Netns)
	if err != nil {
		e.fail("namespaces", err.Error(), "")
		return
	}
	defer finder.Close()
	found, missed := finder.Find()
	opened := 0
	for _, ns := range found {
		if ns.Own() {
			opened++
			continue
		}
		src, err := netlinksrc.OpenPath(ns.Path, ns.Inode, netlinksrc.Config{})
		if err != nil {
			missed = append(missed, netlinksrc.Missed{What: ns.Name, Err: err})
			continue
		}
		_ = src.Close()
		opened++
	}
	e.good("namespaces", "%d of %d can be watched", opened, len(found))
	for _, m := range missed {
		e.warn("namespaces", fmt.Sprintf("%s: %v", m.What, m.Err), config.NetnsAdvice(m.Err))
	}
}
