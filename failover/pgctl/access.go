package pgctl

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// DSN is the connection string of the daemon's role over the private socket.
// With replication it opens a physical replication connection. An application
// name is left to the caller.
func (s *Server) DSN(replication bool) string {
	d := s.dsnFor(roleName)
	if replication {
		return d + " replication=yes"
	}
	return d + " dbname=postgres"
}

func (s *Server) dsnFor(role string) string {
	host := "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s.SocketDir) + "'"
	return "host=" + host + " port=" + strconv.Itoa(s.Port) + " user=" + role + " sslmode=disable connect_timeout=5"
}

// Connect opens a connection as the daemon's superuser over the private
// socket, in the given database.
func (s *Server) Connect(ctx context.Context, dbname string) (*pgx.Conn, error) {
	return s.connectAs(ctx, roleName, dbname)
}

func (s *Server) connectAs(ctx context.Context, role, dbname string) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig(s.dsnFor(role))
	if err != nil {
		return nil, fmt.Errorf("connect to the local server: %w", err)
	}
	cfg.Database = dbname
	cfg.RuntimeParams["application_name"] = "understudy"
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to the local server: %w", err)
	}
	return conn, nil
}

// role is whom the daemon connects as: while founding lasts its own role may
// not exist yet.
func (s *Server) role() (string, error) {
	founder, err := s.founder()
	if err != nil || founder == "" {
		return roleName, err
	}
	return founder, nil
}

// maxSpare is how many connections are kept for the next question. A new one
// costs the server a process, which is dear while nobody can write.
const maxSpare = 2

// with runs f on a connection that is kept for later questions. A session that
// is older than a reload may not show it yet: see withNew.
func (s *Server) with(ctx context.Context, f func(*pgx.Conn) error) error {
	conn := s.borrow(ctx)
	if conn == nil {
		role, err := s.role()
		if err != nil {
			return err
		}
		if role != roleName {
			return s.withNew(ctx, f)
		}
		if conn, err = s.connectAs(ctx, role, "postgres"); err != nil {
			return err
		}
	}
	err := f(conn)
	s.giveBack(ctx, conn)
	return err
}

// borrow takes a kept connection that still answers; nil when there is none.
func (s *Server) borrow(ctx context.Context) *pgx.Conn {
	for {
		s.spareMu.Lock()
		n := len(s.spare)
		if n == 0 {
			s.spareMu.Unlock()
			return nil
		}
		conn := s.spare[n-1]
		s.spare = s.spare[:n-1]
		s.spareMu.Unlock()
		pctx, cancel := context.WithTimeout(ctx, time.Second)
		err := conn.Ping(pctx)
		cancel()
		if err == nil {
			return conn
		}
		conn.Close(context.WithoutCancel(ctx))
	}
}

// giveBack keeps a connection whose session is as it was made.
func (s *Server) giveBack(ctx context.Context, conn *pgx.Conn) {
	s.spareMu.Lock()
	keep := len(s.spare) < maxSpare && !conn.IsClosed() && conn.PgConn().TxStatus() == 'I' && ctx.Err() == nil
	if keep {
		s.spare = append(s.spare, conn)
	}
	s.spareMu.Unlock()
	if !keep {
		conn.Close(context.WithoutCancel(ctx))
	}
}

// withNew runs f on a connection of its own.
func (s *Server) withNew(ctx context.Context, f func(*pgx.Conn) error) error {
	role, err := s.role()
	if err != nil {
		return err
	}
	conn, err := s.connectAs(ctx, role, "postgres")
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return f(conn)
}

// EnsureRole makes the daemon's role if it does not exist, connecting as the
// superuser of Founding, and ends the founding: from then on only the daemon's
// role passes the locked configuration. The commit does not wait for a
// standby. It does nothing when founding is over.
func (s *Server) EnsureRole(ctx context.Context) error {
	founder, err := s.founder()
	if err != nil || founder == "" {
		return err
	}
	conn, err := s.connectAs(ctx, founder, "postgres")
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var exists bool
	if err := conn.QueryRow(ctx, "select exists (select from pg_roles where rolname = $1)", roleName).Scan(&exists); err != nil {
		return fmt.Errorf("look for role %s: %w", roleName, err)
	}
	verb := "create"
	if exists {
		verb = "alter"
	}
	for _, sql := range []string{"set synchronous_commit = local", verb + " role " + roleName + " superuser replication login"} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("make role %s: %w", roleName, err)
		}
	}
	if err := s.removeState(foundingMark); err != nil {
		return err
	}
	return s.Lock(ctx)
}

// Lock locks ordinary clients out of a running server: new connections are
// refused when it returns. Sessions that exist go on; they end with the server.
func (s *Server) Lock(ctx context.Context) error { return s.switchAccess(ctx, true) }

// Unlock lets ordinary clients in by the operator's pg_hba lines; it returns
// when the server admits them.
func (s *Server) Unlock(ctx context.Context) error { return s.switchAccess(ctx, false) }

// switchAccess never leaves the doors open after an error.
func (s *Server) switchAccess(ctx context.Context, locked bool) error {
	err := s.tryAccess(ctx, locked)
	if err == nil || locked {
		return err
	}
	pid, perr := s.postmaster()
	werr := s.writeAccess(true)
	if perr == nil && pid != 0 && werr == nil {
		werr = syscall.Kill(pid, syscall.SIGHUP)
	}
	return errors.Join(err, perr, werr)
}

func (s *Server) tryAccess(ctx context.Context, locked bool) error {
	return s.withReloaded(ctx, func() (string, error) { return s.putAccess(locked, nil) }, func(conn *pgx.Conn) error {
		// Reads the file itself: a line in error keeps the old rules in force.
		var line int
		var problem string
		err := conn.QueryRow(ctx, "select line_number, error from pg_hba_file_rules where error is not null limit 1").Scan(&line, &problem)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("check access rules: %w", err)
		}
		return fmt.Errorf("%w: %s line %d: %s", ErrNotReloaded, s.hbaFile(), line, problem)
	})
}

// putAccess writes the access rules and changes settings of ours. Clients wait
// for this: nothing of it has to outlive a loss of power.
func (s *Server) putAccess(locked bool, change map[string]string) (gen string, err error) {
	ident, hba, err := s.renderAccess(locked)
	if err != nil {
		return "", err
	}
	conf, gen, err := s.amended(change)
	if err != nil {
		return "", err
	}
	return gen, errors.Join(s.passing(s.identFile(), ident), s.passing(s.hbaFile(), hba), s.passing(s.managedConf(), conf))
}

// SetSyncName makes name the one application name that satisfies synchronous
// commits, or, when it is empty, makes commits wait for nobody. It returns when
// every new session shows it. ErrForeignSetting tells that another file or the
// command line decides instead.
func (s *Server) SetSyncName(ctx context.Context, name string) error {
	want, err := syncNames(name)
	if err != nil {
		return err
	}
	return s.withReloaded(ctx, func() (string, error) { return s.amend(map[string]string{"synchronous_standby_names": want}) },
		func(conn *pgx.Conn) error { return s.checkNames(ctx, conn, want) })
}

// syncNames is the value of synchronous_standby_names with which commits wait
// for name alone, or, when it is empty, for nobody.
func syncNames(name string) (string, error) {
	if name == "" {
		return "", nil
	}
	return syncValue(name)
}

// CheckSyncName asks a new session of the running server whether name (empty:
// nobody) is what commits wait for and whether our managed file says so;
// ErrForeignSetting when not.
func (s *Server) CheckSyncName(ctx context.Context, name string) error {
	want, err := syncNames(name)
	if err != nil {
		return err
	}
	return s.withNew(ctx, func(conn *pgx.Conn) error { return s.checkNames(ctx, conn, want) })
}

func (s *Server) checkNames(ctx context.Context, conn *pgx.Conn, want string) error {
	var got, source, file string
	err := conn.QueryRow(ctx, "select setting, source, coalesce(sourcefile, '') from pg_settings where name = 'synchronous_standby_names'").Scan(&got, &source, &file)
	if err != nil {
		return fmt.Errorf("read synchronous_standby_names: %w", err)
	}
	if got == want && file == s.managedConf() {
		return nil
	}
	where := file
	if where == "" {
		where = source
	}
	return fmt.Errorf("%w: synchronous_standby_names is %q by %s, must be %q by %s", ErrForeignSetting, got, where, want, s.managedConf())
}

// WaitReady waits until the server answers queries: a primary after recovery,
// a standby when it is consistent. It returns at once for an error that
// waiting does not mend, else when ctx ends.
func (s *Server) WaitReady(ctx context.Context) error {
	role, err := s.role()
	if err != nil {
		return err
	}
	for {
		conn, err := s.connectAs(ctx, role, "postgres")
		if err == nil {
			conn.Close(ctx)
			return nil
		}
		var pe *pgconn.PgError
		if errors.As(err, &pe) && (strings.HasPrefix(pe.Code, "28") || pe.Code == "3D000") {
			return fmt.Errorf("wait for the local server: %w", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the local server: %w", errors.Join(err, ctx.Err()))
		case <-time.After(10 * time.Millisecond):
		}
	}
}
