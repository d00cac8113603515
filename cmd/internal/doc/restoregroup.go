package doc

// The actions about a restore of the whole group.
const (
	ActionRestoreGroup  = "restore-group"
	ActionRestoreCancel = "restore-group-cancel"
	ActionRestoreStatus = "restore-group-status"
)

// GroupRestore is how far a restore of the whole group is, as one node knows it.
type GroupRestore struct {
	ID     string `json:"id,omitempty"` // of the order; "" when none stands
	Node   string `json:"node,omitempty"`
	Target string `json:"target,omitempty"`
	Stage  string `json:"stage,omitempty"`
	// Step, DoneBytes and TotalBytes are known on the node that restores.
	Step       string `json:"step,omitempty"`
	DoneBytes  int64  `json:"done,omitempty"`
	TotalBytes int64  `json:"total,omitempty"`
	Problem    string `json:"problem,omitempty"`
}
