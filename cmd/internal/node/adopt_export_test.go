package node

import (
	"context"
	"log/slog"

	"understudy/cmd/internal/adopt"
	"understudy/configs"
	"understudy/ledger/facts"
)

// AdoptBy is Adopt with a step that is called after each change.
func AdoptBy(ctx context.Context, cfg *configs.Node, p adopt.Plan, log *slog.Logger, step func(string) error) error {
	return adoptBy(ctx, cfg, facts.DefaultPolicy(), p, log, step)
}
