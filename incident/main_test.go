package incident

import (
	"fmt"
	"os"
	"testing"

	"github.com/reprieve-dev/reprieve/loader"
)

// TestMain lends the binary to the roles that tests need other processes for.
func TestMain(m *testing.M) {
	switch {
	case os.Getenv(handVariable) != "":
		hand(os.Args[1:])
	case os.Getenv(agentVariable) != "":
		runAgent(os.Args[1:])
	}
	code := m.Run()
	if err := loader.Remove(testPins()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}
