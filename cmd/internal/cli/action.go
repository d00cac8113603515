package cli

import (
	"encoding/json"
	"strings"
)

// actionText is an action of a decision for people: its name and the fields that
// say something, where the daemon gives a command as JSON. Anything else is
// shown as it is.
func actionText(a string) string {
	name, body, ok := strings.Cut(a, " ")
	if !ok || !strings.HasPrefix(body, "{") {
		return printable(a)
	}
	dec := json.NewDecoder(strings.NewReader(body))
	dec.UseNumber()
	var fields []string
	if err := flatten(dec, "", &fields); err != nil || dec.More() {
		return printable(a)
	}
	return printable(strings.Join(append([]string{name}, fields...), " "))
}

// flatten reads one JSON value and adds its leaves as name=value, in their
// order; a leaf that says nothing is left out.
func flatten(dec *json.Decoder, name string, out *[]string) error {
	tok, err := dec.Token()
	if err != nil {
		return err
	}
	open, ok := tok.(json.Delim)
	if !ok {
		if text := leafText(tok); text != "" && name != "kind" {
			*out = append(*out, name+"="+text)
		}
		return nil
	}
	for dec.More() {
		inner := name
		if open == '{' {
			key, err := dec.Token()
			if err != nil {
				return err
			}
			inner = key.(string) // the decoder gives nothing else here
		}
		if err := flatten(dec, inner, out); err != nil {
			return err
		}
	}
	_, err = dec.Token() // the closing one
	return err
}

// leafText is a value in words, "" for one that is not set.
func leafText(tok json.Token) string {
	switch v := tok.(type) {
	case string:
		if strings.HasPrefix(v, "0001-01-01T") {
			return ""
		}
		if strings.Contains(v, " ") {
			return `"` + v + `"`
		}
		return v
	case json.Number:
		return v.String()
	case bool:
		if v {
			return "yes"
		}
	}
	return ""
}
