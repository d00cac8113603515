package policyfile

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"understudy/ledger/facts"
)

// Format is the file that says what p says; its version is a comment. Of the
// keys of nodes and locations it has those that are not the default.
func Format(p facts.Policy) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# policy of the group, version %d\n", p.Version)
	for _, k := range keys() {
		fmt.Fprintf(&b, "%s: %s\n", k.name, quote(k.get(p)))
	}
	for _, k := range keysOf(p)[len(keys()):] {
		if v := k.get(p); v != k.get(facts.Policy{}) {
			fmt.Fprintf(&b, "%s: %s\n", k.name, quote(v))
		}
	}
	return b.String()
}

// bare is what YAML reads as it stands.
var bare = regexp.MustCompile(`^-?[A-Za-z0-9]+(\.[A-Za-z0-9]+)*$`)

// quote writes a value so that YAML reads it as it is: a schedule may begin with
// an asterisk, a host's key has colons.
func quote(v string) string {
	if bare.MatchString(v) && !strings.EqualFold(v, "null") {
		return v
	}
	return "'" + strings.ReplaceAll(v, "'", "''") + "'"
}

// Change is a key with another value.
type Change struct {
	Key string
	Old string
	New string
}

// String is "key: old -> new".
func (c Change) String() string { return c.Key + ": " + c.Old + " -> " + c.New }

// Diff are the keys whose values are not the same in both, in the order of the
// file.
func Diff(old, changed facts.Policy) (list []Change) {
	for _, k := range keysOf(old, changed) {
		if a, b := k.get(old), k.get(changed); a != b {
			list = append(list, Change{k.name, a, b})
		}
	}
	return list
}

// formatDuration writes 1m0s as 1m.
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

type unit struct {
	name  string
	bytes int64
}

// units are those of sizes, the largest first.
func units() []unit {
	return []unit{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}
}

// formatSize uses the largest unit that divides n, so that parseSize gives n
// again.
func formatSize(n int64) string {
	for _, u := range units() {
		if n != 0 && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}

func parseSize(s string) (int64, error) {
	digits, factor := s, int64(1)
	for _, u := range units() {
		if rest, ok := strings.CutSuffix(s, u.name); ok {
			digits, factor = rest, u.bytes
			break
		}
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || n > uint64(math.MaxInt64/factor) {
		return 0, fmt.Errorf("%q is no size; write a whole number of bytes, or one with KiB, MiB, GiB or TiB such as 8GiB", clip(s))
	}
	return int64(n) * factor, nil
}
