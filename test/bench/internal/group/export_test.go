package group

var (
	ParseHistory = parseHistory
	WrapInitDB   = wrapInitDB
)
