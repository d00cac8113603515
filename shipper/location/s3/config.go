package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"understudy/shipper/location"
)

// defaultPatience is how long a server may be silent. It may have a large part
// to bring to its disk meanwhile.
const defaultPatience = 30 * time.Second

// Config says where a bucket is and who we are there.
type Config struct {
	// Endpoint is the server, https://host[:port], or http://… for one that is
	// reached over a network of its own.
	Endpoint string
	// Region is the bucket's; the server is asked for it when empty.
	Region string
	// Bucket must exist. With versions or object lock it keeps what we delete for
	// as long as its own rules say.
	Bucket string
	// Prefix comes before every key, such as "understudy/"; the slash is added.
	Prefix string
	// AccessKey and SecretKey are our name and password, SessionToken belongs to
	// temporary ones.
	AccessKey, SecretKey, SessionToken string
	// PathStyle puts the bucket into the path instead of the host name, which
	// most servers other than Amazon's want.
	PathStyle bool
	// CA are certificates, PEM, of those who sign the server's; the system's when
	// empty.
	CA []byte
	// StorageClass is that of new objects; the bucket's default when empty.
	StorageClass string
	// Patience is how long the server may be silent within a request; 0 is 30 s.
	Patience time.Duration
}

// Validate tells whether the configuration is complete.
func (c Config) Validate() error {
	_, err := New(c)
	return err
}

// New returns a place; no connection is made before one is needed.
func New(cfg Config) (*Location, error) {
	u, err := url.Parse(cfg.Endpoint)
	switch {
	case err != nil:
		return nil, fmt.Errorf("s3: endpoint: %w", err)
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "", strings.Trim(u.Path, "/") != "":
		return nil, fmt.Errorf("s3: endpoint %q is not like https://host or http://host:9000", cfg.Endpoint)
	case cfg.Bucket == "" || cfg.AccessKey == "" || cfg.SecretKey == "":
		return nil, errors.New("s3: bucket, access key and secret key must be given")
	case cfg.Patience < 0:
		return nil, errors.New("s3: patience cannot be negative")
	}
	prefix := strings.Trim(cfg.Prefix, "/")
	if prefix != "" {
		if err := location.CheckKey(prefix); err != nil {
			return nil, fmt.Errorf("s3: prefix: %w", err)
		}
		prefix += "/"
	}
	if cfg.Patience == 0 {
		cfg.Patience = defaultPatience
	}
	tr, err := transport(cfg)
	if err != nil {
		return nil, err
	}
	lookup := minio.BucketLookupAuto
	if cfg.PathStyle {
		lookup = minio.BucketLookupPath
	}
	core, err := minio.NewCore(u.Host, &minio.Options{
		Creds:        credentials.NewStaticV4(cfg.AccessKey, cfg.SecretKey, cfg.SessionToken),
		Secure:       u.Scheme == "https",
		Transport:    tr,
		Region:       cfg.Region,
		BucketLookup: lookup,
		MaxRetries:   1, // repeating is ours
	})
	if err != nil {
		return nil, fmt.Errorf("s3: %w", err)
	}
	l := &Location{cfg: cfg, prefix: prefix, core: core, transport: tr}
	l.pauses = []time.Duration{100 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second}
	l.blocks.budget = make(chan struct{}, memory/blockSize)
	return l, nil
}

// transport makes connections on which no wait is without end.
func transport(cfg Config) (*http.Transport, error) {
	dialer := &net.Dialer{Timeout: cfg.Patience}
	tr := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		TLSHandshakeTimeout: cfg.Patience,
		MaxIdleConnsPerHost: 4 * inFlight,
		IdleConnTimeout:     time.Minute,
		DisableCompression:  true, // what is stored is not to be unpacked on the way
		WriteBufferSize:     64 << 10,
		ReadBufferSize:      64 << 10,
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12},
	}
	tr.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &patient{Conn: c, patience: cfg.Patience}, nil
	}
	if len(cfg.CA) > 0 {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(cfg.CA) {
			return nil, errors.New("s3: the CA holds no certificate in PEM")
		}
		tr.TLSClientConfig.RootCAs = pool
	}
	return tr, nil
}

// patient is a connection that fails when nothing moves for a time, in either
// direction: a read waits for as long as writes go on.
type patient struct {
	net.Conn
	patience time.Duration
}

// maxPiece is how much is written at once, so that a slow link is seen to move.
const maxPiece = 64 << 10

func (c *patient) Read(p []byte) (int, error) {
	if err := c.move(); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c *patient) Write(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		if err := c.move(); err != nil {
			return n, err
		}
		k, err := c.Conn.Write(p[n:min(n+maxPiece, len(p))])
		n += k
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func (c *patient) move() error { return c.SetDeadline(time.Now().Add(c.patience)) }
