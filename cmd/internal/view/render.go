package view

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// minWidth is the narrowest screen that Render wraps for.
const minWidth = 40

// Render writes the status as text for a terminal of width columns: the answer
// first, then the group, the nodes as a table, and what is wrong. Sentences are
// wrapped, table rows are not; a width of 0 wraps nothing. color adds ANSI
// colours.
func Render(w io.Writer, st Status, width int, color bool) error {
	p := printer{w: bufio.NewWriter(w), width: width, color: color}
	if width > 0 {
		p.width = max(width, minWidth)
	}
	p.head(st)
	p.table(st.Nodes)
	p.notes(st)
	return p.w.Flush()
}

type printer struct {
	w     *bufio.Writer // keeps the first error for Flush
	width int
	color bool
}

func (p *printer) head(st Status) {
	g := st.Group
	name := g.Name
	if name == "" {
		name = "(none)"
	}
	p.line("group "+name, "  ", levelColor(g.Safe.Level), g.Safe.Sentence)
	fmt.Fprintln(p.w)
	primary := g.Primary
	if primary == "" {
		primary = "none"
	}
	fmt.Fprintf(p.w, "  primary         %s   epoch %s (%s)   timeline %d\n", primary, g.Epoch, g.Phase, g.Timeline)
	fmt.Fprintf(p.w, "  committed       %s   durability %s\n", g.Committed, orDash(g.Durability))
	ack := g.MustAcknowledge.Sentence
	if n := len(g.MustAcknowledge.Voters); n > 0 {
		ack = strings.TrimSuffix(ack, ".") + fmt.Sprintf(" (%d of %d)", g.MustAcknowledge.Needed, n)
	}
	p.line("  a commit needs", "  ", "", ack)
	color := green
	if !g.Failover.Ready {
		color = yellow
	}
	p.line("  failover      ", "  ", color, g.Failover.Sentence)
	if s := g.Scheduled; s != nil {
		p.line("  scheduled     ", "  ", "", scheduledText(*s, st.At))
	}
	p.backupLines(st)
	fmt.Fprintf(p.w, "  ledger leader   %s\n\n", orDash(g.LedgerLeader))
}

// scheduledText is a scheduled switchover in the zone of the document's reader.
func scheduledText(s Scheduled, now time.Time) string {
	text := "switchover to " + s.To
	if s.To == "" {
		text = "switchover to the best standby"
	}
	text += " at " + s.At.Local().Format("2006-01-02 15:04:05")
	if left := s.At.Sub(now); left > 0 {
		return text + " (in " + span(left) + ")"
	}
	return text + " (due, tried for another " + span(s.Until.Sub(now)) + ")"
}

// line writes a label and a wrapped text beside it.
func (p *printer) line(label, gap, color, text string) {
	indent := utf8.RuneCountInString(label + gap)
	fmt.Fprint(p.w, label, gap)
	for i, l := range wrap(text, p.width-indent, p.width > 0) {
		if i > 0 {
			fmt.Fprint(p.w, strings.Repeat(" ", indent))
		}
		fmt.Fprintln(p.w, p.paint(color, l))
	}
}

// cell is one field of the table.
type cell struct{ text, color string }

func (p *printer) table(nodes []Node) {
	title := []string{"NODE", "ROLE", "STATE", "EPOCH", "TLI", "RECEIVED", "DURABLE", "APPLIED", "BEHIND", "LAG", "LINK"}
	right := map[int]bool{4: true, 8: true, 9: true}
	rows := make([][]cell, 0, len(nodes)+1)
	head := make([]cell, len(title))
	for i, t := range title {
		head[i] = cell{t, ""}
	}
	rows = append(rows, head)
	for _, n := range nodes {
		rows = append(rows, row(n))
	}
	widths := make([]int, len(title))
	for _, r := range rows {
		for i, c := range r {
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	for _, r := range rows {
		var b strings.Builder
		for i, c := range r {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c.text))
			b.WriteString("  ")
			if right[i] {
				b.WriteString(pad + p.paint(c.color, c.text))
			} else {
				b.WriteString(p.paint(c.color, c.text) + pad)
			}
		}
		fmt.Fprintln(p.w, strings.TrimRight(b.String(), " "))
	}
}

func row(n Node) []cell {
	r := make([]cell, 0, 11)
	add := func(text, color string) { r = append(r, cell{text, color}) }
	add(n.Name, "")
	add(string(n.Role), "")
	state, color := nodeState(n)
	add(state, color)
	if n.Presence == PresenceNever {
		for range 7 {
			add("-", "")
		}
	} else {
		add(n.Epoch.String(), "")
		add(fmt.Sprint(n.Timeline), "")
		add(n.Received.String(), "")
		add(n.Durable.String(), "")
		if n.Server.State == "absent" || n.Server.State == "" {
			add("-", "")
		} else {
			add(n.Applied.String(), "")
		}
		if n.Lag == nil {
			add("-", "")
			add("-", "")
		} else {
			add(Size(max(n.Lag.Bytes, n.Lag.ApplyBytes)), "")
			add(fmt.Sprintf("%.1f s", n.Lag.Seconds), "")
		}
	}
	switch n.Link.State {
	case "":
		add("-", "")
	case LinkStreaming:
		add(n.Link.State, green)
	case "catching up", "connecting":
		add(n.Link.State, yellow)
	default:
		add(n.Link.State, red)
	}
	return r
}

// nodeState is one or two words for a node.
func nodeState(n Node) (text, color string) {
	switch {
	case n.Presence == PresenceNever:
		return "never heard", red
	case n.Presence == PresenceSilent:
		return "silent " + secondsText(n.SilentFor), red
	case n.Leaving != nil:
		return n.Leaving.Kind, yellow
	case n.Seeding != nil && n.Seeding.TotalBytes > 0:
		return fmt.Sprintf("seeding %d %%", n.Seeding.Percent), yellow
	case n.Seeding != nil:
		return "seeding", yellow
	case n.Server.State == "failed":
		return "failed", red
	case n.Server.State == "open" || n.Server.State == "replica":
		return string(n.Server.State), green
	case n.Server.State == "absent" || n.Server.State == "":
		return "up", green
	default:
		return string(n.Server.State), yellow
	}
}

// notes are the sentences below the table.
func (p *printer) notes(st Status) {
	var lines []cell
	for _, n := range st.Nodes {
		if text := kept(n); text != "" {
			lines = append(lines, cell{n.Name + ": " + text, ""})
		}
		if n.Server.Failing != "" {
			lines = append(lines, cell{fmt.Sprintf("%s: cannot serve for %s: %s", n.Name, secondsText(n.Server.FailingFor), n.Server.Failing), red})
		}
		if n.Server.Problem != "" {
			lines = append(lines, cell{n.Name + ": PostgreSQL: " + n.Server.Problem, red})
		}
		if n.Link.Problem != "" {
			lines = append(lines, cell{n.Name + ": link: " + n.Link.Problem, yellow})
		}
		if n.Seeding != nil && n.Seeding.Problem != "" {
			lines = append(lines, cell{fmt.Sprintf("%s: seeding, attempt %d: %s", n.Name, n.Seeding.Attempt, n.Seeding.Problem), yellow})
		}
	}
	if text := unheardText(st.Nodes); text != "" {
		lines = append(lines, cell{text, yellow})
	}
	for _, i := range st.Incidents {
		text := i.Text
		if i.Node != "" {
			text = i.Node + ": " + text
		}
		lines = append(lines, cell{i.Severity + ": " + text, severityColor(i.Severity)})
	}
	if len(lines) > 0 {
		fmt.Fprintln(p.w)
	}
	for _, l := range lines {
		p.line(" ", " ", l.color, l.text)
	}
}

const (
	red    = "31"
	green  = "32"
	yellow = "33"
)

func levelColor(l Level) string {
	switch l {
	case LevelSafe:
		return green
	case LevelDegraded:
		return yellow
	default:
		return red
	}
}

func severityColor(s string) string {
	if s == "error" {
		return red
	}
	return yellow
}

func (p *printer) paint(color, text string) string {
	// Text of peers may hold escape sequences; none reaches the terminal.
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, text)
	if !p.color || color == "" || text == "" {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[0m"
}

// wrap breaks text at spaces into lines of at most width characters; a longer
// word has a line of its own.
func wrap(text string, width int, enabled bool) []string {
	if !enabled {
		return []string{text}
	}
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

func secondsText(s float64) string {
	switch {
	case s < 60:
		return fmt.Sprintf("%.0f s", s)
	case s < 3600:
		return fmt.Sprintf("%.0f min", s/60)
	default:
		return fmt.Sprintf("%.0f h", s/3600)
	}
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
