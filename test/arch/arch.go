// Package arch checks the shape of this repository: which package may know
// which, what the pure packages may touch, and a few habits that reviews would
// have to look for otherwise. A rule carries its reason, which is what a
// developer reads when the rule fails.
package arch

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Tree is the repository as the rules see it.
type Tree struct {
	Module   string // path in go.mod
	Fset     *token.FileSet
	Packages []*Package // by Dir
	Texts    []Text     // every text file, Go files included, by Path
}

// Package is one directory with Go files.
type Package struct {
	Dir   string // slash-separated, relative to the root
	Files []*File
}

// File is one Go file.
type File struct {
	Path string
	Test bool // name ends in _test.go
	AST  *ast.File
	// Imports are the paths of imported packages by the name that the file
	// uses for them.
	Imports map[string]string
}

// Text is one text file.
type Text struct {
	Path string
	Body []byte
}

// Finding is one place that breaks a rule.
type Finding struct {
	Where string // file:line, or a directory
	What  string
}

func (f Finding) String() string { return f.Where + ": " + f.What }

// Rule is one thing that holds everywhere in the repository.
type Rule struct {
	ID    string
	Why   string // what the rule protects
	Check func(*Tree) []Finding
}

// maxText bounds what is read as text; larger files are data.
const maxText = 1 << 20

// Load parses the repository whose root is fsys.
func Load(fsys fs.FS) (*Tree, error) {
	mod, err := fs.ReadFile(fsys, "go.mod")
	if err != nil {
		return nil, fmt.Errorf("read the module file: %w", err)
	}
	t := &Tree{Module: modulePath(mod), Fset: token.NewFileSet()}
	if t.Module == "" {
		return nil, errors.New("go.mod has no module line")
	}
	byDir := map[string]*Package{}
	err = fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if foreign(p) {
				return fs.SkipDir
			}
			return nil
		}
		if fi, err := d.Info(); err != nil || !fi.Mode().IsRegular() || fi.Size() > maxText {
			return err
		}
		b, err := fs.ReadFile(fsys, p)
		if err != nil {
			return err
		}
		if bytes.IndexByte(b, 0) < 0 {
			t.Texts = append(t.Texts, Text{p, b})
		}
		if path.Ext(p) != ".go" || strings.Contains("/"+p, "/testdata/") {
			return nil
		}
		f, err := parse(t.Fset, p, b)
		if err != nil {
			return err
		}
		dir := path.Dir(p)
		if byDir[dir] == nil {
			byDir[dir] = &Package{Dir: dir}
			t.Packages = append(t.Packages, byDir[dir])
		}
		byDir[dir].Files = append(byDir[dir].Files, f)
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(t.Packages, func(a, b *Package) int { return strings.Compare(a.Dir, b.Dir) })
	return t, nil
}

// foreign tells directories that hold nothing of the repository's own: what
// builds, demos and tools leave behind.
func foreign(dir string) bool {
	switch dir {
	case ".ci", ".github", ".":
		return false
	case "bin", "demo":
		return true
	}
	// rapid notes the inputs that failed, for its next run on this machine.
	return strings.HasPrefix(path.Base(dir), ".") || strings.HasSuffix(dir, "testdata/rapid")
}

func modulePath(mod []byte) string {
	for line := range strings.Lines(string(mod)) {
		if m, ok := strings.CutPrefix(strings.TrimSpace(line), "module "); ok {
			return strings.TrimSpace(m)
		}
	}
	return ""
}

func parse(fset *token.FileSet, p string, body []byte) (*File, error) {
	a, err := parser.ParseFile(fset, p, body, parser.ParseComments)
	if err != nil {
		return nil, fmt.Errorf("parse: %w", err)
	}
	f := &File{Path: p, Test: strings.HasSuffix(p, "_test.go"), AST: a, Imports: map[string]string{}}
	for _, s := range a.Imports {
		imp, err := strconv.Unquote(s.Path.Value)
		if err != nil {
			return nil, fmt.Errorf("%s: import %s: %w", p, s.Path.Value, err)
		}
		name := path.Base(imp)
		if isVersion(name) {
			name = path.Base(path.Dir(imp)) // math/rand/v2 is named rand
		}
		if s.Name != nil {
			name = s.Name.Name
		}
		if name == "_" || name == "." {
			name = imp // still an import, but never a qualifier
		}
		f.Imports[name] = imp
	}
	return f, nil
}

func isVersion(s string) bool {
	return len(s) > 1 && s[0] == 'v' && strings.Trim(s[1:], "0123456789") == ""
}

// own is the directory of a package of this module; ok is false for others.
func (t *Tree) own(imp string) (dir string, ok bool) { return strings.CutPrefix(imp, t.Module+"/") }

// at is the place of a node in the source.
func (t *Tree) at(n ast.Node) string {
	p := t.Fset.Position(n.Pos())
	return p.Filename + ":" + strconv.Itoa(p.Line)
}

// code calls fn for the files that become part of a program, tests left out.
func (t *Tree) code(fn func(*Package, *File)) {
	for _, p := range t.Packages {
		for _, f := range p.Files {
			if !f.Test {
				fn(p, f)
			}
		}
	}
}

// imports are the packages of this module that a package's program files
// import, sorted.
func (t *Tree) imports(p *Package) []string {
	var out []string
	for _, f := range p.Files {
		for _, imp := range f.Imports {
			if dir, ok := t.own(imp); ok && !f.Test && !slices.Contains(out, dir) {
				out = append(out, dir)
			}
		}
	}
	slices.Sort(out)
	return out
}

// within tells whether dir is one of the folders or below one of them.
func within(dir string, folders ...string) bool {
	return slices.ContainsFunc(folders, func(f string) bool { return dir == f || strings.HasPrefix(dir, f+"/") })
}

// selects tells whether e is package.Name for the package imported as path.
func (f *File) selects(e ast.Expr, path string, names ...string) (string, bool) {
	s, ok := e.(*ast.SelectorExpr)
	if !ok {
		return "", false
	}
	x, ok := s.X.(*ast.Ident)
	if !ok || x.Obj != nil || f.Imports[x.Name] != path {
		return "", false
	}
	return x.Name + "." + s.Sel.Name, slices.Contains(names, s.Sel.Name)
}
