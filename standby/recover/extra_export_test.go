package recover

// LeadsOut tells whether a link that is unpacked might be followed out.
func LeadsOut(name, target string) bool { return leadsOut(name, target) }
