package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"understudy/cmd/internal/places"
	"understudy/configs"
	"understudy/shipper/link"
	"understudy/shipper/location"
)

// work is a task under way: the spec, and what it opens.
type work struct {
	spec Spec
	cfg  *configs.Node
	port *port
	log  *slog.Logger
	net  link.Network

	mu   sync.Mutex
	open map[string]location.Location
}

func newWork(_ context.Context, spec Spec, p *port, log *slog.Logger) (*work, error) {
	cfg, err := configs.Load(spec.Config)
	if err != nil {
		return nil, err
	}
	creds, err := link.LoadIdentity(cfg.TLS.Cert, cfg.TLS.Key, cfg.TLS.CA)
	if err != nil {
		return nil, err
	}
	return &work{spec: spec, cfg: cfg, port: p, log: log, net: link.TLS(creds, log), open: map[string]location.Location{}}, nil
}

func (w *work) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, l := range w.open {
		if err := l.Close(); err != nil {
			w.log.Warn("close a location", "location", name, "error", err)
		}
	}
}

// location opens a location of the spec, once.
func (w *work) location(name string) (location.Location, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if l, ok := w.open[name]; ok {
		return l, nil
	}
	p, ok := w.spec.Locations[name]
	if !ok {
		return nil, fmt.Errorf("location %s is not in the policy", name)
	}
	o := places.Opener{Node: w.cfg.Name, Secret: places.SecretsOf(w.cfg), Dial: w.dial}
	l, err := o.Open(name, p)
	if err != nil {
		return nil, err
	}
	l = &owned{Location: l, group: w.spec.Group}
	w.open[name] = l
	return l, nil
}

// dial reaches another node's daemon for one of its locations.
func (w *work) dial(ctx context.Context, node string) (net.Conn, error) {
	addr, ok := w.spec.Members[node]
	if !ok {
		return nil, fmt.Errorf("node %s is no member of the group", node)
	}
	c, _, err := w.net.Dial(ctx, addr, link.Place, node)
	return c, err
}

// byOrder are the names of locations in the order in which they are preferred
// for reading.
func (w *work) byOrder() []string {
	names := slices.Collect(maps.Keys(w.spec.Locations))
	slices.SortFunc(names, func(a, b string) int {
		pa, pb := w.spec.Locations[a], w.spec.Locations[b]
		if pa.Order != pb.Order {
			return pa.Order - pb.Order
		}
		// What is on this node is nearest.
		na, nb := pa.Node == w.cfg.Name, pb.Node == w.cfg.Name
		switch {
		case na && !nb:
			return -1
		case nb && !na:
			return 1
		case a < b:
			return -1
		}
		return 1
	})
	return names
}

// file notes an object that was made or removed.
func (w *work) file(f File) {
	if err := w.port.send(Message{File: &f}); err != nil {
		w.log.Debug("report a file", "error", err)
	}
}

// missing is the error of a spec without its part.
var errNoPart = errors.New("the daemon did not say what to work on")

// Zone is a time zone of the policy; UTC where this host does not know it.
func Zone(name string) *time.Location {
	zone, err := time.LoadLocation(name)
	if err != nil {
		return time.UTC
	}
	return zone
}
