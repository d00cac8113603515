package catalog

import (
	"fmt"
	"slices"
)

// MaxChain is how many sets an incremental one may be built on. Restoring a
// longer chain costs more than taking a full set now and then.
const MaxChain = 200

// Chain are the labels of the sets that make up a set, the full one first and
// the set itself last. The error goes on a sentence that begins with the set.
func (c Catalog) Chain(label string) ([]string, error) {
	chain := []string{label}
	for at := c.Sets[label]; at.Parent != ""; {
		under, ok := c.Sets[at.Parent]
		switch {
		case !ok:
			return nil, fmt.Errorf("is built on %s, which is not known", at.Parent)
		case slices.Contains(chain, at.Parent) || len(chain) > MaxChain:
			return nil, fmt.Errorf("is built on itself, or on more than %d sets", MaxChain)
		}
		chain = append(chain, at.Parent)
		at = under
	}
	slices.Reverse(chain)
	return chain, nil
}

// holders are the locations from which all sets of a chain can be had: those
// that have the whole of it, or, where none does, those that have it together.
func (v view) holders(chain []string) (from []string, why string) {
	complete := func(label, place string) bool { return v.c.Sets[label].Copies[place].State == CopyComplete }
	var some []string
	for _, place := range v.o.Locations {
		n := 0
		for _, label := range chain {
			if complete(label, place) {
				n++
			}
		}
		if n == len(chain) {
			from = append(from, place)
		}
		if n > 0 {
			some = append(some, place)
		}
	}
	if len(from) > 0 {
		return from, ""
	}
	for i, label := range slices.Backward(chain) {
		if !slices.ContainsFunc(v.o.Locations, func(place string) bool { return complete(label, place) }) {
			why = "has no complete copy at " + list(v.o.Locations)
			if i < len(chain)-1 {
				why = fmt.Sprintf("is built on %s, which %s", label, why)
			}
			return nil, why
		}
	}
	return some, ""
}

// useChain completes what is known of an incremental set by the sets it is built
// on.
func (v view) useChain(u *usable) (why string) {
	chain, err := v.c.Chain(u.Label)
	if err != nil {
		return err.Error()
	}
	for _, label := range chain[:len(chain)-1] {
		under := v.c.Sets[label]
		switch {
		case slices.Contains(v.o.Exclude, label):
			return fmt.Sprintf("is built on %s, which is excluded", label)
		case under.State != SetComplete:
			return fmt.Sprintf("is built on %s, which is %s", label, under.State)
		}
		u.Damaged = u.Damaged || under.Damaged
		u.stored, u.raw = u.stored+under.Bytes, u.raw+under.RawBytes
	}
	if u.from, why = v.holders(chain); why != "" {
		return why
	}
	if len(chain) > 1 {
		u.chain = chain
	}
	return ""
}

// BuiltOn is a set that needs the copy of another one at a location: it is built
// on that set and lies there, too, or lies where that set has no whole copy.
// Failed sets and copies that are being removed need nothing; "" is none.
func (c Catalog) BuiltOn(label, location string) string {
	under := c.Sets[label]
	for _, name := range c.Children(label) {
		for place, y := range c.Sets[name].Copies {
			if y.State != CopyRemoving && (place == location || under.Copies[place].State != CopyComplete) {
				return name
			}
		}
	}
	return ""
}

// Children are the sets that are built directly on a set, sorted, without those
// that failed.
func (c Catalog) Children(label string) (out []string) {
	for name, s := range c.Sets {
		if s.Parent == label && s.State != SetFailed && name != label {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}
