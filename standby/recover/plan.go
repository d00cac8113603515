package recover

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"understudy/shipper/backupset"
	"understudy/shipper/pos"
	"understudy/standby/restore"
)

// Mode is how a restore uses its destination.
type Mode string

// The modes.
const (
	// Fresh restores into an empty or missing directory.
	Fresh Mode = "fresh"
	// Delta restores over a stopped cluster or an interrupted restore or seed:
	// what agrees is kept, what differs fetched, what is too much removed. The
	// cluster is lost from the first step on.
	Delta Mode = "delta"
	// Beside restores into an empty directory a database that becomes another
	// one: it gets an own port and, once recovered, an own system identifier.
	Beside Mode = "beside"
)

// Local is what the PostgreSQL binaries of this host are. Zero values are not
// compared.
type Local struct {
	Major          int
	Version        string
	Architecture   string
	BlockSize      int
	CatalogVersion uint32
}

// Request says what to restore and where to.
type Request struct {
	Mode    Mode
	DataDir string // absolute
	Label   string // of the set
	Digest  string // of its set.json, as the catalog knows it; empty accepts any
	Aim     Aim
	Local   Local
	// SystemID is the one that the set must have; zero accepts any.
	SystemID uint64
	// Tablespaces says where a tablespace goes on this host, by oid; one that is
	// not named goes where it was.
	Tablespaces map[uint32]string
	// Owner gets every file; nil leaves them to the account of this process.
	Owner *restore.Owner
	// RestoreCommand fetches log during recovery, as PostgreSQL takes it.
	RestoreCommand string
	// Port of a database beside the original.
	Port int
	// TrustTimes keeps files whose size and time of change agree with the set
	// unread. A file that was damaged on the disk keeps its damage.
	TrustTimes bool
	// Runs: a server runs on the destination now and is stopped before Execute,
	// which refuses one that still does.
	Runs bool
	// AllowDamage restores a set that had corrupt pages when it was taken.
	AllowDamage bool
	// Now is the time of the plan.
	Now time.Time
}

// The versions of the form of a plan: one with sets below it is of chainVersion,
// since a program that does not know of them would leave them out.
const (
	planVersion  = 1
	chainVersion = 2
)

// known tells whether this program can execute a plan.
func (p Plan) known() bool { return p.Version == planVersion || p.Version == chainVersion }

// Plan is a restore that is possible as far as can be told before. Execute
// needs nothing else but the Sources.
type Plan struct {
	Version int       `json:"version"`
	ID      string    `json:"id"` // of this plan among all
	Made    time.Time `json:"made"`
	Mode    Mode      `json:"mode"`
	DataDir string    `json:"data_dir"`

	Label     string             `json:"label"`
	SetDigest string             `json:"set_digest"`
	SystemID  uint64             `json:"system_id,string"`
	Server    backupset.Server   `json:"server"`
	Timeline  pos.Timeline       `json:"timeline"`
	Start     pos.LSN            `json:"start"`
	End       pos.LSN            `json:"end"`
	Ended     time.Time          `json:"ended"`
	Archives  []backupset.Object `json:"archives"` // without other files of the host
	Files     backupset.Object   `json:"files"`
	Manifest  backupset.Object   `json:"manifest"`
	// Below are the sets on which an incremental one is built, the full one first;
	// none for a full set.
	Below  []Layer `json:"below,omitempty"`
	Spaces []Space `json:"tablespaces,omitempty"`
	// InPlace tells that there are tablespaces within the data directory, listed
	// or not.
	InPlace bool `json:"in_place,omitempty"`
	// Bytes and FileN are those of the files that are restored, Bytes with those of
	// the sets below.
	Bytes int64 `json:"bytes"`
	FileN int64 `json:"file_n"`

	Aim            Aim            `json:"aim"`
	RestoreCommand string         `json:"restore_command,omitempty"`
	Owner          *restore.Owner `json:"owner,omitempty"`
	TrustTimes     bool           `json:"trust_times,omitempty"`
	// Port and NewSystemID are those of a database beside the original.
	Port        int    `json:"port,omitempty"`
	NewSystemID uint64 `json:"new_system_id,string,omitempty"`
	// Notes are what a person should know before saying yes.
	Notes []string `json:"notes,omitempty"`

	below   bool // the view of a set that another one changes
	changes bool // of one that changes the set below
}

// Space is a tablespace of the set and its place on this host.
type Space struct {
	OID     uint32 `json:"oid"`
	Dir     string `json:"dir,omitempty"`      // on this host; empty when in place
	InPlace bool   `json:"in_place,omitempty"` // within the data directory
}

// MakePlan looks at the set, the destination and this host, and says what
// Execute will do. It changes nothing, here and at the locations.
func MakePlan(ctx context.Context, r Request, from Sources) (Plan, error) {
	p, err := makePlan(ctx, r, from)
	if err != nil {
		return Plan{}, fmt.Errorf("plan the restore of %s to %s: %w", r.Label, r.DataDir, err)
	}
	return p, nil
}

func makePlan(ctx context.Context, r Request, from Sources) (Plan, error) {
	if err := r.validate(); err != nil {
		return Plan{}, err
	}
	set, digest, err := from.set(ctx, r.Label, r.Digest)
	if err != nil {
		return Plan{}, err
	}
	below, digests, err := from.chain(ctx, set)
	if err != nil {
		return Plan{}, err
	}
	if err := r.admit(set, below...); err != nil {
		return Plan{}, err
	}
	p, err := newPlan(r, set, digest)
	if err != nil {
		return Plan{}, err
	}
	p.build(below, digests)
	at, err := p.destination(r.Mode, r.Runs)
	if err != nil {
		return Plan{}, err
	}
	if p.Spaces, err = placeSpaces(p.DataDir, set, r.Tablespaces, at.places); err != nil {
		return Plan{}, err
	}
	need, err := p.surveyAll(ctx, from)
	if err != nil {
		return Plan{}, err
	}
	if err := p.roomFor(need); err != nil {
		return Plan{}, err
	}
	return p, nil
}

func (r Request) validate() error {
	switch r.Mode {
	case Fresh, Delta:
	case Beside:
		if r.Port <= 0 || r.Port > 65535 {
			return refused("a database beside the original needs a port of its own")
		}
	default:
		return refused("unknown mode %.40q", r.Mode)
	}
	if !filepath.IsAbs(r.DataDir) || strings.ContainsAny(r.DataDir, "\n\r\x00") || filepath.Clean(r.DataDir) == "/" {
		return refused("the data directory %q is not an absolute path below /", r.DataDir)
	}
	if strings.ContainsAny(r.RestoreCommand, "\n\r\x00") {
		return refused("the restore command has more than one line")
	}
	if r.RestoreCommand == "" {
		return refused("no restore command was given, and without the log from the set's start on the database cannot be opened")
	}
	if _, err := backupset.ParseLabel(r.Label); err != nil {
		return refused("%w", err)
	}
	return r.Aim.validate()
}

// set reads set.json.
func (s Sources) set(ctx context.Context, label, want string) (set backupset.Set, digest string, err error) {
	key := s.Root.Object(label, backupset.SetName)
	err = s.readAll(ctx, key, backupset.MaxSetBytes, func(b []byte) error {
		digest = backupset.Digest(b)
		if want != "" && digest != want {
			return fmt.Errorf("%w: %s has the digest %s instead of %s", backupset.ErrDamaged, key, digest, want)
		}
		if set, err = backupset.DecodeSet(b); err != nil {
			return err
		}
		if set.Label != label {
			return fmt.Errorf("%w: %s speaks of set %s", backupset.ErrDamaged, key, set.Label)
		}
		return nil
	})
	if err != nil {
		return backupset.Set{}, "", refused("the description of the set cannot be read: %w", err)
	}
	return set, digest, nil
}

// admit compares the set with what was asked for and with this host.
func (r Request) admit(set backupset.Set, below ...backupset.Set) error {
	for _, b := range below {
		if b.DamageN > 0 && !r.AllowDamage {
			return refused("set %s is built on %s, and %d pages of the database were corrupt when that was taken, the first in %s; restore an older set, or allow damage to get this one", set.Label, b.Label, b.DamageN, firstDamage(b))
		}
	}
	v, l := set.Server, r.Local
	switch {
	case r.SystemID != 0 && set.SystemID != r.SystemID:
		return refused("the set is of the database with system identifier %d, expected is %d", set.SystemID, r.SystemID)
	case l.Major != 0 && v.Major != l.Major:
		return refused("the set is of PostgreSQL %d, the binaries here are of %d; set bin_dir to those of %d", v.Major, l.Major, v.Major)
	case l.Architecture != "" && v.Architecture != "" && machine(l.Architecture) != machine(v.Architecture):
		return refused("the set was taken on %s, this host is %s; files of PostgreSQL cannot be moved between them", v.Architecture, l.Architecture)
	case l.BlockSize != 0 && v.BlockSize != l.BlockSize:
		return refused("the set has blocks of %d bytes, the binaries here were built for %d", v.BlockSize, l.BlockSize)
	case l.CatalogVersion != 0 && v.CatalogVersion != 0 && v.CatalogVersion != l.CatalogVersion:
		return refused("the set has catalog version %d, the binaries here have %d", v.CatalogVersion, l.CatalogVersion)
	case set.DamageN > 0 && !r.AllowDamage:
		return refused("%d pages of the database were corrupt when the set was taken, the first in %s; restore an older set, or allow damage to get this one", set.DamageN, firstDamage(set))
	}
	return r.Aim.reaches(set)
}

func firstDamage(set backupset.Set) string {
	if len(set.Damage) == 0 {
		return "an unnamed file"
	}
	return fmt.Sprintf("block %d of %s", set.Damage[0].Block, set.Damage[0].Path)
}

// machine is the processor that an architecture's name begins with, in one
// spelling.
func machine(arch string) string {
	m, _, _ := strings.Cut(strings.ToLower(arch), "-")
	switch m {
	case "amd64", "x64":
		return "x86_64"
	case "arm64":
		return "aarch64"
	}
	return m
}

func newPlan(r Request, set backupset.Set, digest string) (Plan, error) {
	p := Plan{
		Version: planVersion, ID: randomID(), Made: r.Now, Mode: r.Mode, DataDir: filepath.Clean(r.DataDir),
		Label: set.Label, SetDigest: digest, SystemID: set.SystemID, Server: set.Server,
		Timeline: set.Timeline, Start: set.Start, End: set.End, Ended: set.Ended,
		Aim: r.Aim, RestoreCommand: r.RestoreCommand, Owner: r.Owner, TrustTimes: r.TrustTimes && r.Mode == Delta,
	}
	p.Archives, p.Files, p.Manifest = parts(set)
	if o, ok := set.Object(backupset.ExtraName); ok {
		p.Notes = append(p.Notes, "other files of the host are in "+o.Name+" and are not restored with the database")
	}
	if set.DamageN > 0 {
		p.Notes = append(p.Notes, fmt.Sprintf("%d pages were corrupt when the set was taken", set.DamageN))
	}
	if r.Mode == Beside {
		p.Port, p.NewSystemID = r.Port, newSystemID(r.Now, set.SystemID)
	}
	return p, nil
}

// parts are the objects of a set that concern the data directory.
func parts(set backupset.Set) (archives []backupset.Object, files, manifest backupset.Object) {
	for _, o := range set.Objects {
		switch _, space := backupset.ParseSpace(o.Name); {
		case o.Name == backupset.BaseName || space:
			archives = append(archives, o)
		case o.Name == backupset.FilesName:
			files = o
		case o.Name == backupset.ManifestName:
			manifest = o
		}
	}
	return archives, files, manifest
}

// build adds the sets below an incremental one.
func (p *Plan) build(below []backupset.Set, digests []string) {
	if len(below) == 0 {
		return
	}
	p.Version = chainVersion
	for i, set := range below {
		l := Layer{Label: set.Label, SetDigest: digests[i], Start: set.Start, Ended: set.Ended}
		l.Archives, l.Files, l.Manifest = parts(set)
		p.Below = append(p.Below, l)
		if set.DamageN > 0 {
			p.Notes = append(p.Notes, fmt.Sprintf("%d pages were corrupt when set %s was taken", set.DamageN, set.Label))
		}
	}
	p.Notes = append(p.Notes, "set "+p.Label+" is incremental: "+strings.Join(p.Chain(), ", ")+" are put together, in this order")
}

// surveyAll counts all sets of the chain. The room is that of all their files:
// an incremental file lies beside the one that it changes until it was applied.
func (p *Plan) surveyAll(ctx context.Context, from Sources) (need room, err error) {
	var bytes int64
	need.spaces = make([]int64, len(p.Spaces))
	views := p.layers()
	for i, v := range views {
		one, err := v.survey(ctx, from)
		if err != nil {
			return room{}, err
		}
		need.base += one.base
		for j, n := range one.spaces {
			need.spaces[j] += n
		}
		bytes += v.Bytes
		if i < len(p.Below) {
			p.Below[i].FileN, p.Below[i].Bytes = v.FileN, v.Bytes
		}
	}
	top := views[len(views)-1]
	p.FileN, p.Bytes, p.InPlace = top.FileN, bytes, top.InPlace
	return need, nil
}

func randomID() string {
	b := make([]byte, 8)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// newSystemID is made as PostgreSQL makes one: from the time, with random bits
// where it has the process.
func newSystemID(now time.Time, other uint64) uint64 {
	b := make([]byte, 8)
	rand.Read(b)
	id := uint64(now.Unix())<<32 | uint64(binary.LittleEndian.Uint32(b))
	if id == other {
		id ^= 1
	}
	return id
}

// Settings are what a server on the directory must be started with, beside what
// the operator wants: recovery, what it needs at least, and what must not be
// taken over from the host that the set is of. Execute writes them where they
// are read last.
func (p Plan) Settings() map[string]string {
	out := p.Aim.settings(p.Timeline)
	out["restore_command"] = p.RestoreCommand
	for name, v := range hostSettings() {
		out[name] = v
	}
	for name, v := range p.Server.Settings {
		if neededSettings()[name] {
			out[name] = v
		}
	}
	if p.InPlace {
		out["allow_in_place_tablespaces"] = "on" // else recovery takes it for damage
	}
	if p.Port != 0 {
		out["port"] = strconv.Itoa(p.Port)
	}
	return out
}

// neededSettings are those that a recovery needs at least as high as the server
// had that wrote the log.
func neededSettings() map[string]bool {
	return map[string]bool{"max_connections": true, "max_worker_processes": true, "max_wal_senders": true, "max_prepared_transactions": true, "max_locks_per_transaction": true}
}

// hostSettings are of the host or the role that a server had when the set was
// taken; taken over they would archive into the original's archive, wait for
// its standbys, or keep the server from starting.
func hostSettings() map[string]string {
	return map[string]string{
		"archive_mode": "off", "archive_command": "", "archive_cleanup_command": "", "recovery_end_command": "",
		"primary_conninfo": "", "primary_slot_name": "", "synchronous_standby_names": "",
		"recovery_min_apply_delay": "0", "ssl": "off", "data_sync_retry": "off",
	}
}
