package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// formatFlag adds docker's --format; short is its letter, "" where that means
// something else.
func (a *app) formatFlag(cmd *cobra.Command, short string) {
	cmd.Flags().StringVarP(&a.format, "format", short, "", "as docker has it: json (a line each), 'table TEMPLATE', or a Go template")
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("format", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return []string{"json", "table"}, cobra.ShellCompDirectiveNoFileComp
	}))
}

// A listing says how items of a type are listed.
type listing[T any] struct {
	columns []column[T]
	short   func(*T) // shortens ids for tables and docker's formats; may be nil
	id      func(T) string
	row     func(T) any // what docker's formats see of an item; nil: the item
	quiet   bool        // ids alone
	noTrunc bool
}

// A column is a title and what stands below it.
type column[T any] struct {
	title string
	cell  func(T) string
}

// flags adds what every listing has.
func (l *listing[T]) flags(a *app, cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&l.quiet, "quiet", "q", false, "only ids")
	cmd.Flags().BoolVar(&l.noTrunc, "no-trunc", false, "whole ids")
	a.formatFlag(cmd, "")
}

// print lists the items as the flags say.
func (l *listing[T]) print(a *app, items []T) error {
	short := slices.Clone(items)
	if l.short != nil && !l.noTrunc {
		for i := range short {
			l.short(&short[i])
		}
	}
	docker := a.format
	switch {
	case l.quiet && (docker == "" || docker == "table"):
		for _, item := range short {
			fmt.Fprintln(a.stdout, l.id(item))
		}
		return nil
	case docker == "json":
		for _, row := range l.rows(short) {
			if err := writeJSON(a.stdout, row, ""); err != nil {
				return err
			}
		}
		return nil
	case strings.HasPrefix(docker, "table "):
		return tableTemplate(a.stdout, strings.TrimPrefix(docker, "table "), l.titles(), l.rows(short))
	case docker != "" && docker != "table":
		return eachTemplate(a.stdout, docker, templateFuncs(), l.rows(short))
	case docker == "" && a.output != "" && a.output != "table":
		return a.structured(items, items)
	}
	return l.table(a.stdout, short)
}

// rows returns what docker's formats see.
func (l *listing[T]) rows(items []T) []any {
	var out []any
	for _, item := range items {
		if l.row != nil {
			out = append(out, l.row(item))
		} else {
			out = append(out, item)
		}
	}
	return out
}

// titles returns what stands above the fields of a row in a table.
func (l *listing[T]) titles() titles {
	var none T
	out := titles{}
	for i, typ := 0, reflect.TypeOf(l.rows([]T{none})[0]); i < typ.NumField(); i++ {
		name := typ.Field(i).Name
		out[name] = titleOf(name)
	}
	if l.columns[0].title != "" && l.id != nil {
		out["ID"] = l.columns[0].title
	}
	return out
}

func (l *listing[T]) table(w io.Writer, items []T) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	var titles []string
	for _, c := range l.columns {
		titles = append(titles, c.title)
	}
	fmt.Fprintln(t, strings.Join(titles, "\t"))
	for _, item := range items {
		var cells []string
		for _, c := range l.columns {
			cells = append(cells, c.cell(item))
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	return t.Flush()
}

// inspect prints an array of objects, as docker does.
func inspect[T any](a *app, items []T) error {
	switch {
	case a.format != "" && a.format != "json":
		return eachTemplate(a.stdout, a.format, templateFuncs(), items)
	case a.output == "", a.output == "table":
		return writeJSON(a.stdout, items, "    ")
	}
	return a.structured(items, items)
}

// structured prints whole as JSON or YAML, or applies a template to each item.
func (a *app) structured(whole any, items any) error {
	text, isTemplate := strings.CutPrefix(a.output, "go-template=")
	switch {
	case a.output == "json":
		return writeJSON(a.stdout, whole, "    ")
	case a.output == "yaml":
		return writeYAML(a.stdout, whole)
	case isTemplate:
		var all []any
		for i, v := 0, reflect.ValueOf(items); i < v.Len(); i++ {
			all = append(all, v.Index(i).Interface())
		}
		return eachTemplate(a.stdout, text, templateFuncs(), all)
	}
	return usagef("unknown output format %q: want table, json, yaml or go-template=TEMPLATE", a.output)
}

// one prints a single thing as -o says; plain is called if -o says nothing.
func one[T any](a *app, item T, plain func() error) error {
	switch {
	case a.format != "" && a.format != "json":
		return eachTemplate(a.stdout, a.format, templateFuncs(), []T{item})
	case a.format == "json":
		return writeJSON(a.stdout, item, "    ")
	case a.output == "", a.output == "table":
		return plain()
	}
	return a.structured(item, []T{item})
}

// writeJSON prints a value and a newline; an empty list is [].
func writeJSON(w io.Writer, v any, indent string) error {
	if list := reflect.ValueOf(v); list.Kind() == reflect.Slice && list.IsNil() {
		v = []any{}
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	return enc.Encode(v)
}

// writeYAML prints what writeJSON would, as YAML: the same names, the same order.
func writeYAML(w io.Writer, v any) error {
	var raw bytes.Buffer
	if err := writeJSON(&raw, v, ""); err != nil {
		return err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(raw.Bytes(), &doc); err != nil {
		return err
	}
	blockStyle(&doc)
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(&doc); err != nil {
		return err
	}
	return enc.Close()
}

// blockStyle undoes the braces and quotes that came with JSON. The encoder
// quotes again where a plain scalar would be read as another type.
func blockStyle(n *yaml.Node) {
	n.Style = 0
	for _, child := range n.Content {
		blockStyle(child)
	}
}

// timeOf keeps an unset time zero.
func timeOf(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}
