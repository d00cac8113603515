package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
)

// program is the daemon's binary, built once per test process.
type program struct {
	tags string
	once sync.Once
	dir  string
	err  error
}

// built is the program as it is shipped, faulty the one that can be interrupted
// at the steps of a change of role.
var built, faulty = program{}, program{tags: "faultpoints"}

// RunTests is for TestMain: it runs the tests and removes the binary that they
// built. UNDERSTUDY_TEST_RACE=1 builds the daemon with the race detector. The
// PostgreSQL of UNDERSTUDY_PG_BINDIR is found by commands that look for one.
func RunTests(m *testing.M) {
	if d := os.Getenv("UNDERSTUDY_PG_BINDIR"); d != "" {
		os.Setenv("PATH", d+string(os.PathListSeparator)+os.Getenv("PATH"))
	}
	code := m.Run()
	for _, p := range []*program{&built, &faulty} {
		if p.dir != "" {
			os.RemoveAll(p.dir)
		}
	}
	os.Exit(code)
}

// Binary is the path of the daemon's binary, which every account may execute.
func Binary(t testing.TB) string {
	t.Helper()
	return built.path(t)
}

func (p *program) path(t testing.TB) string {
	t.Helper()
	p.once.Do(func() { p.dir, p.err = build(p.tags) })
	if p.err != nil {
		t.Fatal(p.err)
	}
	return filepath.Join(p.dir, "understudy")
}

func build(tags string) (string, error) {
	_, self, _, ok := runtime.Caller(0)
	if !ok {
		return "", fmt.Errorf("the sources of the daemon are not known")
	}
	dir, err := os.MkdirTemp("", "usbin")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // user postgres runs wal-get
		return dir, err
	}
	args := []string{"build", "-tags", tags, "-o", filepath.Join(dir, "understudy")}
	env := append(os.Environ(), "CGO_ENABLED=0")
	if os.Getenv("UNDERSTUDY_TEST_RACE") != "" {
		args, env = append(args, "-race"), append(os.Environ(), "CGO_ENABLED=1")
	}
	cmd := exec.Command("go", append(args, "./cmd/understudy")...)
	cmd.Dir, cmd.Env = filepath.Join(filepath.Dir(self), "..", ".."), env
	if out, err := cmd.CombinedOutput(); err != nil {
		return dir, fmt.Errorf("build the daemon: %w\n%s", err, out)
	}
	return dir, nil
}
