package rescue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"understudy/cmd/internal/places"
	"understudy/cmd/internal/policyfile"
	"understudy/configs"
	"understudy/ledger/facts"
	"understudy/shipper/backupset"
	"understudy/shipper/catalog"
	"understudy/shipper/link"
	"understudy/shipper/location"
	"understudy/shipper/pos"
)

// Config says where to learn from what exists where. What was named by hand
// comes first: From, then LocationsFile, then the daemon, then what the daemon
// wrote down last.
type Config struct {
	Node *configs.Node // of this machine; nil when it is none
	// Export asks the running daemon for the ledger's export; nil for none. Any
	// error means that the daemon cannot be asked.
	Export func(context.Context) ([]byte, error)
	// LocationsFile has location.* lines as a policy file.
	LocationsFile string
	// From are directories and addresses of locations, nearest first; see
	// ParseFrom.
	From []string
	// Group is the name of the group whose backups are wanted; empty takes that
	// of the node, or the only one there is.
	Group string
	// Only are the names of the locations to use; nil is all.
	Only []string
	// Secrets are files of secrets by name, before those of the node file.
	Secrets map[string]string
	// IdentityFile decrypts what lies at From; empty when it is not encrypted.
	IdentityFile string
	// Drop is a directory with segments of the log; empty for none.
	Drop string
	Log  *slog.Logger // required
}

// Place is a location that can be read from here.
type Place struct {
	Name     string
	Where    string // for people
	Location location.Location
	dir      string // of one on this machine
}

// Knowledge is what exists where. Close it when done.
type Knowledge struct {
	// Source is where it was learned, for people.
	Source  string
	Root    backupset.Root
	Catalog catalog.Catalog
	Places  []Place // nearest first
	// LastTimeline is the highest timeline id that was ever given out, as far
	// as is known.
	LastTimeline pos.Timeline
	Rates        catalog.Rates
	Measured     bool // Rates are those of a drill
	// Warnings are sentences on what could not be learned.
	Warnings []string
	// Drop is the drop directory, empty for none.
	Drop string

	node *configs.Node
	log  *slog.Logger
}

// dropName is the drop directory among the locations of a catalog.
const dropName = "drop directory"

// Learn finds out what exists where. The error wraps ErrUnknown when there is
// nothing to learn from.
func Learn(ctx context.Context, c Config) (*Knowledge, error) {
	b, err := c.begin(ctx)
	if err != nil {
		return nil, err
	}
	k := &Knowledge{Source: b.source, Warnings: b.warnings, node: c.Node, log: c.Log, Catalog: b.catalog, LastTimeline: b.last}
	k.Rates, k.Measured = ratesOf(b.drills)
	k.Root = backupset.Root{Group: cmp.Or(c.Group, b.group), Profile: facts.ProfilePostgres}
	if err := k.fill(ctx, c, b); err != nil {
		return nil, errors.Join(err, k.Close())
	}
	return k, nil
}

func (k *Knowledge) fill(ctx context.Context, c Config, b basis) error {
	if err := k.open(c, b); err != nil {
		return err
	}
	if b.catalog.Group != "" && c.Group != "" && c.Group != b.group {
		return badSource("it is of group %q, not %q", b.group, c.Group)
	}
	if b.scan {
		if err := k.scan(ctx); err != nil {
			return err
		}
	}
	if c.Drop == "" {
		return nil
	}
	return k.addDrop(ctx, c.Drop)
}

// Close frees the locations.
func (k *Knowledge) Close() error {
	var err error
	for _, p := range k.Places {
		err = errors.Join(err, p.Location.Close())
	}
	return err
}

// names are those of the places, and the drop directory's before them.
func (k *Knowledge) names() []string {
	var out []string
	if k.Drop != "" {
		out = append(out, dropName)
	}
	for _, p := range k.Places {
		out = append(out, p.Name)
	}
	return out
}

// basis is what is known before any location was asked.
type basis struct {
	source    string
	group     string
	catalog   catalog.Catalog
	last      pos.Timeline
	drills    []facts.Drill
	removals  uint64 // facts.Backups.Removals
	locations map[string]facts.LocationPolicy
	members   map[string]string // addresses by node
	opened    []Place           // of From
	scan      bool              // the locations themselves say what they hold
	warnings  []string
}

func (c Config) begin(ctx context.Context) (basis, error) {
	switch {
	case len(c.From) > 0:
		return c.fromPlaces()
	case c.LocationsFile != "":
		return c.fromFile()
	}
	if c.Export != nil {
		b, err := c.Export(ctx)
		if err == nil {
			return c.fromExport(b)
		}
		if ctx.Err() != nil {
			return basis{}, context.Cause(ctx)
		}
		c.Log.Info("the daemon cannot be asked", "error", err)
	}
	if c.Node != nil {
		b, err := c.fromKnown()
		if !errors.Is(err, os.ErrNotExist) {
			return b, err
		}
		return basis{}, fmt.Errorf("%w: the daemon of %s does not answer and has left no word of its ledger in %s; name a location with --from DIR, or a file with location.* lines with --locations FILE", ErrUnknown, c.Node.Name, c.Node.StateDir)
	}
	return basis{}, fmt.Errorf("%w: name a location with --from DIR, a file with location.* lines with --locations FILE, or the node file with --config", ErrUnknown)
}

func (c Config) fromPlaces() (basis, error) {
	b := basis{source: "the locations named by --from", scan: true}
	if c.Group == "" && c.Node != nil {
		b.group = c.Node.Group
	}
	for _, text := range c.From {
		p, err := c.openFrom(text)
		if err != nil {
			for _, o := range b.opened {
				err = errors.Join(err, o.Location.Close())
			}
			return basis{}, err
		}
		b.opened = append(b.opened, p)
	}
	return b, nil
}

func (c Config) fromFile() (basis, error) {
	data, err := os.ReadFile(c.LocationsFile)
	if err != nil {
		return basis{}, badSource("read --locations: %w", err)
	}
	p, err := policyfile.Parse(c.LocationsFile, data, facts.DefaultPolicy())
	if err != nil {
		return basis{}, badSource("%w", err)
	}
	if len(p.Locations) == 0 {
		return basis{}, badSource("%s has no location.* lines", c.LocationsFile)
	}
	b := basis{source: c.LocationsFile, locations: p.Locations, members: c.peers(), scan: true}
	if c.Node != nil {
		b.group = c.Node.Group
	}
	return b, nil
}

// peers are the addresses of other nodes that the node file has.
func (c Config) peers() map[string]string {
	out := map[string]string{}
	if c.Node != nil {
		for _, p := range c.Node.Peers {
			out[p.Name] = p.Address
		}
	}
	return out
}

func (c Config) fromExport(data []byte) (basis, error) {
	x, err := facts.Import(data)
	if err != nil {
		return basis{}, fmt.Errorf("read the daemon's ledger: %w", err)
	}
	b := basis{source: "the daemon of " + c.Node.Name, group: x.Group.Name, catalog: x.Catalogs[facts.ProfilePostgres], last: x.LastTimeline,
		drills: x.Drills, removals: x.Removals, locations: x.Policy.Locations, members: c.peers()}
	for _, m := range x.Members {
		b.members[m.Name] = m.Address
	}
	return b, nil
}

// fromKnown reads what the daemon wrote down last. The group may have gone on
// without this node since, so the locations are asked, too.
func (c Config) fromKnown() (basis, error) {
	path := filepath.Join(c.Node.StateDir, "known.json")
	data, err := os.ReadFile(path)
	if err != nil {
		return basis{}, err
	}
	st, err := facts.Decode(data)
	if err != nil {
		return basis{}, badSource("%s: %w; name a location with --from DIR", path, err)
	}
	cat, _ := st.Catalog(facts.ProfilePostgres)
	b := basis{source: "what the daemon of " + c.Node.Name + " wrote down last (" + path + ")", group: st.Group.Name, catalog: cat, last: st.LastTimeline,
		drills: st.Backups.Drills, locations: st.Policy.Locations, members: c.peers(), scan: true}
	for _, m := range st.Members {
		b.members[m.Name] = m.Address
	}
	return b, nil
}

// open opens the locations, nearest first. One that cannot be opened is left
// out with a warning.
func (k *Knowledge) open(c Config, b basis) error {
	if k.Places = b.opened; len(b.locations) == 0 {
		return k.only(c.Only)
	}
	self := ""
	if c.Node != nil {
		self = c.Node.Name
	}
	names := slices.SortedFunc(maps.Keys(b.locations), func(x, y string) int {
		lx, ly := b.locations[x], b.locations[y]
		return cmp.Or(cmp.Compare(lx.Order, ly.Order), cmp.Compare(distance(lx, self), distance(ly, self)), strings.Compare(x, y))
	})
	o := places.Opener{Node: self, Secret: c.secret, Dial: c.dialer(b.members)}
	for _, name := range names {
		if len(c.Only) > 0 && !slices.Contains(c.Only, name) {
			continue
		}
		p := b.locations[name]
		p.ThrottleBytes = 0 // it spares those who write
		loc, err := o.Open(name, p)
		if err != nil {
			k.Warnings = append(k.Warnings, err.Error())
			continue
		}
		place := Place{Name: name, Where: whereOf(p), Location: loc}
		if p.Kind == facts.LocationLocal && (self == "" || p.Node == self) {
			place.dir = p.Path
		}
		k.Places = append(k.Places, place)
	}
	for _, name := range c.Only {
		if _, ok := b.locations[name]; !ok {
			return badSource("there is no location %q; there are %s", name, strings.Join(names, ", "))
		}
	}
	return nil
}

// only keeps the places of some names.
func (k *Knowledge) only(names []string) error {
	if len(names) == 0 {
		return nil
	}
	var have []string
	for _, p := range k.Places {
		have = append(have, p.Name)
	}
	for _, n := range names {
		if !slices.Contains(have, n) {
			return badSource("there is no location %q; there are %s", n, cmp.Or(strings.Join(have, ", "), "none"))
		}
	}
	k.Places = slices.DeleteFunc(k.Places, func(p Place) bool {
		if slices.Contains(names, p.Name) {
			return false
		}
		_ = p.Location.Close() // was not used
		return true
	})
	return nil
}

// distance is small for what is near.
func distance(p facts.LocationPolicy, self string) int {
	switch {
	case p.Kind == facts.LocationLocal && (p.Node == self || self == ""):
		return 0
	case p.Kind == facts.LocationS3:
		return 2
	}
	return 1
}

func whereOf(p facts.LocationPolicy) string {
	switch p.Kind {
	case facts.LocationSFTP:
		return p.User + "@" + p.Address + ":" + p.Path
	case facts.LocationS3:
		return "s3 bucket " + p.Bucket
	}
	return p.Path
}

// secret is the value of a secret: of a file named by hand, or of the node file.
func (c Config) secret(name string) ([]byte, error) {
	if path, ok := c.Secrets[name]; ok {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("secret %s: %w", name, err)
		}
		return b, nil
	}
	if c.Node == nil {
		return nil, fmt.Errorf("it needs the secret %s: name its file with --secret %s=FILE", name, name)
	}
	return places.SecretsOf(c.Node)(name)
}

// dialer reaches the daemons of other nodes; nil on a machine that is no node.
func (c Config) dialer(members map[string]string) func(context.Context, string) (net.Conn, error) {
	if c.Node == nil {
		return nil
	}
	return func(ctx context.Context, node string) (net.Conn, error) {
		addr, ok := members[node]
		if !ok {
			return nil, fmt.Errorf("the address of node %s is not known", node)
		}
		creds, err := link.LoadIdentity(c.Node.TLS.Cert, c.Node.TLS.Key, c.Node.TLS.CA)
		if err != nil {
			return nil, err
		}
		conn, _, err := link.TLS(creds, c.Log).Dial(ctx, addr, link.Place, node)
		return conn, err
	}
}

// ratesOf are the speeds of the newest drill that succeeded.
func ratesOf(drills []facts.Drill) (catalog.Rates, bool) {
	for _, d := range slices.Backward(drills) {
		if d.OK && d.Bytes > 0 && d.Duration > 0 && d.Profile == facts.ProfilePostgres {
			return catalog.Rates{Restore: float64(d.Bytes) / d.Duration.Seconds()}, true
		}
	}
	return catalog.Rates{}, false
}
