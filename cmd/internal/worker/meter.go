package worker

import (
	"maps"
	"slices"
	"sync"
	"time"
)

// meter passes progress on, seldom enough for the line to the daemon, and has it
// in the job's log now and then.
type meter struct {
	w      *work
	mu     sync.Mutex
	last   time.Time
	report report
}

func (m *meter) say(p Progress) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if args := m.report.line(p, now); args != nil {
		m.w.log.Info("so far", args...)
	}
	if now.Sub(m.last) < 250*time.Millisecond && (p.Total == 0 || p.Done < p.Total) {
		return
	}
	m.last = now
	if err := m.w.port.send(Message{Progress: &p}); err != nil {
		m.w.log.Debug("report progress", "error", err)
	}
}

// logEvery is how often a job's log says how far the job is: a job that stands
// still is seen by what its log lacks, also long after.
const logEvery = time.Minute

// report decides what of a job's progress is for its log. The zero value begins
// with the first progress.
type report struct {
	step  string
	began time.Time // the step
	from  int64     // what was done then
	told  time.Time
}

// line is what the log is to say at this time, nil for nothing: a job, or a step
// of it, that is shorter than logEvery says nothing.
func (r *report) line(p Progress, now time.Time) []any {
	if r.told.IsZero() {
		r.told = now
	}
	if r.began.IsZero() || p.Step != r.step || p.Done < r.from {
		r.step, r.began, r.from = p.Step, now, p.Done
	}
	if now.Sub(r.told) < logEvery {
		return nil
	}
	r.told = now
	args := []any{"step", p.Step, "done_bytes", p.Done}
	if p.Total > 0 {
		args = append(args, "total_bytes", p.Total, "percent", min(100, p.Done*100/p.Total))
	}
	took := now.Sub(r.began)
	if done := p.Done - r.from; done > 0 && took >= logEvery {
		rate := float64(done) / took.Seconds()
		args = append(args, "bytes_per_second", int64(rate))
		if left := p.Total - p.Done; left > 0 {
			args = append(args, "left", (time.Duration(float64(left)/rate) * time.Second).String())
		}
	}
	for _, place := range slices.Sorted(maps.Keys(p.Places)) {
		args = append(args, "at_"+place, p.Places[place])
	}
	return args
}
