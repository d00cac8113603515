package cli

import (
	"understudy/cmd/internal/adopt"
	"understudy/cmd/internal/rescue"
)

// PlanOfRestoreText is the plan of a restore for a terminal of so many columns.
func PlanOfRestoreText(p *rescue.Plan, width int) string { return planOfRestoreText(p, width) }

// OutcomeText is what came out of a restore.
func OutcomeText(o rescue.Outcome, width int) string { return outcomeText(o, width) }

// RestoreStatusText is what a directory is.
func RestoreStatusText(s rescue.Status, width int) string { return restoreStatusText(s, width) }

// RestoreProgressText is one line of progress, without the time of its end.
func RestoreProgressText(p rescue.Progress) string { return restoreProgressText(p) }

// RebuildText is what a location holds.
func RebuildText(r rescue.Rebuild, width int) string { return rebuildText(r, width) }

// AdoptionText is the plan of a founding on an existing database.
func AdoptionText(p adopt.Plan, width int) string { return adoptionText(p, width) }
