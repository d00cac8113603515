package places_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"understudy/cmd/internal/places"
	"understudy/ledger/facts"
	"understudy/shipper/location"
	"understudy/shipper/location/local"
	"understudy/shipper/location/peer"
	"understudy/test/backupservers"
)

const key = "test/postgres/wal/00000001/000000010000000000000003.zst"

// secrets are those of a test's node file.
func secrets(all map[string]string) func(string) ([]byte, error) {
	return func(name string) ([]byte, error) {
		if s, ok := all[name]; ok {
			return []byte(s), nil
		}
		return nil, errors.New("the node file has no secret " + name)
	}
}

// store tries to store something.
func store(t *testing.T, loc location.Location) error {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	u, err := loc.Create(ctx, key, location.CreateOptions{Size: -1})
	if err != nil {
		return err
	}
	if _, err = u.Write([]byte("x")); err == nil {
		_, err = u.Commit(ctx)
	}
	return errors.Join(err, u.Abort())
}

// closedPort is an address where nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	return l.Addr().String()
}

// TestOpener_Sentences: what real places say when they fail, as an operator
// reads it.
func TestOpener_Sentences(t *testing.T) {
	dir := t.TempDir()
	never := filepath.Join(dir, "never")
	plain := filepath.Join(dir, "plain")
	if err := os.Mkdir(plain, 0o700); err != nil {
		t.Fatal(err)
	}
	s := backupservers.NewFaultySFTP(t)
	m := backupservers.NewMinIO(t, backupservers.MinIOOptions{})
	nobody := closedPort(t)
	sftp := facts.LocationPolicy{Kind: facts.LocationSFTP, Address: s.Address, User: s.User, Path: s.Root, HostKey: s.HostKey, Secret: "key"}
	bucket := facts.LocationPolicy{Kind: facts.LocationS3, Endpoint: m.Endpoint, Bucket: m.Bucket, Secret: "pair"}
	with := func(p facts.LocationPolicy, change func(*facts.LocationPolicy)) facts.LocationPolicy {
		change(&p)
		return p
	}
	quota := backupservers.Faults{Refuse: errors.New("Failure")}
	tests := map[string]struct {
		policy facts.LocationPolicy
		faults backupservers.Faults
		want   []string // in this order
	}{
		"LocalAway": {policy: facts.LocationPolicy{Kind: facts.LocationLocal, Node: "backup", Path: never},
			want: []string{"the location cannot be reached", "is the file system mounted?", "; look at " + never + " on backup"}},
		"LocalNoMarker": {policy: facts.LocationPolicy{Kind: facts.LocationLocal, Node: "backup", Path: plain},
			want: []string{"the location cannot be reached", "was never made a location", "; look at " + plain + " on backup"}},
		"SFTPQuota": {policy: sftp, faults: quota,
			want: []string{"full or over quota? Its file system has ", "; look at test@" + s.Address + ":/files"}},
		"SFTPDown": {policy: with(sftp, func(p *facts.LocationPolicy) { p.Address = nobody }),
			want: []string{"the location cannot be reached", nobody, "connection refused", "; look at test@" + nobody + ":/files"}},
		"SFTPOtherKey": {policy: with(sftp, func(p *facts.LocationPolicy) { p.Secret = "other" }),
			want: []string{"the location refused us", "; correct the policy, the secrets of this node, or test@" + s.Address}},
		"SFTPNoRoot": {policy: with(sftp, func(p *facts.LocationPolicy) { p.Path = "/none" }),
			want: []string{"the location refused us", "there is no directory /none at the server", "; correct the policy"}},
		"S3Down": {policy: with(bucket, func(p *facts.LocationPolicy) { p.Endpoint = "http://" + nobody }),
			want: []string{"the location cannot be reached", nobody, "connection refused", "; look at bucket backups of http://" + nobody}},
		"S3OtherPair": {policy: with(bucket, func(p *facts.LocationPolicy) { p.Secret = "otherpair" }),
			want: []string{"the location refused us", "; correct the policy, the secrets of this node, or bucket backups of " + m.Endpoint}},
		"S3NoBucket": {policy: with(bucket, func(p *facts.LocationPolicy) { p.Bucket = "none" }),
			want: []string{"the location refused us", "there is no bucket none", "; correct the policy"}},
	}
	otherKey, _ := backupservers.NewKey(t, "")
	o := places.Opener{Node: "backup", Secret: secrets(map[string]string{
		"key": string(s.Key), "other": string(otherKey), "pair": m.AccessKey + ":" + m.SecretKey, "otherpair": m.AccessKey + ":no",
	})}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			loc, err := o.Open("nas", tt.policy)
			if err != nil {
				t.Fatal(err)
			}
			defer loc.Close()
			s.Set(tt.faults)
			defer s.Set(backupservers.Faults{})
			mustSay(t, location.Sentence(store(t, loc)), tt.want)
		})
	}
}

// mustSay checks the form of a sentence and what it has to hold, in this order.
func mustSay(t *testing.T, text string, want []string) {
	t.Helper()
	t.Log(text)
	rest := text
	for _, w := range append([]string{"location nas: " + key + " cannot be stored: "}, want...) {
		_, after, ok := strings.Cut(rest, w)
		if !ok {
			t.Errorf("%q lacks %q after what comes before it", text, w)
			return
		}
		rest = after
	}
	for what, n := range map[string]int{"location nas": 1, key: 1, ".tmp": 0, ".uploads": 0, "\n": 0, "; look at": 1, "; correct": 1} {
		if got := strings.Count(text, what); got > n {
			t.Errorf("%q has %q %d times", text, what, got)
		}
	}
	if len(text) > 400 {
		t.Errorf("%d bytes are no sentence: %s", len(text), text)
	}
}

// TestOpener_SentenceOfAnotherNode: through the daemon of the node that has it,
// a location says the same.
func TestOpener_SentenceOfAnotherNode(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "at")
	if err := local.Init(dir); err != nil {
		t.Fatal(err)
	}
	p := facts.LocationPolicy{Kind: facts.LocationLocal, Node: "backup", Path: dir}
	owner := places.Opener{Node: "backup", Plain: true}
	o := places.Opener{Node: "main", Dial: func(context.Context, string) (net.Conn, error) {
		here, there := net.Pipe()
		go peer.Serve(t.Context(), there, func(name string) (location.Location, error) { return owner.Open(name, p) })
		return here, nil
	}}
	loc, err := o.Open("nas", p)
	if err != nil {
		t.Fatal(err)
	}
	defer loc.Close()
	if err := store(t, loc); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	mustSay(t, location.Sentence(store(t, loc)), []string{"the other node: ", "the location cannot be reached", "is the file system mounted?", "; look at " + dir + " on backup"})
}
