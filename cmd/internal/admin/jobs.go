package admin

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"understudy/cmd/internal/doc"
	"understudy/cmd/internal/view"
	"understudy/ledger/facts"
)

const (
	maxJobsReply = 500
	defaultJobs  = 50
	// logTailBytes bounds what is read of a job's log, and maxLogLines of its
	// lines are shown.
	logTailBytes = 256 << 10
	maxLogLines  = 1000
	defaultLines = 100
	maxFileLine  = 64 << 10
	maxFiles     = 10000
	defaultFiles = 1000
)

// jobs answers with running jobs, then with those that ended: ?kind= only one
// kind, ?max= at most so many that ended.
func (s *server) jobs(w http.ResponseWriter, r *http.Request) {
	st, _ := s.b.Self()
	q := r.URL.Query()
	limit, err := number(q.Get("max"), defaultJobs)
	if err != nil || limit > maxJobsReply {
		writeError(w, http.StatusBadRequest, CodeBadArgument, fmt.Sprintf("max must be a number up to %d.", maxJobsReply))
		return
	}
	status, err := s.b.Status(r.Context())
	if err != nil {
		writeReadError(w, err)
		return
	}
	kind := facts.JobKind(q.Get("kind"))
	out := doc.Jobs{Jobs: []doc.Job{}}
	running := slices.SortedFunc(maps.Values(st.Backups.Jobs), func(a, b facts.Job) int { return b.Began.Compare(a.Began) })
	for _, j := range running {
		if kind == "" || j.Kind == kind {
			out.Jobs = append(out.Jobs, jobDoc(j, status))
		}
	}
	for _, j := range slices.Backward(st.Backups.Finished) {
		if limit > 0 && (kind == "" || j.Kind == kind) {
			out.Jobs = append(out.Jobs, jobDoc(j, status))
			limit--
		}
	}
	writeJSON(w, http.StatusOK, out)
}

// JobDoc is a job as the surface shows it, without progress.
func JobDoc(j facts.Job) doc.Job {
	d := doc.Job{
		ID: j.ID, Kind: string(j.Kind), State: string(j.State), Node: j.Node, Label: j.Label, Locations: orEmpty(j.Locations), Why: j.Why,
		Due: j.Due, Began: j.Began, Ended: j.Ended, Deadline: j.Deadline, Attempt: j.Attempt, Cancel: j.Cancel, Result: j.Result,
		Problem: j.Problem, Bytes: j.Bytes,
	}
	return d
}

func jobDoc(j facts.Job, status view.Status) doc.Job {
	d := JobDoc(j)
	if status.Backups == nil || j.State != facts.JobRunning {
		return d
	}
	i := slices.IndexFunc(status.Backups.Jobs, func(b view.BackupJob) bool { return b.ID == j.ID })
	if i < 0 || status.Backups.Jobs[i].Step == "" && status.Backups.Jobs[i].Done == 0 {
		return d
	}
	b := status.Backups.Jobs[i]
	d.Progress = &doc.Progress{Step: b.Step, DoneBytes: b.Done, TotalBytes: b.Total, Percent: b.Percent,
		RemainingNS: int64(b.Remaining * float64(time.Second))}
	return d
}

// job answers with one job: ?lines= of its log, ?files= of its list.
func (s *server) job(w http.ResponseWriter, r *http.Request) {
	st, self := s.b.Self()
	id := r.PathValue("id")
	j, ok := st.Job(id)
	if !ok {
		writeActionError(w, unknown(CodeUnknownJob, "No job has the id "+clip(id)+"; list them with: understudy jobs"))
		return
	}
	lines, lerr := number(r.URL.Query().Get("lines"), defaultLines)
	files, ferr := number(r.URL.Query().Get("files"), defaultFiles)
	if lerr != nil || ferr != nil || lines > maxLogLines || files > maxFiles {
		writeError(w, http.StatusBadRequest, CodeBadArgument, fmt.Sprintf("lines must be a number up to %d, and files up to %d.", maxLogLines, maxFiles))
		return
	}
	status, err := s.b.Status(r.Context())
	if err != nil {
		writeReadError(w, err)
		return
	}
	d := doc.JobDetail{Job: jobDoc(j, status), Log: []string{}, Files: []doc.File{}}
	if err := readJob(&d, s.b.JobDir(id), int(lines), int(files)); err != nil {
		writeReadError(w, err)
		return
	}
	switch {
	case d.Here:
	case j.Node == self.Node:
		d.Elsewhere = "This node keeps nothing of the job any more."
	default:
		d.Elsewhere = fmt.Sprintf("Log and files are on %s: ask its daemon.", j.Node)
	}
	writeJSON(w, http.StatusOK, d)
}

// readJob adds what a job's folder holds. A folder that is not there is no
// error: another node ran the job, or it was cleared away.
func readJob(d *doc.JobDetail, dir string, lines, files int) error {
	if !filepath.IsLocal(d.Job.ID) || strings.ContainsRune(d.Job.ID, filepath.Separator) || d.Job.ID == "." {
		return nil // an id of that form names no folder
	}
	if _, err := os.Stat(dir); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("read the job's folder: %w", err)
	}
	d.Here = true
	var err error
	if d.Log, d.LogCut, err = tail(filepath.Join(dir, "log"), lines); err != nil {
		return fmt.Errorf("read the job's log: %w", err)
	}
	if err := list(d, filepath.Join(dir, "files.jsonl"), files); err != nil {
		return fmt.Errorf("read the job's list of files: %w", err)
	}
	return nil
}

// tail are the last lines of a file; none for a file that is not there.
func tail(path string, lines int) (out []string, cut bool, err error) {
	out = []string{}
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return out, false, nil
	}
	if err != nil {
		return out, false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return out, false, err
	}
	from := max(0, info.Size()-logTailBytes)
	b, err := io.ReadAll(io.NewSectionReader(f, from, logTailBytes))
	if err != nil {
		return out, false, err
	}
	text := strings.TrimSuffix(strings.ToValidUTF8(string(b), "?"), "\n")
	if cut = from > 0; cut {
		_, text, _ = strings.Cut(text, "\n") // the first line may lack its beginning
	}
	if text != "" {
		out = strings.Split(text, "\n")
	}
	if n := len(out) - lines; n > 0 {
		out, cut = out[n:], true
	}
	return out, cut, nil
}

// list reads the objects of a job. A last line that is being written is left
// out.
func list(d *doc.JobDetail, path string, most int) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Buffer(make([]byte, 4<<10), maxFileLine)
	for s.Scan() {
		var file doc.File
		if json.Unmarshal(s.Bytes(), &file) != nil {
			continue
		}
		d.FileN++
		if !file.Removed {
			d.FileBytes += file.Bytes
		}
		if len(d.Files) < most {
			d.Files = append(d.Files, file)
		}
	}
	return s.Err()
}
