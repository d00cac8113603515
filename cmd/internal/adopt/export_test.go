package adopt

// Disabled tells whether the distribution's tools refuse to start a database.
func Disabled(dir string) bool { return disabled(dir) }
