package api

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// A filter says whether a thing is wanted.
type filter[T any] func(T) bool

// A filterKey is what a key of filters means. Of several values one must match
// unless Every is set: then all must.
type filterKey[T any] struct {
	Parse func(value string) (filter[T], error)
	Every bool
}

// filterKeys are the keys that things of a kind can be filtered by.
type filterKeys[T any] map[string]filterKey[T]

// parse makes one filter of all, in docker's words where one makes no sense.
func (keys filterKeys[T]) parse(in map[string]*overspanv1.FilterValues) (filter[T], error) {
	var all []filter[T]
	for _, name := range slices.Sorted(maps.Keys(in)) {
		key, known := keys[name]
		if !known {
			return nil, overspan.Errorf(overspan.ErrInvalid, "invalid filter '%s': use %s", name, strings.Join(slices.Sorted(maps.Keys(keys)), ", "))
		}
		var values []filter[T]
		for _, value := range in[name].GetValues() {
			f, err := key.Parse(value)
			if err != nil {
				return nil, overspan.Errorf(overspan.ErrInvalid, "invalid filter '%s=%s': %w", name, value, err)
			}
			values = append(values, f)
		}
		if key.Every {
			all = append(all, values...)
		} else if len(values) > 0 {
			all = append(all, anyOf(values))
		}
	}
	return func(v T) bool {
		return !slices.ContainsFunc(all, func(f filter[T]) bool { return !f(v) })
	}, nil
}

// with returns the keys and more of them.
func (keys filterKeys[T]) with(more filterKeys[T]) filterKeys[T] {
	out := maps.Clone(keys)
	maps.Copy(out, more)
	return out
}

func anyOf[T any](filters []filter[T]) filter[T] {
	return func(v T) bool {
		return slices.ContainsFunc(filters, func(f filter[T]) bool { return f(v) })
	}
}

// exactly is a key whose value is the text itself.
func exactly[T any](text func(T) string) filterKey[T] {
	return filterKey[T]{Parse: func(value string) (filter[T], error) {
		return func(v T) bool { return text(v) == value }, nil
	}}
}

// oneOf is a key whose value is the text, which is one of a few words.
func oneOf[T any](text func(T) string, words ...string) filterKey[T] {
	return filterKey[T]{Parse: func(value string) (filter[T], error) {
		if !slices.Contains(words, value) {
			return nil, overspan.Errorf(overspan.ErrInvalid, "use %s", strings.Join(words, " or "))
		}
		return func(v T) bool { return text(v) == value }, nil
	}}
}

// pattern is a key whose value is a regular expression that matches any part of
// the text.
func pattern[T any](text func(T) string) filterKey[T] {
	return filterKey[T]{Parse: func(value string) (filter[T], error) {
		re, err := regexp.Compile(value)
		if err != nil {
			return nil, err
		}
		return func(v T) bool { return re.MatchString(text(v)) }, nil
	}}
}

// reference is a key whose value names one of the things that has returns, by
// name or id.
func reference[T any](has func(T) []named) filterKey[T] {
	return filterKey[T]{Parse: func(value string) (filter[T], error) {
		return func(v T) bool {
			return slices.ContainsFunc(has(v), func(n named) bool { return n.is(value) })
		}, nil
	}}
}

// A named is what something is called; either may be "".
type named struct{ name, id string }

// is reports whether ref is the name, the id, or as much of it as tables show.
func (n named) is(ref string) bool {
	return ref != "" && (ref == n.name || len(ref) >= len(overspan.ShortID(n.id)) && strings.HasPrefix(n.id, ref))
}

func (n named) isOneOf(refs []string) bool { return slices.ContainsFunc(refs, n.is) }

func networkNamed(n *overspan.Network) named { return named{n.Name, string(n.ID)} }

// selected returns what a filter wants of a list.
func selected[T any](in []T, wanted filter[T]) []T {
	var out []T
	for _, v := range in {
		if wanted(v) {
			out = append(out, v)
		}
	}
	return out
}

// label is a key whose value is key or key=value; every one must match.
func label[T any](labels func(T) map[string]string) filterKey[T] {
	return filterKey[T]{Every: true, Parse: func(value string) (filter[T], error) {
		key, want, exact := strings.Cut(value, "=")
		return func(v T) bool {
			got, ok := labels(v)[key]
			return ok && (!exact || got == want)
		}, nil
	}}
}

// not is a key that wants the opposite.
func not[T any](key filterKey[T]) filterKey[T] {
	return filterKey[T]{Every: true, Parse: func(value string) (filter[T], error) {
		f, err := key.Parse(value)
		return func(v T) bool { return !f(v) }, err
	}}
}

// before is a key whose value is a moment before which the thing was made.
func before[T any](now time.Time, made func(T) time.Time) filterKey[T] {
	return filterKey[T]{Every: true, Parse: func(value string) (filter[T], error) {
		until, err := parseMoment(value, now)
		return func(v T) bool { return made(v).Before(until) }, err
	}}
}

// networkKeys are docker's.
func networkKeys() filterKeys[*overspanv1.Network] {
	return filterKeys[*overspanv1.Network]{
		"driver": exactly((*overspanv1.Network).GetDriver),
		"id":     pattern((*overspanv1.Network).GetId),
		"label":  label((*overspanv1.Network).GetLabels),
		"name":   pattern((*overspanv1.Network).GetName),
		"scope":  oneOf(scopeOf, "global", "local", "swarm"), // docker's third, which no network of ours has
		"type":   oneOf(typeOf, "builtin", "custom"),
	}
}

func scopeOf(n *overspanv1.Network) string { return overspan.Driver(n.GetDriver()).Scope() }

// typeOf tells predefined networks from the others.
func typeOf(n *overspanv1.Network) string {
	if isPredefined(n) {
		return "builtin"
	}
	return "custom"
}

// listKeys are those of a list of networks. What dangles is looked up in etcd,
// and so only among what the other filters leave: see dangling.
func listKeys() filterKeys[*overspanv1.Network] {
	always := func(*overspanv1.Network) bool { return true }
	return networkKeys().with(filterKeys[*overspanv1.Network]{
		danglingKey: {Parse: func(value string) (filter[*overspanv1.Network], error) {
			_, err := parseBool(value)
			return always, err
		}},
	})
}

const danglingKey = "dangling"

// dangling returns what is asked of networks that nothing is plugged into: to
// show them alone, to leave them out, or, if asked is false, nothing.
func dangling(in map[string]*overspanv1.FilterValues) (alone, asked bool, err error) {
	said := map[bool]struct{}{}
	for _, value := range in[danglingKey].GetValues() {
		if alone, err = parseBool(value); err != nil {
			return false, false, err
		}
		said[alone] = struct{}{}
	}
	return alone, len(said) == 1, nil
}

// parseBool takes docker's four words.
func parseBool(value string) (bool, error) {
	switch value {
	case "true", "1":
		return true, nil
	case "false", "0":
		return false, nil
	}
	return false, overspan.Errorf(overspan.ErrInvalid, "use true or false")
}

// pruneKeys are those of what is to be removed.
func pruneKeys(now time.Time) filterKeys[*overspanv1.Network] {
	keys := networkKeys()
	return keys.with(filterKeys[*overspanv1.Network]{
		"label!": not(keys["label"]),
		"until":  before(now, func(n *overspanv1.Network) time.Time { return n.GetCreated().AsTime() }),
	})
}
