// Package wire is what every protocol between nodes needs below its own words: a frame, and the loop that serves
// connections. It knows no protocol. What a frame contains, and who may say it, is for those who use it.
//
// # Frames
//
// A frame is a length, four bytes, big endian, and as many bytes of payload. Write and Read are told how long one may be.
// A longer one is an error that says how long it is, before anything of it is written, or of its payload read. What is read
// grows with what arrives: a length costs nothing until its bytes are there. The bytes are those that every version of the
// daemon writes; a test holds them here, and one in each package that uses them.
//
// # Serving
//
// A Server accepts connections until its context ends, and has a handler see to each. Its one law is that Run returns when
// nothing of it goes on any more: it closes the connections that handlers are busy with, and waits for the handlers. An
// error of Accept is believed to pass (a machine may be out of file descriptors for a while): the loop waits, longer each
// time, and never past its context. Only a listener that was closed ends it before.
//
// A handler owns its connection: it closes it, or hands it on to somebody who does. Servers of HTTP do not need this
// package: net/http's does all of it.
package wire
