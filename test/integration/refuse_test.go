package integration_test

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"understudy/shipper/link"
	"understudy/test/cluster"
	"understudy/test/pgtest"
)

// ends runs a subcommand that must end by itself, and returns its exit code
// and what it wrote to standard error.
func ends(t *testing.T, cmd *exec.Cmd) (code int, said string) {
	t.Helper()
	var out strings.Builder
	cmd.Stderr = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(15*time.Second, func() { cmd.Process.Signal(syscall.SIGINT) })
	kill := time.AfterFunc(25*time.Second, func() { cmd.Process.Kill() })
	defer kill.Stop()
	err := cmd.Wait()
	if !late.Stop() {
		t.Fatalf("it runs on: %s", out.String())
	}
	if err == nil {
		return 0, out.String()
	}
	return cmd.ProcessState.ExitCode(), out.String()
}

// sentence is the line with which the program ended.
func sentence(t *testing.T, said string) string {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(said), "\n")
	var own []string
	for _, l := range lines {
		if strings.HasPrefix(l, "understudy: ") {
			own = append(own, l)
		}
	}
	if len(own) != 1 || own[0] != lines[len(lines)-1] {
		t.Fatalf("want one sentence at the end, got:\n%s", said)
	}
	return own[0]
}

// picture is what is below a directory, apart from logs and from run_dir, which
// does not outlive the host.
func picture(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && path == filepath.Join(dir, "run") {
			return fs.SkipDir
		}
		if err != nil || strings.HasSuffix(path, ".log") {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		what := st.Mode().String()
		if st.Mode().IsRegular() {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			what += fmt.Sprintf(" %x", sha256.Sum256(b))
		}
		out[path] = what
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// unchanged compares two pictures.
func unchanged(t *testing.T, before, after map[string]string) {
	t.Helper()
	for _, p := range slices.Sorted(maps.Keys(after)) {
		if before[p] != after[p] {
			t.Errorf("changed or new: %s", p)
		}
	}
	for _, p := range slices.Sorted(maps.Keys(before)) {
		if _, ok := after[p]; !ok {
			t.Errorf("gone: %s", p)
		}
	}
}

// restore keeps a file as it is beyond a subtest.
func restore(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Error(err)
		}
		os.Chmod(path, 0o600)
	})
}

func taken(t *testing.T, port int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
}

// foreign makes the node's certificate one of a group that has the same names.
func foreign(t *testing.T, n *cluster.Node) {
	t.Helper()
	ca, key, err := link.NewCA("another")
	if err != nil {
		t.Fatal(err)
	}
	cert, nodeKey, err := link.Issue(ca, key, n.Name, []string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	for f, b := range map[string][]byte{"node.crt": cert, "node.key": nodeKey, "ca.crt": ca} {
		if err := os.WriteFile(filepath.Join(n.Dir, f), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRefuse_AtStart: what is wrong with a node file, its files or its ports
// ends the daemon with one sentence that names it, a documented exit code, and
// nothing changed on disk.
func TestRefuse_AtStart(t *testing.T) {
	t.Parallel()
	g := cluster.New(t, cluster.WithoutStart())
	for name, tt := range map[string]struct {
		node   *cluster.Node
		spoil  func(*testing.T, *cluster.Node)
		code   int
		naming []string
	}{
		"UnknownKey": {g.Witness, func(t *testing.T, n *cluster.Node) { n.Edit(t, "kind:", "colour: red\nkind:") },
			2, []string{"understudy.yaml:3", "colour"}},
		"ForcedParameter": {g.Main, func(t *testing.T, n *cluster.Node) { n.Edit(t, "  parameters:\n", "  parameters:\n    fsync: off\n") },
			2, []string{"understudy.yaml", "postgresql.parameters.fsync"}},
		"NoNodeFile": {g.Witness, func(t *testing.T, n *cluster.Node) { os.Remove(n.Config()) },
			2, []string{"understudy.yaml", "no such file"}},
		"PostgreSQLMissing": {g.Main, func(t *testing.T, n *cluster.Node) { n.Edit(t, "bin_dir: "+pgtest.BinDir(t), "bin_dir: "+t.TempDir()) },
			1, []string{"understudy.yaml", "postgresql.bin_dir"}},
		"NoSuchAccount": {g.Main, func(t *testing.T, n *cluster.Node) {
			n.Edit(t, "postgresql:\n", "postgresql:\n  account: nobodyhere\n")
		},
			1, []string{"understudy.yaml", "postgresql.account", "nobodyhere"}},
		"PortTaken": {g.Witness, func(t *testing.T, n *cluster.Node) { taken(t, n.LinkPort) },
			1, []string{"understudy.yaml", "listen", strconv.Itoa(g.Witness.LinkPort)}},
		"HTTPPortTaken": {g.Witness, func(t *testing.T, n *cluster.Node) { taken(t, n.HTTPPort) },
			1, []string{"http", strconv.Itoa(g.Witness.HTTPPort)}},
		"CertificateOfAnotherNode": {g.Witness, func(t *testing.T, n *cluster.Node) { n.Issue(t, cluster.Backup) },
			1, []string{"understudy.yaml", "tls.cert", `"backup"`, `"witness"`}},
		"KeyForEverybody": {g.Witness, func(t *testing.T, n *cluster.Node) { os.Chmod(filepath.Join(n.Dir, "node.key"), 0o644) },
			1, []string{"node.key", "0600"}},
		"CertificateIsGarbage": {g.Witness, func(t *testing.T, n *cluster.Node) {
			os.WriteFile(filepath.Join(n.Dir, "node.crt"), []byte("garbage"), 0o600)
		}, 1, []string{"node.crt", "PEM"}},
		"CertificateMissing": {g.Witness, func(t *testing.T, n *cluster.Node) { os.Remove(filepath.Join(n.Dir, "node.crt")) },
			1, []string{"node.crt"}},
		"CertificateOfAnotherGroup": {g.Main, func(t *testing.T, n *cluster.Node) { foreign(t, n) },
			1, []string{"tls.cert", "another"}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, f := range []string{"understudy.yaml", "node.crt", "node.key", "ca.crt"} {
				restore(t, filepath.Join(tt.node.Dir, f))
			}
			tt.spoil(t, tt.node)
			before := picture(t, tt.node.Dir)
			code, said := ends(t, tt.node.Command("run"))
			if code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			s := sentence(t, said)
			for _, part := range tt.naming {
				if !strings.Contains(s, part) {
					t.Errorf("%q does not say %q", s, part)
				}
			}
			unchanged(t, before, picture(t, tt.node.Dir))
		})
	}
}

// TestRefuse_Init: a group is founded once, on a data node, in an empty
// directory.
func TestRefuse_Init(t *testing.T) {
	t.Parallel()
	g := cluster.New(t, cluster.WithoutStart())
	for name, tt := range map[string]struct {
		node  *cluster.Node
		spoil func(*testing.T, *cluster.Node)
		code  int
		part  string
	}{
		"Twice":   {g.Main, nil, 4, "postgresql.data_dir"},
		"Witness": {g.Witness, nil, 4, "witness"},
		"ForeignDataDirectory": {g.Backup, func(t *testing.T, n *cluster.Node) {
			c := pgtest.Init(t)
			n.Edit(t, "data_dir: pgdata", "data_dir: "+c.Data)
		}, 4, "postgresql.data_dir"},
		"FilesInTheDataDirectory": {g.Backup, func(t *testing.T, n *cluster.Node) {
			d := filepath.Join(n.Dir, "other")
			if err := os.MkdirAll(d, 0o700); err != nil {
				t.Fatal(err)
			}
			os.WriteFile(filepath.Join(d, "notes.txt"), []byte("mine"), 0o600)
			n.Edit(t, "data_dir: pgdata", "data_dir: other")
		}, 4, "postgresql.data_dir"},
		"UnknownKey": {g.Backup, func(t *testing.T, n *cluster.Node) { n.Edit(t, "kind:", "colour: red\nkind:") }, 2, "colour"},
	} {
		t.Run(name, func(t *testing.T) {
			restore(t, tt.node.Config())
			if tt.spoil != nil {
				tt.spoil(t, tt.node)
			}
			before := picture(t, tt.node.Dir)
			code, said := ends(t, tt.node.Command("init"))
			if s := sentence(t, said); code != tt.code || !strings.Contains(s, tt.part) {
				t.Errorf("exit code %d: %s", code, s)
			}
			unchanged(t, before, picture(t, tt.node.Dir))
		})
	}
}

// TestRefuse_Commands: the commands' own exit codes, and that people can look
// them up.
func TestRefuse_Commands(t *testing.T) {
	t.Parallel()
	g := cluster.New(t, cluster.WithoutStart())
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "EXIT_CODES.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, code := range []int{0, 1, 2, 3, 4, 5, 150} {
		if !strings.Contains(string(doc), fmt.Sprintf("\n| %d | ", code)) {
			t.Errorf("exit code %d is not documented", code)
		}
	}
	for name, tt := range map[string]struct {
		args []string
		code int
		part string
	}{
		"StatusWithoutDaemon": {[]string{"status"}, 3, "admin.sock"},
		"CheckWithoutDaemon":  {[]string{"status", "--check"}, 3, "admin.sock"},
		"EventsWithoutDaemon": {[]string{"events"}, 3, "admin.sock"},
		"UnknownFlag":         {[]string{"run", "--colour"}, 2, "--colour"},
		"ArgumentTooMany":     {[]string{"run", "now"}, 2, "now"},
		"WALGetWithoutName":   {[]string{"wal-get"}, 150, "wal-get"},
	} {
		t.Run(name, func(t *testing.T) {
			before := picture(t, g.Witness.Dir)
			code, said := ends(t, g.Witness.Command(tt.args...))
			if s := sentence(t, said); code != tt.code || !strings.Contains(s, tt.part) {
				t.Errorf("exit code %d: %s", code, s)
			}
			unchanged(t, before, picture(t, g.Witness.Dir))
		})
	}
}

// complaint waits until the group says something of a node.
func complaint(t *testing.T, g *cluster.Group, node string, parts ...string) string {
	t.Helper()
	var text string
	g.WaitStatus(t, 20*time.Second, fmt.Sprintf("an incident of %s that says %q", node, parts), func(s cluster.Status) bool {
		for _, inc := range s.Incidents {
			all := inc.Node == node
			for _, p := range parts {
				all = all && strings.Contains(inc.Text, p)
			}
			if all {
				text = inc.Text
				return true
			}
		}
		return false
	})
	if strings.Contains(text, "\n") {
		t.Errorf("more than one line: %q", text)
	}
	return text
}

// noComplaint waits until none of a node's incidents stands.
func noComplaint(t *testing.T, g *cluster.Group, node string) {
	t.Helper()
	g.WaitStatus(t, 30*time.Second, "no incident of "+node, func(s cluster.Status) bool {
		return !slices.ContainsFunc(s.Incidents, func(i cluster.Incident) bool { return i.Node == node })
	})
}

// TestRefuse_InAGroup: what only shows against the group stops the one node,
// is said to everybody, leaves the data as it is, and commits go on.
func TestRefuse_InAGroup(t *testing.T) {
	t.Parallel()
	g := healthy(t)
	w := g.Writers(t, 2)
	data := func(t *testing.T, edit func(dir string)) {
		t.Helper()
		g.Backup.Interrupt(t)
		kept := g.Backup.DataDir() + ".kept"
		if err := os.Rename(g.Backup.DataDir(), kept); err != nil {
			t.Fatal(err)
		}
		edit(g.Backup.DataDir())
		t.Cleanup(func() {
			if g.Backup.Running() {
				g.Backup.Interrupt(t)
			}
			os.RemoveAll(g.Backup.DataDir())
			if err := os.Rename(kept, g.Backup.DataDir()); err != nil {
				t.Fatal(err)
			}
			g.Backup.Start(t)
			noComplaint(t, g, cluster.Backup)
			g.WaitHealthy(t)
		})
	}

	t.Run("ForeignDataDirectory", func(t *testing.T) {
		data(t, func(dir string) {
			c := pgtest.Init(t)
			if err := os.Rename(c.Data, dir); err != nil {
				t.Fatal(err)
			}
		})
		before := picture(t, g.Backup.DataDir())
		g.Backup.Start(t)
		complaint(t, g, cluster.Backup, "system identifier")
		w.WaitMore(t, 20, 20*time.Second)
		unchanged(t, before, picture(t, g.Backup.DataDir()))
	})

	t.Run("OtherMajorVersion", func(t *testing.T) {
		data(t, func(dir string) {
			c := pgtest.Init(t)
			if err := os.WriteFile(filepath.Join(c.Data, "PG_VERSION"), []byte("12\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(c.Data, dir); err != nil {
				t.Fatal(err)
			}
		})
		before := picture(t, g.Backup.DataDir())
		g.Backup.Start(t)
		complaint(t, g, cluster.Backup, "12")
		w.WaitMore(t, 20, 20*time.Second)
		unchanged(t, before, picture(t, g.Backup.DataDir()))
	})

	t.Run("PostgreSQLPortTaken", func(t *testing.T) {
		g.Backup.Interrupt(t)
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(g.Backup.Port))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		g.Backup.Start(t)
		complaint(t, g, cluster.Backup, strconv.Itoa(g.Backup.Port))
		w.WaitMore(t, 20, 20*time.Second)
		l.Close()
		noComplaint(t, g, cluster.Backup)
		g.WaitHealthy(t)
	})
	w.CheckNoneLost(t)
}

// A stranger's certificate opens nothing: a node of another group that has the
// right names reaches no one, and joins nothing.
func TestRefuse_NodeOfAnotherGroup(t *testing.T) {
	t.Parallel()
	g := cluster.New(t, cluster.WithoutStart())
	foreign(t, g.Witness)
	g.Start(t)
	g.Main.WaitStatus(t, 60*time.Second, "the backup votes", func(s cluster.Status) bool { return s.Of(cluster.Backup).WALVoter })
	st, err := g.Main.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(st.Nodes) != 2 {
		t.Errorf("members: %s", st)
	}
	if log := g.Witness.Log(); !strings.Contains(log, "another group") {
		t.Errorf("the stranger is not told why:\n%s", log)
	}
	if _, err := os.Stat(filepath.Join(g.Witness.StateDir(), "spool", "wal")); err == nil {
		entries, _ := os.ReadDir(filepath.Join(g.Witness.StateDir(), "spool", "wal"))
		if len(entries) > 0 {
			t.Error("the stranger received log")
		}
	}
}
