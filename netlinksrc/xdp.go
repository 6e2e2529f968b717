package netlinksrc

import (
	"golang.org/x/sys/unix"

	"ifacebridge/netlinksrc/internal/uapi"
)

// xdp decodes IFLA_XDP: which programs are attached, and how. Of a program ip shows more
// than its id where it may ask for it (bpf(2)); the kernel's message has the id alone.
func (d *Decoder) xdp(s *string, nest []byte) bool {
	mode, good := uint64(uapi.XDP_ATTACHED_NONE), true
	ok := attributes(nest, func(typ uint16, v []byte) {
		if typ == unix.IFLA_XDP_ATTACHED {
			mode, good = uintOf(v, 1)
		}
	})
	if mode != uapi.XDP_ATTACHED_NONE {
		*s = d.programs(mode, nest)
	}
	return ok && good
}

// programs is the JSON of what is attached.
func (d *Decoder) programs(mode uint64, nest []byte) string {
	var values [maxAttr][]byte
	collect(nest, &values)
	o := object{dst: append(d.scratch[:0], '{'), values: &values}
	o.number("mode", mode)
	if id, has := uintOf(values[unix.IFLA_XDP_PROG_ID], 4); has && id != 0 {
		o.program(id)
	}
	o.key("attached")
	o.dst = append(o.dst, '[')
	for _, a := range xdpAttached {
		id, has := uintOf(values[a.typ], 4)
		if !has {
			continue
		}
		if o.dst[len(o.dst)-1] != '[' {
			o.dst = append(o.dst, ',')
		}
		o.dst = append(o.dst, '{')
		o.number("mode", a.mode)
		o.program(id)
		o.dst = append(o.dst, '}')
	}
	o.dst = append(o.dst, ']', '}')
	d.scratch = o.dst
	return d.strings.of(o.dst)
}

var xdpAttached = []struct {
	typ  uint16
	mode uint64
}{
	{unix.IFLA_XDP_SKB_PROG_ID, uapi.XDP_ATTACHED_SKB},
	{unix.IFLA_XDP_DRV_PROG_ID, uapi.XDP_ATTACHED_DRV},
	{unix.IFLA_XDP_HW_PROG_ID, uapi.XDP_ATTACHED_HW},
}

func (o *object) program(id uint64) {
	o.key("prog")
	o.dst = append(o.dst, '{')
	o.number("id", id)
	o.dst = append(o.dst, '}')
}
