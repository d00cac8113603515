package shipper

import (
	"sync"

	"understudy/shipper/pos"
)

// conveyorDepth bounds what is on a Conveyor, in pieces of at most BulkFrame.
const conveyorDepth = 16

// Conveyor hands log in order from the goroutine that reads the network to one
// that writes the disk, so that the one goes on while the other waits. It holds
// at most conveyorDepth pieces. Put, Drain and Close are for one goroutine.
type Conveyor struct {
	sink func(at pos.LSN, p []byte) error
	ch   chan piece
	free chan []byte
	done chan struct{}

	mu      sync.Mutex
	err     error // of sink; nothing is taken after it
	end     pos.LSN
	pending sync.WaitGroup
}

type piece struct {
	at pos.LSN
	p  []byte
}

// NewConveyor starts a Conveyor that gives every piece to sink, on one
// goroutine; p is valid only during the call.
func NewConveyor(sink func(at pos.LSN, p []byte) error) *Conveyor {
	c := &Conveyor{sink: sink, ch: make(chan piece, conveyorDepth), free: make(chan []byte, conveyorDepth+1), done: make(chan struct{})}
	go c.run()
	return c
}

func (c *Conveyor) run() {
	defer close(c.done)
	for x := range c.ch {
		if c.Err() == nil {
			err := c.sink(x.at, x.p)
			c.mu.Lock()
			c.err = err
			if err == nil {
				c.end = x.at + pos.LSN(len(x.p))
			}
			c.mu.Unlock()
		}
		select {
		case c.free <- x.p:
		default:
		}
		c.pending.Done()
	}
}

// Put copies p onto the conveyor and waits while that is full. It returns the
// sink's error as soon as that is known; it comes with a later call than the
// piece that caused it.
func (c *Conveyor) Put(at pos.LSN, p []byte) error {
	if err := c.Err(); err != nil {
		return err
	}
	var b []byte
	select {
	case b = <-c.free:
	default:
	}
	c.pending.Add(1)
	c.ch <- piece{at, append(b[:0], p...)}
	return nil
}

// Err is the sink's error.
func (c *Conveyor) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// End is the byte after the last one that the sink took.
func (c *Conveyor) End() pos.LSN {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.end
}

// Drain waits until the sink has seen all that was put.
func (c *Conveyor) Drain() error {
	c.pending.Wait()
	return c.Err()
}

// Close waits like Drain and ends the conveyor.
func (c *Conveyor) Close() error {
	close(c.ch)
	<-c.done
	return c.Err()
}
