// Package netlab makes hosts of one machine: network namespaces on one bridge,
// whose connections can be cut, refused and slowed while programs run on them.
//
// The process that makes a lab stays where it is and reaches every host, and
// every host reaches it, through the bridge. Faults are rules of the bridge:
// what is cut is lost on the way, as on a broken switch, and also for
// connections that stand. Nobody's own firewall answers.
package netlab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// Clients names the calling process where a host's name is asked for; the empty
// name does too.
const Clients = "clients"

// netnsDir is where ip keeps the namespaces that have names.
const netnsDir = "/run/netns"

// maxHosts keeps the last part of an address below 255.
const maxHosts = 100

// Lab is some hosts on a bridge of their own.
type Lab struct {
	// Self is the address at which hosts reach the calling process.
	Self string

	name  string // of the bridge, and the prefix of all else
	hosts []*Host
	locks []net.Listener // of the name and the subnet, until Close

	mu     sync.Mutex
	closed bool
	lost   map[pair]bool // packets that the bridge drops
	denied map[pair]bool // packets that their receiver answers with a reset
	slowed map[*Host]bool
}

// Host is one host of a lab.
type Host struct {
	Name string
	// IP is the host's address, which every host of the lab and the calling
	// process reach.
	IP string
	// Namespace is the name of the network namespace.
	Namespace string

	link string // the bridge's end of the host's cable
}

// Need is nil when labs can be made here, else says in one sentence what is
// missing and what to do.
func Need() error {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces need root: run this as root")
	}
	for _, p := range []string{"ip", "nft", "tc", "nsenter"} {
		if _, err := exec.LookPath(p); err != nil {
			return fmt.Errorf("the program %s is missing: run scripts/install-netlab.sh", p)
		}
	}
	return nil
}

// New makes a lab with hosts of the given names. Labs of other processes and
// further labs of this one are not touched; one that a dead process left is
// removed. Close ends it.
func New(ctx context.Context, hosts ...string) (*Lab, error) {
	if err := checkNames(hosts); err != nil {
		return nil, err
	}
	if err := Need(); err != nil {
		return nil, err
	}
	if err := removeStale(ctx); err != nil {
		return nil, fmt.Errorf("remove what a dead process left: %w", err)
	}
	l := &Lab{lost: map[pair]bool{}, denied: map[pair]bool{}, slowed: map[*Host]bool{}}
	if err := l.reserve(); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	subnet := strings.TrimSuffix(l.Self, ".1")
	for i, n := range hosts {
		l.hosts = append(l.hosts, &Host{Name: n, IP: fmt.Sprintf("%s.%d", subnet, 11+i),
			Namespace: l.name + "-" + n, link: fmt.Sprintf("%s-%d", l.name, i)})
	}
	if err := l.build(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("make a network of hosts: %w", err), l.Close())
	}
	return l, nil
}

func checkNames(hosts []string) error {
	if len(hosts) > maxHosts {
		return fmt.Errorf("%d hosts are more than %d", len(hosts), maxHosts)
	}
	for i, n := range hosts {
		switch {
		case n == "" || n == Clients:
			return fmt.Errorf("no host can be named %q: that is the calling process", n)
		case strings.Trim(n, "abcdefghijklmnopqrstuvwxyz0123456789_-") != "":
			return fmt.Errorf("host name %q: use small letters, digits, _ and -", n)
		case slices.Contains(hosts[:i], n):
			return fmt.Errorf("two hosts are named %s", n)
		}
	}
	return nil
}

// build makes the bridge, the namespaces and the cables between them, and the
// empty rules.
func (l *Lab) build(ctx context.Context) error {
	var b strings.Builder
	fmt.Fprintf(&b, "link add %s type bridge\naddr add %s/24 dev %[1]s\nlink set %[1]s addrgenmode none up\n", l.name, l.Self)
	for _, h := range l.hosts {
		fmt.Fprintf(&b, "netns add %s\nlink add %s type veth peer name eth0 netns %[1]s\n", h.Namespace, h.link)
		fmt.Fprintf(&b, "link set %s addrgenmode none master %s up\n", h.link, l.name)
	}
	if err := run(ctx, b.String(), "ip", "-batch", "-"); err != nil {
		return err
	}
	for _, h := range l.hosts {
		inside := fmt.Sprintf("link set lo up\naddr add %s/24 dev eth0\nlink set eth0 addrgenmode none up\n", h.IP)
		if err := run(ctx, inside, "ip", "-n", h.Namespace, "-batch", "-"); err != nil {
			return err
		}
	}
	return l.makeRules(ctx)
}

// Close takes the hosts and their network away. Processes that still run on
// them are left without a network. It may be called again.
func (l *Lab) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	var err error
	if l.name != "" {
		err = remove(context.Background(), l.name)
	}
	for _, lock := range l.locks {
		err = errors.Join(err, lock.Close())
	}
	return err
}

// Host is the host of that name, nil when there is none.
func (l *Lab) Host(name string) *Host {
	i := slices.IndexFunc(l.hosts, func(h *Host) bool { return h.Name == name })
	if i < 0 {
		return nil
	}
	return l.hosts[i]
}

// Command prepares a program that runs on the host. Only its network is the
// host's: it sees the files and processes of the machine. The process that
// starts becomes the program, so its process id, its signals and what is set in
// SysProcAttr are the program's, except an account: entering the host needs
// root, and a program that another account shall run is started through setpriv.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + filepath.Join(netnsDir, h.Namespace), "--", name}, args...)...)
}

// run runs a program of the system to its end with something on its standard
// input.
func run(ctx context.Context, input, name string, args ...string) error {
	_, err := output(ctx, input, name, args...)
	return err
}

func output(ctx context.Context, input, name string, args ...string) (string, error) {
	var out, complaints strings.Builder
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &complaints
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(complaints.String()))
	}
	return out.String(), nil
}
