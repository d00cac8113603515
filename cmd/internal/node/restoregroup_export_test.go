package node

import (
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// ForkOf is where a timeline left another one, by the history in a directory.
func ForkOf(dir string, along, tli pos.Timeline) (pos.LSN, error) { return forkOf(dir, along, tli) }

// LackLog are the locations that lack log up to a byte.
func LackLog(st facts.State, upto pos.LSN) []string { return lackLog(st, upto) }

// FreeTimeline is above every id that was given out.
func FreeTimeline(st facts.State) pos.Timeline { return freeTimeline(st) }
