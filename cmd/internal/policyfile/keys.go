package policyfile

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"understudy/ledger/facts"
)

// key is one key of the file.
type key struct {
	name string
	get  func(facts.Policy) string
	set  func(p *facts.Policy, value string) error // one sentence without the key
}

// keys are those of the whole group, in the order of the file.
func keys() []key {
	return append([]key{
		wordKey("durability", func(p *facts.Policy) *facts.Durability { return &p.Durability }, facts.Quorum, facts.Async),
		wordKey("failover", func(p *facts.Policy) *facts.FailoverMode { return &p.Failover },
			facts.FailoverAutomatic, facts.FailoverObserve, facts.FailoverManual),
		durationKey("isolation_timeout", func(p *facts.Policy) *time.Duration { return &p.IsolationTimeout }),
		durationKey("pair_alone_after", func(p *facts.Policy) *time.Duration { return &p.PairAloneAfter }),
		durationKey("restart_grace", func(p *facts.Policy) *time.Duration { return &p.RestartGrace }),
		durationKey("silence_timeout", func(p *facts.Policy) *time.Duration { return &p.SilenceTimeout }),
		sizeKey("spool_max", func(p *facts.Policy) *int64 { return &p.SpoolMaxBytes }),
		durationKey("stall_timeout", func(p *facts.Policy) *time.Duration { return &p.StallTimeout }),
		truthKey("strict_reads", func(p *facts.Policy) *bool { return &p.StrictReads }),
		durationKey("switchover_catchup", func(p *facts.Policy) *time.Duration { return &p.SwitchoverCatchup }),
		sizeKey("switchover_max_lag", func(p *facts.Policy) *int64 { return &p.SwitchoverMaxLagBytes }),
	}, backupKeys()...)
}

// nodeKey is a key that each node has of its own.
type nodeKey struct {
	name string
	get  func(facts.NodePolicy) string
	set  func(n *facts.NodePolicy, value string) error
}

func nodeKeys() []nodeKey {
	return []nodeKey{
		{
			"apply_delay",
			func(n facts.NodePolicy) string { return formatDuration(n.ApplyDelay) },
			func(n *facts.NodePolicy, v string) error { return setDuration(&n.ApplyDelay, v) },
		},
		{
			"no_failover",
			func(n facts.NodePolicy) string { return strconv.FormatBool(n.NoFailover) },
			func(n *facts.NodePolicy, v string) error { return setTruth(&n.NoFailover, v) },
		},
		{
			"priority",
			func(n facts.NodePolicy) string { return strconv.Itoa(n.Priority) },
			func(n *facts.NodePolicy, v string) error {
				return setCount(&n.Priority, v)
			},
		},
		{
			"votes",
			func(n facts.NodePolicy) string { return strconv.FormatBool(!n.NoVote) },
			func(n *facts.NodePolicy, v string) error {
				votes := false
				err := setTruth(&votes, v)
				n.NoVote = !votes
				return err
			},
		},
	}
}

const nodePrefix = "node."

// plainName is what a node or a location may be called.
var plainName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,39}$`)

// splitNodeKey takes node.NAME.KEY apart.
func splitNodeKey(s string) (name, key string, ok bool) { return splitKey(nodePrefix, s) }

// splitKey takes PREFIX NAME.KEY apart.
func splitKey(prefix, s string) (name, key string, ok bool) {
	rest, ok := strings.CutPrefix(s, prefix)
	if !ok {
		return "", "", false
	}
	name, key, ok = strings.Cut(rest, ".")
	return name, key, ok && plainName.MatchString(name)
}

// of is the key of one node.
func (k nodeKey) of(node string) key {
	return key{
		nodePrefix + node + "." + k.name,
		func(p facts.Policy) string { return k.get(p.Of(node)) },
		func(p *facts.Policy, v string) error {
			n := p.Of(node)
			if err := k.set(&n, v); err != nil {
				return err
			}
			*p = p.With(node, n)
			return nil
		},
	}
}

// keysOf are the keys of the group and those of all nodes and locations that a
// policy names.
func keysOf(policies ...facts.Policy) []key {
	names := map[string]bool{}
	for _, p := range policies {
		for n := range p.Nodes {
			names[n] = true
		}
	}
	list := keys()
	for _, n := range slices.Sorted(maps.Keys(names)) {
		for _, k := range nodeKeys() {
			list = append(list, k.of(n))
		}
	}
	return append(list, locationsOf(policies...)...)
}

func find(name string) (key, bool) {
	for _, k := range keys() {
		if k.name == name {
			return k, true
		}
	}
	if node, last, ok := splitNodeKey(name); ok {
		for _, k := range nodeKeys() {
			if k.name == last {
				return k.of(node), true
			}
		}
	}
	if location, last, ok := splitLocationKey(name); ok {
		for _, k := range locationKeys() {
			if k.name == last {
				return k.of(location), true
			}
		}
	}
	return key{}, false
}

// names are the keys in words: those of the same family as a key that is
// unknown, or all.
func names(like string) string {
	var all []string
	for _, k := range keys() {
		all = append(all, k.name)
	}
	for _, k := range nodeKeys() {
		all = append(all, nodePrefix+"NAME."+k.name)
	}
	for _, k := range locationKeys() {
		all = append(all, locationPrefix+"NAME."+k.name)
	}
	for _, family := range []string{nodePrefix, locationPrefix, backupPrefix} {
		if strings.HasPrefix(like+".", family) {
			all = slices.DeleteFunc(all, func(k string) bool { return !strings.HasPrefix(k, family) })
		}
	}
	return strings.Join(all, ", ")
}

// wordKey takes one of a few words. A policy that has none is older than the
// key and means the default, as it does for durations that may not be zero.
func wordKey[T ~string](name string, of func(*facts.Policy) *T, words ...T) key {
	return key{
		name,
		func(p facts.Policy) string {
			if *of(&p) == "" {
				p = facts.DefaultPolicy()
			}
			return string(*of(&p))
		},
		func(p *facts.Policy, v string) error {
			return setWord(of(p), v, words...)
		},
	}
}

func noneOf[T ~string](words []T) string {
	if len(words) == 2 {
		return fmt.Sprintf("neither %s nor %s", words[0], words[1])
	}
	text := "none of " + string(words[0])
	for i, w := range words[1:] {
		if i == len(words)-2 {
			text += " and " + string(w)
		} else {
			text += ", " + string(w)
		}
	}
	return text
}

func durationKey(name string, of func(*facts.Policy) *time.Duration) key {
	return key{
		name,
		func(p facts.Policy) string {
			if name == "stall_timeout" && *of(&p) == 0 { // older than the key
				p = facts.DefaultPolicy()
			}
			return formatDuration(*of(&p))
		},
		func(p *facts.Policy, v string) error { return setDuration(of(p), v) },
	}
}

func setDuration(to *time.Duration, v string) error {
	d, err := parseDuration(v)
	if err != nil {
		return fmt.Errorf("%q is no duration; write it like 500ms, 2s, 1m30s or 7d", clip(v))
	}
	*to = d
	return nil
}

func truthKey(name string, of func(*facts.Policy) *bool) key {
	return key{
		name,
		func(p facts.Policy) string { return strconv.FormatBool(*of(&p)) },
		func(p *facts.Policy, v string) error { return setTruth(of(p), v) },
	}
}

// setTruth takes two words only: what else YAML calls a truth differs between
// its versions.
func setTruth(to *bool, v string) error {
	if v != "true" && v != "false" {
		return fmt.Errorf("%q is neither true nor false", clip(v))
	}
	*to = v == "true"
	return nil
}

func sizeKey(name string, of func(*facts.Policy) *int64) key {
	return key{
		name,
		func(p facts.Policy) string { return formatSize(*of(&p)) },
		func(p *facts.Policy, v string) error { return setSize(of(p), v) },
	}
}
