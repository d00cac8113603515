package policyfile_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"understudy/cmd/internal/policyfile"
	"understudy/configs"
	"understudy/ledger/facts"
)

// other is a policy in which everything differs from the default.
func other() facts.Policy {
	return facts.Policy{
		Version: 7, Durability: facts.Async, IsolationTimeout: 1500 * time.Millisecond, SilenceTimeout: 3 * time.Second,
		RestartGrace: time.Hour, PairAloneAfter: time.Minute, SwitchoverCatchup: 5 * time.Second,
		SwitchoverMaxLagBytes: 1 << 20, SpoolMaxBytes: 100<<20 + 1, StallTimeout: time.Minute, StrictReads: true,
		Failover: facts.FailoverObserve, Paused: true, PausedUntil: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
		Nodes:     map[string]facts.NodePolicy{"main": {Priority: 10}, "far": {NoFailover: true, NoVote: true, ApplyDelay: 90 * time.Minute}},
		Locations: otherLocations(), Backup: otherBackup(),
	}
}

const recipient = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj"

func otherBackup() facts.BackupPolicy {
	return facts.BackupPolicy{
		Schedule: "*/5 * * * *", TimeZone: "Europe/Berlin", From: facts.SourcePrimary, Level: facts.LevelBest, Extra: "/etc/shop /etc/shop.d/*.conf",
		TimeLimit: 36 * time.Hour, RetryInterval: time.Minute, Incremental: true, FullEvery: 3 * 24 * time.Hour, VerifyEvery: 30 * 24 * time.Hour, DrillSchedule: "0 5 * jan,jul sun", PruneAt: "off", RateBytes: 50 << 20,
	}
}

func otherLocations() map[string]facts.LocationPolicy {
	disk := facts.DefaultLocation()
	disk.Kind, disk.Node, disk.Path = facts.LocationLocal, "backup", "/srv/it's: \"here\" #1"
	return map[string]facts.LocationPolicy{
		"disk": disk,
		"nas": {Kind: facts.LocationSFTP, Node: "main", Path: "backups", Address: "[::1]:2022", User: "u", HostKey: "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
			Secret: "nas", Tier: facts.TierDisk, ThrottleBytes: 1 << 20, EncryptTo: recipient, Identity: "id",
			Retention: facts.Retention{Keep: 3, Days: 10, Cycles: 2, Daily: 7, Weekly: 4, FailedDays: 1}},
		"cold": {Kind: facts.LocationS3, Bucket: "shop", Endpoint: "https://s3.example.com:9000", Region: "eu-1", Prefix: "a/b", Secret: "cloud", Disabled: true, Order: -5,
			Tier: facts.TierCold, Window: "22:00-06:00", Retention: facts.Retention{Monthly: 12, Yearly: 7, GoldEvery: 30 * 24 * time.Hour, FailedDays: 90}},
	}
}

func manual(t testing.TB) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "..", "configs", "policy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestParse_ManualIsTheDefaultAndHasEveryKey(t *testing.T) {
	// Whatever the manual left out would stay other's.
	base := other()
	got, err := policyfile.Parse("policy.yaml", manual(t), base)
	if err != nil {
		t.Fatal(err)
	}
	want := facts.DefaultPolicy()
	for _, c := range policyfile.Diff(got, want) {
		if !strings.HasPrefix(c.Key, "node.") && !strings.HasPrefix(c.Key, "location.") {
			t.Errorf("the manual differs from the default: %s", c)
		}
	}
	// What has no key in the file stayed as it was: the version, the pause, and
	// what the nodes have of their own.
	want.Version, want.Paused, want.PausedUntil, want.Nodes, want.Locations = base.Version, base.Paused, base.PausedUntil, base.Nodes, base.Locations
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("what has no key was changed, or the other way around: %s", d)
	}
	bare := other()
	bare.Locations = nil
	if n := len(policyfile.Diff(bare, facts.DefaultPolicy())); n != 15+15 {
		t.Errorf("%d keys; tell other and this test of the new one", n)
	}
	for _, k := range []string{"apply_delay", "no_failover", "priority", "votes"} {
		if !strings.Contains(string(manual(t)), "# node.backup."+k+": ") {
			t.Errorf("the manual does not tell of node.NAME.%s", k)
		}
	}
}

func TestParse_LeftOutKeysStay(t *testing.T) {
	want := other()
	want.SpoolMaxBytes = 3 << 30
	got, err := policyfile.Parse("p", []byte("# why\nspool_max: '3GiB' # enough\n"), other())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestFormat_RoundTrip(t *testing.T) {
	for _, p := range []facts.Policy{other(), facts.DefaultPolicy()} {
		text := policyfile.Format(p)
		base := facts.DefaultPolicy()
		base.Durability, base.IsolationTimeout, base.RestartGrace, base.SpoolMaxBytes = facts.Quorum, time.Second, time.Minute, 1<<30
		base.PairAloneAfter, base.SwitchoverCatchup, base.SwitchoverMaxLagBytes = time.Hour, time.Second, 2<<20
		base.Version, base.Paused, base.PausedUntil = p.Version, p.Paused, p.PausedUntil // have no keys
		got, err := policyfile.Parse("p", []byte(text), base)
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if d := cmp.Diff(p, got); d != "" {
			t.Errorf("%s\n%s", d, text)
		}
	}
	const want = "# policy of the group, version 7\ndurability: async\nfailover: observe\nisolation_timeout: 1.5s\npair_alone_after: 1m\nrestart_grace: 1h\nsilence_timeout: 3s\n" +
		"spool_max: 104857601\nstall_timeout: 1m\nstrict_reads: true\nswitchover_catchup: 5s\nswitchover_max_lag: 1MiB\nbackup.drill_schedule: '0 5 * jan,jul sun'\nbackup.extra: '/etc/shop /etc/shop.d/*.conf'\nbackup.from: primary\nbackup.full_every: 3d\nbackup.incremental: true\nbackup.level: best\n" +
		"backup.marker_every: 0s\nbackup.prune_at: off\nbackup.rate: 50MiB\nbackup.retry_count: 0\nbackup.retry_interval: 1m\nbackup.schedule: '*/5 * * * *'\nbackup.time_limit: 1d12h\n" +
		"backup.time_zone: 'Europe/Berlin'\nbackup.verify_every: 30d\n" +
		"node.far.apply_delay: 1h30m\nnode.far.no_failover: true\nnode.far.votes: false\nnode.main.priority: 10\n" +
		"location.cold.kind: s3\nlocation.cold.bucket: shop\nlocation.cold.enabled: false\nlocation.cold.endpoint: 'https://s3.example.com:9000'\nlocation.cold.gold_every: 30d\n" +
		"location.cold.keep_days: 0\nlocation.cold.monthly: 12\nlocation.cold.order: -5\nlocation.cold.prefix: 'a/b'\nlocation.cold.region: 'eu-1'\nlocation.cold.secret: cloud\n" +
		"location.cold.tier: cold\nlocation.cold.window: '22:00-06:00'\nlocation.cold.yearly: 7\n" +
		"location.disk.kind: local\nlocation.disk.node: backup\nlocation.disk.path: '/srv/it''s: \"here\" #1'\n" +
		"location.nas.kind: sftp\nlocation.nas.address: '[::1]:2022'\nlocation.nas.daily: 7\nlocation.nas.encrypt_to: " +
		recipient + "\nlocation.nas.failed_days: 1\nlocation.nas.host_key: 'SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU'\nlocation.nas.identity: id\nlocation.nas.keep: 3\n" +
		"location.nas.keep_cycles: 2\nlocation.nas.node: main\nlocation.nas.path: backups\nlocation.nas.secret: nas\nlocation.nas.throttle: 1MiB\nlocation.nas.user: u\nlocation.nas.weekly: 4\n"
	if d := cmp.Diff(want, policyfile.Format(other())); d != "" {
		t.Error(d)
	}
}

func TestParse_Refuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                                  "p.yaml: the file is empty",
		"# only a comment\n":                "p.yaml: the file is empty",
		"null":                              "p.yaml: the file is empty",
		"- durability\n":                    "p.yaml:1: the file must be",
		"durability: quorum\nsilence: 1s\n": "p.yaml:2: silence: this key is unknown; the keys are durability,",
		"Durability: quorum\n":              "p.yaml:1: Durability: this key is unknown",
		"<<: {durability: async}\n":         "p.yaml:1: <<: this key is unknown",
		"durability: never\n":               `p.yaml:1: durability: "never" is neither quorum nor async`,
		"durability:\n":                     "p.yaml:1: durability: this key takes one plain value",
		"durability: [async]\n":             "p.yaml:1: durability: this key takes one plain value",
		"durability: &a async\n":            "p.yaml:1: durability: this key takes one plain value",
		"durability: !!str async\n":         "p.yaml:1: durability: this key takes one plain value",
		"durability: async\n\ndurability: quorum\n":     "p.yaml:3: durability: this key stands in line 1 already",
		"restart_grace: 10\n":                           `p.yaml:1: restart_grace: "10" is no duration`,
		"isolation_timeout: 1ms\n":                      "p.yaml:1: policy key isolation_timeout is 1ms, it must be between",
		"isolation_timeout: 999999h\n":                  "p.yaml:1: policy key isolation_timeout is",
		"restart_grace: -1s\n":                          "p.yaml:1: policy key restart_grace is -1s",
		"spool_max: 8GB\n":                              `p.yaml:1: spool_max: "8GB" is no size`,
		"spool_max: 1.5GiB\n":                           `p.yaml:1: spool_max: "1.5GiB" is no size`,
		"spool_max: -8GiB\n":                            `p.yaml:1: spool_max: "-8GiB" is no size`,
		"spool_max: 9999999999TiB\n":                    `p.yaml:1: spool_max: "9999999999TiB" is no size`,
		"spool_max: 99999999999999999999\n":             `p.yaml:1: spool_max: "99999999999999999999" is no size`,
		"spool_max: 5\n":                                "p.yaml:1: policy key spool_max is 5 bytes, it must be between",
		"failover: maybe\n":                             `p.yaml:1: failover: "maybe" is none of automatic, observe and manual`,
		"silence_timeout: 1ms\n":                        "p.yaml:1: policy key silence_timeout is 1ms",
		"stall_timeout: 1h\n":                           "p.yaml:1: policy key stall_timeout is",
		"strict_reads: yes\n":                           `p.yaml:1: strict_reads: "yes" is neither true nor false`,
		"strict_reads: True\n":                          `p.yaml:1: strict_reads: "True" is neither true nor false`,
		"paused: true\n":                                "p.yaml:1: paused: this key is unknown",
		"node.main.priority: high\n":                    `p.yaml:1: node.main.priority: "high" is no whole number`,
		"node.main.priority: 5000\n":                    "p.yaml:1: policy key node.main.priority is 5000",
		"node.main.votes: 1\n":                          `p.yaml:1: node.main.votes: "1" is neither true nor false`,
		"node.main.apply_delay: -1h\n":                  "p.yaml:1: policy key node.main.apply_delay is -1h",
		"node.main.colour: red\n":                       "p.yaml:1: node.main.colour: this key is unknown",
		"node.main: 1\n":                                "p.yaml:1: node.main: this key is unknown",
		"node..priority: 1\n":                           "p.yaml:1: node..priority: this key is unknown",
		"node.a.b.priority: 1\n":                        "p.yaml:1: node.a.b.priority: this key is unknown",
		"node.Main.priority: 1\n":                       "p.yaml:1: node.Main.priority: this key is unknown",
		"node.a.votes: true\nnode.a.votes: false\n":     "p.yaml:2: node.a.votes: this key stands in line 1 already",
		"node: {main: {priority: 1}}\n":                 "p.yaml:1: node: this key is unknown",
		"backup.schedule: sometimes\n":                  `p.yaml:1: backup.schedule: not a schedule: "sometimes"`,
		"backup.schedule: '0 0 31 2 *'\n":               `p.yaml:1: backup.schedule: not a schedule: "0 0 31 2 *" never happens`,
		"backup.schedule: never\n":                      `p.yaml:1: policy key backup.schedule is "never"`,
		"backup.time_zone: Mars/North\n":                `p.yaml:1: backup.time_zone: "Mars/North" is no time zone`,
		"backup.time_zone: Local\n":                     "p.yaml:1: policy key backup.time_zone is",
		"backup.from: witness\n":                        `p.yaml:1: backup.from: "witness" is neither standby nor primary`,
		"backup.level: 3\n":                             `p.yaml:1: backup.level: "3" is none of fastest, default, better and best`,
		"backup.time_limit: 1.5d\n":                     `p.yaml:1: backup.time_limit: "1.5d" is no duration`,
		"backup.verify_every: 1d25h\n":                  `p.yaml:1: backup.verify_every: "1d25h" is no duration`,
		"backup.verify_every: 400d\n":                   "p.yaml:1: policy key backup.verify_every is",
		"backup.retry_count: few\n":                     `p.yaml:1: backup.retry_count: "few" is no whole number`,
		"backup.extra: /a ../b\n":                       `p.yaml:1: policy key backup.extra has "../b"`,
		"backup.extra: '/a/[b'\n":                       `p.yaml:1: policy key backup.extra has "/a/[b", which is no shell pattern`,
		"backup.prune_at: 4\n":                          "p.yaml:1: policy key backup.prune_at is",
		"backup.colour: red\n":                          "p.yaml:1: backup.colour: this key is unknown",
		"location.x.path: /a\n":                         "p.yaml:1: policy key location.x.kind is missing",
		"location.x.kind: ftp\n":                        `p.yaml:1: location.x.kind: "ftp" is none of local, sftp, s3 and none`,
		"location.x.kind: local\nlocation.x.path: /a\n": "p.yaml:1: policy key location.x.node is missing: a location of kind local needs it",
		"location.x.node: a\nlocation.x.path: a\nlocation.x.kind: local\n":                      "p.yaml:2: policy key location.x.path is \"a\", it must be an absolute path",
		"location.x.node: a\nlocation.x.path: /a/../b\nlocation.x.kind: local\n":                "p.yaml:2: policy key location.x.path is",
		"location.x.kind: local\nlocation.x.node: a\nlocation.x.path: /a\nlocation.x.user: u\n": "p.yaml:4: policy key location.x.user is set, but a location of kind local has no such key",
		"location.disk.bucket: b\n":                       "p.yaml:1: policy key location.disk.bucket is set, but",
		"location.nas.host_key: none\n":                   "p.yaml:1: policy key location.nas.host_key is missing",
		"location.nas.host_key: any\n":                    "p.yaml:1: policy key location.nas.host_key is \"any\"",
		"location.nas.secret: hunter2!\n":                 "p.yaml:1: policy key location.nas.secret is",
		"location.nas.address: 'h:70000'\n":               "p.yaml:1: policy key location.nas.address is",
		"location.nas.encrypt_to: none\n":                 "p.yaml:1: policy key location.nas.identity is set, but encrypt_to is not",
		"location.nas.encrypt_to: age1qqqq\n":             `p.yaml:1: location.nas.encrypt_to: "age1qqqq" is no age recipient`,
		"location.nas.throttle: 1\n":                      "p.yaml:1: policy key location.nas.throttle is 1 bytes a second",
		"location.nas.window: 1-2\n":                      "p.yaml:1: policy key location.nas.window is",
		"location.nas.keep: -1\n":                         "p.yaml:1: policy key location.nas.keep is -1",
		"location.nas.gold_every: 1h\n":                   "p.yaml:1: policy key location.nas.gold_every is 1h",
		"location.nas.tier: warm\n":                       `p.yaml:1: location.nas.tier: "warm" is neither disk nor cold`,
		"location.nas.enabled: no\n":                      `p.yaml:1: location.nas.enabled: "no" is neither true nor false`,
		"location.nas.colour: red\n":                      "p.yaml:1: location.nas.colour: this key is unknown",
		"location.NAS.kind: s3\n":                         "p.yaml:1: location.NAS.kind: this key is unknown",
		"location.nas: none\n":                            "p.yaml:1: location.nas: this key is unknown",
		"location.nas.keep: 1\nlocation.nas.kind: none\n": "p.yaml:1: location.nas.keep: the same file removes this location by its kind",
		"location.b.kind: local\nlocation.b.node: backup\nlocation.b.path: '/srv/it''s: \"here\" #1'\n": "p.yaml: policy key location.disk.kind makes it the same place as location.b",
		"durability: quorum\n---\nspool_max: 8GiB\n":                                                    "p.yaml: the file holds more than one YAML document",
		"durability: 'quorum\n":                        "p.yaml:1: the file is not valid YAML: ",
		"#" + strings.Repeat("x", policyfile.MaxBytes): "p.yaml: the file is larger than 64 KiB",
	} {
		got, err := policyfile.Parse("p.yaml", []byte(text), other())
		var e *configs.Error
		if !errors.As(err, &e) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%.60q: got %v, want %s", text, err, want)
		}
		if !cmp.Equal(got, other()) {
			t.Errorf("%.60q: a refused file changed the policy", text)
		}
	}
}

func TestDiff_NamesOldAndNew(t *testing.T) {
	p := facts.DefaultPolicy()
	p.Durability, p.RestartGrace = facts.Async, 90*time.Second
	var got []string
	for _, c := range policyfile.Diff(facts.DefaultPolicy(), p) {
		got = append(got, c.String())
	}
	if d := cmp.Diff([]string{"durability: quorum -> async", "restart_grace: 10s -> 1m30s"}, got); d != "" {
		t.Error(d)
	}
}

func TestParse_NodeKeys(t *testing.T) {
	base := other()
	got, err := policyfile.Parse("p", []byte("node.main.priority: 0\nnode.far.votes: true\n'node.backup.no_failover': 'true'\n"), base)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]facts.NodePolicy{"far": {NoFailover: true, ApplyDelay: 90 * time.Minute}, "backup": {NoFailover: true}}
	if d := cmp.Diff(want, got.Nodes); d != "" {
		t.Errorf("the default did not reset, or something else changed: %s", d)
	}
	if !cmp.Equal(base, other()) {
		t.Error("the base was changed")
	}
	var diff []string
	for _, c := range policyfile.Diff(base, got) {
		diff = append(diff, c.String())
	}
	if d := cmp.Diff([]string{"node.backup.no_failover: false -> true", "node.far.votes: false -> true", "node.main.priority: 10 -> 0"}, diff); d != "" {
		t.Error(d)
	}
}

// A ledger that is older than a key has no value for it, which means the
// default.
func TestFormat_OlderLedger(t *testing.T) {
	p := facts.DefaultPolicy()
	p.Failover, p.StallTimeout = "", 0
	if d := policyfile.Diff(p, facts.DefaultPolicy()); len(d) != 0 {
		t.Error(d)
	}
	if text := policyfile.Format(p); !strings.Contains(text, "failover: automatic\n") || !strings.Contains(text, "stall_timeout: 5s\n") {
		t.Error(text)
	}
}

func TestParse_LocationKeys(t *testing.T) {
	base := other()
	got, err := policyfile.Parse("p", []byte("location.cold.kind: none\nlocation.disk.keep_days: 30\nlocation.new.path: /x\nlocation.new.node: main\nlocation.new.kind: local\n"), base)
	if err != nil {
		t.Fatal(err)
	}
	want := otherLocations()
	delete(want, "cold")
	disk := want["disk"]
	disk.Retention.Days = 30
	want["disk"] = disk
	l := facts.DefaultLocation()
	l.Kind, l.Node, l.Path = facts.LocationLocal, "main", "/x"
	want["new"] = l
	if d := cmp.Diff(want, got.Locations); d != "" {
		t.Error(d)
	}
	if !cmp.Equal(base, other()) {
		t.Error("the base was changed")
	}
	var diff []string
	for _, c := range policyfile.Diff(base, got) {
		if !strings.HasPrefix(c.Key, "location.cold.") || strings.HasSuffix(c.Key, ".kind") {
			diff = append(diff, c.String())
		}
	}
	if d := cmp.Diff([]string{"location.cold.kind: s3 -> none", "location.disk.keep_days: 10 -> 30",
		"location.new.kind: none -> local", "location.new.node: none -> main", "location.new.path: none -> /x"}, diff); d != "" {
		t.Error(d)
	}
	// What the file does not name keeps its value, also in a file of one key.
	got, err = policyfile.Parse("p", []byte("location.nas.node: none\n"), base)
	if nas := otherLocations()["nas"]; err != nil || got.Locations["nas"].Node != "" || got.Locations["nas"].User != nas.User || len(got.Locations) != 3 {
		t.Errorf("%+v, %v", got.Locations, err)
	}
}

// The manual's examples of locations are complete.
// A file may have one key of a location that the policy has: what the file
// leaves out is not missing, as far as can be told without the policy.
func TestCheck_PartOfALocation(t *testing.T) {
	for name, tt := range map[string]struct {
		file, want string
	}{
		"OneKey":     {"location.nas.keep_days: 10\n", ""},
		"BadValue":   {"location.nas.keep_days: many\n", "location.nas.keep_days"},
		"BadKey":     {"location.nas.colour: red\n", "location.nas.colour"},
		"WholeWrong": {"location.nas.kind: sftp\n", "location.nas"},
		"Whole":      {"location.nas.kind: local\nlocation.nas.node: main\nlocation.nas.path: /srv/backup\n", ""},
		"Others":     {"silence_timeout: 1h\n", "silence_timeout"},
	} {
		err := policyfile.Check("policy.yaml", []byte(tt.file))
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	with := facts.DefaultPolicy().WithLocation("nas", facts.LocationPolicy{Kind: facts.LocationLocal, Node: "main", Path: "/srv/backup", Tier: facts.TierDisk})
	p, err := policyfile.Parse("policy.yaml", []byte("location.nas.keep_days: 10\n"), with)
	if err != nil || p.Locations["nas"].Retention.Days != 10 || p.Locations["nas"].Path != "/srv/backup" {
		t.Errorf("%+v, %v", p.Locations["nas"], err)
	}
}

func TestParse_LocationsOfTheManual(t *testing.T) {
	var on []string
	for _, line := range strings.Split(string(manual(t)), "\n") {
		if strings.HasPrefix(line, "# location.") {
			on = append(on, strings.TrimPrefix(line, "# "))
		}
	}
	got, err := policyfile.Parse("p", []byte(strings.Join(on, "\n")), facts.DefaultPolicy())
	if err != nil || len(got.Locations) != 3 {
		t.Fatalf("%v, %+v", err, got.Locations)
	}
	cloud := facts.DefaultLocation()
	cloud.Kind, cloud.Bucket, cloud.Endpoint, cloud.Region = facts.LocationS3, "shop-backups", "https://s3.example.com", "eu-central-1"
	cloud.Prefix, cloud.Secret = "understudy", "cloud"
	if d := cmp.Diff(cloud, got.Locations["cloud"]); d != "" {
		t.Errorf("the manual does not show the defaults: %s", d)
	}
	for _, c := range policyfile.Diff(facts.DefaultPolicy(), other()) {
		k := c.Key[strings.LastIndex(c.Key, ".")+1:]
		if strings.HasPrefix(c.Key, "location.") && !strings.Contains(string(manual(t)), "."+k+": ") {
			t.Errorf("the manual does not tell of location.NAME.%s", k)
		}
	}
}

func TestNodes(t *testing.T) {
	for text, want := range map[string][]string{
		"durability: async\n": nil, "": nil, "{{": nil, "node.x: 1\n": nil,
		"node.b.votes: true\nspool_max: 1\nnode.a.priority: 1\nnode.b.priority: 2\n": {"b", "a"},
	} {
		if d := cmp.Diff(want, policyfile.Nodes([]byte(text))); d != "" {
			t.Errorf("%q: %s", text, d)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(manual(f))
	for _, s := range []string{
		"", policyfile.Format(other()), "durability: async", "a: &a [*a]", "? x", "- - -", "{{", "\xff\xfe", "spool_max: 1TiB\n",
		"{durability: async, spool_max: 0x10}", "<<: *x", "restart_grace: |\n  1s\n", "? durability\n: async\n", "\"durability\": \"async\"\n", "1: 2", "[a]: b\n",
		"node.main.priority: -3\nnode.far.votes: false\n", "node.x.apply_delay: 1h\nstrict_reads: true\nfailover: manual\n", "node.a: {votes: true}\n", "node.0_-.no_failover: true\n",
		"location.x.kind: local\nlocation.x.node: a\nlocation.x.path: '/a''b'\n", "location.nas.kind: none\n", "backup.schedule: '*/5 * * * *'\nbackup.extra: none\n",
		"location.nas.window: ''\nbackup.time_limit: 1d12h\n", "location.cold.host_key: 'ssh-ed25519 AAAA'\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := policyfile.Parse("p.yaml", data, other())
		if err != nil {
			var e *configs.Error
			if !errors.As(err, &e) || e.Text == "" || strings.Contains(err.Error(), "\n") || !cmp.Equal(p, other()) {
				t.Fatalf("got %#v", err)
			}
			return
		}
		if err := p.Validate(); err != nil {
			t.Fatalf("accepted, but not valid: %v", err)
		}
		base := p
		base.Nodes, base.Locations = nil, nil // Format leaves out what is the default
		again, err := policyfile.Parse("p.yaml", []byte(policyfile.Format(p)), base)
		if err != nil || !cmp.Equal(again, p) {
			t.Fatalf("%+v was written as\n%sand read as %+v, %v", p, policyfile.Format(p), again, err)
		}
	})
}
