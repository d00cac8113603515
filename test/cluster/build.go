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
	once sync.Once
	dir  string
	err  error
}

var built program

// RunTests is for TestMain: it runs the tests and removes the binary that they
// built. UNDERSTUDY_TEST_RACE=1 builds the daemon with the race detector.
func RunTests(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// Binary is the path of the daemon's binary, which every account may execute.
func Binary(t testing.TB) string {
	t.Helper()
	built.once.Do(func() { built.dir, built.err = build() })
	if built.err != nil {
		t.Fatal(built.err)
	}
	return filepath.Join(built.dir, "understudy")
}

func build() (string, error) {
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
	args := []string{"build", "-o", filepath.Join(dir, "understudy")}
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
