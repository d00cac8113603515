// Package replcmd parses the commands of PostgreSQL's replication grammar that
// a physical standby sends. The package is pure.
package replcmd

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"understudy/shipper/pos"
)

// MaxLen bounds a command, in bytes.
const MaxLen = 8 << 10

var (
	// ErrSyntax is returned for text that is not of the grammar.
	ErrSyntax = errors.New("syntax error in replication command")
	// ErrUnsupported is returned for commands, SQL included, that only a full
	// server understands.
	ErrUnsupported = errors.New("this server feeds one physical standby and does not support the command")
)

// Kind tells which command it is.
type Kind int

const (
	// Empty is a command without a word.
	Empty Kind = iota + 1
	// IdentifySystem is IDENTIFY_SYSTEM.
	IdentifySystem
	// Show is SHOW name.
	Show
	// TimelineHistory is TIMELINE_HISTORY n.
	TimelineHistory
	// StartReplication is START_REPLICATION [SLOT name] [PHYSICAL] X/X [TIMELINE n].
	StartReplication
)

// Command is one parsed command. Fields that its kind does not use are zero.
type Command struct {
	Kind     Kind
	Name     string       // Show: the setting
	Slot     string       // StartReplication: empty when none was named
	Timeline pos.Timeline // zero in StartReplication means the newest
	Start    pos.LSN
}

// Parse reads one command; words are case-insensitive, one trailing semicolon
// is allowed.
func Parse(text string) (Command, error) {
	if len(text) > MaxLen {
		return Command{}, fmt.Errorf("%w: %d bytes", ErrSyntax, len(text))
	}
	toks, err := scan(text)
	if err != nil {
		return Command{}, err
	}
	if n := len(toks); n > 0 && toks[n-1] == (token{text: ";"}) {
		toks = toks[:n-1]
	}
	p := parser{toks: toks}
	c, err := p.command()
	if err != nil {
		return Command{}, err
	}
	if len(p.toks) > 0 {
		return Command{}, fmt.Errorf("%w at %q", ErrSyntax, p.toks[0].text)
	}
	return c, nil
}

type token struct {
	text   string
	quoted bool
}

// scan splits text into words, quoted identifiers and single marks.
func scan(text string) ([]token, error) {
	var toks []token
	for i := 0; i < len(text); {
		c := text[i]
		switch {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v':
			i++
		case c == '"':
			s, n, err := quoted(text[i:])
			if err != nil {
				return nil, err
			}
			toks = append(toks, token{text: s, quoted: true})
			i += n
		case wordByte(c):
			j := i
			for j < len(text) && wordByte(text[j]) {
				j++
			}
			toks = append(toks, token{text: text[i:j]})
			i = j
		default:
			toks = append(toks, token{text: text[i : i+1]})
			i++
		}
	}
	return toks, nil
}

// wordByte holds for what words, numbers, LSNs and setting names are made of.
func wordByte(c byte) bool {
	return c == '_' || c == '/' || c == '.' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// quoted reads a quoted identifier at the start of s, where two quotes stand
// for one, and how many bytes it took.
func quoted(s string) (string, int, error) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		if s[i] != '"' {
			b.WriteByte(s[i])
			continue
		}
		if i+1 < len(s) && s[i+1] == '"' {
			b.WriteByte('"')
			i++
			continue
		}
		if b.Len() == 0 {
			return "", 0, fmt.Errorf("%w: empty quoted name", ErrSyntax)
		}
		return b.String(), i + 1, nil
	}
	return "", 0, fmt.Errorf("%w: quoted name without end", ErrSyntax)
}

type parser struct{ toks []token }

// word takes the next token if it is the keyword w.
func (p *parser) word(w string) bool {
	if len(p.toks) == 0 || p.toks[0].quoted || !strings.EqualFold(p.toks[0].text, w) {
		return false
	}
	p.toks = p.toks[1:]
	return true
}

// next takes the next token, whatever it is.
func (p *parser) next(what string) (token, error) {
	if len(p.toks) == 0 {
		return token{}, fmt.Errorf("%w: %s is missing", ErrSyntax, what)
	}
	t := p.toks[0]
	p.toks = p.toks[1:]
	return t, nil
}

func (p *parser) command() (Command, error) {
	switch {
	case len(p.toks) == 0:
		return Command{Kind: Empty}, nil
	case p.word("IDENTIFY_SYSTEM"):
		return Command{Kind: IdentifySystem}, nil
	case p.word("SHOW"):
		t, err := p.next("setting")
		return Command{Kind: Show, Name: strings.ToLower(t.text)}, err
	case p.word("TIMELINE_HISTORY"):
		tli, err := p.timeline()
		return Command{Kind: TimelineHistory, Timeline: tli}, err
	case p.word("START_REPLICATION"):
		return p.start()
	}
	first := p.toks[0].text
	p.toks = nil
	return Command{}, fmt.Errorf("%w: %q", ErrUnsupported, clip(first))
}

func (p *parser) start() (Command, error) {
	c := Command{Kind: StartReplication}
	if p.word("SLOT") {
		t, err := p.next("slot name")
		if err != nil {
			return Command{}, err
		}
		c.Slot = t.text
	}
	p.word("PHYSICAL")
	if p.word("LOGICAL") {
		return Command{}, fmt.Errorf("%w: logical replication", ErrUnsupported)
	}
	t, err := p.next("start position")
	if err != nil {
		return Command{}, err
	}
	if c.Start, err = pos.ParseLSN(t.text); err != nil || t.quoted {
		return Command{}, fmt.Errorf("%w: %q is no WAL position", ErrSyntax, clip(t.text))
	}
	if p.word("TIMELINE") {
		if c.Timeline, err = p.timeline(); err != nil {
			return Command{}, err
		}
	}
	return c, nil
}

func (p *parser) timeline() (pos.Timeline, error) {
	t, err := p.next("timeline")
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(t.text, 10, 32)
	if err != nil || n == 0 || t.quoted {
		return 0, fmt.Errorf("%w: invalid timeline %q", ErrSyntax, clip(t.text))
	}
	return pos.Timeline(n), nil
}

func clip(s string) string { return s[:min(len(s), 40)] }
