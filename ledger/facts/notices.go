package facts

import "time"

func (t *tx) setPolicy(c *SetPolicy) *refusal {
	if r := stale("policy", c.Expect, t.s.Policy.Version); r != nil {
		return r
	}
	if err := c.Policy.Validate(); err != nil {
		return refuse(CodeBadPolicy, "%s", err)
	}
	p, was := c.Policy, t.s.Policy
	p.Version = was.Version + 1
	t.s.Policy = p
	if r := t.policyPlaces(was); r != nil {
		return r
	}
	severity := SeverityInfo
	if p.Durability == Async && was.Durability != Async {
		severity = SeverityWarning
	}
	t.event("policy", "", severity, "policy is now version %d, durability %s", p.Version, p.Durability)
	return nil
}

func (t *tx) raiseIncident(i Incident) *refusal {
	if i.Key == "" || len(i.Key) > maxNameBytes || len(i.Node) > maxNameBytes || len(i.Text) > maxTextBytes {
		return refuse(CodeBadCommand, "an incident needs a key of at most %d and a text of at most %d bytes", maxNameBytes, maxTextBytes)
	}
	if i.Severity != SeverityWarning && i.Severity != SeverityError {
		return refuse(CodeBadCommand, "severity %q of incident %s is neither %q nor %q", clip(i.Severity), i.Key, SeverityWarning, SeverityError)
	}
	old, known := t.s.Incidents[i.Key]
	if known && old.Until.IsZero() {
		i.Since = old.Since
	} else if i.Since.IsZero() {
		i.Since = t.c.At
	}
	i.Until = time.Time{}
	if i == old {
		return nil
	}
	if !known && len(t.s.Incidents) >= maxIncidents && !t.forgetIncident() {
		return refuse(CodeTooMany, "%d incidents are standing already", maxIncidents)
	}
	t.s.Incidents = with(t.s.Incidents, i.Key, i)
	t.events = append(t.events, Event{Kind: "incident", Node: i.Node, Severity: i.Severity, Text: i.Text})
	return nil
}

// forgetIncident drops the incident that ended first; false if all stand.
func (t *tx) forgetIncident() bool {
	var oldest Incident
	for _, i := range t.s.Incidents {
		if i.Until.IsZero() {
			continue
		}
		c := i.Until.Compare(oldest.Until)
		if oldest.Key == "" || c < 0 || c == 0 && i.Key < oldest.Key {
			oldest = i
		}
	}
	t.s.Incidents = without(t.s.Incidents, oldest.Key)
	return oldest.Key != ""
}

func (t *tx) clearIncident(key string) *refusal {
	i, ok := t.s.Incidents[key]
	if !ok || !i.Until.IsZero() {
		return nil
	}
	i.Until = t.c.At
	if i.Until.IsZero() {
		// Without a time there is nothing to mark it ended with.
		t.s.Incidents = without(t.s.Incidents, key)
	} else {
		t.s.Incidents = with(t.s.Incidents, key, i)
	}
	t.events = append(t.events, Event{Kind: "incident-cleared", Node: i.Node, Severity: SeverityInfo, Text: "over: " + i.Text})
	return nil
}

func (t *tx) setLeaving(l Leaving) *refusal {
	m, r := t.member(l.Store)
	if r != nil {
		return r
	}
	if l.Kind != LeavingRestarting && l.Kind != LeavingStopping {
		return refuse(CodeBadCommand, "%s leaves as %q, which is neither %q nor %q", m.Name, clip(l.Kind), LeavingRestarting, LeavingStopping)
	}
	if l.For > 0 {
		l.Until = t.c.At.Add(l.For)
	}
	t.s.Leaving = with(t.s.Leaving, l.Store, l)
	t.event("leaving", l.Store, SeverityInfo, "%s is %s", m.Name, l.Kind)
	return nil
}

func (t *tx) clearLeaving(store string) *refusal {
	m, r := t.member(store)
	if r != nil {
		return r
	}
	if _, ok := t.s.Leaving[store]; ok {
		t.s.Leaving = without(t.s.Leaving, store)
		t.event("returned", store, SeverityInfo, "%s is back", m.Name)
	}
	return nil
}
