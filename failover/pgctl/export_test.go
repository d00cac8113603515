package pgctl

// Service is what ForeignPostmaster finds below another place than
// /etc/postgresql.
func (s *Server) Service(etc string) (name string, atBoot bool) {
	name = s.debianService(etc)
	return name, name != "" && s.startsAtBoot(etc, name)
}
