package main

import (
	"fmt"
	"net"
)

// notify tells systemd (sd_notify(3)) a state such as READY=1; nothing happens
// where no service manager listens.
func notify(getenv func(string) string, state string) error {
	name := getenv("NOTIFY_SOCKET")
	if name == "" {
		return nil
	}
	// Go takes a name that begins with @ as one of the abstract namespace.
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify service manager: %w (unset NOTIFY_SOCKET)", err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("notify service manager: %w", err)
	}
	return nil
}
