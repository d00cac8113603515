package arch

import (
	"fmt"
	"go/ast"
	"go/token"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// globals finds package variables that change: assigned after their
// declaration, in this package or from another one, with their address taken,
// or made to change (locks, atomics, channels). It does not see a map that is
// changed through a copy of the variable. Helpers of tests, which may build
// something once for all tests of a program, are left out.
func globals(t *Tree) (out []Finding) {
	for _, p := range t.Packages {
		vars := packageVars(p)
		for _, f := range p.Files {
			if f.Test || within(p.Dir, "test") {
				continue
			}
			out = append(out, t.changingTypes(f)...)
			for _, d := range f.AST.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok {
					out = append(out, t.assigned(f, fn, vars)...)
				}
			}
		}
	}
	return out
}

// packageVars are the names of a package's variables.
func packageVars(p *Package) map[string]bool {
	vars := map[string]bool{}
	for _, f := range p.Files {
		eachVar(f, func(s *ast.ValueSpec) {
			for _, n := range s.Names {
				vars[n.Name] = !f.Test && n.Name != "_"
			}
		})
	}
	return vars
}

func eachVar(f *File, fn func(*ast.ValueSpec)) {
	for _, d := range f.AST.Decls {
		if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.VAR {
			for _, s := range g.Specs {
				fn(s.(*ast.ValueSpec))
			}
		}
	}
}

// changingTypes are variables of types that exist only to change.
func (t *Tree) changingTypes(f *File) (out []Finding) {
	eachVar(f, func(s *ast.ValueSpec) {
		look := []ast.Expr{s.Type}
		for _, v := range s.Values {
			if c, ok := v.(*ast.CompositeLit); ok {
				look = append(look, c.Type)
			}
			if c, ok := v.(*ast.CallExpr); ok && len(c.Args) > 0 {
				if id, ok := c.Fun.(*ast.Ident); ok && id.Name == "make" {
					look = append(look, c.Args[0])
				}
			}
		}
		for _, e := range look {
			sel, qualified := e.(*ast.SelectorExpr)
			_, channel := e.(*ast.ChanType)
			if qualified {
				if x, ok := sel.X.(*ast.Ident); ok {
					qualified = within(f.Imports[x.Name], "sync")
				}
			}
			if qualified || channel {
				out = append(out, Finding{t.at(s), fmt.Sprintf("package variable %s is made to change", s.Names[0].Name)})
			}
		}
	})
	return out
}

// assigned are the places in fn that change a package variable.
func (t *Tree) assigned(f *File, fn *ast.FuncDecl, vars map[string]bool) (out []Finding) {
	note := func(n ast.Node, e ast.Expr, how string) {
		if name, ok := t.global(f, e, vars); ok {
			out = append(out, Finding{t.at(n), fmt.Sprintf("package variable %s is %s", name, how)})
		}
	}
	ast.Inspect(fn, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			if n.Tok != token.DEFINE {
				for _, l := range n.Lhs {
					note(n, l, "assigned")
				}
			}
		case *ast.IncDecStmt:
			note(n, n.X, "counted up or down")
		case *ast.RangeStmt:
			if n.Tok == token.ASSIGN {
				note(n, n.Key, "assigned")
				if n.Value != nil {
					note(n, n.Value, "assigned")
				}
			}
		case *ast.UnaryExpr:
			if n.Op == token.AND {
				note(n, n.X, "given away by address")
			}
		case *ast.CallExpr:
			if id, ok := n.Fun.(*ast.Ident); ok && len(n.Args) > 0 && id.Obj == nil && (id.Name == "delete" || id.Name == "clear") {
				note(n, n.Args[0], "emptied")
			}
		}
		return true
	})
	return out
}

// global is the package variable at the root of an expression such as
// v.field[i]: one of this package, or pkg.Var of another.
func (t *Tree) global(f *File, e ast.Expr, vars map[string]bool) (string, bool) {
	for {
		switch x := e.(type) {
		case *ast.IndexExpr:
			e = x.X
		case *ast.StarExpr:
			e = x.X
		case *ast.ParenExpr:
			e = x.X
		case *ast.SelectorExpr:
			if id, ok := x.X.(*ast.Ident); ok && id.Obj == nil && f.Imports[id.Name] != "" {
				return id.Name + "." + x.Sel.Name, true
			}
			e = x.X
		case *ast.Ident:
			if !vars[x.Name] {
				return "", false
			}
			if x.Obj == nil { // declared in another file of the package
				return x.Name, true
			}
			s, ok := x.Obj.Decl.(*ast.ValueSpec)
			return x.Name, ok && declared(f, s)
		default:
			return "", false
		}
	}
}

// declared tells whether a declaration is one of the file's own top level, and
// not one inside a function.
func declared(f *File, spec *ast.ValueSpec) (found bool) {
	eachVar(f, func(s *ast.ValueSpec) { found = found || s == spec })
	return found
}

// VersionAware are the packages that know how PostgreSQL versions differ.
func VersionAware() []string {
	return []string{"failover/pgctl", "shipper/walfmt", "shipper/basestream"}
}

// versionName matches what holds a version of PostgreSQL. The versions of
// ledger records are called Version alone.
var versionName = regexp.MustCompile(`^(major|.*Major|[sS]erverVersion.*|[pP][gG]Version.*|versionNum)$`)

func versionChecks(t *Tree) (out []Finding) {
	t.code(func(p *Package, f *File) {
		if slices.Contains(VersionAware(), p.Dir) || within(p.Dir, "test") {
			return
		}
		ast.Inspect(f.AST, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.BinaryExpr:
				x, y := versionOf(n.X), versionOf(n.Y)
				ordered := slices.Contains([]token.Token{token.LSS, token.LEQ, token.GTR, token.GEQ}, n.Op)
				equal := (n.Op == token.EQL || n.Op == token.NEQ) && (isMajor(n.X) || isMajor(n.Y))
				if name := x + y; name != "" && (ordered && !isZero(n.X) && !isZero(n.Y) || equal) {
					out = append(out, Finding{t.at(n), fmt.Sprintf("%s compares %s with a version", p.Dir, strings.Trim(name, " "))})
				}
			case *ast.SwitchStmt:
				if n.Tag != nil && versionOf(n.Tag) != "" {
					out = append(out, Finding{t.at(n), fmt.Sprintf("%s switches on %s", p.Dir, versionOf(n.Tag))})
				}
			}
			return true
		})
	})
	return out
}

// versionOf is the name of a value that holds a version of PostgreSQL.
func versionOf(e ast.Expr) string {
	name := ""
	switch x := e.(type) {
	case *ast.Ident:
		name = x.Name
	case *ast.SelectorExpr:
		name = x.Sel.Name
	}
	if versionName.MatchString(name) {
		return name
	}
	return ""
}

func literal(e ast.Expr) (int, bool) {
	l, ok := e.(*ast.BasicLit)
	if !ok || l.Kind != token.INT {
		return 0, false
	}
	n, err := strconv.Atoi(l.Value)
	return n, err == nil
}

func isZero(e ast.Expr) bool  { n, ok := literal(e); return ok && n <= 0 }
func isMajor(e ast.Expr) bool { n, ok := literal(e); return ok && n >= 9 }
