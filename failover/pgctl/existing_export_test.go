package pgctl

// ConfigFileIn is ConfigFile with another place than /etc/postgresql.
func ConfigFileIn(s *Server, etc string) string { return s.configFile(etc) }
