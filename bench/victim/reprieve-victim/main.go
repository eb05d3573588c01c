// Command reprieve-victim is what the benchmarks do things to; see package victim.
package main

import (
	"fmt"
	"os"

	"github.com/reprieve-dev/reprieve/bench/victim"
)

func main() {
	if err := victim.Main(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "reprieve-victim:", err)
		os.Exit(1)
	}
}
