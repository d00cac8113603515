package node_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"understudy/cmd/internal/adopt"
	"understudy/cmd/internal/node"
	"understudy/configs"
	"understudy/shipper/link"
	"understudy/test/pgtest"
)

// adopter is a node file beside a stopped database.
func adopter(t *testing.T) (*configs.Node, *pgtest.Cluster) {
	t.Helper()
	c, dir := pgtest.Init(t), pgtest.Dir(t)
	ca, key, err := link.NewCA("adopters")
	if err != nil {
		t.Fatal(err)
	}
	cert, nodeKey, err := link.Issue(ca, key, "main", []string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	for f, b := range map[string][]byte{"node.crt": cert, "node.key": nodeKey, "ca.crt": ca} {
		if err := os.WriteFile(filepath.Join(dir, f), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text := fmt.Sprintf("name: main\ngroup: shop\nstate_dir: state\nrun_dir: run\nlisten: 127.0.0.1:%d\nhttp: off\ntls: {cert: node.crt, key: node.key, ca: ca.crt}\n"+
		"postgresql:\n  bin_dir: %s\n  data_dir: %s\n  port: %d\n  listen: [127.0.0.1]\n", pgtest.FreePort(t), c.Bin, c.Data, c.Port)
	cfg, err := configs.Parse(filepath.Join(dir, "understudy.yaml"), []byte(text), configs.Host{Root: os.Geteuid() == 0, Name: "main", RuntimeDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return cfg, c
}

var errCut = errors.New("cut off")

// TestAdopt_InterruptedAnywhere: after each step the daemon does not run, the
// same command goes on, and in the end the group is founded once.
func TestAdopt_InterruptedAnywhere(t *testing.T) {
	cfg, _ := adopter(t)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	log := slog.New(slog.DiscardHandler)
	for _, at := range []string{"noted", "founding", "prepared", "founded", ""} {
		p, err := node.Adoption(ctx, cfg, adopt.Options{}, log)
		if err != nil {
			t.Fatalf("before %q: %v", at, err)
		}
		err = node.AdoptBy(ctx, cfg, p, log, func(step string) error {
			if step == at {
				return errCut
			}
			return nil
		})
		if at == "" {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		if !errors.Is(err, errCut) {
			t.Fatalf("at %q: %v", at, err)
		}
		if _, err := node.Open(ctx, cfg, node.Options{Version: "test", Binary: "/bin/false", Log: log}); err == nil || !strings.Contains(err.Error(), "init --adopt was interrupted") {
			t.Errorf("a daemon after %q: %v", at, err)
		}
	}
	if _, err := node.Adoption(ctx, cfg, adopt.Options{}, log); !errors.Is(err, node.ErrFounded) {
		t.Errorf("once more: %v", err)
	}
	n, err := node.Open(ctx, cfg, node.Options{Version: "test", Binary: "/bin/false", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	n.Close()
}

// TestAdopt_AnotherDatabaseMeanwhile: what was begun with one is not ended with
// another.
func TestAdopt_AnotherDatabaseMeanwhile(t *testing.T) {
	cfg, c := adopter(t)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	log := slog.New(slog.DiscardHandler)
	p, err := node.Adoption(ctx, cfg, adopt.Options{}, log)
	if err != nil {
		t.Fatal(err)
	}
	if err := node.AdoptBy(ctx, cfg, p, log, func(string) error { return errCut }); !errors.Is(err, errCut) {
		t.Fatal(err)
	}
	other := pgtest.Init(t)
	if err := errors.Join(os.RemoveAll(c.Data), os.Rename(other.Data, c.Data)); err != nil {
		t.Fatal(err)
	}
	if _, err := node.Adoption(ctx, cfg, adopt.Options{}, log); !errors.Is(err, adopt.ErrRefused) || !strings.Contains(err.Error(), "was interrupted here") {
		t.Errorf("got %v", err)
	}
}
