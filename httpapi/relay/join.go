package relay

import (
	"io"
	"net"
	"time"
)

// duplex is a connection whose directions end one by one.
type duplex interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// undivided is a connection that can only end as a whole.
type undivided struct{ net.Conn }

func (u undivided) CloseWrite() error { return u.Close() }

// lingers is how long a client may take to hang up after the last that it will hear. Until then what it says is read, since
// a connection closed over unread bytes is reset, and takes with it what the client has not read yet.
const lingers = 5 * time.Second

// join carries bytes both ways until the far end has said all and the client has hung up, and closes both. Each direction ends
// by itself: a far end that does not listen any more may still speak, and a client that has nothing more to say may still
// listen. One that broke off, or cannot be written to, is gone.
func join(near duplex, said io.Reader, far duplex) {
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		_, err := io.Copy(far, said)
		if err != nil {
			_, err = io.Copy(io.Discard, said)
		}
		if err != nil || far.CloseWrite() != nil {
			_ = far.Close()
		}
	}()
	if _, err := io.Copy(near, far); err == nil && near.CloseWrite() == nil {
		timer := time.NewTimer(lingers)
		defer timer.Stop()
		select {
		case <-heard:
		case <-timer.C:
		}
	}
	_ = near.Close()
	_ = far.Close()
	<-heard
}
