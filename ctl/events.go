package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// eventItem is something that the agent saw happen.
type eventItem struct {
	Time       time.Time
	Type       string
	Action     string
	ID         string            `json:",omitempty"`
	Name       string            `json:",omitempty"`
	Attributes map[string]string `json:",omitempty"`
}

func (a *app) eventsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "events [flags]",
		Short:             "Show what happens, until interrupted",
		Args:              wants(cobra.NoArgs),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	a.formatFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		system, err := a.system()
		if err != nil {
			return err
		}
		stream, err := system.Events(cmd.Context(), &overspanv1.EventsRequest{})
		if err != nil {
			return err
		}
		for {
			resp, err := stream.Recv()
			if err != nil {
				return a.endOfEvents(cmd.Context(), err)
			}
			if err := a.printEvent(eventItemOf(resp.GetEvent())); err != nil {
				return err
			}
		}
	}
	return cmd
}

// endOfEvents says why the stream ended; nothing if it was the user who ended it.
func (a *app) endOfEvents(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("the agent at %s ended the stream of events: %w", a.client.host, overspanv1.FromStatus(err))
}

func eventItemOf(e *overspanv1.Event) eventItem {
	return eventItem{timeOf(e.GetTime()), e.GetType(), e.GetAction(), e.GetId(), e.GetName(), e.GetAttributes()}
}

// printEvent prints one event on one line.
func (a *app) printEvent(e eventItem) error {
	switch {
	case a.format == "json" || a.format == "" && a.output == "json":
		return writeJSON(a.stdout, e, "")
	case a.output == "yaml":
		fmt.Fprintln(a.stdout, "---")
	}
	return one(a, e, func() error {
		words := []string{e.Time.Local().Format(time.RFC3339Nano), e.Type, e.Action}
		for _, word := range []string{overspan.ShortID(e.ID), e.Name} {
			if word != "" {
				words = append(words, word)
			}
		}
		if len(e.Attributes) > 0 {
			words = append(words, "("+labels(e.Attributes).String()+")")
		}
		_, err := fmt.Fprintln(a.stdout, strings.Join(words, " "))
		return err
	})
}
