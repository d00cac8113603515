package adopt

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"understudy/failover/pgctl"
	"understudy/standby/recover"
)

// Prepare makes the planned changes to the data directory and what lies in it
// durable. It may be repeated.
func (p Plan) Prepare(s *pgctl.Server) error {
	if p.Settings != "" {
		if err := s.TakeConfig(p.Settings); err != nil {
			return err
		}
	}
	if p.Restored != "" { // or every base taken from here would tell of it
		if err := recover.Forget(s.DataDir); err != nil {
			return fmt.Errorf("forget the restore: %w", err)
		}
	}
	for _, dir := range append([]string{s.DataDir, s.DataDir + "/pg_wal"}, p.Spaces...) {
		if err := syncAll(dir); err != nil {
			return fmt.Errorf("make %s durable: %w", dir, err)
		}
	}
	return nil
}

// syncAll makes the file system of a directory durable: whoever wrote the
// database may not have waited for the disk.
func syncAll(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
}
