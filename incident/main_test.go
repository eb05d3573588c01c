package incident

import (
	"os"
	"testing"
)

// TestMain lends the binary to the roles that tests need other processes for.
func TestMain(m *testing.M) {
	switch {
	case os.Getenv(handVariable) != "":
		hand(os.Args[1:])
	case os.Getenv(agentVariable) != "":
		runAgent(os.Args[1:])
	}
	os.Exit(m.Run())
}
