package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// ArchiveWorker is the name of the worker that archives the log; others have the
// ids of their jobs.
const ArchiveWorker = "archive"

// Workers are the processes that do the node's work on backups, by name. They
// are known by where they write their log.
func (n *Node) Workers() map[string]int {
	out := map[string]int{}
	for _, pid := range below(n.PID()) {
		log, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/2", pid))
		if err != nil || readProcess(pid).exe != n.group.binary {
			continue
		}
		dir, file := filepath.Split(log)
		if file == "log" && strings.HasPrefix(dir, filepath.Join(n.StateDir(), "jobs")+"/") {
			out[filepath.Base(dir)] = pid
		}
	}
	return out
}
