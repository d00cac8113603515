package ledger

// NewHub, Publish and the others let tests reach the bounds of a hub.
var NewHub = newHub

// MaxPending is the bound of events that wait for one subscriber.
const MaxPending = maxPending

// The hub's methods.
var (
	Publish   = (*hub).publish
	Subscribe = (*hub).subscribe
	CloseHub  = (*hub).close
)
