package account

// ResolveAs is Resolve for a process that is, or is not, root.
func ResolveAs(name string, root bool) (Account, error) { return resolve(name, root) }
