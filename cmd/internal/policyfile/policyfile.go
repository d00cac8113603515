// Package policyfile reads and writes the operator's file of the group's
// policy: YAML with one plain value a key. Of facts.Policy it has the keys that
// this version acts on.
package policyfile

import (
	"fmt"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"understudy/configs"
	"understudy/ledger/facts"
)

// MaxBytes bounds the size of a policy file.
const MaxBytes = 64 << 10

// key is one key of the file.
type key struct {
	name string
	get  func(facts.Policy) string
	set  func(p *facts.Policy, value string) error // one sentence without the key
}

// keys are all keys, in the order of the file.
func keys() []key {
	return []key{
		{
			"durability",
			func(p facts.Policy) string { return string(p.Durability) },
			func(p *facts.Policy, v string) error {
				d := facts.Durability(v)
				if d != facts.Quorum && d != facts.Async {
					return fmt.Errorf("%q is neither %s nor %s", clip(v), facts.Quorum, facts.Async)
				}
				p.Durability = d
				return nil
			},
		},
		durationKey("isolation_timeout", func(p *facts.Policy) *time.Duration { return &p.IsolationTimeout }),
		durationKey("pair_alone_after", func(p *facts.Policy) *time.Duration { return &p.PairAloneAfter }),
		durationKey("restart_grace", func(p *facts.Policy) *time.Duration { return &p.RestartGrace }),
		sizeKey("spool_max", func(p *facts.Policy) *int64 { return &p.SpoolMaxBytes }),
		durationKey("switchover_catchup", func(p *facts.Policy) *time.Duration { return &p.SwitchoverCatchup }),
		sizeKey("switchover_max_lag", func(p *facts.Policy) *int64 { return &p.SwitchoverMaxLagBytes }),
	}
}

func durationKey(name string, of func(*facts.Policy) *time.Duration) key {
	return key{
		name,
		func(p facts.Policy) string { return formatDuration(*of(&p)) },
		func(p *facts.Policy, v string) error {
			d, err := time.ParseDuration(v)
			if err != nil {
				return fmt.Errorf("%q is no duration; write it like 500ms, 2s or 1m30s", clip(v))
			}
			*of(p) = d
			return nil
		},
	}
}

func sizeKey(name string, of func(*facts.Policy) *int64) key {
	return key{
		name,
		func(p facts.Policy) string { return formatSize(*of(&p)) },
		func(p *facts.Policy, v string) error {
			n, err := parseSize(v)
			if err != nil {
				return err
			}
			*of(p) = n
			return nil
		},
	}
}

// Parse returns base with what the file at path says: a key that it does not
// have keeps its value in base, and so does everything that has no key. path
// is used in messages. What is wrong is a *configs.Error that names the line
// and the key.
func Parse(path string, data []byte, base facts.Policy) (facts.Policy, error) {
	if len(data) > MaxBytes {
		return base, &configs.Error{File: path, Text: fmt.Sprintf("the file is larger than %d KiB", MaxBytes>>10)}
	}
	entries, err := entriesOf(path, data)
	if err != nil {
		return base, err
	}
	p, lines := base, map[string]int{}
	for _, e := range entries {
		fail := func(format string, args ...any) (facts.Policy, error) {
			return base, &configs.Error{File: path, Key: e.key, Line: e.line, Text: fmt.Sprintf(format, args...)}
		}
		if first := lines[e.key]; first > 0 {
			return fail("this key stands in line %d already", first)
		}
		lines[e.key] = e.line
		k, ok := find(e.key)
		if !ok {
			return fail("this key is unknown; the keys are %s", names())
		}
		if !e.plain {
			return fail("this key takes one plain value")
		}
		if err := k.set(&p, e.value); err != nil {
			return fail("%s", err)
		}
		// Beside defaults, a mistake is this key's.
		alone := facts.DefaultPolicy()
		if k.set(&alone, e.value) == nil {
			if err := alone.Validate(); err != nil {
				return base, &configs.Error{File: path, Line: e.line, Text: oneLine(err.Error())}
			}
		}
	}
	if err := p.Validate(); err != nil {
		return base, &configs.Error{File: path, Text: oneLine(err.Error())}
	}
	return p, nil
}

func find(name string) (key, bool) {
	for _, k := range keys() {
		if k.name == name {
			return k, true
		}
	}
	return key{}, false
}

func names() string {
	var all []string
	for _, k := range keys() {
		all = append(all, k.name)
	}
	return strings.Join(all, ", ")
}

// entry is one "key: value" of a file.
type entry struct {
	key   string
	value string // the text of a plain value, unquoted
	line  int    // from 1
	plain bool   // the value is text or a number, without anchor, alias or tag
}

// entriesOf takes a file apart. The YAML library has panicked on malformed
// input before; such input is a bad file and not a broken invariant of ours.
func entriesOf(path string, data []byte) (list []entry, err error) {
	bad := func(line int, format string, args ...any) ([]entry, error) {
		return nil, &configs.Error{File: path, Line: line, Text: fmt.Sprintf(format, args...)}
	}
	defer func() {
		if r := recover(); r != nil {
			list, err = bad(0, "the file is not valid YAML")
		}
	}()
	// A double key is refused by Parse, which names it.
	tree, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return bad(syntaxLine(err), "the file is not valid YAML: %s", syntaxText(err))
	}
	var body ast.Node
	for _, doc := range tree.Docs {
		switch {
		case doc.Body == nil:
		case body != nil:
			return bad(0, "the file holds more than one YAML document")
		default:
			body = doc.Body
		}
	}
	var values []*ast.MappingValueNode
	switch b := body.(type) {
	case nil, *ast.NullNode:
		return bad(0, "the file is empty; the keys are %s", names())
	case *ast.MappingNode:
		values = b.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{b}
	default:
		return bad(lineOf(body), "the file must be a list of lines \"key: value\"")
	}
	for _, v := range values {
		e := entry{line: lineOf(v.Key)}
		if tk := v.Key.GetToken(); tk != nil {
			e.key = clip(oneLine(tk.Value))
		}
		switch v.Value.(type) {
		case *ast.StringNode, *ast.IntegerNode, *ast.FloatNode:
			e.value, e.plain = v.Value.GetToken().Value, true
		}
		list = append(list, e)
	}
	return list, nil
}

func lineOf(n ast.Node) int {
	if tk := n.GetToken(); tk != nil && tk.Position != nil {
		return tk.Position.Line
	}
	return 0
}

func syntaxLine(err error) int {
	if e, ok := err.(yaml.Error); ok && e.GetToken() != nil && e.GetToken().Position != nil {
		return e.GetToken().Position.Line
	}
	return 0
}

func syntaxText(err error) string {
	if e, ok := err.(yaml.Error); ok {
		return oneLine(e.GetMessage())
	}
	return oneLine(err.Error())
}

// oneLine makes text of the library or of the file fit for a message.
func oneLine(s string) string {
	return strings.Join(strings.Fields(strings.ToValidUTF8(s, "?")), " ")
}

// clip bounds what a message repeats of the file.
func clip(s string) string {
	if len(s) > 64 {
		return strings.ToValidUTF8(s[:64], "") + "…"
	}
	return s
}
