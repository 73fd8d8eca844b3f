package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"text/template"
	"unicode"
)

// templateFuncs are docker's.
func templateFuncs() template.FuncMap {
	return template.FuncMap{
		"json":     toJSON,
		"join":     strings.Join,
		"lower":    strings.ToLower,
		"pad":      pad,
		"split":    strings.Split,
		"title":    title,
		"truncate": truncate,
		"upper":    strings.ToUpper,
	}
}

// titleFuncs are those of a table's titles: they leave a title as it is.
func titleFuncs() template.FuncMap {
	same := func(v any, _ ...any) any { return v }
	out := template.FuncMap{}
	for name := range templateFuncs() {
		out[name] = same
	}
	out["pad"] = pad
	return out
}

// toJSON writes a value on one line, and leaves <, > and & as they are.
func toJSON(v any) (string, error) {
	var out bytes.Buffer
	err := writeJSON(&out, v, "")
	return strings.TrimSuffix(out.String(), "\n"), err
}

// pad puts spaces around a text, but none around nothing.
func pad(text string, before, after int) string {
	if text == "" {
		return ""
	}
	return strings.Repeat(" ", max(0, before)) + text + strings.Repeat(" ", max(0, after))
}

// truncate returns the first characters of a text.
func truncate(text string, length int) string {
	runes := []rune(text)
	return string(runes[:min(len(runes), max(0, length))])
}

// title begins each word with a capital letter.
func title(text string) string {
	before := ' '
	return strings.Map(func(r rune) rune {
		if unicode.IsSpace(before) {
			before = r
			return unicode.ToTitle(r)
		}
		before = r
		return r
	}, text)
}

func parseTemplate(text string, funcs template.FuncMap) (*template.Template, error) {
	// What a shell passes on as \t and \n is meant as such.
	text = strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(text)
	t, err := template.New("format").Funcs(funcs).Parse(text)
	if err != nil {
		return nil, usageError{err}
	}
	return t, nil
}

// eachTemplate applies a template to each item, and ends each with a newline.
func eachTemplate[T any](w io.Writer, text string, funcs template.FuncMap, items []T) error {
	t, err := parseTemplate(text, funcs)
	if err != nil {
		return err
	}
	for _, item := range items {
		if err := t.Execute(w, item); err != nil {
			return usageError{err}
		}
		fmt.Fprintln(w)
	}
	return nil
}

// titles are what stands above the fields of a table, by the fields' names.
type titles map[string]string

// Label returns what stands above a label: the last part of its key.
func (titles) Label(key string) string {
	key = key[strings.LastIndexByte(key, '.')+1:]
	return strings.NewReplacer("-", " ", "_", " ").Replace(key)
}

// titleOf makes a title of a field's name: CREATED AT of CreatedAt.
func titleOf(field string) string {
	var out []rune
	before := 'A'
	for _, r := range field {
		if unicode.IsUpper(r) && !unicode.IsUpper(before) {
			out = append(out, ' ')
		}
		out = append(out, unicode.ToUpper(r))
		before = r
	}
	return string(out)
}

// tableTemplate aligns what eachTemplate prints, below the titles.
func tableTemplate[T any](w io.Writer, text string, above titles, items []T) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	if err := eachTemplate(t, text, titleFuncs(), []titles{above}); err != nil {
		return err
	}
	if err := eachTemplate(t, text, templateFuncs(), items); err != nil {
		return err
	}
	return t.Flush()
}
