package proc

var (
	ParseStat = parseStat
	Field     = field
)
