package facts

import (
	"encoding/hex"
	"encoding/json"
	"strings"
	"time"

	"github.com/zeebo/blake3"

	"understudy/shipper/pos"
)

// AuditEntry is one line of the group's audit: what happened, chained by its
// hash to all that happened before.
type AuditEntry struct {
	N     uint64    `json:"n"` // from 1, without gaps
	At    time.Time `json:"at"`
	Kind  string    `json:"kind"` // of the event
	Node  string    `json:"node,omitempty"`
	Text  string    `json:"text"`
	Epoch pos.Epoch `json:"epoch"`
	Prev  string    `json:"prev"` // Hash of the entry before; "" in the first
	Hash  string    `json:"hash"` // see Sum
}

// Audit is the end of the chain.
type Audit struct {
	N    uint64 `json:"n"`    // of the newest entry; 0 = there is none
	Head string `json:"head"` // its Hash
	// Newest are the newest entries, oldest first, at most MaxAuditEntries.
	Newest []AuditEntry `json:"newest,omitempty"`
}

// MaxAuditEntries bounds Audit.Newest.
const MaxAuditEntries = 256

// Sum is the hash that the entry must have: BLAKE3-256, in lower-case hex, of
// Prev followed by the JSON object of n, at, kind, node, text and epoch, in
// this order, without blanks and with every key present.
func (e AuditEntry) Sum() string {
	b, err := json.Marshal(struct {
		N     uint64 `json:"n"`
		At    string `json:"at"`
		Kind  string `json:"kind"`
		Node  string `json:"node"`
		Text  string `json:"text"`
		Epoch string `json:"epoch"`
	}{e.N, e.At.UTC().Format(time.RFC3339Nano), e.Kind, e.Node, e.Text, e.Epoch.String()})
	if err != nil {
		panic("facts: text and numbers did not encode: " + err.Error())
	}
	h := blake3.New()
	_, _ = h.WriteString(e.Prev)
	_, _ = h.Write(b)
	return hex.EncodeToString(h.Sum(nil))
}

// unaudited tells the events that come and go with the weather, or are steps
// of what another entry tells.
func unaudited(kind string) bool {
	switch kind {
	case "phase", "fenced", "incident", "incident-cleared", "leaving", "nominated", "voters-confirmed":
		return true
	}
	return false
}

// audit chains the events of the command.
func (t *tx) audit() {
	a, copied := t.s.Audit, false
	for _, e := range t.events {
		if unaudited(e.Kind) {
			continue
		}
		if !copied {
			a.Newest, copied = append([]AuditEntry(nil), a.Newest...), true
		}
		entry := AuditEntry{
			N: a.N + 1, At: e.At.UTC(), Kind: e.Kind, Node: strings.ToValidUTF8(e.Node, "\uFFFD"),
			Text: strings.ToValidUTF8(e.Text, "\uFFFD"), Epoch: e.Epoch, Prev: a.Head,
		}
		entry.Hash = entry.Sum()
		a.N, a.Head, a.Newest = entry.N, entry.Hash, append(a.Newest, entry)
	}
	if n := len(a.Newest) - MaxAuditEntries; n > 0 {
		a.Newest = append([]AuditEntry(nil), a.Newest[n:]...)
	}
	t.s.Audit = a
}
