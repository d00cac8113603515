package recover

// Tell notes where the recovery of a finished plan ended, when somebody has
// found out more than the server said: one that stops at its target names
// neither the place nor the time. It does nothing for a directory that is at
// another plan or not as far.
func Tell(p Plan, r Reached) error {
	s, err := Inspect(p.DataDir)
	if err != nil || s.Plan.ID != p.ID || s.Step != Finished || s.Reached != nil && *s.Reached == r {
		return err
	}
	s.Reached = &r
	return s.write()
}
