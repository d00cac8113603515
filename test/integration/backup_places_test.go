package integration_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"understudy/test/backupservers"
	"understudy/test/cluster"
	"understudy/test/pgtest"
)

// TestBackup_Places is the life of a group whose backups go to places of every
// kind: an SFTP server, a bucket, an encrypted directory, and a cold tier that
// gets them later and keeps them longer.
func TestBackup_Places(t *testing.T) {
	t.Parallel()
	b := newBackupPlaces(t)

	run(t, "ABackupReachesAll", b.reachesAll)
	run(t, "TheColdTierWaitsForItsWindow", b.coldWaits)
	run(t, "LogIsFedToAll", b.logReachesAll)
	run(t, "Verify", b.verify)
	run(t, "Points", b.points)
	run(t, "RestoredFromEachAlone", b.restored)
	run(t, "PrunedByTheRulesOfEach", b.prune)
	run(t, "DrillFromTheSFTPServer", b.drill)
}

type backupPlaces struct {
	g                           *cluster.Group
	ssh                         *backupservers.SSHD
	minio                       *backupservers.MinIO
	identity                    *age.X25519Identity
	dir                         string // of the secrets
	vault, bucket, sealed, cold *cluster.Place
	first, second               cluster.Set
}

func newBackupPlaces(t *testing.T) *backupPlaces {
	t.Helper()
	b := &backupPlaces{ssh: backupservers.NewSSHD(t), minio: backupservers.NewMinIO(t, backupservers.MinIOOptions{}), dir: t.TempDir()}
	var err error
	if b.identity, err = age.GenerateX25519Identity(); err != nil {
		t.Fatal(err)
	}
	g := cluster.New(t, cluster.WithoutStart(), cluster.WithPolicy("failover: manual\n"+cluster.QuietBackups))
	for name, value := range map[string]string{
		"vault": string(b.ssh.Key), "bucket": b.minio.AccessKey + ":" + b.minio.SecretKey, "sealed": b.identity.String() + "\n",
	} {
		g.Secret(t, name, []byte(value))
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	g.Start(t)
	g.WaitHealthy(t)
	b.g = g
	makeCounted(t, g)
	b.vault = g.RemotePlace(t, "vault", b.ssh.Dir, "kind: sftp", "address: "+b.ssh.Address, "user: "+b.ssh.User, "path: "+b.ssh.Dir,
		fmt.Sprintf("host_key: %q", b.ssh.HostKey), "secret: vault", "keep: 1", "keep_days: 0")
	b.bucket = g.RemotePlace(t, "bucket", "", "kind: s3", "endpoint: "+b.minio.Endpoint, "bucket: "+b.minio.Bucket, "prefix: pg", "secret: bucket",
		"keep: 1", "keep_days: 0")
	b.sealed = g.AddPlace(t, g.Witness, "sealed", "encrypt_to: "+b.identity.Recipient().String(), "identity: sealed", "keep: 1", "keep_days: 0")
	b.cold = g.AddPlace(t, g.Main, "cold", "tier: cold", hours(2, 3), "keep: 5", "keep_days: 0")
	return b
}

// hours is a time window that begins and ends so many hours from now.
func hours(from, to int) string {
	at := func(h int) string { return time.Now().UTC().Add(time.Duration(h) * time.Hour).Format("15:04") }
	return fmt.Sprintf("window: %q", at(from)+"-"+at(to))
}

// warm are the places that get a backup while it is taken.
func (b *backupPlaces) warm() []*cluster.Place { return []*cluster.Place{b.vault, b.bucket, b.sealed} }

func (b *backupPlaces) all() []*cluster.Place { return append(b.warm(), b.cold) }

func (b *backupPlaces) reachesAll(t *testing.T) {
	b.first = b.g.WaitSet(t, 40*time.Second, "at all that are not cold", func(s cluster.Set) bool {
		return !slices.ContainsFunc(b.warm(), func(p *cluster.Place) bool { return !s.At(p.Name).Restorable })
	})
	count(t, b.g, 100)
	b.second = b.g.Witness.TakeBackup(t)
	b.g.WaitAt(t, b.second.Label, b.warm()...)
	// By the sets' own jobs, not by a copy afterwards.
	jobs, err := b.g.Witness.Jobs()
	if i := slices.IndexFunc(jobs, func(j cluster.Job) bool { return j.Kind == "backup" && j.Label == b.second.Label }); err != nil || i < 0 ||
		!strings.HasSuffix(jobs[i].Result, "stored in bucket, sealed, vault") {
		t.Errorf("jobs %+v, %v: want the backup stored in all three", jobs, err)
	}
	if names := folder(t, b.sealed, b.second.Label); slices.ContainsFunc(names, func(n string) bool { return !strings.HasSuffix(n, ".age") }) {
		t.Errorf("the encrypted location has %v", names)
	}
}

// folder lists the files of a set.
func folder(t *testing.T, p *cluster.Place, label string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(p.SetDir(label))
	if err != nil {
		t.Error(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func (b *backupPlaces) coldWaits(t *testing.T) {
	at := b.cold.Location(t)
	if files := b.cold.Files(t); at.SetN != 0 || at.Problem != "" || len(files) != 1 { // the marker
		t.Errorf("location %+v with %v, want nothing before its window opens", at, files)
	}
	b.cold.Set(t, hours(-2, 2))
	b.g.WaitAt(t, b.first.Label, b.cold)
	b.g.WaitAt(t, b.second.Label, b.cold)
	cluster.SameSet(t, b.vault, b.cold, b.second.Label)
}

func (b *backupPlaces) logReachesAll(t *testing.T) {
	count(t, b.g, 50)
	for _, p := range b.all() {
		if at := p.WaitLog(t); len(at.Gaps) > 0 || at.Problem != "" {
			t.Errorf("location %+v", at)
		}
	}
	b.vault.CheckLog(t)
	b.cold.CheckLog(t)
	cluster.SameLog(t, b.vault, b.cold)
}

func (b *backupPlaces) verify(t *testing.T) {
	out := b.g.Witness.MustRun(t, "verify", "--wal")
	b.g.WaitSet(t, 10*time.Second, "proven everywhere\n"+out, func(s cluster.Set) bool {
		return s.Label == b.second.Label && !slices.ContainsFunc(b.all(), func(p *cluster.Place) bool { return s.At(p.Name).Verified.IsZero() })
	})
}

func (b *backupPlaces) points(t *testing.T) {
	for _, p := range b.all() {
		var points struct {
			Intervals []struct {
				Sets []string `json:"sets"`
			} `json:"intervals"`
		}
		out := b.g.Backup.MustRun(t, "points", "--location", p.Name, "--json")
		if err := json.Unmarshal([]byte(out), &points); err != nil || len(points.Intervals) != 1 || len(points.Intervals[0].Sets) != 2 {
			t.Errorf("points of %s, want one stretch from two sets on: %v\n%s", p.Name, err, out)
		}
	}
}

// from is how a machine that has nothing else reaches a place.
func (b *backupPlaces) from(p *cluster.Place) []string {
	switch p {
	case b.vault:
		return []string{"--from", "sftp://" + b.ssh.User + "@" + b.ssh.Address + b.ssh.Dir + "?host_key=" + url.QueryEscape(b.ssh.HostKey),
			"--secret", "from=" + filepath.Join(b.dir, "vault")}
	case b.bucket:
		return []string{"--from", "s3://" + b.minio.Bucket + "/pg?endpoint=" + url.QueryEscape(b.minio.Endpoint), "--secret", "from=" + filepath.Join(b.dir, "bucket")}
	case b.sealed:
		return []string{"--from", b.sealed.Dir, "--identity", filepath.Join(b.dir, "sealed")}
	}
	return []string{"--from", p.Dir}
}

func (b *backupPlaces) restored(t *testing.T) {
	for _, p := range b.all() {
		p.WaitLog(t)
	}
	want := b.g.Primary(t).Query(t, counted)
	for i, p := range b.all() {
		dir := filepath.Join(pgtest.Dir(t), "restored")
		set := []string{b.first.Label, b.second.Label}[i%2]
		args := append([]string{"restore", "--to", dir, "--set", set, "--promote", "--yes"}, b.from(p)...)
		out := b.g.Witness.MustRun(t, args...)
		r := cluster.Open(t, dir)
		if got := r.Query(t, counted); got != want {
			t.Errorf("restored from %s alone it holds %s, want %s\n%s", p.Name, got, want, out)
		}
		r.Stop(t)
	}
	if out, code := b.g.Witness.Run(t, "restore", "--to", filepath.Join(t.TempDir(), "no"), "--from", b.sealed.Dir, "--yes"); code == 0 {
		t.Errorf("an encrypted location was read without the identity:\n%s", out)
	}
	sameAs(t, b.vault, b.second.Label, want) // and with stock tools
}

func (b *backupPlaces) prune(t *testing.T) {
	t.Log(b.g.Witness.MustRun(t, "prune", "--yes"))
	for _, p := range b.warm() {
		if at := p.Wait(t, 10*time.Second, "one set", func(at cluster.Location) bool { return at.SetN == 1 }); at.Newest != b.second.Label {
			t.Errorf("location %+v, want %s kept", at, b.second.Label)
		}
	}
	if at := b.cold.Location(t); at.SetN != 2 {
		t.Errorf("location %+v, want both sets in the cold tier", at)
	}
	b.vault.OnlySets(t, b.second.Label)
	b.cold.OnlySets(t, b.first.Label, b.second.Label)
	if entries, err := os.ReadDir(filepath.Join(b.sealed.Folder(), "sets")); err != nil || len(entries) != 1 {
		t.Errorf("the encrypted location has the sets %v, %v", entries, err)
	}
}

// drill: with the others disabled all of it comes from the SFTP server.
func (b *backupPlaces) drill(t *testing.T) {
	for _, p := range []*cluster.Place{b.bucket, b.sealed, b.cold} {
		p.Set(t, "enabled: false")
	}
	b.g.WaitNoJobs(t, 20*time.Second)
	out := b.g.Witness.MustRun(t, "drill")
	jobs, err := b.g.Witness.Jobs()
	if i := slices.IndexFunc(jobs, func(j cluster.Job) bool { return j.Kind == "drill" }); err != nil || i < 0 || jobs[i].State != cluster.Done {
		t.Errorf("jobs %+v, %v, want a drill that is done\n%s", jobs, err, out)
	}
}
