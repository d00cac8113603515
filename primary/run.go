package primary

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"understudy/primary/walsource"
	"understudy/shipper/pos"
)

// run lives as long as the role: the receiver and one session per peer.
func (p *Primary) run(ctx context.Context, first <-chan *walsource.Source) {
	defer close(p.done)
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case src := <-first:
			p.receive(ctx, src)
		case <-ctx.Done():
		}
	})
	wg.Go(func() { p.dispatch(ctx) })
	wg.Go(func() { p.passFeedback(ctx) })
	wg.Wait()
}

// receive keeps a receiver connected. When PostgreSQL ends the stream (it is
// shutting down, or died) the role goes on: sessions still deliver what was
// received, and the agent learns of the server's end from its guard.
func (p *Primary) receive(ctx context.Context, src *walsource.Source) {
	for {
		err := src.Run(ctx, p)
		p.src.Store(nil)
		src.Close(context.WithoutCancel(ctx))
		p.setProblem(err)
		for src = nil; src == nil; {
			select {
			case <-ctx.Done():
				return
			case <-time.After(50 * time.Millisecond):
			}
			if src, err = p.cfg.Open(ctx, p.win.bounds().To); err != nil {
				p.setProblem(err)
			}
		}
		p.setProblem(nil)
		p.connected(src)
	}
}

// connected makes src the receiver, and tells PostgreSQL at once what was
// committed meanwhile.
func (p *Primary) connected(src *walsource.Source) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.src.Store(src)
	c := p.committed
	if p.async {
		c = p.win.bounds().To
	}
	if !p.stopped && c != 0 {
		p.confirm(c)
	}
}

// publish gives the receive goroutine the list of sessions in the order in which
// they are sent to: a witness first, whose answer comes sooner since no
// PostgreSQL stands between it and its disk.
func (p *Primary) publish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := make([]*session, 0, len(p.sessions))
	for _, s := range p.sessions {
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b *session) int {
		if a.peer.Data != b.peer.Data {
			if b.peer.Data {
				return -1
			}
			return 1
		}
		return strings.Compare(a.peer.Name, b.peer.Name)
	})
	p.live.Store(&list)
}

func (p *Primary) setProblem(err error) {
	text := ""
	if err != nil && !errors.Is(err, context.Canceled) {
		text = err.Error()
	}
	p.mu.Lock()
	changed := p.problem != text
	p.problem = text
	p.mu.Unlock()
	if changed && text != "" {
		p.log.Warn("the receiver lost postgresql", "error", text)
	}
}

// dispatch starts a session for every peer and ends those of peers that left
// or whose address changed.
func (p *Primary) dispatch(ctx context.Context) {
	type running struct {
		peer   Peer
		cancel context.CancelFunc
		done   chan struct{}
	}
	run := map[string]running{}
	defer func() {
		for _, r := range run {
			r.cancel()
			<-r.done
		}
	}()
	for {
		p.mu.Lock()
		peers, ch := p.peers, p.setCh
		p.mu.Unlock()
		want := map[string]Peer{}
		for _, peer := range peers {
			if peer.Store != p.cfg.Store {
				want[peer.Store] = peer
			}
		}
		for store, r := range run {
			if want[store] != r.peer {
				r.cancel()
				<-r.done
				delete(run, store)
				p.mu.Lock()
				delete(p.sessions, store)
				if _, still := want[store]; !still {
					p.count.Forget(store)
				}
				p.mu.Unlock()
			}
		}
		for store, peer := range want {
			if _, ok := run[store]; ok {
				continue
			}
			sctx, cancel := context.WithCancel(ctx)
			r := running{peer, cancel, make(chan struct{})}
			s := newSession(p, peer)
			p.mu.Lock()
			p.sessions[store] = s
			p.mu.Unlock()
			go func() {
				defer close(r.done)
				s.run(sctx)
			}()
			run[store] = r
		}
		p.publish()
		select {
		case <-ctx.Done():
			return
		case <-ch:
		}
	}
}

const (
	feedbackEvery = time.Second
	// feedbackAge is how long the wish of a silent standby is honoured.
	feedbackAge = time.Minute
)

// passFeedback tells PostgreSQL's vacuum what the standbys' readers still
// need: the oldest of what those heard from lately asked for, none otherwise.
func (p *Primary) passFeedback(ctx context.Context) {
	tick := time.NewTicker(feedbackEvery)
	defer tick.Stop()
	var had feedback
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := p.oldestFeedback(time.Now().Add(-feedbackAge))
		src := p.src.Load()
		if src == nil || (now == feedback{} && had == feedback{}) {
			continue
		}
		if err := src.Feedback(now.xmin, now.catalogXmin); err != nil {
			p.log.Warn("pass feedback to postgresql", "error", err)
			continue
		}
		had = now
	}
}

func (p *Primary) oldestFeedback(since time.Time) feedback {
	var low feedback
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.sessions {
		s.mu.Lock()
		f := s.feedback
		s.mu.Unlock()
		if f.at.Before(since) {
			continue
		}
		low.xmin = older(low.xmin, f.xmin)
		low.catalogXmin = older(low.catalogXmin, f.catalogXmin)
	}
	return low
}

// older is the lower of two full transaction ids, where zero is "none".
func older(a, b uint64) uint64 {
	if a == 0 || (b != 0 && b < a) {
		return b
	}
	return a
}

// oldest is the first byte that this primary can ship.
func (p *Primary) oldest() pos.LSN {
	return min(p.cfg.Oldest(), p.win.bounds().From)
}
