package pgctl

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// RewindRole is the database role as which a peer's pg_rewind reads this
// server: it may log in by the private socket, to database postgres, and read
// the files of the data directory.
const RewindRole = "understudy_rewind"

// rewindFunctions are what pg_rewind calls on its source.
var rewindFunctions = []string{
	"pg_ls_dir(text, boolean, boolean)",
	"pg_stat_file(text, boolean)",
	"pg_read_binary_file(text)",
	"pg_read_binary_file(text, bigint, bigint, boolean)",
}

// EnsureRewindRole makes RewindRole on a running primary, or puts right what it
// may do. Nothing is written when it is right already; the commit does not wait
// for a standby.
func (s *Server) EnsureRewindRole(ctx context.Context) error {
	return s.withNew(ctx, func(conn *pgx.Conn) error {
		verb, err := rewindRoleNeeds(ctx, conn)
		if err != nil || verb == "" {
			return err
		}
		sql := "set synchronous_commit = local; begin read write; " + verb + " role " + RewindRole +
			" login nosuperuser nocreatedb nocreaterole noreplication nobypassrls;"
		for _, f := range rewindFunctions {
			sql += " grant execute on function pg_catalog." + f + " to " + RewindRole + ";"
		}
		if _, err := conn.PgConn().Exec(ctx, sql+" commit").ReadAll(); err != nil {
			return fmt.Errorf("make role %s: %w", RewindRole, err)
		}
		return nil
	})
}

// rewindRoleNeeds is create, alter, or empty when the role is as it must be.
func rewindRoleNeeds(ctx context.Context, conn *pgx.Conn) (verb string, err error) {
	verb, err = ask(ctx, conn, `select coalesce((select case
 when rolcanlogin and not (rolsuper or rolcreatedb or rolcreaterole or rolreplication or rolbypassrls) then '' else 'alter' end
 from pg_roles where rolname = '`+RewindRole+`'), 'create')`)
	if err != nil || verb != "" {
		return verb, err
	}
	for _, f := range rewindFunctions {
		may, err := ask(ctx, conn, "select has_function_privilege('"+RewindRole+"', 'pg_catalog."+f+"', 'execute')")
		if err != nil {
			return "", err
		}
		if may != "t" {
			return "alter", nil
		}
	}
	return "", nil
}
