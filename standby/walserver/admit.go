package walserver

import (
	"fmt"

	"understudy/shipper/pos"
)

// timelineEnd tells where the lineage leaves timeline t, and for which one;
// end is 0 while t is the newest. known is false for a timeline that is not in
// the lineage.
func timelineEnd(l pos.Lineage, t pos.Timeline) (end pos.LSN, next pos.Timeline, known bool) {
	for _, e := range l {
		switch {
		case e.Timeline == t:
			known = true
		case known && e.Timeline > t:
			return e.Start, e.Timeline, true
		}
	}
	return 0, 0, known
}

// admit tells why a stream of timeline t may not begin at start, in
// PostgreSQL's words, or nil.
func admit(st State, log Log, start pos.LSN, t pos.Timeline) error {
	end, _, known := timelineEnd(st.Lineage, t)
	switch {
	case !known:
		return refuse("XX000", fmt.Sprintf("requested timeline %d is not in this server's history", t), "")
	case end != 0 && start > end:
		return refuse("XX000", fmt.Sprintf("requested starting point %s on timeline %d is not in this server's history", start, t),
			fmt.Sprintf("This server's history forked from timeline %d at %s.", t, end))
	}
	if logEnd := log.End(); start > logEnd {
		return refuse("XX000", fmt.Sprintf("requested starting point %s is ahead of the WAL flush position of this server %s", start, logEnd), "")
	}
	if start < log.Base() {
		name := start.String()
		if st.SegSize > 0 {
			name = pos.SegName(t, start, st.SegSize)
		}
		return refuse("58P01", fmt.Sprintf("requested WAL segment %s has already been removed", name), "")
	}
	return nil
}
