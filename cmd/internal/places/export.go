package places

import (
	"context"
	"io"

	"understudy/ledger/facts"
	"understudy/shipper/backupset"
	"understudy/shipper/location"
)

// ReadExport reads the export of a group's ledger that lies at a location:
// location.ErrNotExist for none, and the errors of facts.Import.
func ReadExport(ctx context.Context, loc location.Location, group string) (facts.Exported, error) {
	r, err := loc.Open(ctx, backupset.LedgerKey(group), 0, -1)
	if err != nil {
		return facts.Exported{}, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, facts.MaxExportBytes+1))
	if err != nil {
		return facts.Exported{}, err
	}
	return facts.Import(b)
}
