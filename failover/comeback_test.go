package failover

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

// A daemon that is started again on a node that was coming back knows at once
// that its spool, not its directory, holds what it acknowledged.
func TestNewAgent_KnowsTheRoadBack(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "comeback.json"), []byte(`{"spool":true}`), 0o600); err != nil {
		t.Fatal(err)
	}
	a := NewAgent(AgentConfig{Name: "a", StateDir: dir, Log: slog.New(slog.DiscardHandler)})
	if !a.spoolOnly.Load() {
		t.Error("a restarted node's agent does not know that only its spool counts")
	}
	if why := a.Returning(); why != "" {
		t.Errorf("it takes no stream: %s", why)
	}
}
