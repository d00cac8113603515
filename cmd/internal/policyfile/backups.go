package policyfile

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"filippo.io/age"

	"understudy/ledger/agenda"
	"understudy/ledger/facts"
)

// none is how an optional text is taken back, and a location removed.
const none = "none"

const backupPrefix = "backup."

// backupKey is a key of the backups of the whole group.
func backupKey(name string, get func(facts.BackupPolicy) string, set func(b *facts.BackupPolicy, v string) error) key {
	return key{
		backupPrefix + name,
		func(p facts.Policy) string { return get(p.Backups()) },
		func(p *facts.Policy, v string) error {
			b := p.Backups()
			if err := set(&b, v); err != nil {
				return err
			}
			p.Backup = b
			return nil
		},
	}
}

func backupKeys() []key {
	type policy = facts.BackupPolicy
	text := func(name string, of func(*policy) *string) key {
		return backupKey(name, func(b policy) string { return orNone(*of(&b)) }, func(b *policy, v string) error { return setText(of(b), v) })
	}
	schedule := func(name string, of func(*policy) *string) key {
		return backupKey(name, func(b policy) string { return *of(&b) }, func(b *policy, v string) error { return setSchedule(of(b), v) })
	}
	span := func(name string, of func(*policy) *time.Duration) key {
		return backupKey(name, func(b policy) string { return formatDays(*of(&b)) }, func(b *policy, v string) error { return setDuration(of(b), v) })
	}
	return []key{
		schedule("drill_schedule", func(b *policy) *string { return &b.DrillSchedule }),
		text("extra", func(b *policy) *string { return &b.Extra }),
		backupKey("from", func(b policy) string { return string(b.From) }, func(b *policy, v string) error {
			return setWord(&b.From, v, facts.SourceStandby, facts.SourcePrimary)
		}),
		span("full_every", func(b *policy) *time.Duration { return &b.FullEvery }),
		backupKey("incremental", func(b policy) string { return strconv.FormatBool(b.Incremental) }, func(b *policy, v string) error {
			return setTruth(&b.Incremental, v)
		}),
		backupKey("level", func(b policy) string { return string(b.Level) }, func(b *policy, v string) error {
			return setWord(&b.Level, v, facts.LevelFastest, facts.LevelDefault, facts.LevelBetter, facts.LevelBest)
		}),
		span("marker_every", func(b *policy) *time.Duration { return &b.MarkerEvery }),
		text("prune_at", func(b *policy) *string { return &b.PruneAt }),
		backupKey("rate", func(b policy) string { return formatSize(b.RateBytes) }, func(b *policy, v string) error { return setSize(&b.RateBytes, v) }),
		backupKey("retry_count", func(b policy) string { return strconv.Itoa(b.RetryCount) }, func(b *policy, v string) error { return setCount(&b.RetryCount, v) }),
		span("retry_interval", func(b *policy) *time.Duration { return &b.RetryInterval }),
		schedule("schedule", func(b *policy) *string { return &b.Schedule }),
		span("time_limit", func(b *policy) *time.Duration { return &b.TimeLimit }),
		backupKey("time_zone", func(b policy) string { return b.TimeZone }, setZone),
		span("verify_every", func(b *policy) *time.Duration { return &b.VerifyEvery }),
	}
}

// setSchedule refuses what can never come, such as the 31st of February. Which
// forms there are is the ledger's to say.
func setSchedule(to *string, v string) error {
	if _, err := agenda.ParseSchedule(v, time.UTC); v != facts.ScheduleOff && err != nil {
		return err
	}
	*to = v
	return nil
}

// setZone knows the zones of this host; the ledger cannot, since the hosts'
// lists differ.
func setZone(b *facts.BackupPolicy, v string) error {
	if _, err := time.LoadLocation(v); err != nil || v == "" {
		return fmt.Errorf("%q is no time zone that this host knows; write UTC, or a name such as Europe/Berlin", clip(v))
	}
	b.TimeZone = v
	return nil
}

// locationKey is a key that each location has of its own.
type locationKey struct {
	name string
	get  func(facts.LocationPolicy) string
	set  func(l *facts.LocationPolicy, v string) error
}

func locationKeys() []locationKey {
	type policy = facts.LocationPolicy
	text := func(name string, of func(*policy) *string) locationKey {
		return locationKey{name, func(l policy) string { return orNone(*of(&l)) }, func(l *policy, v string) error { return setText(of(l), v) }}
	}
	count := func(name string, of func(*policy) *int) locationKey {
		return locationKey{name, func(l policy) string { return strconv.Itoa(*of(&l)) }, func(l *policy, v string) error { return setCount(of(l), v) }}
	}
	return []locationKey{
		{"kind", func(l policy) string { return orNone(string(l.Kind)) }, func(l *policy, v string) error {
			return setWord(&l.Kind, v, facts.LocationLocal, facts.LocationSFTP, facts.LocationS3, none)
		}},
		text("address", func(l *policy) *string { return &l.Address }),
		text("bucket", func(l *policy) *string { return &l.Bucket }),
		count("daily", func(l *policy) *int { return &l.Retention.Daily }),
		{"enabled", func(l policy) string { return strconv.FormatBool(!l.Disabled) }, setEnabled},
		{"encrypt_to", func(l policy) string { return orNone(l.EncryptTo) }, setRecipients},
		text("endpoint", func(l *policy) *string { return &l.Endpoint }),
		count("failed_days", func(l *policy) *int { return &l.Retention.FailedDays }),
		{"gold_every", func(l policy) string { return formatDays(l.Retention.GoldEvery) }, func(l *policy, v string) error {
			return setDuration(&l.Retention.GoldEvery, v)
		}},
		text("host_key", func(l *policy) *string { return &l.HostKey }),
		text("identity", func(l *policy) *string { return &l.Identity }),
		count("keep", func(l *policy) *int { return &l.Retention.Keep }),
		count("keep_cycles", func(l *policy) *int { return &l.Retention.Cycles }),
		count("keep_days", func(l *policy) *int { return &l.Retention.Days }),
		count("monthly", func(l *policy) *int { return &l.Retention.Monthly }),
		text("node", func(l *policy) *string { return &l.Node }),
		count("order", func(l *policy) *int { return &l.Order }),
		text("path", func(l *policy) *string { return &l.Path }),
		text("prefix", func(l *policy) *string { return &l.Prefix }),
		text("region", func(l *policy) *string { return &l.Region }),
		text("secret", func(l *policy) *string { return &l.Secret }),
		{"throttle", func(l policy) string { return formatSize(l.ThrottleBytes) }, func(l *policy, v string) error { return setSize(&l.ThrottleBytes, v) }},
		{"tier", func(l policy) string { return string(l.Tier) }, func(l *policy, v string) error {
			return setWord(&l.Tier, v, facts.TierDisk, facts.TierCold)
		}},
		text("user", func(l *policy) *string { return &l.User }),
		count("weekly", func(l *policy) *int { return &l.Retention.Weekly }),
		text("window", func(l *policy) *string { return &l.Window }),
		count("yearly", func(l *policy) *int { return &l.Retention.Yearly }),
	}
}

func setEnabled(l *facts.LocationPolicy, v string) error {
	enabled := false
	err := setTruth(&enabled, v)
	l.Disabled = !enabled
	return err
}

// setRecipients checks the recipients' own checksums: a backup that is
// encrypted to a misspelled one is lost.
func setRecipients(l *facts.LocationPolicy, v string) error {
	if err := setText(&l.EncryptTo, v); err != nil || l.EncryptTo == "" {
		return err
	}
	for _, r := range strings.Fields(v) {
		if _, err := age.ParseRecipients(strings.NewReader(r)); err != nil {
			return fmt.Errorf("%q is no age recipient: it begins with age1, as age-keygen prints it", clip(r))
		}
	}
	return nil
}

const locationPrefix = "location."

// splitLocationKey takes location.NAME.KEY apart.
func splitLocationKey(s string) (name, key string, ok bool) { return splitKey(locationPrefix, s) }

// of is the key of one location. One that the policy does not have is of no
// kind, and what is not said of it is the default.
func (k locationKey) of(name string) key {
	entry := func(p facts.Policy) facts.LocationPolicy {
		if l, ok := p.Locations[name]; ok {
			return l
		}
		return facts.DefaultLocation()
	}
	return key{
		locationPrefix + name + "." + k.name,
		func(p facts.Policy) string { return k.get(entry(p)) },
		func(p *facts.Policy, v string) error {
			l := entry(*p)
			if err := k.set(&l, v); err != nil {
				return err
			}
			if l.Kind == none {
				*p = p.WithoutLocation(name)
			} else {
				*p = p.WithLocation(name, l)
			}
			return nil
		},
	}
}

// locationsOf are the keys of all locations that a policy names.
func locationsOf(policies ...facts.Policy) (list []key) {
	names := map[string]bool{}
	for _, p := range policies {
		for n := range p.Locations {
			names[n] = true
		}
	}
	for _, n := range slices.Sorted(maps.Keys(names)) {
		for _, k := range locationKeys() {
			list = append(list, k.of(n))
		}
	}
	return list
}

// removed finds a key of a location that the same file removes.
func removed(entries []entry) (entry, bool) {
	gone := map[string]bool{}
	for _, e := range entries {
		if name, k, ok := splitLocationKey(e.key); ok && k == "kind" && e.value == none {
			gone[name] = true
		}
	}
	for _, e := range entries {
		if name, k, ok := splitLocationKey(e.key); ok && k != "kind" && gone[name] {
			return e, true
		}
	}
	return entry{}, false
}

func orNone(s string) string {
	if s == "" {
		return none
	}
	return s
}

func setText(to *string, v string) error {
	if v == none {
		v = ""
	}
	*to = v
	return nil
}

func setWord[T ~string](to *T, v string, words ...T) error {
	if !slices.Contains(words, T(v)) {
		return fmt.Errorf("%q is %s", clip(v), noneOf(words))
	}
	*to = T(v)
	return nil
}

func setCount(to *int, v string) error {
	i, err := strconv.Atoi(v)
	if err != nil {
		return fmt.Errorf("%q is no whole number", clip(v))
	}
	*to = i
	return nil
}

func setSize(to *int64, v string) error {
	n, err := parseSize(v)
	if err != nil {
		return err
	}
	*to = n
	return nil
}

const day = 24 * time.Hour

// formatDays is formatDuration with days: 7d, 1d12h.
func formatDays(d time.Duration) string {
	switch days := d / day; {
	case d < day:
		return formatDuration(d)
	case d%day == 0:
		return fmt.Sprintf("%dd", days)
	default:
		return fmt.Sprintf("%dd%s", days, formatDuration(d%day))
	}
}

// maxDays is as many as a duration holds.
const maxDays = 100_000

// parseDuration reads a duration that may begin with days.
func parseDuration(v string) (time.Duration, error) {
	days, rest, ok := strings.Cut(v, "d")
	if !ok {
		return time.ParseDuration(v)
	}
	n, err := strconv.ParseUint(days, 10, 32)
	if err != nil || n > maxDays {
		return 0, fmt.Errorf("%q is no number of days", clip(days))
	}
	d := time.Duration(n) * day
	if rest == "" {
		return d, nil
	}
	more, err := time.ParseDuration(rest)
	if err != nil || more < 0 || more >= day {
		return 0, fmt.Errorf("%q is no part of a day", clip(rest))
	}
	return d + more, nil
}
