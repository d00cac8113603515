package basestream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// MinIncremental is the first version of PostgreSQL that takes incremental
// backups.
const MinIncremental = 17

// TakesIncremental tells whether the server's version knows incremental backups.
func (s *Stream) TakesIncremental() bool { return s.Major >= MinIncremental }

// Upload sends the server the manifest of the backup that an incremental one is
// to be based on. It comes before Start.
func (s *Stream) Upload(ctx context.Context, manifest io.Reader) error {
	if _, err := s.conn.CopyFrom(ctx, manifest, "UPLOAD_MANIFEST"); err != nil {
		return fmt.Errorf("%w: upload the manifest: %w", ErrServer, err)
	}
	return nil
}

// Refusal is what the server itself said in an error, without what we put
// around it; "" when the error is not the server's word.
func Refusal(err error) string {
	var pe *pgconn.PgError
	if !errors.As(err, &pe) {
		return ""
	}
	said := pe.Message
	if pe.Detail != "" {
		said += ": " + pe.Detail
	}
	if pe.Hint != "" {
		said += " (" + strings.TrimSuffix(pe.Hint, ".") + ")"
	}
	return said
}
