// Package places opens the locations that a group's policy names.
package places

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"filippo.io/age"

	"understudy/configs"
	"understudy/ledger/facts"
	"understudy/shipper/location"
	"understudy/shipper/location/local"
	"understudy/shipper/location/peer"
	"understudy/shipper/location/s3"
	"understudy/shipper/location/sftp"
)

// Opener opens locations on one node.
type Opener struct {
	// Node is the name of this node; "" on a machine that is none, which reaches
	// no other node and takes local directories as its own.
	Node string
	// Secret is the value of a secret that the node file names.
	Secret func(name string) ([]byte, error)
	// Dial reaches the daemon of another node.
	Dial func(ctx context.Context, node string) (net.Conn, error)
	// Plain leaves encryption and throttle out: what another node asks for is
	// sealed and slowed down there.
	Plain bool
}

// SecretsOf reads the secrets that a node file names.
func SecretsOf(n *configs.Node) func(name string) ([]byte, error) {
	return func(name string) ([]byte, error) {
		v, err := n.Secret(name)
		if err != nil {
			return nil, err
		}
		return v.Bytes(), nil
	}
}

// Open opens the location of that name. It does not wait for the place: what
// is wrong there is said by the first call that needs it. The error names what
// is missing here.
func (o Opener) Open(name string, p facts.LocationPolicy) (location.Location, error) {
	loc, err := o.bare(name, p)
	if err != nil {
		return nil, fmt.Errorf("location %s: %w", name, err)
	}
	if o.Plain {
		return loc, nil
	}
	if p.ThrottleBytes > 0 {
		loc = location.Throttled(loc, func() int64 { return p.ThrottleBytes })
	}
	if p.EncryptTo != "" {
		sealed, err := o.sealed(loc, p)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("location %s: %w", name, err), loc.Close())
		}
		loc = sealed
	}
	return location.Named(loc, name, whereOf(p)), nil
}

// whereOf is where an operator finds what a location is about.
func whereOf(p facts.LocationPolicy) string {
	switch {
	case p.Kind == facts.LocationSFTP:
		return p.User + "@" + p.Address + ":" + p.Path
	case p.Kind == facts.LocationS3:
		return "bucket " + p.Bucket + " of " + endpointOf(p.Endpoint)
	case p.Node != "":
		return p.Path + " on " + p.Node
	}
	return p.Path
}

func (o Opener) bare(name string, p facts.LocationPolicy) (location.Location, error) {
	if p.Node != "" && o.Node != "" && p.Node != o.Node {
		return o.remote(name, p)
	}
	switch p.Kind {
	case facts.LocationLocal:
		return local.New(p.Path), nil
	case facts.LocationSFTP:
		key, err := o.Secret(p.Secret)
		if err != nil {
			return nil, err
		}
		return sftp.New(sftp.Config{Address: p.Address, User: p.User, Root: p.Path, HostKey: p.HostKey, Key: key})
	case facts.LocationS3:
		pair, err := o.Secret(p.Secret)
		if err != nil {
			return nil, err
		}
		id, secret, ok := strings.Cut(strings.TrimSpace(string(pair)), ":")
		if !ok {
			return nil, fmt.Errorf("secret %s holds no access key: it is one line, KEY:SECRET", p.Secret)
		}
		return s3.New(s3.Config{Endpoint: endpointOf(p.Endpoint), PathStyle: p.Endpoint != "", Region: p.Region, Bucket: p.Bucket, Prefix: p.Prefix, AccessKey: id, SecretKey: secret})
	}
	return nil, fmt.Errorf("a location of kind %q is not known", p.Kind)
}

// endpointOf is the URL of an S3 server; Amazon's when the policy names none.
func endpointOf(s string) string {
	switch {
	case s == "":
		return "https://s3.amazonaws.com"
	case strings.Contains(s, "://"):
		return s
	}
	return "https://" + s
}

// remote reaches a location through the daemon of the node that has it.
func (o Opener) remote(name string, p facts.LocationPolicy) (location.Location, error) {
	if o.Dial == nil {
		return nil, fmt.Errorf("it is a place of node %s, which cannot be reached from here", p.Node)
	}
	return peer.New(name, func(ctx context.Context) (net.Conn, error) { return o.Dial(ctx, p.Node) }, peer.Options{}), nil
}

// sealed encrypts for the policy's recipients.
func (o Opener) sealed(loc location.Location, p facts.LocationPolicy) (location.Location, error) {
	to, err := age.ParseRecipients(strings.NewReader(strings.Join(strings.Fields(p.EncryptTo), "\n")))
	if err != nil {
		return nil, fmt.Errorf("encrypt_to: %w", err)
	}
	var ids []age.Identity
	if p.Identity != "" {
		b, err := o.Secret(p.Identity)
		if err != nil {
			return nil, err
		}
		if ids, err = age.ParseIdentities(strings.NewReader(string(b))); err != nil {
			return nil, fmt.Errorf("secret %s is no age identity: %w", p.Identity, err)
		}
	}
	return location.Encrypted(loc, to, ids)
}
