package guard

import (
	"fmt"
	"syscall"
)

// handle carries out one order of the daemon, or notes that it is gone.
func (g *process) handle(in inbound) {
	if in.connN != g.connN || g.conn == nil {
		return // an older daemon
	}
	if in.gone {
		g.log.Info("daemon disconnected", "primary", g.lease.primary)
		g.drop()
		return
	}
	n := notice{ID: in.order.ID}
	if err := g.obey(in.order); err != nil {
		n.Error = err.Error()
	}
	g.send(n)
}

func (g *process) obey(o order) error {
	now := Boottime()
	if o.Op == opPing {
		return nil
	}
	if g.ended != "" {
		return ErrEnded
	}
	switch o.Op {
	case opRenew:
		g.lease.renew(o.Time, now)
	case opExtend:
		g.lease.extend(o.Time, now)
	case opTag:
		if o.Tag == nil {
			return fmt.Errorf("order %q without a tag", o.Op)
		}
		g.tag = *o.Tag
	case opPrimary:
		g.lease.setPrimary(o.Primary, now)
		g.log.Info("role changed", "primary", o.Primary)
	case opSignal:
		return g.stop(o.Mode)
	case opKill:
		g.condemn("stop deadline passed", killGrace)
	default:
		return fmt.Errorf("unknown order %q", o.Op)
	}
	return nil
}

func (g *process) stop(mode StopMode) error {
	switch mode {
	case Smart:
		syscall.Kill(g.pid, syscall.SIGTERM)
	case Fast:
		syscall.Kill(g.pid, syscall.SIGINT)
	case Immediate:
		g.condemn("stopped: immediate", killGrace)
	default:
		return fmt.Errorf("unknown stop mode %q", mode)
	}
	g.log.Info("stop ordered", "mode", string(mode))
	return nil
}
