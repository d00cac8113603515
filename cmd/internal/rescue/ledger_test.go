package rescue_test

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"understudy/cmd/internal/cli"
	"understudy/cmd/internal/doc"
	"understudy/ledger/facts"
	"understudy/test/pgtest"
)

// daemon answers on a node's socket as one with a ledger does.
type daemon struct {
	t     *testing.T
	state facts.State
}

func (d *daemon) apply(c facts.Command) {
	d.t.Helper()
	next, out := facts.Apply(d.state, c)
	if out.Code != "" {
		d.t.Fatalf("%s: %s", out.Code, out.Refused)
	}
	d.state = next
}

func (d *daemon) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/api/v1/ledger":
		b, err := facts.Export(d.state)
		if err != nil {
			d.t.Error(err)
		}
		_, _ = w.Write(b)
	case "/api/v1/do/rebuild":
		var args map[string]string
		var c facts.RebuildCatalog
		if err := json.NewDecoder(r.Body).Decode(&args); err != nil {
			d.t.Error(err)
		}
		if err := json.Unmarshal([]byte(args["scan"]), &c.Scan); err != nil || args["location"] != "disk" {
			d.t.Errorf("%v: %v", args["location"], err)
		}
		d.apply(facts.Command{RebuildCatalog: &c})
		_ = json.NewEncoder(w).Encode(doc.Mark{Action: "rebuild", Changed: true, Sentence: "The catalog was completed."})
	default:
		http.NotFound(w, r)
	}
}

// ledger adds what the location holds to a ledger that knows nothing of it, and
// restores with that ledger's word: while the daemon runs, and when it is down.
func (o *origin) ledger(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "understudy.yaml")
	if err := os.WriteFile(config, []byte("name: main\ngroup: shop\nkind: witness\nstate_dir: state\nrun_dir: .\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := &daemon{t: t}
	l := facts.DefaultLocation()
	l.Kind, l.Node, l.Path = facts.LocationLocal, "main", o.dir
	d.apply(facts.Command{Found: &facts.Found{
		Group:  facts.Group{ID: "g", Name: group, LedgerID: "l", SystemID: o.sysid, PGMajor: pgtest.Major(t), SegSize: segSize},
		Member: facts.Member{Name: "main", Store: "A", Kind: facts.KindData}, Policy: facts.DefaultPolicy().WithLocation("disk", l),
	}})
	listener, err := net.Listen("unix", filepath.Join(dir, "admin.sock"))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: d}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(listener) }()
	stop := func() { _ = srv.Close(); <-done }
	defer stop()

	to := target(t)
	if text := command(t, cli.ExitRefused, "restore", "--config", config, "--to", to, "--yes", "--bin-dir", o.Bin); !strings.Contains(text, "no full backup") {
		t.Errorf("a ledger without sets: %s", text)
	}
	rebuild := func(want string, more ...string) {
		t.Helper()
		if text := command(t, cli.ExitOK, append([]string{"ledger", "rebuild", "--config", config}, more...)...); !strings.Contains(text, want) {
			t.Errorf("%s: %q is not said in\n%s", more, want, text)
		}
	}
	rebuild("New to the ledger: 1 set", "--from", "disk", "--dry-run")
	if c, _ := d.state.Catalog(facts.ProfilePostgres); len(c.Sets) != 0 {
		t.Error("a dry run changed the ledger")
	}
	rebuild("The catalog was completed", "--from", o.dir, "--yes")
	rebuild("knows all of it", "--from", "disk")
	command(t, cli.ExitRefused, "ledger", "rebuild", "--config", config, "--from", o.copyOf(t))

	with := func(want string, args ...string) {
		t.Helper()
		args = append([]string{"restore", "--config", config, "--yes", "--bin-dir", o.Bin, "--tablespace", o.oid + "=" + to + ".outside", "--to", to}, args...)
		if text := command(t, cli.ExitOK, args...); !strings.Contains(text, want) {
			t.Errorf("%q is not said in\n%s", want, text)
		}
	}
	with("known from the daemon of main", "--location", "disk")
	d.state.LastTimeline = 5 // ids up to there were given out, and must not be used again
	b, err := facts.Encode(d.state)
	if err != nil {
		t.Fatal(err)
	}
	stop()
	if err := os.MkdirAll(filepath.Join(dir, "state"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "state", "known.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	with("wrote down last", "--delta")
	if got := o.query(t, to, "select ("+rowsSQL+") || ' ' || timeline_id from pg_control_checkpoint()"); got != o.atEnd+" 6" {
		t.Errorf("rows and timeline %s, want %s", got, o.atEnd+" 6")
	}
	if left, _ := filepath.Glob(filepath.Join(to, "pg_wal", "0000000[2-5].history")); len(left) > 0 {
		t.Errorf("placeholders are left: %s", left)
	}
	o.locationsFile(t)
}

// locationsFile names the locations as a policy does. The one that cannot be
// opened says what it lacks; its directory is this machine's, whoever had it.
func (o *origin) locationsFile(t *testing.T) {
	file, to := filepath.Join(pgtest.Dir(t), "locations.yaml"), target(t)
	text := "location.disk.kind: local\nlocation.disk.node: gone\nlocation.disk.path: " + o.dir + "\n" +
		"location.vault.kind: sftp\nlocation.vault.address: vault.example.com\nlocation.vault.user: b\nlocation.vault.path: /b\n" +
		"location.vault.host_key: SHA256:n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg\nlocation.vault.secret: key\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	said := command(t, cli.ExitOK, "restore", "--dry-run", "--locations", file, "--to", to, "--bin-dir", o.Bin, "--tablespace", o.oid+"="+to+".outside")
	if !strings.Contains(said, "--secret key=FILE") || !strings.Contains(said, o.label) {
		t.Errorf("with a file of locations: %s", said)
	}
}
