package sftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"understudy/shipper/location"
)

const (
	// chunkSize is what one write or read asks for: the most that OpenSSH takes.
	chunkSize = 255 << 10
	// plainPacket is what every server takes in one packet. A chunk is then
	// several packets, which are under way at once.
	plainPacket = 32 << 10
	// stallTime is how long a server that is alive may take for the next of its
	// answers, and syncTime the same while it writes a file to its disk.
	stallTime = 60 * time.Second
	syncTime  = 10 * time.Minute
)

var (
	errSilent = errors.New("the server is silent")
	errStall  = errors.New("the server is alive but does not answer")
	errIdle   = errors.New("the connection was not used")
)

// conn is one SSH connection with one SFTP session.
type conn struct {
	net  *counted
	ssh  *ssh.Client
	sftp *sftp.Client
	// What the server offers beyond the standard.
	fsync, statvfs, hardlink, posixRename bool

	done  chan struct{} // closed when the connection has ended
	once  sync.Once
	cause error // of the end; read after done

	// load is the number of users: requests under way and open files.
	load atomic.Int32
	// answers counts the requests that have ended, waiting those that have not,
	// syncing those that may take syncTime.
	answers          atomic.Int64
	waiting, syncing atomic.Int32
}

// counted is a connection that notes when bytes came.
type counted struct {
	net.Conn
	reads atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.reads.Add(1)
	return n, err
}

// dial makes a connection, trying the kinds of host key that may fit.
func (l *Location) dial(ctx context.Context) (*conn, error) {
	var err error
	for _, kinds := range l.cfg.known.offers() {
		var c *conn
		if c, err = l.dialKind(ctx, kinds); err == nil {
			return c, nil
		}
		var other *ssh.AlgorithmNegotiationError
		if !errors.As(err, &other) && !errors.Is(err, errHostKey) {
			return nil, err
		}
	}
	if !errors.Is(err, errHostKey) {
		err = fmt.Errorf("%w: %w: the server has no key of the kind that is configured: %w", location.ErrRefused, errHostKey, err)
	}
	return nil, err
}

var errHostKey = errors.New("the server's host key is not the one that is known")

func (l *Location) dialKind(ctx context.Context, kinds []string) (*conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, l.cfg.patience(), errSilent)
	defer cancel()
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", l.cfg.Address)
	if err != nil {
		return nil, unreachable(ctx, err)
	}
	c := &conn{net: &counted{Conn: raw}, done: make(chan struct{})}
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	err = c.shakeHands(l.cfg, kinds)
	if !stop() || err != nil {
		raw.Close()
		if c.sftp != nil {
			c.sftp.Close()
		}
		return nil, dialError(ctx, err)
	}
	return c, nil
}

// dialError explains why no connection came about.
func dialError(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return unreachable(ctx, err)
	case errors.Is(err, errHostKey), errors.Is(err, location.ErrRefused):
		return fmt.Errorf("%w: %w", location.ErrRefused, err)
	case strings.Contains(err.Error(), "unable to authenticate"):
		return fmt.Errorf("%w: it does not accept our key for this user: %w", location.ErrRefused, err)
	}
	var other *ssh.AlgorithmNegotiationError
	if errors.As(err, &other) {
		return fmt.Errorf("%w: %w", location.ErrRefused, err)
	}
	return unreachable(ctx, err)
}

func unreachable(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return fmt.Errorf("%w: %w", location.ErrUnreachable, err)
}

func (c *conn) shakeHands(cfg prepared, kinds []string) error {
	sc, chans, reqs, err := ssh.NewClientConn(c.net, cfg.Address, &ssh.ClientConfig{
		User: cfg.User,
		Auth: []ssh.AuthMethod{ssh.PublicKeys(cfg.signer)},
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			if cfg.known.has(key) {
				return nil
			}
			return fmt.Errorf("%w: it shows %s %s", errHostKey, key.Type(), ssh.FingerprintSHA256(key))
		},
		HostKeyAlgorithms: kinds,
		// AES-GCM is several times as fast as the rest where the processor has
		// instructions for it, which is everywhere.
		Config: ssh.Config{Ciphers: []string{ssh.CipherAES128GCM, ssh.CipherAES256GCM, ssh.CipherChaCha20Poly1305, ssh.CipherAES128CTR, ssh.CipherAES256CTR}},
	})
	if err != nil {
		return err
	}
	c.ssh = ssh.NewClient(sc, chans, reqs)
	packet := plainPacket
	if strings.HasPrefix(string(sc.ServerVersion()), "SSH-2.0-OpenSSH_") {
		packet = chunkSize
	}
	if err := c.session(packet); err != nil {
		return err
	}
	// An OpenSSH too old to say its limits has smaller ones.
	if !c.has("limits@openssh.com", "1") && packet > plainPacket {
		c.sftp.Close()
		if err := c.session(plainPacket); err != nil {
			return err
		}
	}
	c.fsync, c.posixRename = c.has("fsync@openssh.com", "1"), c.has("posix-rename@openssh.com", "1")
	c.statvfs, c.hardlink = c.has("statvfs@openssh.com", "2"), c.has("hardlink@openssh.com", "1")
	return nil
}

func (c *conn) session(packet int) (err error) {
	c.sftp, err = sftp.NewClient(c.ssh, sftp.MaxPacketUnchecked(packet), sftp.UseConcurrentWrites(true))
	if err != nil {
		if strings.Contains(err.Error(), "subsystem request failed") {
			return fmt.Errorf("%w: it offers no SFTP", location.ErrRefused)
		}
		return fmt.Errorf("begin the SFTP session: %w", err)
	}
	return nil
}

func (c *conn) has(extension, version string) bool {
	v, ok := c.sftp.HasExtension(extension)
	return ok && v == version
}

// close ends the connection. Whoever waits for an answer gets an error.
func (c *conn) close(cause error) {
	c.once.Do(func() {
		c.cause = cause
		close(c.done)
		c.net.Close()
		c.ssh.Close()
		c.sftp.Close()
	})
}

// ended tells whether the connection has ended.
func (c *conn) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// run watches the connection until it has ended.
func (c *conn) run(keepAlive, idle time.Duration) {
	var wg sync.WaitGroup
	wg.Go(func() {
		err := c.sftp.Wait()
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		c.close(err)
	})
	c.watch(keepAlive, idle, &wg)
	wg.Wait()
}

// ticksPerKeepAlive is how often a connection is looked at.
const ticksPerKeepAlive = 2

// watch ends a connection whose server is silent, stalled, or not needed. Time
// is counted in ticks that this process lived through: one that was stopped
// for a while must not blame the server.
func (c *conn) watch(keepAlive, idle time.Duration, wg *sync.WaitGroup) {
	tick := keepAlive / ticksPerKeepAlive
	every := time.NewTicker(tick)
	defer every.Stop()
	var asking atomic.Bool
	var quiet, stalled, unused int
	reads, answers := c.net.reads.Load(), c.answers.Load()
	for {
		select {
		case <-c.done:
			return
		case <-every.C:
		}
		quiet, stalled, unused = quiet+1, stalled+1, unused+1
		if n := c.net.reads.Load(); n != reads {
			reads, quiet = n, 0
		}
		if n := c.answers.Load(); n != answers || c.waiting.Load() == 0 {
			answers, stalled = n, 0
		}
		if c.load.Load() > 0 {
			unused = 0
		}
		bound := stallTime
		if c.syncing.Load() > 0 {
			bound = syncTime
		}
		switch {
		case quiet >= 3*ticksPerKeepAlive:
			c.close(errSilent)
		case time.Duration(stalled)*tick >= bound:
			c.close(errStall)
		case time.Duration(unused)*tick >= idle:
			c.close(errIdle)
		case quiet >= ticksPerKeepAlive && asking.CompareAndSwap(false, true):
			wg.Go(func() {
				c.ssh.SendRequest("keepalive@openssh.com", true, nil)
				asking.Store(false)
			})
		}
	}
}

// begin notes a request; the returned function its end.
func (c *conn) begin() func() {
	c.waiting.Add(1)
	return func() {
		c.waiting.Add(-1)
		c.answers.Add(1)
	}
}

// beginSync notes a request that may take long.
func (c *conn) beginSync() func() {
	end := c.begin()
	c.syncing.Add(1)
	return func() {
		c.syncing.Add(-1)
		end()
	}
}
