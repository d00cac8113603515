package retention

import (
	"fmt"
	"maps"
	"slices"

	"understudy/shipper/catalog"
)

// chains keeps what the kept sets are built on, at whatever distance, each as an
// island.
func (d *decision) chains() {
	copies := d.copies()
	for again := true; again; {
		again = false
		for _, x := range slices.Backward(copies) {
			for _, why := range d.builtOn(x) {
				if slices.Contains(d.why[x.Label], why) {
					continue
				}
				d.keep(x.Label, why)
				again = true
			}
		}
	}
}

// builtOn are the reasons to keep a set's copy that come from the sets that are
// built on it: those that stay here, and those at a location that lacks it.
func (d *decision) builtOn(x catalog.Set) (why []string) {
	if d.removing(x) {
		return nil
	}
	for _, label := range d.s.children[x.Label] {
		y := d.s.c.Sets[label]
		for _, place := range slices.Sorted(maps.Keys(y.Copies)) {
			gone := y.Copies[place].State == catalog.CopyRemoving
			switch {
			case gone:
			case place == d.name && len(d.why[label]) > 0:
				why = append(why, label+" is built on it")
			case place != d.name && x.Copies[place].State != catalog.CopyComplete:
				why = append(why, fmt.Sprintf("%s at %s is built on it", label, place))
			}
		}
	}
	return why
}

// childrenFirst orders removals so that no set goes before one that is built on
// it.
func (d *decision) childrenFirst(steps []Step) []Step {
	byLabel := map[string]Step{}
	for _, s := range steps {
		byLabel[s.Label] = s
	}
	out := make([]Step, 0, len(steps))
	var visit func(label string)
	visit = func(label string) {
		s, ok := byLabel[label]
		if !ok {
			return
		}
		delete(byLabel, label)
		for _, child := range d.s.children[label] {
			visit(child)
		}
		out = append(out, s)
	}
	for _, s := range steps {
		visit(s.Label)
	}
	return out
}
