package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/reprieve-dev/reprieve/isolate/evidence"
)

func (a *app) evidenceCommand() *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:   "evidence",
		Short: "List, show, export and verify what was taken of failed workloads",
		Long: `List, show, export and verify evidence. These commands read the store directly:
they work when the agent is dead.`,
		Example: "  reprieve evidence ls\n  reprieve evidence export ID --file incident.tar.zst",
		Args:    unknownCommand,
		RunE:    func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.PersistentFlags().StringVar(&dir, "store", "", "`directory` of the store (default: evidence, below the configuration's agent.state)")
	open := func() (*evidence.Store, error) { return a.openStore(dir) }
	c.AddCommand(a.evidenceList(open), a.evidenceShow(open), a.evidenceExport(open), a.evidenceVerify(open))
	return c
}

// evidenceDir is the store below the state directory.
func evidenceDir(state string) string { return filepath.Join(state, "evidence") }

// openStore opens the store without making one, and without limits: reading
// removes nothing.
func (a *app) openStore(dir string) (*evidence.Store, error) {
	if dir == "" {
		config, err := a.config()
		if err != nil {
			return nil, err
		}
		dir = evidenceDir(config.Agent.State)
	}
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("open evidence store: %w (name it with --store; an agent makes it when it starts)", err)
	}
	return evidence.Open(dir, evidence.Limits{})
}

// opener opens the store that the flags name.
type opener func() (*evidence.Store, error)

func (a *app) evidenceList(open opener) *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Short:   "List all bundles, the oldest first",
		Example: "  reprieve evidence ls\n  reprieve evidence ls --store /mnt/disk/evidence -o json",
		Args:    exactly(0, "no argument"),
		RunE: func(*cobra.Command, []string) error {
			store, err := open()
			if err != nil {
				return err
			}
			bundles, err := store.List()
			if err != nil {
				return err
			}
			if a.asJSON() {
				return a.printJSON(map[string]any{"bundles": append([]evidence.Bundle{}, bundles...)})
			}
			var rows [][]string
			for _, b := range bundles {
				rows = append(rows, bundleRow(b))
			}
			return printTable(a.out, []string{"ID", "WORKLOAD", "FAULT", "TAKEN", "SIZE", "FILES", "STATE"}, rows)
		},
	}
}

func bundleRow(b evidence.Bundle) []string {
	ref := "-"
	if b.Workload.ID != "" {
		ref = b.Workload.String()
	}
	return []string{b.ID, ref, or(string(b.Kind), "-"), b.Taken.Local().Format(time.DateTime), bytesText(b.Bytes), fmt.Sprint(b.Files), bundleState(b)}
}

func bundleState(b evidence.Bundle) string {
	var words []string
	if b.Sealed {
		words = append(words, "sealed")
	} else {
		words = append(words, "unsealed")
	}
	if b.Partial {
		words = append(words, "partial: "+b.Why)
	}
	if b.Examining != "" {
		words = append(words, "examined by "+b.Examining)
	}
	return strings.Join(words, ", ")
}

func (a *app) evidenceExport(open opener) *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "export ID",
		Short: "Write a bundle as one .tar.zst file",
		Long: `Write a bundle as one .tar.zst file, readable by its owner alone. Unpacked,
"sha256sum -c SHA256SUMS" and "reprieve evidence verify DIRECTORY" check it.`,
		Example: "  reprieve evidence export ID\n  reprieve evidence export ID --file - | ssh lab 'cat > incident.tar.zst'",
		Args:    exactly(1, "one bundle's id"),
		RunE: func(_ *cobra.Command, args []string) error {
			store, err := open()
			if err != nil {
				return err
			}
			if file == "-" {
				return store.Export(args[0], a.out)
			}
			return a.exportFile(store, args[0], or(file, args[0]+".tar.zst"))
		},
	}
	c.Flags().StringVarP(&file, "file", "f", "", "`file` to write, or - for stdout (default: ID.tar.zst)")
	return c
}

// exportFile builds the file beside its name and renames it: a half-written
// archive is never taken for a whole one.
func (a *app) exportFile(store *evidence.Store, id, name string) error {
	if _, err := store.Dir(id); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(name), ".export-*")
	if err != nil {
		return fmt.Errorf("export %s: %w (name a file with --file)", id, err)
	}
	defer os.Remove(tmp.Name())
	err = errors.Join(store.Export(id, tmp), tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), name)
	}
	if err != nil {
		return err
	}
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	if a.asJSON() {
		return a.printJSON(map[string]any{"id": id, "file": name, "bytes": info.Size()})
	}
	_, err = fmt.Fprintf(a.out, "%s: %s\n", name, bytesText(info.Size()))
	return err
}

func (a *app) evidenceVerify(open opener) *cobra.Command {
	return &cobra.Command{
		Use:   "verify ID|DIRECTORY",
		Short: "Compare a bundle with its seal",
		Long: `Compare a bundle of the store, or an unpacked one (an argument with a slash in
it), with its seal. It fails for any changed, missing or added file. Who can
write the bundle can seal it anew: compare the head with the one in the
incident's journal.`,
		Example: "  reprieve evidence verify ID\n  reprieve evidence verify ./ID -o json",
		Args:    exactly(1, "one bundle's id or directory"),
		RunE: func(_ *cobra.Command, args []string) error {
			report, err := verify(open, args[0])
			if err != nil && !errors.Is(err, evidence.ErrBroken) {
				return err
			}
			return errors.Join(err, a.printReport(report))
		},
	}
}

func verify(open opener, name string) (evidence.Report, error) {
	if strings.ContainsRune(name, '/') {
		return evidence.VerifyDir(filepath.Clean(name))
	}
	store, err := open()
	if err != nil {
		return evidence.Report{}, err
	}
	return store.Verify(name)
}

func (a *app) printReport(r evidence.Report) error {
	if a.asJSON() {
		return a.printJSON(r)
	}
	rows := [][]string{{"bundle", r.ID}, {"files", fmt.Sprint(r.Files)}, {"head", r.Head}}
	for word, paths := range map[string][]string{"changed": r.Changed, "missing": r.Missing, "added": r.Added} {
		for _, path := range paths {
			rows = append(rows, []string{word, path})
		}
	}
	return printTable(a.out, nil, rows)
}
