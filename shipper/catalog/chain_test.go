package catalog_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"understudy/shipper/catalog"
)

// chained is small with "two" built on "one", and a third set built on that.
func chained() catalog.Catalog {
	c := small()
	three := c.Sets["two"]
	three.Start, three.End, three.Parent, three.Bytes, three.RawBytes = 0x5000, 0x5400, "two", 3, 30
	c.Sets["three"] = three
	edit(&c, "two", func(s *catalog.Set) { s.Parent, s.Bytes, s.RawBytes = "one", 2, 20 })
	edit(&c, "one", func(s *catalog.Set) { s.Bytes, s.RawBytes = 1, 10 })
	return c
}

func edit(c *catalog.Catalog, label string, change func(*catalog.Set)) {
	s := c.Sets[label]
	change(&s)
	c.Sets[label] = s
}

// at makes the copies of a set complete at these places only.
func at(c *catalog.Catalog, label string, places ...string) {
	edit(c, label, func(s *catalog.Set) {
		s.Copies = map[string]catalog.Copy{}
		for _, p := range places {
			s.Copies[p] = catalog.Copy{State: catalog.CopyComplete}
		}
	})
}

func TestChoose_Chain(t *testing.T) {
	latest := catalog.Target{Kind: catalog.Latest}
	for name, tc := range map[string]struct {
		change func(*catalog.Catalog)
		o      catalog.Options
		want   string // chain and locations, or a part of the refusal
	}{
		"Whole":            {func(*catalog.Catalog) {}, catalog.Options{}, "one two three at far near, 6 60"},
		"WholeAtOne":       {func(c *catalog.Catalog) { at(c, "two", "near") }, catalog.Options{}, "one two three at near, 6 60"},
		"Together":         {func(c *catalog.Catalog) { at(c, "one", "near"); at(c, "two", "far") }, catalog.Options{}, "one two three at far near, 6 60"},
		"ParentElsewhere":  {func(c *catalog.Catalog) { at(c, "one", "near") }, catalog.Options{Locations: []string{"far"}, Set: "three"}, "three is built on one, which has no complete copy at far"},
		"ParentUnknown":    {func(c *catalog.Catalog) { delete(c.Sets, "two") }, catalog.Options{Set: "three"}, "three is built on two, which is not known"},
		"ParentRunning":    {func(c *catalog.Catalog) { edit(c, "two", func(s *catalog.Set) { s.State = catalog.SetRunning }) }, catalog.Options{Set: "three"}, "three is built on two, which is running"},
		"ParentExcluded":   {func(*catalog.Catalog) {}, catalog.Options{Set: "three", Exclude: []string{"one"}}, "three is built on one, which is excluded"},
		"FullIsBetterThan": {func(c *catalog.Catalog) { at(c, "two") }, catalog.Options{}, "one at far near, 1 10"},
		"ParentDamaged":    {func(c *catalog.Catalog) { damage(c, "two") }, catalog.Options{}, "one at far near, 1 10"},
		"Circle":           {func(c *catalog.Catalog) { edit(c, "one", func(s *catalog.Set) { s.Parent = "three" }) }, catalog.Options{Set: "three"}, "three is built on itself"},
	} {
		t.Run(name, func(t *testing.T) {
			c := chained()
			tc.change(&c)
			got, err := catalog.Choose(c, latest, tc.o)
			if err != nil {
				if !strings.Contains(err.Error(), tc.want) {
					t.Errorf("%v, want %q", err, tc.want)
				}
				return
			}
			chain := got.Chain
			if chain == nil {
				chain = []string{got.Set}
			}
			if text := fmt.Sprintf("%s at %s, %d %d", strings.Join(chain, " "), strings.Join(got.Locations, " "), got.Bytes, got.RawBytes); text != tc.want {
				t.Errorf("got %s, want %s", text, tc.want)
			}
		})
	}
}

func TestCatalog_ChainIsBounded(t *testing.T) {
	c := catalog.Catalog{Sets: map[string]catalog.Set{}}
	name := func(i int) string { return fmt.Sprint("s", i) }
	for i := range catalog.MaxChain + 5 {
		c.Sets[name(i+1)] = catalog.Set{Parent: name(i)}
	}
	c.Sets[name(0)] = catalog.Set{}
	if chain, err := c.Chain(name(catalog.MaxChain)); err != nil || len(chain) != catalog.MaxChain+1 || chain[0] != "s0" {
		t.Errorf("%d sets, %v", len(chain), err)
	}
	if _, err := c.Chain(name(catalog.MaxChain + 1)); err == nil {
		t.Error("a longer chain than is possible")
	}
}

func TestCatalog_BuiltOn(t *testing.T) {
	c := chained()
	at(&c, "three", "near")
	for _, tc := range []struct{ set, place, want string }{
		{"one", "near", "two"}, {"one", "far", "two"}, {"two", "near", "three"}, {"two", "far", ""}, {"three", "near", ""},
	} {
		if got := c.BuiltOn(tc.set, tc.place); got != tc.want {
			t.Errorf("%s at %s: %q, want %q", tc.set, tc.place, got, tc.want)
		}
	}
	at(&c, "two", "far") // "three" is at a place that lacks it
	if got := c.BuiltOn("two", "far"); got != "three" {
		t.Errorf("the only copy of a set that is needed elsewhere: %q", got)
	}
	edit(&c, "three", func(s *catalog.Set) { s.State = catalog.SetFailed })
	if got := c.BuiltOn("two", "far"); got != "" || len(c.Children("two")) != 0 {
		t.Errorf("a failed set needs nothing: %q", got)
	}
	if got := c.Children("one"); !slices.Equal(got, []string{"two"}) {
		t.Error(got)
	}
}
