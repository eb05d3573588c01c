package suite

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/reprieve-dev/reprieve/vmtest"
)

// sourceRoot is where the module's tree appears in the guest: each package's test runs in its own folder there, with
// its testdata, as go test does it.
const sourceRoot = "/src"

// testPackage is one compiled test.
type testPackage struct {
	path    string // import path
	dir     string // working directory in the guest
	program string // path in the guest
	files   []vmtest.File
}

// listed is what go list says of a package.
type listed struct {
	ImportPath, Dir           string
	TestGoFiles, XTestGoFiles []string
	Module                    struct{ Dir string }
}

func (o Options) buildBins(ctx context.Context, dir string) ([]vmtest.File, error) {
	var files []vmtest.File
	for _, bin := range o.Bins {
		pkg := bin.Host
		if !strings.HasPrefix(pkg, ".") && isDir(pkg) {
			pkg = "./" + pkg
		}
		path := filepath.Join(dir, "bin", flat(bin.Guest))
		if err := o.goTool(ctx, "build", "-o", path, pkg); err != nil {
			return nil, fmt.Errorf("build %s: %w", bin.Host, err)
		}
		files = append(files, vmtest.File{Host: path, Guest: bin.Guest})
	}
	return files, nil
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func (o Options) buildTests(ctx context.Context, dir string) ([]testPackage, error) {
	packages, err := o.list(ctx)
	if err != nil {
		return nil, err
	}
	var tests []testPackage
	for _, p := range packages {
		if len(p.TestGoFiles)+len(p.XTestGoFiles) == 0 {
			continue
		}
		t, err := o.buildTest(ctx, dir, p)
		if err != nil {
			return nil, err
		}
		tests = append(tests, t)
	}
	if len(tests) == 0 {
		return nil, ErrNoTests
	}
	return tests, nil
}

func (o Options) buildTest(ctx context.Context, dir string, p listed) (testPackage, error) {
	relative, err := filepath.Rel(p.Module.Dir, p.Dir)
	if err != nil {
		return testPackage{}, fmt.Errorf("place %s: %w", p.ImportPath, err)
	}
	name := filepath.Base(p.ImportPath) + ".test"
	t := testPackage{path: p.ImportPath, dir: filepath.Join(sourceRoot, relative)}
	t.program = filepath.Join(t.dir, name)
	host := filepath.Join(dir, "test", flat(p.ImportPath))
	args := []string{"-c", "-o", host}
	if o.CoverPkg != "" {
		args = append(args, "-cover", "-coverpkg="+o.CoverPkg)
	}
	if err := o.goTool(ctx, "test", append(args, p.ImportPath)...); err != nil {
		return testPackage{}, fmt.Errorf("compile tests of %s: %w", p.ImportPath, err)
	}
	t.files = []vmtest.File{{Host: host, Guest: t.program}}
	for _, sub := range []string{"testdata", "go.mod"} {
		if _, err := os.Stat(filepath.Join(p.Dir, sub)); err == nil {
			t.files = append(t.files, vmtest.File{Host: filepath.Join(p.Dir, sub), Guest: filepath.Join(t.dir, sub)})
		}
	}
	return t, nil
}

func (o Options) list(ctx context.Context) ([]listed, error) {
	args := []string{"list", "-json=ImportPath,Dir,TestGoFiles,XTestGoFiles,Module", "-tags=" + o.Tags, "--"}
	cmd := exec.CommandContext(ctx, "go", append(args, o.Packages...)...)
	cmd.Env = goEnvironment()
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list packages: %w: %s", err, said.Bytes())
	}
	var packages []listed
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		err := decoder.Decode(&p)
		if errors.Is(err, io.EOF) {
			return packages, nil
		}
		if err != nil {
			return nil, fmt.Errorf("parse package list: %w", err)
		}
		packages = append(packages, p)
	}
}

// goTool runs the go command for the guest: static programs, this machine's architecture.
func (o Options) goTool(ctx context.Context, verb string, args ...string) error {
	args = append([]string{verb, "-tags=" + o.Tags}, args...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = goEnvironment()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", verb, err, out)
	}
	return nil
}

func goEnvironment() []string {
	if _, ok := os.LookupEnv("CGO_ENABLED"); ok {
		return os.Environ()
	}
	return append(os.Environ(), "CGO_ENABLED=0")
}

// command runs one test program as go test would, always verbosely: the transcript is what is counted.
func (o Options) command(t testPackage) vmtest.Command {
	args := []string{t.program, "-test.paniconexit0", "-test.v=true", "-test.count=1", "-test.timeout=" + o.Timeout.String()}
	if o.Run != "" {
		args = append(args, "-test.run="+o.Run)
	}
	if o.Short {
		args = append(args, "-test.short")
	}
	if o.CoverPkg != "" {
		args = append(args, "-test.coverprofile=/out/"+flat(t.path)+".cover")
	}
	return vmtest.Command{Name: t.path, Args: args, Env: o.environment(), Dir: t.dir, Timeout: o.Timeout + o.Timeout/4}
}
