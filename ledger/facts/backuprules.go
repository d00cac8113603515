package facts

import (
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// The bounds of what a policy says of backups.
const (
	maxLocations   = 16
	maxKept        = 10_000
	maxGoldEvery   = 3660 * 24 * time.Hour
	maxPolicyText  = 4096
	maxPolicyBytes = 1 << 50
	day            = 24 * time.Hour
)

// KeyError says which key of a policy is wrong.
type KeyError struct {
	Key  string // as in a policy file, for example "location.nas.path"
	Text string // goes on after the key
}

// Error is "policy key KEY TEXT".
func (e *KeyError) Error() string { return "policy key " + e.Key + " " + e.Text }

func wrong(key, format string, args ...any) error {
	return &KeyError{Key: key, Text: fmt.Sprintf(format, args...)}
}

var (
	locationName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,39}$`)
	clockTime    = regexp.MustCompile(`^([01][0-9]|2[0-3]):[0-5][0-9]$`)
	windowForm   = regexp.MustCompile(`^([01][0-9]|2[0-3]):[0-5][0-9]-([01][0-9]|2[0-3]):[0-5][0-9]$`)
	zoneName     = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$`)
	userName     = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._@-]{0,63}$`)
	hostPort     = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$`)
	fingerprint  = regexp.MustCompile(`^SHA256:[A-Za-z0-9+/]{43}=?$`)
	knownHost    = regexp.MustCompile(`^([^ ]+ )?(ssh|ecdsa|sk-ssh|sk-ecdsa)-[a-z0-9@.-]+ [A-Za-z0-9+/]{32,}={0,2}$`)
	bucketName   = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)
	regionName   = regexp.MustCompile(`^[a-z0-9-]{1,40}$`)
	keyPrefix    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._+=@-]*(/[A-Za-z0-9_][A-Za-z0-9._+=@-]*)*$`)
	recipient    = regexp.MustCompile(`^age1[a-z0-9]{20,}$`)
	cronItem     = regexp.MustCompile(`^(\*|[0-9]{1,2}|[a-z]{3})(-([0-9]{1,2}|[a-z]{3}))?(/[1-9][0-9]?)?$`)
)

// validateLocations names the first key of a location that is wrong.
func (p Policy) validateLocations() error {
	if len(p.Locations) > maxLocations {
		return fmt.Errorf("the policy names %d locations, at most %d are possible", len(p.Locations), maxLocations)
	}
	places := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(p.Locations)) {
		l := p.Locations[name]
		key := "location." + name
		if !locationName.MatchString(name) {
			return wrong("location."+clip(name), "names no location: up to 40 lower-case letters, digits, - and _ are possible")
		}
		for _, check := range []func(string) error{l.checkKind, l.checkFields, l.checkForm, l.Retention.check} {
			if err := check(key); err != nil {
				return err
			}
		}
		if other, twice := places[l.place()]; twice {
			return wrong(key+".kind", "makes it the same place as location.%s", other)
		}
		places[l.place()] = name
	}
	return nil
}

// place is where a location is, whatever it is called.
func (l LocationPolicy) place() string {
	where := l.Node
	if l.Kind != LocationLocal {
		where = "" // the same whoever goes there
	}
	return fmt.Sprintf("%q", []string{string(l.Kind), where, l.Path, l.Address, l.User, l.Bucket, l.Endpoint, l.Prefix})
}

func (l LocationPolicy) checkKind(key string) error {
	switch l.Kind {
	case LocationLocal, LocationSFTP, LocationS3:
	case "":
		return wrong(key+".kind", "is missing: a location is %s, %s or %s", LocationLocal, LocationSFTP, LocationS3)
	default:
		return wrong(key+".kind", "is %q, it must be %s, %s or %s", clip(string(l.Kind)), LocationLocal, LocationSFTP, LocationS3)
	}
	if l.Tier != TierDisk && l.Tier != TierCold {
		return wrong(key+".tier", "is %q, it must be %s or %s", clip(string(l.Tier)), TierDisk, TierCold)
	}
	return nil
}

// checkFields: what a kind needs is there, and nothing that it does not have.
func (l LocationPolicy) checkFields(key string) error {
	const local, sftp, s3 = LocationLocal, LocationSFTP, LocationS3
	for _, f := range []struct {
		key, value string
		needs, may []LocationKind
	}{
		{"node", l.Node, []LocationKind{local}, []LocationKind{sftp, s3}},
		{"path", l.Path, []LocationKind{local, sftp}, nil},
		{"address", l.Address, []LocationKind{sftp}, nil},
		{"user", l.User, []LocationKind{sftp}, nil},
		{"host_key", l.HostKey, []LocationKind{sftp}, nil},
		{"bucket", l.Bucket, []LocationKind{s3}, nil},
		{"endpoint", l.Endpoint, nil, []LocationKind{s3}},
		{"region", l.Region, nil, []LocationKind{s3}},
		{"prefix", l.Prefix, nil, []LocationKind{s3}},
		{"secret", l.Secret, []LocationKind{sftp, s3}, nil},
	} {
		needs := slices.Contains(f.needs, l.Kind)
		switch {
		case f.value == "" && needs:
			return wrong(key+"."+f.key, "is missing: a location of kind %s needs it", l.Kind)
		case f.value != "" && !needs && !slices.Contains(f.may, l.Kind):
			return wrong(key+"."+f.key, "is set, but a location of kind %s has no such key", l.Kind)
		case len(f.value) > maxPolicyText || strings.ContainsFunc(f.value, unicode.IsControl):
			return wrong(key+"."+f.key, "is not one line of at most %d bytes", maxPolicyText)
		}
	}
	return nil
}

// checkForm checks the keys one by one, as far as they are set.
func (l LocationPolicy) checkForm(key string) error {
	for _, f := range []struct {
		key, value string
		ok         bool
		want       string
	}{
		{"node", l.Node, plain(l.Node), "a node's name"},
		{"path", l.Path, goodPath(l.Path, l.Kind == LocationLocal), "an absolute path, or on an SFTP server one without .."},
		{"address", l.Address, goodAddress(l.Address), "host or host:port"},
		{"user", l.User, userName.MatchString(l.User), "an account's name"},
		{"host_key", l.HostKey, fingerprint.MatchString(l.HostKey) || knownHost.MatchString(l.HostKey), "SHA256:… as ssh-keygen -l prints it, or a line of known_hosts"},
		{"bucket", l.Bucket, bucketName.MatchString(l.Bucket), "a bucket's name"},
		{"endpoint", l.Endpoint, goodAddress(strings.TrimPrefix(strings.TrimPrefix(l.Endpoint, "https://"), "http://")), "host, host:port, or that after https:// or http://"},
		{"region", l.Region, regionName.MatchString(l.Region), "a region such as eu-central-1"},
		{"prefix", l.Prefix, len(l.Prefix) <= 200 && keyPrefix.MatchString(l.Prefix), "names of letters, digits and ._+=@- with slashes between them"},
		{"secret", l.Secret, locationName.MatchString(l.Secret), "the name of a secret of the node file"},
		{"identity", l.Identity, locationName.MatchString(l.Identity), "the name of a secret of the node file"},
		{"window", l.Window, windowForm.MatchString(l.Window) && l.Window[:5] != l.Window[6:], "a time of day such as 22:00-06:00"},
		{"encrypt_to", l.EncryptTo, goodRecipients(l.EncryptTo), "up to 8 age recipients (age1…), separated by blanks"},
	} {
		if f.value != "" && !f.ok {
			return wrong(key+"."+f.key, "is %q, it must be %s", clip(f.value), f.want)
		}
	}
	switch {
	case l.Identity != "" && l.EncryptTo == "":
		return wrong(key+".identity", "is set, but encrypt_to is not")
	case l.Order < -1000 || l.Order > 1000:
		return wrong(key+".order", "is %d, it must be between -1000 and 1000", l.Order)
	case l.ThrottleBytes < 0 || l.ThrottleBytes > 0 && l.ThrottleBytes < 16<<10 || l.ThrottleBytes > maxPolicyBytes:
		return wrong(key+".throttle", "is %d bytes a second, it must be 0 for no bound, or at least 16KiB", l.ThrottleBytes)
	}
	return nil
}

func (r Retention) check(key string) error {
	for _, f := range []struct {
		key string
		n   int
	}{
		{"keep", r.Keep}, {"keep_days", r.Days}, {"keep_cycles", r.Cycles}, {"daily", r.Daily}, {"weekly", r.Weekly},
		{"monthly", r.Monthly}, {"yearly", r.Yearly}, {"failed_days", r.FailedDays},
	} {
		if f.n < 0 || f.n > maxKept {
			return wrong(key+"."+f.key, "is %d, it must be between 0 and %d", f.n, maxKept)
		}
	}
	if g := r.GoldEvery; g < 0 || g > 0 && g < day || g > maxGoldEvery {
		return wrong(key+".gold_every", "is %s, it must be 0 for never, or between 1d and 3660d", g)
	}
	return nil
}

func goodPath(p string, absolute bool) bool {
	if p == "/" || absolute && !path.IsAbs(p) {
		return false
	}
	return path.Clean(p) == p && p != "." && p != ".." && !strings.HasPrefix(p, "../")
}

func goodAddress(a string) bool {
	m := hostPort.FindStringSubmatch(a)
	if m == nil || len(a) > maxNameBytes {
		return false
	}
	if m[2] == "" {
		return true
	}
	n, err := strconv.Atoi(m[2][1:])
	return err == nil && n > 0 && n < 1<<16
}

func goodRecipients(s string) bool {
	list := strings.Fields(s)
	return len(list) <= 8 && strings.Join(list, " ") == s && !slices.ContainsFunc(list, func(r string) bool { return !recipient.MatchString(r) })
}

// validateBackup names the first key of the backups that is wrong.
func (p Policy) validateBackup() error {
	b := p.Backups()
	for _, s := range []struct{ key, value string }{{"backup.schedule", b.Schedule}, {"backup.drill_schedule", b.DrillSchedule}} {
		if !goodSchedule(s.value) {
			return wrong(s.key, "is %q, it must be off, daily HH:MM, weekly sun HH:MM, monthly 1 HH:MM, or five fields of cron", clip(s.value))
		}
	}
	switch {
	case !zoneName.MatchString(b.TimeZone) || len(b.TimeZone) > 64 || b.TimeZone == "Local":
		return wrong("backup.time_zone", "is %q, it must be UTC or a name such as Europe/Berlin", clip(b.TimeZone))
	case b.From != SourceStandby && b.From != SourcePrimary:
		return wrong("backup.from", "is %q, it must be %s or %s", clip(string(b.From)), SourceStandby, SourcePrimary)
	case !slices.Contains([]Level{LevelFastest, LevelDefault, LevelBetter, LevelBest}, b.Level):
		return wrong("backup.level", "is %q, it must be %s, %s, %s or %s", clip(string(b.Level)), LevelFastest, LevelDefault, LevelBetter, LevelBest)
	case b.PruneAt != ScheduleOff && !clockTime.MatchString(b.PruneAt):
		return wrong("backup.prune_at", "is %q, it must be off or a time of day such as 04:00", clip(b.PruneAt))
	case b.RetryCount < 0 || b.RetryCount > 1000:
		return wrong("backup.retry_count", "is %d, it must be between 0 and 1000", b.RetryCount)
	case b.RateBytes < 0 || b.RateBytes > 0 && b.RateBytes < 16<<10 || b.RateBytes > maxPolicyBytes:
		return wrong("backup.rate", "is %d bytes a second, it must be 0 for no bound, or at least 16KiB", b.RateBytes)
	}
	for _, d := range []struct {
		key       string
		v, lo, hi time.Duration
		off       bool
	}{
		{"backup.time_limit", b.TimeLimit, time.Minute, 30 * day, true},
		{"backup.marker_every", b.MarkerEvery, 10 * time.Second, day, true},
		{"backup.retry_interval", b.RetryInterval, time.Second, day, false},
		{"backup.verify_every", b.VerifyEvery, time.Hour, 366 * day, true},
		{"backup.full_every", b.FullEvery, time.Hour, 366 * day, false},
	} {
		if d.off && d.v == 0 {
			continue
		}
		if d.v < d.lo || d.v > d.hi {
			return wrong(d.key, "is %s, it must be between %s and %s", d.v, d.lo, d.hi)
		}
	}
	return checkExtra(b.Extra)
}

func checkExtra(extra string) error {
	list := strings.Fields(extra)
	if len(extra) > maxPolicyText || strings.Join(list, " ") != extra || strings.ContainsFunc(extra, unicode.IsControl) {
		return wrong("backup.extra", "is not one line of at most %d bytes with single blanks between paths", maxPolicyText)
	}
	for _, p := range list {
		if !goodPath(p, true) {
			return wrong("backup.extra", "has %q, each must be an absolute path", clip(p))
		}
		if _, err := path.Match(p, ""); err != nil {
			return wrong("backup.extra", "has %q, which is no shell pattern", clip(p))
		}
	}
	return nil
}

// goodSchedule accepts the forms of a schedule. Whoever computes the next
// moment reads the same forms.
func goodSchedule(s string) bool {
	f := strings.Split(s, " ")
	switch {
	case s == ScheduleOff:
		return true
	case f[0] == "daily":
		return len(f) == 2 && clockTime.MatchString(f[1])
	case f[0] == "weekly":
		return len(f) == 3 && slices.Contains(weekdays(), f[1]) && clockTime.MatchString(f[2])
	case f[0] == "monthly":
		return len(f) == 3 && inRange(f[1], 1, 28, nil) && clockTime.MatchString(f[2])
	case len(f) != 5 || len(s) > maxNameBytes:
		return false
	}
	for i, r := range []struct {
		lo, hi int
		words  []string
	}{{0, 59, nil}, {0, 23, nil}, {1, 31, nil}, {1, 12, months()}, {0, 6, weekdays()}} {
		if !goodCron(f[i], r.lo, r.hi, r.words) {
			return false
		}
	}
	return true
}

func weekdays() []string { return []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"} }

func months() []string {
	return []string{"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}
}

// goodCron checks one field of cron: words count from lo.
func goodCron(field string, lo, hi int, words []string) bool {
	for _, item := range strings.Split(field, ",") {
		m := cronItem.FindStringSubmatch(item)
		if m == nil || m[1] == "*" && m[2] != "" {
			return false
		}
		if m[1] != "*" && !inRange(m[1], lo, hi, words) || m[3] != "" && !inRange(m[3], lo, hi, words) {
			return false
		}
		if m[3] != "" && ordinal(m[1], lo, words) > ordinal(m[3], lo, words) {
			return false
		}
	}
	return true
}

func inRange(s string, lo, hi int, words []string) bool {
	n := ordinal(s, lo, words)
	return n >= lo && n <= hi
}

// ordinal is the number that s is, or that its word stands for; -1 for neither.
func ordinal(s string, lo int, words []string) int {
	if i := slices.Index(words, s); i >= 0 {
		return i + lo
	}
	n, err := strconv.Atoi(s)
	if err != nil || s != strconv.Itoa(n) && s != "0"+strconv.Itoa(n) {
		return -1
	}
	return n
}
