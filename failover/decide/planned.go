package decide

import (
	"fmt"

	"understudy/ledger/facts"
)

// switchoverLeaving hands over from a primary that says that it stops: clients
// need not wait until that is noticed.
func switchoverLeaving(o Observation) ([]Action, string) {
	p := o.State.Primary
	if !o.leaves(p.Store, facts.LeavingStopping) || o.State.Policy.Mode(o.Now) != facts.FailoverAutomatic {
		return nil, ""
	}
	why := p.Node + " is stopping"
	return o.planned("", "", why)
}

// switchoverDue begins the switchover that was scheduled, and gives it up when
// it was refused for as long as it may be tried.
func switchoverDue(o Observation) ([]Action, string) {
	s := o.State.Scheduled
	if s == nil || o.Now.Before(s.At) {
		return nil, ""
	}
	to := ""
	if s.To != "" {
		to = o.name(s.To)
	}
	req := PlanSwitchover(o, to)
	if req.Refused == "" {
		return o.planned(to, s.ID, "the time of the scheduled switchover has come")
	}
	if o.State.Primary.Store == s.To && o.State.Primary.Phase == facts.PhaseOpened || o.Now.After(s.Until) {
		return []Action{command(facts.Command{Kind: facts.CmdUnschedule, Unschedule: &facts.Unschedule{ID: s.ID, Why: req.Refused}})}, req.Refused
	}
	return nil, ""
}

// planned is an order for a switchover that nobody typed.
func (o Observation) planned(to, scheduled, why string) ([]Action, string) {
	req := PlanSwitchover(o, to)
	if req.Refused != "" {
		return nil, ""
	}
	ord := *req.Order
	ord.ID = fmt.Sprintf("by-itself-%d", o.State.Version)
	ord.Scheduled = scheduled
	return []Action{command(facts.Command{Kind: facts.CmdSetOrder, SetOrder: &facts.SetOrder{Expect: o.State.Primary.Version, Order: ord}})},
		fmt.Sprintf("%s: switchover to %s", why, req.To)
}
