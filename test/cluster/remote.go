package cluster

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// RemotePlace is a location that is no directory of a node, such as one on an
// SFTP server: lines are its keys in the policy. Its objects are looked at as
// files below dir; without one only commands can tell of them.
func (g *Group) RemotePlace(t testing.TB, name, dir string, lines ...string) *Place {
	t.Helper()
	p := &Place{Name: name, Dir: dir, Node: g.Main, g: g}
	p.Set(t, lines...)
	return p
}

// Secret gives every node a secret. It matters from the daemons' next start on.
func (g *Group) Secret(t testing.TB, name string, value []byte) {
	t.Helper()
	for _, n := range g.Nodes() {
		n.secret(t, name, value)
	}
}

// secret writes the file of a secret and names it in the node file.
func (n *Node) secret(t testing.TB, name string, value []byte) {
	t.Helper()
	file := name + ".secret"
	if err := os.WriteFile(filepath.Join(n.Dir, file), value, 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(n.Config()); err != nil || !strings.Contains(string(b), "\nsecrets:\n") {
		n.Edit(t, "\ntls:", "\nsecrets:\ntls:")
	}
	n.Edit(t, "\nsecrets:\n", "\nsecrets:\n  "+name+": {file: "+file+"}\n")
}
