// Package policyfile reads and writes the operator's file of the group's
// policy: YAML with one plain value a key. What concerns one node or one
// location has keys of its own, node.NAME.KEY and location.NAME.KEY.
package policyfile

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"understudy/configs"
	"understudy/ledger/facts"
)

// MaxBytes bounds the size of a policy file.
const MaxBytes = 64 << 10

// Parse returns base with what the file at path says: a key that it does not
// have keeps its value in base, and so does everything that has no key. A
// location comes into being with its first key, and kind "none" removes it.
// path is used in messages. What is wrong is a *configs.Error that names the
// line and the key.
func Parse(path string, data []byte, base facts.Policy) (facts.Policy, error) {
	return parse(path, data, base, func(string) bool { return false })
}

// parse is Parse; of the locations that partial names, only the keys that the
// file has are judged.
func parse(path string, data []byte, base facts.Policy, partial func(location string) bool) (facts.Policy, error) {
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
			return fail("this key is unknown; the keys are %s", names(e.key))
		}
		if !e.plain {
			return fail("this key takes one plain value")
		}
		if err := k.set(&p, e.value); err != nil {
			return fail("%s", err)
		}
		if _, _, part := splitLocationKey(e.key); part {
			continue // the keys of a location are judged together
		}
		// Beside defaults, a mistake is this key's.
		alone := facts.DefaultPolicy()
		if k.set(&alone, e.value) == nil {
			if err := alone.Validate(); err != nil {
				return base, &configs.Error{File: path, Line: e.line, Text: oneLine(err.Error())}
			}
		}
	}
	if e, yes := removed(entries); yes {
		return base, &configs.Error{File: path, Key: e.key, Line: e.line, Text: "the same file removes this location by its kind"}
	}
	whole := p
	for name := range p.Locations {
		if partial(name) {
			whole = whole.WithoutLocation(name)
		}
	}
	if err := whole.Validate(); err != nil {
		return base, &configs.Error{File: path, Line: lineFor(err, lines), Text: oneLine(err.Error())}
	}
	return p, nil
}

// Check tells what is wrong with a file whatever the policy in force is. Of a
// location without its kind in the file nothing can be missing: the policy may
// have it.
func Check(path string, data []byte) error {
	base := facts.DefaultPolicy()
	entries, err := entriesOf(path, data)
	if err != nil {
		entries = nil // Parse says it
	}
	whole := map[string]bool{}
	for _, e := range entries {
		if name, key, ok := splitLocationKey(e.key); ok && key == "kind" {
			whole[name] = true
		}
	}
	var kept []string
	for _, e := range entries {
		if name, _, ok := splitLocationKey(e.key); ok && !whole[name] && !slices.Contains(kept, name) {
			kept = append(kept, name)
			base = base.WithLocation(name, facts.LocationPolicy{})
		}
	}
	_, err = parse(path, data, base, func(name string) bool { return slices.Contains(kept, name) })
	return err
}

// lineFor is the line of the key that an error names, or else the first of its
// location; 0 when the file has neither.
func lineFor(err error, lines map[string]int) int {
	var wrong *facts.KeyError
	if !errors.As(err, &wrong) {
		return 0
	}
	if n := lines[wrong.Key]; n > 0 {
		return n
	}
	name, _, _ := splitLocationKey(wrong.Key)
	first := 0
	for k, n := range lines {
		if of, _, ok := splitLocationKey(k); ok && of == name && (first == 0 || n < first) {
			first = n
		}
	}
	return first
}

// Nodes are the names of the nodes that a file has keys for, in the order in
// which they come first; a default written out counts too. What is wrong with
// the file is Parse's to say.
func Nodes(data []byte) []string {
	if len(data) > MaxBytes {
		return nil
	}
	entries, err := entriesOf("", data)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		if name, _, ok := splitNodeKey(e.key); ok && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}

// entry is one "key: value" of a file.
type entry struct {
	key   string
	value string // the text of a plain value, unquoted
	line  int    // from 1
	plain bool   // the value is text, a number or a truth, without anchor, alias or tag
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
		return bad(0, "the file is empty; the keys are %s", names(""))
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
		case *ast.StringNode, *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
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
