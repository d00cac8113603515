package pgctl

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// filesPatience is how long a reload may take before the files are looked at
// for what is wrong with them: that question is slow.
const filesPatience = time.Second

// reload writes files with put, which returns their generation, makes the
// postmaster read them, and returns a session that shows the generation: conn,
// when it goes on, else a new one. The postmaster tells its children of a new
// configuration first and reads the access rules next, in one go: it accepts
// nobody in between. So whoever is accepted after a session has shown the
// generation is judged by the new rules and has the new settings, and no further
// connection, which costs a process, is needed to prove it.
//
// A session reads the files itself, at its next statement after it was told, so
// conn must have run one since it was told last: see borrow.
func (s *Server) reload(ctx context.Context, conn *pgx.Conn, put func() (gen string, err error)) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	gen, err := put()
	if err == nil {
		err = s.hangUp()
	}
	if err == nil {
		conn, err = s.shows(ctx, conn, gen)
	}
	if err != nil && conn != nil {
		conn.Close(context.WithoutCancel(ctx))
		conn = nil
	}
	return conn, err
}

// withReloaded is reload for those who need no kept session: f runs on a new
// one, which is closed afterwards.
func (s *Server) withReloaded(ctx context.Context, put func() (gen string, err error), f func(*pgx.Conn) error) error {
	conn, err := s.reload(ctx, nil, put)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return f(conn)
}

// running is the postmaster; ErrNotReloaded when there is none.
func (s *Server) running() (pid int, err error) {
	pid, err = s.postmaster()
	if err == nil && pid == 0 {
		err = fmt.Errorf("%w: it does not run", ErrNotReloaded)
	}
	return pid, err
}

// hangUp tells the postmaster to read its files.
func (s *Server) hangUp() error {
	pid, err := s.running()
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGHUP); err != nil {
		return fmt.Errorf("reload server: %w", err)
	}
	return nil
}

// shows waits until a session shows the generation, and returns the last one
// that it had, also with an error; nil when that is gone.
func (s *Server) shows(ctx context.Context, conn *pgx.Conn, gen string) (*pgx.Conn, error) {
	role, err := s.role()
	if err != nil {
		return conn, err
	}
	for began := time.Now(); ; {
		var loaded string
		if conn == nil {
			conn, err = s.connectAs(ctx, role, "postgres")
		}
		if err == nil {
			loaded, err = ask(ctx, conn, "select coalesce(current_setting('understudy.generation', true), '')")
		}
		if err == nil && loaded == gen {
			return conn, nil
		}
		if err == nil && time.Since(began) > filesPatience {
			if problem := fileProblem(ctx, conn); problem != nil {
				return conn, fmt.Errorf("%w: %w", ErrNotReloaded, problem)
			}
		}
		if err != nil && conn != nil {
			conn.Close(context.WithoutCancel(ctx))
			conn = nil
		}
		if perr := pause(ctx, poll); perr != nil {
			return conn, fmt.Errorf("%w: %w", ErrNotReloaded, errors.Join(err, perr))
		}
		err = nil
	}
}

// fileProblem is what is wrong with the configuration files, by any session's
// own look at them; nil when nothing is, or it does not say.
func fileProblem(ctx context.Context, conn *pgx.Conn) error {
	var file, text string
	err := conn.QueryRow(ctx, "select coalesce(sourcefile, ''), error from pg_file_settings where error is not null limit 1").Scan(&file, &text)
	if err != nil {
		return nil
	}
	return fmt.Errorf("%s: %s", filepath.Base(file), text)
}
