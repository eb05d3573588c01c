package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the linker (-X main.version=v1.2.3) and by nothing else;
// without it the module's version is told.
var version string

// build is what "reprieve version" tells.
type build struct {
	Version  string `json:"version"`
	Commit   string `json:"commit,omitempty"`
	Modified bool   `json:"modified,omitempty"` // the tree differed from the commit
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func thisBuild() build {
	b := build{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	b.Version = or(b.Version, info.Main.Version)
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

func (b build) String() string {
	text := "reprieve " + or(b.Version, "(devel)")
	if b.Commit != "" {
		text += " " + b.Commit[:min(len(b.Commit), 12)]
	}
	if b.Modified {
		text += " modified"
	}
	return fmt.Sprintf("%s (%s, %s)", text, b.Go, b.Platform)
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version of this program",
		Example: "  reprieve version\n  reprieve version -o json",
		Args:    exactly(0, "no argument"),
		RunE: func(*cobra.Command, []string) error {
			b := thisBuild()
			if a.asJSON() {
				return a.printJSON(b)
			}
			_, err := fmt.Fprintln(a.out, b)
			return err
		},
	}
}
