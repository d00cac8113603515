package arch_test

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"understudy/test/arch"
)

// plant is a small repository: files by path. A Go file without a package
// clause gets one, with a comment.
func plant(t *testing.T, files map[string]string) *arch.Tree {
	t.Helper()
	fsys := fstest.MapFS{"go.mod": {Data: []byte("module planted\n\ngo 1.26\n")}}
	for p, body := range files {
		if strings.HasSuffix(p, ".go") && !strings.Contains(body, "package ") {
			body = "// Package x is planted.\npackage x\n" + body
		}
		fsys[p] = &fstest.MapFile{Data: []byte(body)}
	}
	tree, err := arch.Load(fsys)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// A case is one file and the rule that must catch it: none when rule is "".
type violation struct {
	name, rule, path, body string
	more                   map[string]string
}

func violations() []violation {
	long := strings.Repeat("// line\n", 600)
	vars := "var count int\nvar table = map[string]int{}\nvar fixed = [2]int{}\n"
	return []violation{
		{name: "PureReadsFiles", rule: "pure-imports", path: "shipper/pos/x.go", body: `import _ "os"`},
		{name: "PureReadsNetworkBelow", rule: "pure-imports", path: "shipper/flow/x.go", body: `import _ "net/netip"`},
		{name: "PureTakesContext", rule: "pure-imports", path: "ledger/facts/x.go", body: `import _ "context"`},
		{name: "PureLogs", rule: "pure-imports", path: "failover/decide/x.go", body: `import _ "log/slog"`},
		{name: "PureIsRandom", rule: "pure-imports", path: "shipper/frame/x.go", body: `import _ "math/rand/v2"`},
		{name: "PureLocks", rule: "pure-imports", path: "primary/quorum/x.go", body: `import _ "sync/atomic"`},
		{name: "PureImportsImpureOfOurs", rule: "pure-imports", path: "cmd/internal/view/x.go", body: `import _ "planted/failover"`},
		{name: "PureImportsForeignModule", rule: "pure-imports", path: "shipper/walfmt/x.go", body: `import _ "example.com/clock"`},
		{name: "PureReadsClock", rule: "pure-calls", path: "failover/role/x.go", body: "import \"time\"\nfunc f() time.Time { return time.Now() }"},
		{name: "PureReadsClockUnderAnotherName", rule: "pure-calls", path: "failover/role/x.go", body: "import clock \"time\"\nvar now = clock.Now"},
		{name: "PureSleeps", rule: "pure-calls", path: "shipper/flow/x.go", body: "import \"time\"\nfunc f() { time.Sleep(1) }"},
		{name: "PureStartsGoroutine", rule: "pure-calls", path: "shipper/pos/x.go", body: "func f() { go f() }"},
		{name: "PureMayUseTimeTypes", path: "shipper/flow/x.go", body: "import \"time\"\nfunc f(d time.Duration, t time.Time) time.Time { return t.Add(d) }"},
		{name: "PureTestMayReadClock", path: "shipper/flow/x_test.go", body: "import \"time\"\nvar now = time.Now()"},

		{name: "PrimaryKnowsStandby", rule: "arrow", path: "primary/x.go", body: `import _ "planted/standby"`},
		{name: "StandbyKnowsPrimary", rule: "arrow", path: "standby/restore/x.go", body: `import _ "planted/primary/basebackup"`},
		{name: "PrimaryKnowsLedger", rule: "arrow", path: "primary/x.go", body: `import _ "planted/ledger/facts"`},
		{name: "StandbyKnowsFailover", rule: "arrow", path: "standby/x.go", body: `import _ "planted/failover"`},
		{name: "ShipperKnowsPrimary", rule: "arrow", path: "shipper/x.go", body: `import _ "planted/primary"`},
		{name: "FactsKnowMoreThanPositions", rule: "arrow", path: "ledger/facts/x.go", body: `import _ "planted/shipper/frame"`},
		{name: "LedgerKnowsLink", rule: "arrow", path: "ledger/raftnode/x.go", body: `import _ "planted/shipper/link"`},
		{name: "FailoverKnowsLedger", rule: "arrow", path: "failover/x.go", body: `import _ "planted/ledger"`},
		{name: "FailoverKnowsDataPlane", rule: "arrow", path: "failover/guard/x.go", body: `import _ "planted/shipper/spool"`},
		{name: "ConfigsKnowOthers", rule: "arrow", path: "configs/x.go", body: `import _ "planted/shipper/pos"`},
		{name: "CmdIsImported", rule: "arrow", path: "test/bench/x.go", body: `import _ "planted/cmd/internal/cli"`},
		{name: "CmdImportsTest", rule: "arrow", path: "cmd/internal/node/x.go", body: `import _ "planted/test/pgtest"`},
		{name: "NewTopLevel", rule: "arrow", path: "internal/util/x.go", body: ``},
		{name: "FailoverMayKnowFacts", path: "failover/x.go", body: `import _ "planted/ledger/facts"`},
		{name: "TestMayKnowAll", path: "standby/restore/x_test.go", body: `import _ "planted/primary/basebackup"`},

		{name: "ExecInShipper", rule: "exec", path: "shipper/spool/x.go", body: `import _ "os/exec"`},
		{name: "ExecInNode", rule: "exec", path: "cmd/internal/node/x.go", body: `import _ "os/exec"`},
		{name: "ForkInFailover", rule: "exec", path: "failover/x.go", body: "import \"syscall\"\nvar run = syscall.ForkExec"},
		{name: "ReplacedInNode", rule: "exec", path: "cmd/internal/node/x.go", body: "import \"golang.org/x/sys/unix\"\nvar run = unix.Exec"},
		{name: "MainStartsItselfOver", path: "cmd/understudy/x.go", body: "// Command x is planted.\npackage main\nimport \"golang.org/x/sys/unix\"\nvar run = unix.Exec"},
		{name: "ExecInGuard", path: "failover/guard/x.go", body: `import _ "os/exec"`},

		{name: "ExitInNode", rule: "exit", path: "cmd/internal/node/x.go", body: "import \"os\"\nfunc f() { os.Exit(1) }"},
		{name: "FatalInLedger", rule: "exit", path: "ledger/x.go", body: "import \"log\"\nfunc f() { log.Fatalf(\"x\") }"},
		{name: "ExitInMain", path: "cmd/understudy/x.go", body: "// Command x is planted.\npackage main\nimport \"os\"\nfunc main() { os.Exit(1) }"},

		{name: "ExitInTestHarness", path: "test/cluster/x.go", body: "import \"os\"\nfunc f() { os.Exit(1) }"},

		{name: "Init", rule: "init", path: "shipper/x.go", body: "func init() {}"},
		{name: "InitIsAlsoAMethod", path: "shipper/x.go", body: "type T struct{}\nfunc (T) init() {}"},

		{name: "GlobalAssigned", rule: "globals", path: "ledger/x.go", body: vars + "func f() { count = 1 }"},
		{name: "GlobalCounted", rule: "globals", path: "ledger/x.go", body: vars + "func f() { count++ }"},
		{name: "GlobalMapFilled", rule: "globals", path: "ledger/x.go", body: vars + "func f() { table[\"a\"] = 1 }"},
		{name: "GlobalMapEmptied", rule: "globals", path: "ledger/x.go", body: vars + "func f() { delete(table, \"a\") }"},
		{name: "GlobalGivenAway", rule: "globals", path: "ledger/x.go", body: vars + "func f() *int { return &fixed[1] }"},
		{name: "GlobalOfAnotherFile", rule: "globals", path: "ledger/x.go", body: "func f() { other = 1 }", more: map[string]string{"ledger/y.go": "var other int"}},
		{name: "GlobalOfAnotherPackage", rule: "globals", path: "ledger/x.go", body: "import \"net/http\"\nfunc f() { http.DefaultClient = nil }"},
		{name: "GlobalLock", rule: "globals", path: "ledger/x.go", body: "import \"sync\"\nvar mu sync.Mutex"},
		{name: "GlobalChannel", rule: "globals", path: "ledger/x.go", body: "var wake = make(chan int)"},
		{name: "GlobalShadowed", path: "ledger/x.go", body: vars + "func f() { count := 1; count++; _ = count }"},
		{name: "GlobalRead", path: "ledger/x.go", body: vars + "func f() int { n := table[\"a\"]; return n + fixed[0] }"},

		{name: "LongFile", rule: "file-size", path: "shipper/x.go", body: long},
		{name: "LongTest", rule: "file-size", path: "shipper/x_test.go", body: long},

		{name: "MachinePath", rule: "machine-path", path: "docs/x.md", body: "see /" + "work/main"},
		{name: "MachinePathInScript", rule: "machine-path", path: "scripts/x.sh", body: "cd /" + "root/x"},

		{name: "VersionOrdered", rule: "version-check", path: "standby/x.go", body: "type S struct{ Major int }\nfunc f(s S) bool { return s.Major >= 17 }"},
		{name: "VersionEqual", rule: "version-check", path: "cmd/internal/node/x.go", body: "func f(major int) bool { return 15 == major }"},
		{name: "VersionSwitched", rule: "version-check", path: "failover/x.go", body: "type S struct{ PGMajor int }\nfunc f(s S) { switch s.PGMajor {} }"},
		{name: "VersionsOfTwoNodesDiffer", path: "standby/x.go", body: "type S struct{ Major int }\nfunc f(a, b S) bool { return a.Major != 0 && a.Major != b.Major }"},
		{name: "VersionOfLedger", path: "cmd/internal/node/x.go", body: "type E struct{ Version uint64 }\nfunc f(e E, seen uint64) bool { return e.Version <= seen }"},
		{name: "VersionInPgctl", path: "failover/pgctl/x.go", body: "func f(major int) bool { return major < 16 }"},

		{name: "NoPackageComment", rule: "package-comment", path: "shipper/x.go", body: "package x"},
		{name: "CommentOfAnotherForm", rule: "package-comment", path: "shipper/x.go", body: "// Useful things.\npackage x"},
	}
}

func TestRules_CatchPlantedViolation(t *testing.T) {
	caught := map[string]bool{}
	for _, v := range violations() {
		t.Run(v.name, func(t *testing.T) {
			files := map[string]string{v.path: v.body}
			for p, body := range v.more {
				files[p] = body
			}
			tree := plant(t, files)
			var hit []string
			for _, r := range arch.Rules() {
				if found := r.Check(tree); len(found) > 0 {
					hit = append(hit, r.ID)
					if r.Why == "" || found[0].Where == "" || found[0].What == "" {
						t.Errorf("rule %s does not say where, what and why: %+v", r.ID, found[0])
					}
				}
			}
			// A pure package that goes astray may also break an arrow.
			if v.rule != "" && !slices.Contains(hit, v.rule) || v.rule == "" && len(hit) > 0 {
				t.Errorf("caught by %q, want %q", hit, v.rule)
			}
			caught[v.rule] = true
		})
	}
	for _, r := range arch.Rules() {
		if !caught[r.ID] {
			t.Errorf("no planted violation shows that rule %s can fail", r.ID)
		}
	}
}

const planted = `# Architecture
## Packages
| package | | what | imports |
|---|---|---|---|
| ` + "`shipper`" + ` | | Ships. | ` + "`shipper/pos`" + ` |
| ` + "`shipper/pos`" + ` | P | Positions. | none |
## Guarded by tests
| rule | test |
|---|---|
| it ships | ` + "`shipper.TestShipper_Ships`" + ` |
`

func TestDocument_Checks(t *testing.T) {
	cases := []struct {
		name     string
		old, new string // replacement in the document
		want     string // in the findings; "" is none
	}{
		{"True", "", "", ""},
		{"PackageMissing", "| `shipper/pos` | P", "| `shipper/po` | P", "package shipper/pos is missing"},
		{"PackageInvented", "| `shipper/pos` | P", "| `shipper/po` | P", "no package shipper/po"},
		{"ArrowMissing", "Ships. | `shipper/pos` |", "Ships. | none |", "shipper imports: shipper/pos"},
		{"PurityMissing", "| P |", "| |", "shipper/pos: pure is true"},
		{"SectionMissing", "## Packages", "## Parts", "no section"},
		{"TestGone", "TestShipper_Ships", "TestShipper_Sails", "no test TestShipper_Sails"},
		{"TestUnnamed", "`shipper.TestShipper_Ships`", "", "names no test"},
		{"TestMisspelled", "`shipper.TestShipper_Ships`", "`shipper.TestShipper_Ships`, `shipper ships`", "not folder.TestName"},
		{"NoTests", "## Guarded", "## Watched", "no table"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			tree := plant(t, map[string]string{
				arch.Document:          strings.Replace(planted, c.old, c.new, 1),
				"shipper/x.go":         `import _ "planted/shipper/pos"`,
				"shipper/pos/x.go":     "",
				"shipper/ship_test.go": "package x_test\nimport \"testing\"\nfunc TestShipper_Ships(t *testing.T) {}",
			})
			var got []string
			for _, f := range append(arch.PackageTable(tree), arch.GuardTable(tree)...) {
				got = append(got, f.String())
			}
			all := strings.Join(got, "\n")
			if c.want == "" && all != "" || !strings.Contains(all, c.want) {
				t.Errorf("got %q, want %q in it", all, c.want)
			}
		})
	}
}

func TestRenew_MakesTheTableTrue(t *testing.T) {
	files := map[string]string{
		arch.Document:      strings.Replace(planted, "Ships. | `shipper/pos` |", "Ships. | none |", 1),
		"shipper/x.go":     `import _ "planted/shipper/pos"`,
		"shipper/pos/x.go": "",
		"ledger/x.go":      "// Package ledger keeps facts. More.\npackage ledger",
	}
	files[arch.Document] = arch.Renew(plant(t, files))
	for _, f := range arch.PackageTable(plant(t, files)) {
		t.Error(f)
	}
	for _, want := range []string{"| Ships. |", "| `ledger` | | Keeps facts. | none |", "## Guarded by tests\n| rule | test |"} {
		if !strings.Contains(files[arch.Document], want) {
			t.Errorf("the document has no %q:\n%s", want, files[arch.Document])
		}
	}
}

func TestLinks_FindsDeadOnes(t *testing.T) {
	tree := plant(t, map[string]string{"docs/x.md": "[a](a.md) [b](../b.md#part) [c](https://example.com) [d](#here)\n[e](gone.md)\n"})
	here := map[string]bool{"docs/a.md": true, "docs/../b.md": true}
	got := arch.Links(tree, func(p string) bool { return here[p] })
	if len(got) != 1 || got[0].Where != "docs/x.md:2" {
		t.Errorf("got %v, want the link in docs/x.md:2 only", got)
	}
}

func TestLoad_RefusesBrokenTree(t *testing.T) {
	for name, fsys := range map[string]fstest.MapFS{
		"NoModule":   {"x/x.go": {Data: []byte("package x")}},
		"EmptyMod":   {"go.mod": {Data: []byte("go 1.26\n")}},
		"BrokenFile": {"go.mod": {Data: []byte("module m\n")}, "x/x.go": {Data: []byte("pack")}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := arch.Load(fsys); err == nil {
				t.Error("loaded without an error")
			}
		})
	}
}
