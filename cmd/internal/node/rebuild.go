package node

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"understudy/cmd/internal/doc"
	"understudy/ledger/facts"
	"understudy/shipper/catalog"
)

// actionRebuild adds to the ledger what a location was found to hold.
const actionRebuild = "rebuild"

// rebuildCatalog carries out an operator's order to add the scan of a location
// to the ledger. known is false for any other action.
func (n *Node) rebuildCatalog(ctx context.Context, action string, args map[string]string) (m doc.Mark, known bool, err error) {
	if action != actionRebuild {
		return m, false, nil
	}
	var scan catalog.Catalog
	dec := json.NewDecoder(strings.NewReader(args["scan"]))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&scan); err != nil {
		return m, true, badArgument("scan must be a catalog as JSON.")
	}
	removals, err := strconv.ParseUint(args["removals"], 10, 64)
	if err != nil {
		return m, true, badArgument("removals must be the number of removals that the ledger's export says.")
	}
	st := n.newest(ctx)
	if !st.Founded() {
		return m, true, refusedAction(n.cfg.Name + " knows of no group yet")
	}
	was, _ := st.Catalog(facts.ProfilePostgres)
	if err := n.propose(ctx, facts.Command{RebuildCatalog: &facts.RebuildCatalog{Scan: scan, Removals: removals}}); err != nil {
		return m, true, asRefusal(err)
	}
	n.await(ctx, func(now facts.State) bool { return now.Version > st.Version })
	now, _ := n.ledger.State().Catalog(facts.ProfilePostgres)
	return doc.Mark{Action: actionRebuild, Changed: true, Sentence: fmt.Sprintf(
		"The ledger knows %d sets and %d timelines now, %d and %d before.", len(now.Sets), len(now.Timelines), len(was.Sets), len(was.Timelines))}, true, nil
}
