package arch

import (
	"fmt"
	"go/ast"
	"regexp"
	"slices"
	"strings"
)

// Document is the file whose tables are held against the code.
const Document = "ARCHITECTURE.md"

// row is one line of a table: its cells without blanks and without the marks
// of code.
type row struct {
	where string
	raw   []string
	cells []string
}

// section are the table rows below the heading that begins with title.
func (t *Tree) section(title string) (rows []row, found bool) {
	i := slices.IndexFunc(t.Texts, func(x Text) bool { return x.Path == Document })
	if i < 0 {
		return nil, false
	}
	in := false
	for n, line := range strings.Split(string(t.Texts[i].Body), "\n") {
		if strings.HasPrefix(line, "#") {
			in = strings.HasPrefix(strings.TrimLeft(line, "# "), title)
			found = found || in
			continue
		}
		if !in || !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|---") {
			continue
		}
		r := row{where: fmt.Sprintf("%s:%d", Document, n+1)}
		for _, c := range strings.Split(strings.Trim(line, "|"), "|") {
			r.raw = append(r.raw, strings.TrimSpace(c))
			r.cells = append(r.cells, strings.ReplaceAll(strings.TrimSpace(c), "`", ""))
		}
		rows = append(rows, r)
	}
	if len(rows) > 0 {
		rows = rows[1:] // the heads
	}
	return rows, found
}

// PackageTable finds where the table under "Packages" differs from the code:
// package, P for pure, its one sentence, and the packages of ours it imports.
// Packages below test are not listed one by one.
func PackageTable(t *Tree) (out []Finding) {
	rows, found := t.section("Packages")
	if !found {
		return []Finding{{Document, `has no section "Packages"`}}
	}
	listed := map[string]bool{}
	for _, r := range rows {
		if len(r.cells) != 4 {
			out = append(out, Finding{r.where, "is not a row of four cells"})
			continue
		}
		dir := r.cells[0]
		listed[dir] = true
		i := slices.IndexFunc(t.Packages, func(p *Package) bool { return p.Dir == dir })
		if i < 0 {
			out = append(out, Finding{r.where, "there is no package " + dir})
			continue
		}
		if pure := slices.Contains(Pure(), dir); pure != (r.cells[1] == "P") {
			out = append(out, Finding{r.where, fmt.Sprintf("%s: pure is %v", dir, pure)})
		}
		if want := some(t.imports(t.Packages[i])); r.cells[3] != want {
			out = append(out, Finding{r.where, fmt.Sprintf("%s imports: %s", dir, want)})
		}
	}
	for _, p := range t.Packages {
		if !within(p.Dir, "test") && !listed[p.Dir] {
			out = append(out, Finding{Document, fmt.Sprintf("package %s is missing; it imports: %s", p.Dir, some(t.imports(p)))})
		}
	}
	return out
}

var testName = regexp.MustCompile("`([a-z0-9/]+)\\.((?:Test|Fuzz)[A-Za-z0-9_]+)`")

// GuardTable finds the tests named under "Guarded by tests" that do not exist,
// and rows that name none. A test is written `folder.TestName`.
func GuardTable(t *Tree) (out []Finding) {
	rows, found := t.section("Guarded by tests")
	if !found || len(rows) == 0 {
		return []Finding{{Document, `has no table under "Guarded by tests"`}}
	}
	for _, r := range rows {
		if len(r.cells) == 2 && r.cells[1] == "tests" {
			continue // the head of another table
		}
		named := testName.FindAllStringSubmatch(strings.Join(r.raw, " "), -1)
		if len(named) == 0 {
			out = append(out, Finding{r.where, "names no test"})
		}
		if marks := strings.Count(r.raw[len(r.raw)-1], "`"); marks != 2*len(named) {
			out = append(out, Finding{r.where, "names something that is not folder.TestName"})
		}
		for _, m := range named {
			if !t.hasTest(m[1], m[2]) {
				out = append(out, Finding{r.where, fmt.Sprintf("there is no test %s in %s", m[2], m[1])})
			}
		}
	}
	return out
}

func (t *Tree) hasTest(dir, name string) bool {
	for _, p := range t.Packages {
		for _, f := range p.Files {
			if p.Dir != dir || !f.Test {
				continue
			}
			for _, d := range f.AST.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == name {
					return true
				}
			}
		}
	}
	return false
}

var link = regexp.MustCompile(`\]\(([^)#\s]+)(#[^)\s]*)?\)`)

// Links are the links of Markdown files to files that are not there.
func Links(t *Tree, exists func(path string) bool) (out []Finding) {
	for _, x := range t.Texts {
		if !strings.HasSuffix(x.Path, ".md") {
			continue
		}
		dir := x.Path[:strings.LastIndex("/"+x.Path, "/")]
		for n, line := range strings.Split(string(x.Body), "\n") {
			for _, m := range link.FindAllStringSubmatch(line, -1) {
				if !strings.Contains(m[1], ":") && !exists(dir+m[1]) {
					out = append(out, Finding{fmt.Sprintf("%s:%d", x.Path, n+1), "links to " + m[1] + ", which is not there"})
				}
			}
		}
	}
	return out
}

// Renew is the document with the table under "Packages" as the code has it:
// the sentences stay, a new package gets its package comment for one.
func Renew(t *Tree) string {
	i := slices.IndexFunc(t.Texts, func(x Text) bool { return x.Path == Document })
	if i < 0 {
		return ""
	}
	rows, _ := t.section("Packages")
	said := map[string]string{}
	var order []string
	for _, r := range rows {
		if len(r.cells) == 4 {
			said[r.cells[0]] = r.raw[2]
			order = append(order, r.cells[0])
		}
	}
	var table []string
	line := func(p *Package, text string) {
		imports := "none"
		if list := t.imports(p); len(list) > 0 {
			imports = "`" + strings.Join(list, "`, `") + "`"
		}
		pure := ""
		if slices.Contains(Pure(), p.Dir) {
			pure = " P"
		}
		table = append(table, fmt.Sprintf("| `%s` |%s | %s | %s |", p.Dir, pure, text, imports))
	}
	for _, dir := range order {
		if k := slices.IndexFunc(t.Packages, func(p *Package) bool { return p.Dir == dir }); k >= 0 {
			line(t.Packages[k], said[dir])
		}
	}
	for _, p := range t.Packages {
		if _, listed := said[p.Dir]; !listed && !within(p.Dir, "test") {
			line(p, synopsis(p))
		}
	}
	var out []string
	in, head := false, 0
	for _, l := range strings.Split(string(t.Texts[i].Body), "\n") {
		if strings.HasPrefix(l, "#") {
			in, head = strings.HasPrefix(strings.TrimLeft(l, "# "), "Packages"), 0
		}
		if in && strings.HasPrefix(l, "|") {
			if head++; head == 2 { // the line below the heads
				out = append(out, l)
				out = append(out, table...)
				continue
			} else if head > 2 {
				continue
			}
		}
		out = append(out, l)
	}
	return strings.Join(out, "\n")
}

// synopsis is the first sentence of a package comment, without its first
// words.
func synopsis(p *Package) string {
	for _, f := range p.Files {
		if f.AST.Doc == nil {
			continue
		}
		s, _, _ := strings.Cut(strings.Join(strings.Fields(f.AST.Doc.Text()), " "), ". ")
		s = strings.TrimPrefix(s, "Package "+f.AST.Name.Name+" ")
		return strings.ToUpper(s[:1]) + strings.TrimSuffix(s[1:], ".") + "."
	}
	return ""
}
