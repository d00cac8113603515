package arch

import (
	"bytes"
	"fmt"
	"go/ast"
	"slices"
	"strings"
)

// Pure are the packages that decide and encode. The same input gives the same
// output, on every node and in every test.
func Pure() []string {
	return []string{
		"shipper/pos", "shipper/frame", "shipper/flow", "shipper/walfmt", "primary/quorum",
		"shipper/backupset", "shipper/catalog", "shipper/pagesum", "ledger/retention", "ledger/agenda",
		"ledger/facts", "failover/decide", "failover/role", "cmd/internal/view", "cmd/internal/doc",
	}
}

// Rules are the rules of the repository.
func Rules() []Rule {
	return []Rule{
		{"pure-imports", "a pure package has no clock, network, disk, log, lock or randomness, so that it can be tested by " +
			"values alone and gives the same result on every node; hand the fact in as an argument instead", pureImports},
		{"pure-calls", "a pure package reads no clock and starts no goroutine; take the time as an argument", pureCalls},
		{"arrow", "the data plane knows nothing of promotion and the control plane sees no payload byte: they meet in " +
			"shipper/pos; declare a small interface where it is used and wire it in cmd/internal/node", arrows},
		{"exec", "starting processes is the business of the packages that own one, where signals, accounts and ends are thought of", execs},
		{"exit", "only main ends the program: anywhere else deferred work (fsync, stopping PostgreSQL) would be skipped; return an error", exits},
		{"init", "importing a package does nothing: what must be set up is set up by a call that can fail", inits},
		{"globals", "state lives in values that somebody owns: two nodes run in one process in tests", globals},
		{"file-size", fmt.Sprintf("a file above %d lines holds more than one thought; split it", maxLines), fileSizes},
		{"machine-path", "the repository works wherever it was cloned", machinePaths},
		{"version-check", "differences between PostgreSQL versions are known in three packages only: failover/pgctl (settings and " +
			"tools), shipper/walfmt (the format of the log), shipper/basestream (the replication grammar); give the others the answer", versionChecks},
		{"package-comment", "a package says in one sentence what it is", packageComments},
	}
}

// arithmetic are packages of others that compute and do nothing else.
func arithmetic() []string {
	return []string{"github.com/zeebo/blake3", "golang.org/x/sys/cpu", "github.com/robfig/cron/v3"}
}

// impure are packages of the standard library, with all below them.
func impure() []string {
	return []string{"os", "net", "context", "log", "math/rand", "crypto/rand", "sync", "syscall", "runtime", "io/ioutil", "path/filepath", "testing", "unsafe"}
}

func pureImports(t *Tree) (out []Finding) {
	t.code(func(p *Package, f *File) {
		if !slices.Contains(Pure(), p.Dir) {
			return
		}
		for _, s := range f.AST.Imports {
			imp := strings.Trim(s.Path.Value, "`\"")
			dir, ours := t.own(imp)
			switch {
			case ours && !slices.Contains(Pure(), dir):
				out = append(out, Finding{t.at(s), fmt.Sprintf("pure package %s imports %s, which is not pure", p.Dir, dir)})
			case !ours && within(imp, impure()...):
				out = append(out, Finding{t.at(s), fmt.Sprintf("pure package %s imports %s", p.Dir, imp)})
			case !ours && !slices.Contains(arithmetic(), imp) && strings.Contains(strings.Split(imp, "/")[0], "."):
				out = append(out, Finding{t.at(s), fmt.Sprintf("pure package %s imports %s, which promises nothing", p.Dir, imp)})
			}
		}
	})
	return out
}

func pureCalls(t *Tree) (out []Finding) {
	t.code(func(p *Package, f *File) {
		if !slices.Contains(Pure(), p.Dir) {
			return
		}
		ast.Inspect(f.AST, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				out = append(out, Finding{t.at(n), fmt.Sprintf("pure package %s starts a goroutine", p.Dir)})
			case *ast.SelectorExpr:
				if name, hit := f.selects(n, "time", "Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker", "Local", "LoadLocation"); hit {
					out = append(out, Finding{t.at(n), fmt.Sprintf("pure package %s uses %s", p.Dir, name)})
				}
			}
			return true
		})
	})
	return out
}

// arrow says which packages of ours those below From may import.
type arrow struct {
	From string
	May  []string
}

// arrowTable has the most special folder first: the first that holds a
// package counts.
func arrowTable() []arrow {
	return []arrow{
		{"shipper/pos", nil},
		{"shipper", []string{"shipper"}},
		{"primary", []string{"primary", "shipper"}},
		{"standby", []string{"standby", "shipper"}},
		{"ledger/facts", []string{"shipper/catalog", "shipper/pos"}},
		{"ledger", []string{"ledger", "shipper/catalog", "shipper/pos"}},
		{"failover", []string{"failover", "ledger/facts", "shipper/pos"}},
		{"configs", []string{"configs"}},
		{"cmd/internal/doc", []string{"shipper/catalog", "shipper/pos"}},
		{"cmd/internal/view", []string{"failover/decide", "ledger/facts", "shipper/catalog", "shipper/pos"}},
		{"cmd", []string{"cmd", "configs", "failover", "ledger", "primary", "shipper", "standby"}},
		{"test", []string{"test", "cmd", "configs", "failover", "ledger", "primary", "shipper", "standby"}},
	}
}

func arrows(t *Tree) (out []Finding) {
	t.code(func(p *Package, f *File) {
		i := slices.IndexFunc(arrowTable(), func(a arrow) bool { return within(p.Dir, a.From) })
		if i < 0 {
			out = append(out, Finding{f.Path, fmt.Sprintf("package %s is in no folder with a rule; the top level is fixed", p.Dir)})
			return
		}
		a := arrowTable()[i]
		for _, s := range f.AST.Imports {
			dir, ours := t.own(strings.Trim(s.Path.Value, "`\""))
			switch {
			case !ours:
			case !within(dir, a.May...):
				out = append(out, Finding{t.at(s), fmt.Sprintf("%s imports %s; packages of %s may import of ours only: %s", p.Dir, dir, a.From, some(a.May))})
			case within(dir, "cmd") && !within(p.Dir, "cmd"):
				out = append(out, Finding{t.at(s), fmt.Sprintf("%s imports %s; nothing outside cmd imports cmd", p.Dir, dir)})
			}
		}
	})
	return out
}

func some(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}

func execs(t *Tree) (out []Finding) {
	t.code(func(p *Package, f *File) {
		if within(p.Dir, "failover/pgctl", "failover/guard", "failover/hook", "cmd/internal/demo", "cmd/internal/jobs", "cmd/internal/service", "test") {
			return
		}
		for _, s := range f.AST.Imports {
			if strings.Trim(s.Path.Value, "`\"") == "os/exec" {
				out = append(out, Finding{t.at(s), fmt.Sprintf("%s imports os/exec", p.Dir)})
			}
		}
		out = append(out, t.uses(f, "os", "StartProcess")...)
		out = append(out, t.uses(f, "syscall", "ForkExec", "StartProcess")...)
		if p.Dir != "cmd/understudy" { // main may start itself over
			out = append(out, t.uses(f, "syscall", "Exec")...)
			out = append(out, t.uses(f, "golang.org/x/sys/unix", "Exec")...)
		}
	})
	return out
}

func exits(t *Tree) (out []Finding) {
	t.code(func(p *Package, f *File) {
		if within(p.Dir, "cmd/understudy", "test") {
			return
		}
		out = append(out, t.uses(f, "os", "Exit")...)
		out = append(out, t.uses(f, "syscall", "Exit")...)
		out = append(out, t.uses(f, "log", "Fatal", "Fatalf", "Fatalln")...)
	})
	return out
}

// uses are the places where a file mentions package.Name.
func (t *Tree) uses(f *File, path string, names ...string) (out []Finding) {
	ast.Inspect(f.AST, func(n ast.Node) bool {
		if e, ok := n.(ast.Expr); ok {
			if name, hit := f.selects(e, path, names...); hit {
				out = append(out, Finding{t.at(n), "uses " + name})
			}
		}
		return true
	})
	return out
}

func inits(t *Tree) (out []Finding) {
	t.code(func(_ *Package, f *File) {
		for _, d := range f.AST.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				out = append(out, Finding{t.at(fn), "func init"})
			}
		}
	})
	return out
}

const (
	maxLines = 600
	// GuideLines is the length from which a file is worth a second look.
	GuideLines = 400
)

func fileSizes(t *Tree) []Finding { return t.LongFiles(maxLines) }

// LongFiles are the Go files with more lines than limit.
func (t *Tree) LongFiles(limit int) (out []Finding) {
	for _, p := range t.Packages {
		for _, f := range p.Files {
			if n := t.Fset.File(f.AST.Pos()).LineCount() - 1; n > limit {
				out = append(out, Finding{f.Path, fmt.Sprintf("%d lines", n)})
			}
		}
	}
	return out
}

func machinePaths(t *Tree) (out []Finding) {
	// Put together, so that this file does not hold them.
	bad := []string{"/" + "work/", "/" + "root/", "/" + "tmp/bash_jobs"}
	for _, x := range t.Texts {
		for i, line := range bytes.Split(x.Body, []byte("\n")) {
			for _, s := range bad {
				if bytes.Contains(line, []byte(s)) {
					out = append(out, Finding{fmt.Sprintf("%s:%d", x.Path, i+1), "speaks of " + s})
				}
			}
		}
	}
	return out
}

func packageComments(t *Tree) (out []Finding) {
	for _, p := range t.Packages {
		found := false
		for _, f := range p.Files {
			if f.AST.Doc == nil || strings.HasSuffix(f.AST.Name.Name, "_test") {
				continue
			}
			want := "Package " + f.AST.Name.Name + " "
			if f.AST.Name.Name == "main" {
				want = "Command "
			}
			found = found || strings.HasPrefix(f.AST.Doc.Text(), want)
		}
		if !found && slices.ContainsFunc(p.Files, func(f *File) bool { return !f.Test }) {
			out = append(out, Finding{p.Dir, "has no comment that begins with Package and its name, or Command for a program"})
		}
	}
	return out
}
