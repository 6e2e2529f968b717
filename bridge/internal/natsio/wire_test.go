package natsio

import (
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// A write of nats.go's that waited for one of ours ends in time all the same, when the
// network takes nothing more: nats.go holds its lock meanwhile.
func TestWritesEnd(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	w := &Wire{Conn: c}
	const size = 64 << 20 // more than the kernel holds
	sent, written := make(chan error, 1), make(chan error, 1)
	go func() { sent <- w.Send(make([]byte, size)) }()
	if _, err := peer.Read(make([]byte, 1)); err != nil { // so ours is under way
		t.Fatal(err)
	}
	began := time.Now()
	go func() { // as nats.go does it
		_ = w.SetWriteDeadline(time.Now().Add(writeTimeout))
		_, err := w.Write(make([]byte, size))
		_ = w.SetWriteDeadline(time.Time{})
		written <- err
	}()
	time.Sleep(writeTimeout / 10) // it waits for its turn, most likely
	buf := make([]byte, 1<<20)
	for n := 1; n < size; { // the peer takes ours, and then nothing more
		m, err := peer.Read(buf[:min(len(buf), size-n)])
		if err != nil {
			t.Log("ours took too long on this machine:", err)
			break
		}
		n += m
	}
	<-sent
	select {
	case err := <-written:
		if err == nil {
			t.Error("the kernel holds all of it: nothing was tried")
		}
		t.Logf("%v after %v", err, time.Since(began).Round(time.Millisecond))
	case <-time.After(20 * writeTimeout):
		t.Error("it has not ended")
	}
}

// A peer that reads slowly is none that reads nothing: what takes longer than a piece may, all
// together, goes out.
func TestSlowWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := net.Pipe()
		defer peer.Close()
		w := &Wire{Conn: c}
		const size = 20*writePiece + 1
		sent := make(chan error, 1)
		go func() { sent <- w.Send(make([]byte, size)) }()
		buf := make([]byte, writePiece)
		for n := 0; n < size; {
			time.Sleep(writeTimeout / 2)
			m, err := peer.Read(buf)
			if err != nil {
				t.Fatalf("after %d of %d bytes: %v", n, size, err)
			}
			n += m
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}
	})
}
