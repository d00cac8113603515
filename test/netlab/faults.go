package netlab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// pair is a direction, by addresses.
type pair struct{ from, to string }

func (p pair) back() pair { return pair{p.to, p.from} }

// Cut makes everything that two hosts send to each other be lost, also on
// connections that stand.
func (l *Lab) Cut(a, b string) error {
	return l.lose(func(add func(from, to string)) { add(a, b); add(b, a) })
}

// CutOneWay makes everything be lost that one host sends to another; the other
// direction stays. Nobody can talk over TCP then, but who sends last and what
// arrives differs.
func (l *Lab) CutOneWay(from, to string) error {
	return l.lose(func(add func(from, to string)) { add(from, to) })
}

// Isolate cuts a host from all other hosts and from the calling process.
func (l *Lab) Isolate(name string) error {
	return l.lose(func(add func(from, to string)) {
		for _, o := range append(l.others(name), Clients) {
			add(name, o)
			add(o, name)
		}
	})
}

// IsolatePeers cuts a host from all other hosts. The calling process still
// reaches it.
func (l *Lab) IsolatePeers(name string) error {
	return l.lose(func(add func(from, to string)) {
		for _, o := range l.others(name) {
			add(name, o)
			add(o, name)
		}
	})
}

// Reject makes two hosts answer each other with resets: each is there, and
// every port of it refuses the other. Connections that stand break.
func (l *Lab) Reject(a, b string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, err := l.pair(a, b)
	if err != nil {
		return err
	}
	l.denied[p], l.denied[p.back()] = true, true
	return l.denyAt(p.from, p.to)
}

// Slow limits what a host sends and what it is sent to a rate each, in the words
// of tc: 10mbit, 500kbit. A second call replaces the first.
func (l *Lab) Slow(name, rate string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	h, err := l.ready(name)
	if err != nil {
		return err
	}
	l.slowed[h] = true
	shape := []string{"root", "tbf", "rate", rate, "burst", "64kb", "latency", "100ms"}
	return errors.Join(
		run(context.Background(), "", "tc", append([]string{"qdisc", "replace", "dev", h.link}, shape...)...),
		run(context.Background(), "", "tc", append([]string{"-n", h.Namespace, "qdisc", "replace", "dev", "eth0"}, shape...)...))
}

// Heal takes every fault away.
func (l *Lab) Heal() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errClosed
	}
	clear(l.lost)
	touched := map[string]bool{}
	for p := range l.denied {
		touched[p.to] = true
	}
	clear(l.denied)
	errs := []error{l.drop(), l.denyAt(slices.Collect(maps.Keys(touched))...)}
	for h := range l.slowed {
		errs = append(errs,
			run(context.Background(), "", "tc", "qdisc", "del", "dev", h.link, "root"),
			run(context.Background(), "", "tc", "-n", h.Namespace, "qdisc", "del", "dev", "eth0", "root"))
	}
	clear(l.slowed)
	return errors.Join(errs...)
}

var errClosed = errors.New("the lab is closed")

// ready is the host of that name in a lab that is not closed.
func (l *Lab) ready(name string) (*Host, error) {
	if l.closed {
		return nil, errClosed
	}
	h := l.Host(name)
	if h == nil {
		return nil, fmt.Errorf("no host is named %q", name)
	}
	return h, nil
}

// pair is the direction from one host to another.
func (l *Lab) pair(from, to string) (pair, error) {
	var p pair
	for at, name := range map[*string]string{&p.from: from, &p.to: to} {
		if name == "" || name == Clients {
			*at = l.Self
			continue
		}
		h, err := l.ready(name)
		if err != nil {
			return p, err
		}
		*at = h.IP
	}
	if p.from == p.to {
		return p, fmt.Errorf("%q and %q are one host", from, to)
	}
	return p, nil
}

func (l *Lab) others(name string) []string {
	var out []string
	for _, h := range l.hosts {
		if h.Name != name {
			out = append(out, h.Name)
		}
	}
	return out
}

// lose adds the directions that list names to those that are lost, at one
// moment. Nothing changes when one of them cannot be.
func (l *Lab) lose(list func(add func(from, to string))) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errClosed
	}
	var add []pair
	var errs []error
	list(func(from, to string) {
		p, err := l.pair(from, to)
		add, errs = append(add, p), append(errs, err)
	})
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, p := range add {
		l.lost[p] = true
	}
	return l.drop()
}

// makeRules makes the table of the bridge. Its output chain is for what the
// calling process sends. A verdict of a chain in front of a host's own stack
// would reach the sender as an error; one of the bridge does not.
func (l *Lab) makeRules(ctx context.Context) error {
	return run(ctx, fmt.Sprintf(`table bridge %s {
	map lost { type ipv4_addr . ipv4_addr : verdict; }
	chain arrives { type filter hook prerouting priority 0; ip saddr . ip daddr vmap @lost; }
	chain leaves { type filter hook output priority 0; ip saddr . ip daddr vmap @lost; }
}
`, l.name), "nft", "-f", "-")
}

// drop makes the bridge drop what is in lost and nothing else, in one
// transaction.
func (l *Lab) drop() error {
	var b strings.Builder
	fmt.Fprintf(&b, "flush map bridge %s lost\n", l.name)
	if len(l.lost) > 0 {
		fmt.Fprintf(&b, "add element bridge %s lost { %s }\n", l.name, strings.Join(elements(l.lost, func(p pair) string {
			return p.from + " . " + p.to + " : drop"
		}), ", "))
	}
	return run(context.Background(), b.String(), "nft", "-f", "-")
}

// denyAt is deny for several hosts at once.
func (l *Lab) denyAt(ips ...string) error {
	errs := make([]error, len(ips))
	var wg sync.WaitGroup
	for i, ip := range ips {
		wg.Go(func() { errs[i] = l.deny(ip) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// deny makes the host of an address answer what denied names with resets, and
// nothing else, in one transaction. Bridges of common kernels cannot do that.
func (l *Lab) deny(ip string) error {
	table := "ip " + l.name
	var b strings.Builder
	// Made first, so that it is there to be deleted.
	fmt.Fprintf(&b, "add table %s\ndelete table %[1]s\n", table)
	from := elements(l.denied, func(p pair) string {
		if p.to != ip {
			return ""
		}
		return p.from
	})
	if len(from) > 0 {
		fmt.Fprintf(&b, "table %s {\n\tchain arrives {\n\t\ttype filter hook input priority 0;\n", table)
		// The resets themselves must arrive.
		fmt.Fprintf(&b, "\t\tip saddr { %s } tcp flags & rst == 0 reject with tcp reset;\n\t}\n}\n", strings.Join(from, ", "))
	}
	for _, h := range l.hosts {
		if h.IP == ip {
			cmd := h.Command(context.Background(), "nft", "-f", "-")
			return run(context.Background(), b.String(), cmd.Args[0], cmd.Args[1:]...)
		}
	}
	return run(context.Background(), b.String(), "nft", "-f", "-")
}

// elements are the texts of the pairs that have one, in order.
func elements(pairs map[pair]bool, text func(pair) string) []string {
	var out []string
	for _, p := range slices.SortedFunc(maps.Keys(pairs), func(a, b pair) int {
		return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to))
	}) {
		if s := text(p); s != "" {
			out = append(out, s)
		}
	}
	return out
}
