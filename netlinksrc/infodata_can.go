package netlinksrc

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"ifacebridge/netlinksrc/internal/uapi"
)

// CAN controllers. Bit timings are irrelevant where the hardware has fixed bit rates, and
// not shown then.

var canInfo = []infoAttr{
	{unix.IFLA_CAN_CTRLMODE, canControlMode},
	{unix.IFLA_CAN_STATE, named(4, "state", canStates)},
	{unix.IFLA_CAN_RESTART_MS, number(4, "restart_ms")},
	{unix.IFLA_CAN_BITTIMING, canTiming("bittiming", unix.IFLA_CAN_BITRATE_CONST, nil)},
	{unix.IFLA_CAN_BITTIMING_CONST, canTimingLimits("bittiming_const", unix.IFLA_CAN_BITRATE_CONST, nil)},
	{unix.IFLA_CAN_BITRATE_CONST, canBitRates("", unix.IFLA_CAN_BITTIMING)},
	{unix.IFLA_CAN_DATA_BITTIMING, canTiming("data_bittiming", unix.IFLA_CAN_DATA_BITRATE_CONST, []canNest{{uapi.IFLA_CAN_TDC, "tdc", canDelay}})},
	{unix.IFLA_CAN_DATA_BITTIMING_CONST, canTimingLimits("data_bittiming_const", unix.IFLA_CAN_DATA_BITRATE_CONST,
		[]canNest{{uapi.IFLA_CAN_TDC, "tdc", canDelayLimits}})},
	{unix.IFLA_CAN_DATA_BITRATE_CONST, canBitRates("data_", unix.IFLA_CAN_DATA_BITTIMING)},
	{uapi.IFLA_CAN_XL_DATA_BITTIMING, canTiming("xl_data_bittiming", uapi.IFLA_CAN_XL_DATA_BITRATE_CONST,
		[]canNest{{uapi.IFLA_CAN_XL_TDC, "xtdc", canDelay}, {uapi.IFLA_CAN_XL_PWM, "pwm", canPulse}})},
	{uapi.IFLA_CAN_XL_DATA_BITTIMING_CONST, canTimingLimits("xl_data_bittiming_const", uapi.IFLA_CAN_XL_DATA_BITRATE_CONST,
		[]canNest{{uapi.IFLA_CAN_XL_TDC, "xtdc", canDelayLimits}, {uapi.IFLA_CAN_XL_PWM, "pwm", canPulseLimits}})},
	{uapi.IFLA_CAN_XL_DATA_BITRATE_CONST, canBitRates("xl_data_", uapi.IFLA_CAN_XL_DATA_BITTIMING)},
	{unix.IFLA_CAN_TERMINATION, canTermination},
	{unix.IFLA_CAN_CLOCK, number(4, "clock")},
}

var canStates = []string{
	unix.CAN_STATE_ERROR_ACTIVE:  "ERROR-ACTIVE",
	unix.CAN_STATE_ERROR_WARNING: "ERROR-WARNING",
	unix.CAN_STATE_ERROR_PASSIVE: "ERROR-PASSIVE",
	unix.CAN_STATE_BUS_OFF:       "BUS-OFF",
	unix.CAN_STATE_STOPPED:       "STOPPED",
	unix.CAN_STATE_SLEEPING:      "SLEEPING",
}

var canModes = []bit{
	{unix.CAN_CTRLMODE_LOOPBACK, "LOOPBACK"},
	{unix.CAN_CTRLMODE_LISTENONLY, "LISTEN-ONLY"},
	{unix.CAN_CTRLMODE_3_SAMPLES, "TRIPLE-SAMPLING"},
	{unix.CAN_CTRLMODE_ONE_SHOT, "ONE-SHOT"},
	{unix.CAN_CTRLMODE_BERR_REPORTING, "BERR-REPORTING"},
	{unix.CAN_CTRLMODE_FD, "FD"},
	{unix.CAN_CTRLMODE_FD_NON_ISO, "FD-NON-ISO"},
	{unix.CAN_CTRLMODE_PRESUME_ACK, "PRESUME-ACK"},
	{unix.CAN_CTRLMODE_CC_LEN8_DLC, "CC-LEN8-DLC"},
	{unix.CAN_CTRLMODE_TDC_AUTO, "TDC-AUTO"},
	{unix.CAN_CTRLMODE_TDC_MANUAL, "TDC-MANUAL"},
	{unix.CAN_CTRLMODE_RESTRICTED, "RESTRICTED"},
	{unix.CAN_CTRLMODE_XL, "XL"},
	{unix.CAN_CTRLMODE_XL_TDC_AUTO, "XL-TDC-AUTO"},
	{unix.CAN_CTRLMODE_XL_TDC_MANUAL, "XL-TDC-MANUAL"},
	{unix.CAN_CTRLMODE_XL_TMS, "TMS"},
}

// canControlMode is struct can_ctrlmode, a mask and flags, and what of it the hardware
// can do and always does; no empty list is shown.
func canControlMode(o *object, v []byte) bool {
	if len(v) != 8 {
		return false
	}
	list := func(name string, n uint64) {
		if n != 0 {
			bits(o, name, n, canModes)
		}
	}
	flags := uint64(binary.NativeEndian.Uint32(v[4:]))
	list("ctrlmode", flags)
	ext := o.values[uapi.IFLA_CAN_CTRLMODE_EXT]
	if ext == nil {
		return true
	}
	var values [maxAttr][]byte
	ok := collect(ext, &values)
	if supported, has := uintOf(values[uapi.IFLA_CAN_CTRLMODE_SUPPORTED], 4); has {
		list("ctrlmode_supported", supported)
		list("ctrlmode_static", flags&^supported)
	}
	return ok
}

// A canNest is a nest of attributes that ip shows within a bit timing, as an object.
type canNest struct {
	typ  uint16
	name string
	put  func(*object)
}

// putNests appends the nests that are there.
func putNests(o *object, values *[maxAttr][]byte, nests []canNest) bool {
	ok := true
	for _, n := range nests {
		nest := values[n.typ]
		if nest == nil {
			continue
		}
		var inner [maxAttr][]byte
		ok = collect(nest, &inner) && ok
		within := object{dst: []byte{'{'}, values: &inner}
		n.put(&within)
		if len(within.dst) > 1 {
			o.key(n.name)
			o.dst = append(append(o.dst, within.dst...), '}')
		}
	}
	return ok
}

// canTiming is struct can_bittiming.
func canTiming(name string, fixed uint16, nests []canNest) func(*object, []byte) bool {
	return func(o *object, v []byte) bool {
		if len(v) != 32 {
			return false
		}
		if o.values[fixed] != nil {
			return true
		}
		n := words(v)
		o.key(name)
		inner := object{dst: append(o.dst, '{'), values: o.values}
		inner.number("bitrate", n[0])
		inner.text("sample_point", fmt.Sprintf("%d.%03d", n[1]/1000, n[1]%1000))
		for i, key := range []string{"tq", "prop_seg", "phase_seg1", "phase_seg2", "sjw", "brp"} {
			inner.number(key, n[2+i])
		}
		ok := putNests(&inner, o.values, nests)
		o.dst = append(inner.dst, '}')
		return ok
	}
}

// canTimingLimits is struct can_bittiming_const.
func canTimingLimits(name string, fixed uint16, nests []canNest) func(*object, []byte) bool {
	return func(o *object, v []byte) bool {
		if len(v) != 48 {
			return false
		}
		if o.values[fixed] != nil {
			return true
		}
		n := words(v[16:])
		o.key(name)
		inner := object{dst: append(o.dst, '{'), values: o.values}
		inner.text("name", string(cString(v[:16])))
		inner.limits("tseg1", n[0], n[1])
		inner.limits("tseg2", n[2], n[3])
		inner.limits("sjw", 1, n[4])
		inner.limits("brp", n[5], n[6])
		inner.number("brp_inc", n[7])
		ok := putNests(&inner, o.values, nests)
		o.dst = append(inner.dst, '}')
		return ok
	}
}

func (o *object) limits(name string, low, high uint64) {
	o.key(name)
	o.dst = fmt.Appendf(o.dst, `{"min":%d,"max":%d}`, low, high)
}

// words are numbers of four bytes.
func words(v []byte) (n []uint64) {
	for ; len(v) >= 4; v = v[4:] {
		n = append(n, uint64(binary.NativeEndian.Uint32(v)))
	}
	return n
}

// canBitRates are the bit rates that the hardware can do, and which of them it does.
func canBitRates(prefix string, timing uint16) func(*object, []byte) bool {
	return func(o *object, v []byte) bool {
		rate := uint64(0)
		if t := o.values[timing]; len(t) == 32 {
			rate = words(t)[0]
		}
		o.number(prefix+"bittiming_bitrate", rate)
		o.numbers(prefix+"bitrate_const", words(v))
		return len(v)%4 == 0
	}
}

func (o *object) numbers(name string, list []uint64) {
	o.key(name)
	o.dst = append(o.dst, '[')
	for i, n := range list {
		if i > 0 {
			o.dst = append(o.dst, ',')
		}
		o.dst = fmt.Append(o.dst, n)
	}
	o.dst = append(o.dst, ']')
}

// canTermination is a resistor's ohms, and those that there can be.
func canTermination(o *object, v []byte) bool {
	choices := o.values[unix.IFLA_CAN_TERMINATION_CONST]
	if choices == nil || len(v) != 2 || len(choices)%2 != 0 {
		return len(v) == 2 && len(choices)%2 == 0
	}
	o.number("termination", uint64(binary.NativeEndian.Uint16(v)))
	var list []uint64
	for ; len(choices) > 0; choices = choices[2:] {
		list = append(list, uint64(binary.NativeEndian.Uint16(choices)))
	}
	o.numbers("termination_const", list)
	return true
}

// canDelay is how the transmitter's delay is compensated, canPulse how pulses are modulated.
func canDelay(o *object) {
	o.has(uapi.IFLA_CAN_TDC_TDCV, number(4, "tdcv"))
	o.has(uapi.IFLA_CAN_TDC_TDCO, number(4, "tdco"))
	o.has(uapi.IFLA_CAN_TDC_TDCF, number(4, "tdcf"))
}

func canPulse(o *object) {
	o.has(uapi.IFLA_CAN_PWM_PWMS, number(4, "pwms"))
	o.has(uapi.IFLA_CAN_PWM_PWML, number(4, "pwml"))
	o.has(uapi.IFLA_CAN_PWM_PWMO, number(4, "pwmo"))
}

func canDelayLimits(o *object) {
	o.range32("tdcv", uapi.IFLA_CAN_TDC_TDCV_MIN, uapi.IFLA_CAN_TDC_TDCV_MAX)
	o.range32("tdco", uapi.IFLA_CAN_TDC_TDCO_MIN, uapi.IFLA_CAN_TDC_TDCO_MAX)
	o.range32("tdcf", uapi.IFLA_CAN_TDC_TDCF_MIN, uapi.IFLA_CAN_TDC_TDCF_MAX)
}

func canPulseLimits(o *object) {
	o.range32("pwms", uapi.IFLA_CAN_PWM_PWMS_MIN, uapi.IFLA_CAN_PWM_PWMS_MAX)
	o.range32("pwml", uapi.IFLA_CAN_PWM_PWML_MIN, uapi.IFLA_CAN_PWM_PWML_MAX)
	o.range32("pwmo", uapi.IFLA_CAN_PWM_PWMO_MIN, uapi.IFLA_CAN_PWM_PWMO_MAX)
}

// range32 writes two attributes as limits, when both are there.
func (o *object) range32(name string, low, high uint16) {
	from, hasLow := uintOf(o.values[low], 4)
	to, hasHigh := uintOf(o.values[high], 4)
	if hasLow && hasHigh {
		o.limits(name, from, to)
	}
}
