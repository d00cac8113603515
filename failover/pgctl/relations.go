package pgctl

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// RelationNames finds the names of relations that a log names by numbers,
// each as "DATABASE/RELFILENODE" with the database's oid. A name is
// "database.schema.table"; what no database has any more is left out. An error
// comes with the names that were found.
func (s *Server) RelationNames(ctx context.Context, numbers []string) (map[string]string, error) {
	byDB := map[uint32][]uint32{}
	for _, n := range numbers {
		db, rel, ok := strings.Cut(n, "/")
		d, derr := strconv.ParseUint(db, 10, 32)
		r, rerr := strconv.ParseUint(rel, 10, 32)
		if ok && derr == nil && rerr == nil {
			byDB[uint32(d)] = append(byDB[uint32(d)], uint32(r))
		}
	}
	names := map[string]string{}
	for db, rels := range byDB {
		if err := s.namesIn(ctx, db, rels, names); err != nil {
			return names, err
		}
	}
	return names, nil
}

func (s *Server) namesIn(ctx context.Context, db uint32, rels []uint32, names map[string]string) error {
	database := "postgres" // shared relations are the same in each
	if db != 0 {
		err := s.with(ctx, func(conn *pgx.Conn) error {
			return conn.QueryRow(ctx, "select datname from pg_database where oid = $1 and datallowconn", db).Scan(&database)
		})
		if err != nil {
			return fmt.Errorf("find database %d: %w", db, err)
		}
	}
	conn, err := s.Connect(ctx, database)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := conn.Query(ctx, `select n::int8, nspname || '.' || relname from unnest($1::oid[]) n
 join pg_class c on c.oid = pg_filenode_relation(0, n) join pg_namespace s on s.oid = relnamespace`, rels)
	if err != nil {
		return fmt.Errorf("name relations of %s: %w", database, err)
	}
	var n int64
	var name string
	_, err = pgx.ForEachRow(rows, []any{&n, &name}, func() error {
		names[fmt.Sprintf("%d/%d", db, n)] = database + "." + name
		return nil
	})
	return err
}
