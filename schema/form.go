package schema

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

// AllKeys is every key of a link.
const AllKeys FieldSet = 1<<len(fields) - 1

// AppendValues appends the JSON that l has under each key of s, in the order of the
// keys: what [Form.Diff] and [Encoder.AppendChange] take. A key that l does not have
// takes part with no JSON.
func (l *Link) AppendValues(dst []byte, s FieldSet) []byte {
	for ; s != 0; s &= s - 1 {
		f := &fields[bits.TrailingZeros64(uint64(s))]
		at := len(dst)
		dst = append(dst, 0, 0, 0, 0)
		if f.has(l) {
			dst = f.append(dst, l)
		}
		binary.NativeEndian.PutUint32(dst[at:], uint32(len(dst)-at-sizeLen))
	}
	return dst
}

// sizeLen is how many bytes in front of each value hold its size.
const sizeLen = 4

// cutValue splits off the first of some values, with its size.
func cutValue(values []byte) (first, rest []byte) {
	n := sizeLen + binary.NativeEndian.Uint32(values)
	return values[:n], values[n:]
}

// MergeValues appends the values of the keys of a and b together. Those of b are
// later: where both have a key, they count.
func MergeValues(dst []byte, a FieldSet, ofA []byte, b FieldSet, ofB []byte) []byte {
	var value []byte
	for s := a | b; s != 0; s &= s - 1 {
		key := s & -s
		if a&key != 0 {
			value, ofA = cutValue(ofA)
		}
		if b&key != 0 {
			value, ofB = cutValue(ofB)
		}
		dst = append(dst, value...)
	}
	return dst
}

// A Form is the JSON of a link as its last event had it, kept so that the next event
// costs only what has changed since. The zero value is that of a link without a key,
// of which no event has told. It is not safe for concurrent use.
type Form struct {
	json []byte             // the keys that the link has, each behind a comma
	ends [len(fields)]int32 // where each key ends in it; an absent one ends where it begins
}

// Reset forgets what the last event had.
func (f *Form) Reset() { f.json, f.ends = f.json[:0], [len(fields)]int32{} }

// value returns the JSON under a key, empty when the link does not have it.
func (f *Form) value(i int) []byte {
	begin, end := int32(0), f.ends[i]
	if i > 0 {
		begin = f.ends[i-1]
	}
	if begin == end {
		return nil
	}
	return f.json[int(begin)+len(fields[i].key) : end]
}

// Diff returns the keys of s of which the values differ from the form's, in the
// sense of [Diff]: without the names that stand beside indexes.
func (f *Form) Diff(s FieldSet, values []byte) (changed FieldSet) {
	var value []byte
	for ; s != 0; s &= s - 1 {
		i := bits.TrailingZeros64(uint64(s))
		value, values = cutValue(values)
		if fields[i].beside || bytes.Equal(value[sizeLen:], f.value(i)) {
			continue
		}
		changed |= 1 << i
		if fields[i].bytesOf { // texts that differ only there look the same
			changed |= 1 << (i - 1)
		}
	}
	return changed
}

// splice gives the keys of s these values, and appends all keys, each behind a comma.
func (f *Form) splice(dst []byte, s FieldSet, values []byte) []byte {
	start := len(dst)
	var value []byte
	from, shift := int32(0), int32(0) // of json, what is to be copied next; how far later keys have moved
	next := 0                         // the first key that has not been moved
	for ; s != 0; s &= s - 1 {
		i := bits.TrailingZeros64(uint64(s))
		f.move(next, i, shift)
		begin := int32(0)
		if i > 0 {
			begin = f.ends[i-1] - shift
		}
		value, values = cutValue(values)
		dst = append(dst, f.json[from:begin]...)
		if len(value) > sizeLen {
			dst = append(append(dst, fields[i].key...), value[sizeLen:]...)
		}
		from = f.ends[i]
		f.ends[i] = int32(len(dst) - start)
		shift, next = f.ends[i]-from, i+1
	}
	f.move(next, len(fields), shift)
	dst = append(dst, f.json[from:]...)
	f.json = append(f.json[:0], dst[start:]...)
	return dst
}

// forget takes these keys out.
func (f *Form) forget(keys FieldSet) {
	f.splice(nil, keys, new(Link).AppendValues(nil, keys))
}

// move shifts the ends of some keys.
func (f *Form) move(from, to int, shift int32) {
	if shift == 0 {
		return
	}
	for i := from; i < to; i++ {
		f.ends[i] += shift
	}
}

// Set makes the form that of a link.
func (f *Form) Set(l *Link) {
	f.Reset()
	for i := range fields {
		if field := &fields[i]; field.has(l) {
			f.json = field.append(append(f.json, field.key...), l)
		}
		f.ends[i] = int32(len(f.json))
	}
}
