package group

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"understudy/shipper/link"
	"understudy/test/bench/internal/pg"
)

// tlsOffset is the playground's base port to main's port between the nodes.
const tlsOffset = 21

// make makes the files of a group, with WAL segments of the size that the
// tools ask for, and founds it. The program has no setting for that size; its
// initdb is one that adds the option.
func (g *Group) make(ctx context.Context, t *pg.Tools) error {
	bin := t.Bin
	if t.SegMiB != 0 {
		var err error
		if bin, err = wrapInitDB(g.Dir, t); err != nil {
			return err
		}
	}
	caCert, caKey, err := link.NewCA("bench-" + filepath.Base(filepath.Dir(g.Dir)))
	if err != nil {
		return err
	}
	for i, n := range Nodes {
		if err := g.makeNode(i, n, bin, caCert, caKey); err != nil {
			return err
		}
	}
	out, err := exec.CommandContext(ctx, g.program, "init", "--config", g.config(Data[0])).CombinedOutput()
	if err != nil {
		return errors.Join(fmt.Errorf("found the group: %w: %s", err, strings.TrimSpace(string(out))), os.Remove(g.config(Data[0])))
	}
	return nil
}

// wrapInitDB makes a directory with all of PostgreSQL's binaries in which
// initdb is a script.
func wrapInitDB(dir string, t *pg.Tools) (string, error) {
	bin := filepath.Join(dir, "pgbin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return "", err
	}
	tools, err := os.ReadDir(t.Bin)
	if err != nil {
		return "", err
	}
	for _, e := range tools {
		if e.Name() == "initdb" {
			continue
		}
		if err := os.Symlink(filepath.Join(t.Bin, e.Name()), filepath.Join(bin, e.Name())); err != nil {
			return "", err
		}
	}
	script := fmt.Sprintf("#!/bin/sh\nexec '%s' --wal-segsize=%d \"$@\"\n", filepath.Join(t.Bin, "initdb"), t.SegMiB)
	return bin, os.WriteFile(filepath.Join(bin, "initdb"), []byte(script), 0o755)
}

// makeNode writes one node's files, as the demo command does.
func (g *Group) makeNode(i int, name, bin string, caCert, caKey []byte) error {
	dir := filepath.Join(g.Dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	cert, key, err := link.Issue(caCert, caKey, name, []string{g.ip(name)})
	if err != nil {
		return err
	}
	for f, b := range map[string][]byte{"node.crt": cert, "node.key": key, "ca.crt": caCert} {
		if err := os.WriteFile(filepath.Join(dir, f), b, 0o600); err != nil {
			return err
		}
	}
	kind := "data"
	if name == Nodes[2] {
		kind = "witness"
	}
	var y strings.Builder
	fmt.Fprintf(&y, "name: %s\ngroup: bench\nkind: %s\nstate_dir: state\nrun_dir: run\n", name, kind)
	fmt.Fprintf(&y, "listen: %[1]s:%[2]d\nhttp: %[1]s:%[3]d\npeers:\n", g.ip(name), g.Port+tlsOffset+i, g.Port+httpOffset+i)
	for j, other := range Nodes {
		if j != i {
			fmt.Fprintf(&y, "  - {name: %s, address: \"%s:%d\"}\n", other, g.ip(other), g.Port+tlsOffset+j)
		}
	}
	y.WriteString("tls: {cert: node.crt, key: node.key, ca: ca.crt}\n")
	if kind == "data" {
		fmt.Fprintf(&y, "postgresql:\n  bin_dir: %s\n  data_dir: pgdata\n  port: %d\n  listen: [%s]\n", bin, g.Port+1+i, g.ip(name))
		y.WriteString("  hba:\n    - host all all samenet trust\n  parameters: {max_connections: \"100\", allow_in_place_tablespaces: \"on\"}\n")
	}
	return os.WriteFile(g.config(name), []byte(y.String()), 0o644)
}
