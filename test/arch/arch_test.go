package arch_test

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"understudy/test/arch"
)

const root = "../.."

var update = flag.Bool("update", false, "write the table of packages in "+arch.Document+" anew")

func load(t *testing.T) *arch.Tree {
	t.Helper()
	tree, err := arch.Load(os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	if len(tree.Packages) < 20 {
		t.Fatalf("only %d packages were found below %s", len(tree.Packages), root)
	}
	return tree
}

func TestRepository_KeepsRules(t *testing.T) {
	tree := load(t)
	for _, r := range arch.Rules() {
		t.Run(r.ID, func(t *testing.T) {
			for _, f := range r.Check(tree) {
				t.Errorf("%s\n\trule %s: %s", f, r.ID, r.Why)
			}
		})
	}
}

func TestRepository_NamesExistingPackagesInRules(t *testing.T) {
	dirs := map[string]bool{}
	for _, p := range load(t).Packages {
		dirs[p.Dir] = true
	}
	for _, d := range append(arch.Pure(), arch.VersionAware()...) {
		if !dirs[d] {
			t.Errorf("the rules speak of package %s, which is not there", d)
		}
	}
}

func TestRepository_SecondLookAtLongFiles(t *testing.T) {
	for _, f := range load(t).LongFiles(arch.GuideLines) {
		t.Logf("above the guide of %d lines: %s", arch.GuideLines, f)
	}
}

func TestArchitecture_ListsPackagesAsTheyAre(t *testing.T) {
	tree := load(t)
	if *update {
		if err := os.WriteFile(filepath.Join(root, arch.Document), []byte(arch.Renew(tree)), 0o644); err != nil {
			t.Fatal(err)
		}
		tree = load(t)
	}
	for _, f := range arch.PackageTable(tree) {
		t.Error(f)
	}
	if t.Failed() {
		t.Log("go test ./test/arch -update writes the table anew")
	}
}

func TestArchitecture_NamesExistingTests(t *testing.T) {
	for _, f := range arch.GuardTable(load(t)) {
		t.Error(f)
	}
}

func TestDocuments_LinkToExistingFiles(t *testing.T) {
	exists := func(p string) bool {
		_, err := os.Stat(filepath.Join(root, p))
		return err == nil
	}
	for _, f := range arch.Links(load(t), exists) {
		t.Error(f)
	}
}
