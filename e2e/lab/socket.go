package lab

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// receiveBuffer holds what arrives while its reader is not scheduled, in
// bytes: a reader that comes late must not look like a loss.
const receiveBuffer = 32 << 20

// enlarge gives a socket the receive buffer. In a user namespace of our own it
// gets as much of that as the machine lets anyone have.
func enlarge(fd int) error {
	err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer)
	if errors.Is(err, unix.EPERM) {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	}
	if err != nil {
		return fmt.Errorf("enlarge the receive buffer: %w", err)
	}
	return nil
}
