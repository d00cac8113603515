package facts

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/zeebo/blake3"

	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

// Exported is what every location holds of the ledger, as ledger.json: enough
// to say what exists where when all nodes are lost.
type Exported struct {
	Version int   `json:"version"` // of this format
	Group   Group `json:"group"`
	// State is State.Version of the state that was exported.
	State        uint64                     `json:"state"`
	Members      []Member                   `json:"members"` // sorted by name
	Epoch        pos.Epoch                  `json:"epoch"`
	Primary      string                     `json:"primary"` // name of the node, "" while there is none
	Lineage      pos.Lineage                `json:"lineage"`
	LastTimeline pos.Timeline               `json:"last_timeline"`
	Catalogs     map[string]catalog.Catalog `json:"catalogs"` // by profile
	Jobs         []Job                      `json:"jobs"`     // finished, oldest first, then the running ones by id
	Drills       []Drill                    `json:"drills"`
	Feeders      map[string]string          `json:"feeders"` // name of the node, by location
	Audit        Audit                      `json:"audit"`
	// Removals is Backups.Removals of the state.
	Removals uint64 `json:"removals,omitempty"`
	Policy   Policy `json:"policy"`
}

// ExportVersion is the version of ledger.json that this program writes.
const ExportVersion = 1

// MaxExportBytes bounds what Import reads.
const MaxExportBytes = 64 << 20

var (
	// ErrExportDamaged is returned by Import for bytes that are not those that
	// Export wrote.
	ErrExportDamaged = errors.New("damaged export of a ledger")
	// ErrExportVersion is returned by Import for what a newer version wrote.
	ErrExportVersion = errors.New("unknown version of a ledger's export")
)

// The frame of an export: {"ledger":BODY,"blake3":"HEX"} and a line feed, where
// HEX is the digest of the bytes of BODY.
const (
	exportHead = `{"ledger":`
	exportMid  = `,"blake3":"`
	exportTail = "\"}\n"
)

// Export writes what Exported says of s. The same state gives the same bytes.
func Export(s State) ([]byte, error) {
	if !s.Founded() {
		return nil, errors.New("export ledger: the group is not founded yet")
	}
	body, err := json.Marshal(s.exported())
	if err != nil {
		return nil, fmt.Errorf("export ledger: %w", err)
	}
	return frameExport(body), nil
}

func frameExport(body []byte) []byte {
	sum := blake3.Sum256(body)
	out := make([]byte, 0, len(body)+128)
	out = append(append(out, exportHead...), body...)
	out = append(append(out, exportMid...), hex.EncodeToString(sum[:])...)
	return append(out, exportTail...)
}

func (s State) exported() Exported {
	x := Exported{
		Version: ExportVersion, Group: s.Group, State: s.Version, Members: s.membersByName(),
		Epoch: s.Primary.Epoch, Primary: s.Primary.Node, Lineage: s.Lineage, LastTimeline: s.LastTimeline,
		Catalogs: map[string]catalog.Catalog{}, Jobs: s.jobs(), Drills: s.Backups.Drills,
		Feeders: map[string]string{}, Audit: s.Audit, Removals: s.Backups.Removals, Policy: s.Policy,
	}
	for _, profile := range s.Profiles() {
		x.Catalogs[profile], _ = s.Catalog(profile)
	}
	for location, store := range s.Backups.Feeders {
		x.Feeders[location] = s.NameOf(store)
	}
	return x
}

// Import reads what Export wrote. Any changed byte is ErrExportDamaged.
func Import(b []byte) (Exported, error) {
	var x Exported
	if len(b) > MaxExportBytes {
		return x, fmt.Errorf("%w: more than %d bytes", ErrExportDamaged, MaxExportBytes)
	}
	body, ok := bytes.CutPrefix(b, []byte(exportHead))
	rest, whole := bytes.CutSuffix(body, []byte(exportTail))
	if n := len(rest) - 64 - len(exportMid); ok && whole && n >= 0 && string(rest[n:n+len(exportMid)]) == exportMid {
		sum := blake3.Sum256(rest[:n])
		if hex.EncodeToString(sum[:]) == string(rest[n+len(exportMid):]) {
			return decodeExported(rest[:n])
		}
	}
	return x, fmt.Errorf("%w: its bytes do not have the digest that it names", ErrExportDamaged)
}

func decodeExported(body []byte) (Exported, error) {
	var v struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(body, &v); err != nil {
		return Exported{}, fmt.Errorf("%w: %w", ErrExportDamaged, err)
	}
	if v.Version != ExportVersion {
		return Exported{}, fmt.Errorf("%w: %d, this version reads %d", ErrExportVersion, v.Version, ExportVersion)
	}
	var x Exported
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&x); err != nil {
		return Exported{}, fmt.Errorf("%w: %w", ErrExportDamaged, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Exported{}, fmt.Errorf("%w: bytes follow it", ErrExportDamaged)
	}
	if err := x.check(); err != nil {
		return Exported{}, fmt.Errorf("%w: %w", ErrExportDamaged, err)
	}
	return x, nil
}

// check refuses what no state can have been.
func (x Exported) check() error {
	if x.Group.ID == "" {
		return errors.New("it names no group")
	}
	if err := x.Lineage.Validate(); err != nil {
		return err
	}
	if err := (Backups{Catalogs: x.Catalogs}).check(); err != nil {
		return err
	}
	return x.Audit.check()
}
