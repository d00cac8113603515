package doc_test

import (
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"understudy/cmd/internal/doc"
)

// The documents of backups are read by programs of others, too.
func TestBackups_NamesAreSnakeCase(t *testing.T) {
	name := regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`)
	seen := map[reflect.Type]bool{}
	var walk func(reflect.Type)
	walk = func(ty reflect.Type) {
		for ty.Kind() == reflect.Slice || ty.Kind() == reflect.Pointer {
			ty = ty.Elem()
		}
		if seen[ty] || ty.Kind() != reflect.Struct || !strings.HasSuffix(ty.PkgPath(), "internal/doc") {
			return
		}
		seen[ty] = true
		for f := range ty.Fields() {
			tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if !name.MatchString(tag) {
				t.Errorf("%s.%s: %q", ty, f.Name, tag)
			}
			walk(f.Type)
		}
	}
	for _, v := range []any{doc.Sets{}, doc.Points{}, doc.JobDetail{}, doc.Locations{}, doc.RetentionPlan{}, doc.Needed{}, doc.JobsReply{}, doc.Mark{}, doc.AuditCheck{}} {
		walk(reflect.TypeOf(v))
	}
	if len(seen) != 21 {
		t.Errorf("%d documents", len(seen))
	}
}

func TestActions_EachIsOfOneKind(t *testing.T) {
	all := slices.Concat(doc.JobActions(), doc.MarkActions())
	slices.Sort(all)
	if n := len(all); n != len(slices.Compact(all)) || n != 12 {
		t.Errorf("%d actions: %v", n, all)
	}
}

func TestRetentionPlan_RemoveN(t *testing.T) {
	p := doc.RetentionPlan{Places: []doc.RetentionPlace{{Remove: make([]doc.Removed, 2)}, {}, {Remove: make([]doc.Removed, 1)}}}
	if n := p.RemoveN(); n != 3 {
		t.Errorf("got %d", n)
	}
}
