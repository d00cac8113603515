package netlab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// nameOf finds a lab's name, which holds the process id of its maker, at the
// begin of the name of one of its parts.
var nameOf = regexp.MustCompile(`^us[0-9]+[a-z](?:-|$)`)

// lock takes a name on this machine. The kernel frees it when the process ends,
// so a lab whose lock can be taken has nobody.
func lock(name string) (net.Listener, error) {
	return net.Listen("unix", "@understudy-netlab-"+name)
}

// reserve chooses the lab's name and subnet.
func (l *Lab) reserve() error {
	for c := 'a'; c <= 'z' && l.name == ""; c++ {
		name := fmt.Sprintf("us%d%c", os.Getpid(), c)
		if k, err := lock(name); err == nil {
			l.name, l.locks = name, append(l.locks, k)
		}
	}
	if l.name == "" {
		return errors.New("this process has 26 labs already; close one")
	}
	const low, n = 64, 128 * 256
	for i := range n {
		at := (os.Getpid()*7 + i) % n
		subnet := fmt.Sprintf("10.%d.%d", low+at/256, at%256)
		free, err := unused(subnet + ".1")
		if err != nil {
			return err
		}
		if !free {
			continue
		}
		if k, err := lock(subnet); err == nil {
			l.Self, l.locks = subnet+".1", append(l.locks, k)
			return nil
		}
	}
	return errors.New("every subnet that a lab may use is taken")
}

// unused tells whether no interface of this machine has an address in a network
// with the given one.
func unused(ip string) (bool, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false, err
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.Contains(net.ParseIP(ip)) {
			return false, nil
		}
	}
	return true, nil
}

// removeStale removes labs whose process has ended without Close.
func removeStale(ctx context.Context) error {
	seen := map[string]bool{}
	for _, pattern := range []string{filepath.Join(netnsDir, "us*"), "/sys/class/net/us*"} {
		found, _ := filepath.Glob(pattern)
		for _, f := range found {
			if name := nameOf.FindString(filepath.Base(f)); name != "" {
				seen[strings.TrimSuffix(name, "-")] = true
			}
		}
	}
	var errs []error
	for name := range seen {
		k, err := lock(name)
		if err != nil {
			continue // it lives
		}
		errs = append(errs, remove(ctx, name), k.Close())
	}
	return errors.Join(errs...)
}

// remove takes away whatever there is of a lab.
func remove(ctx context.Context, name string) error {
	var b strings.Builder
	// Cables first: a namespace lives on while a process is in it.
	links, _ := filepath.Glob("/sys/class/net/" + name + "-*")
	bridge, _ := filepath.Glob("/sys/class/net/" + name)
	for _, f := range append(links, bridge...) {
		fmt.Fprintf(&b, "link del %s\n", filepath.Base(f))
	}
	spaces, _ := filepath.Glob(filepath.Join(netnsDir, name+"-*"))
	for _, f := range spaces {
		fmt.Fprintf(&b, "netns del %s\n", filepath.Base(f))
	}
	var errs []error
	if b.Len() > 0 {
		errs = append(errs, run(ctx, b.String(), "ip", "-force", "-batch", "-"))
	}
	var tables strings.Builder
	for _, family := range []string{"bridge", "ip"} {
		// Made first, so that it is there to be deleted.
		fmt.Fprintf(&tables, "add table %s %s\ndelete table %[1]s %[2]s\n", family, name)
	}
	return errors.Join(append(errs, run(ctx, tables.String(), "nft", "-f", "-"))...)
}
