package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

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
	var req overspanv1.EventsRequest
	var filters filterFlag
	cmd := &cobra.Command{
		Use:   "events [flags]",
		Short: "Show what happens, until interrupted",
		Long: `Events shows what this host's agent does, and what it sees happen on others: nodes
and networks that come and go, endpoints that are connected and disconnected in
the networks that this host takes part in. The agent remembers some events of
the past. "events missed" says that others were forgotten before they could be
shown.

A TIME is how long ago (10m, 1h30m), a date (2026-11-21T08:00:00Z), or seconds
since 1970.`,
		Example:           "  ctl events --since 1h --filter type=endpoint --filter network=demo\n  ctl events --since 2026-11-21 --until 0s -o json",
		Args:              wants(cobra.NoArgs),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&req.Since, "since", "", "also what has happened since this TIME")
	cmd.Flags().StringVar(&req.Until, "until", "", "end with what has happened at this TIME")
	filters.add(a, cmd, "f", map[string]valueList{
		"event": anything, "id": anything, "label": anything, "name": anything,
		"network": a.networkNames, "node": a.nodeNames, "sandbox": a.sandboxNames, "scope": either("global", "local"),
		"type": either("cluster", "endpoint", "kernel", "network", "node", "sandbox"),
	})
	a.formatFlag(cmd, "")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if req.Filters, err = filters.parse(); err != nil {
			return err
		}
		system, err := a.system()
		if err != nil {
			return err
		}
		stream, err := system.Events(cmd.Context(), &req)
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

// endOfEvents says why the stream ended; nothing if it was the user who ended
// it, or there is nothing more to come.
func (a *app) endOfEvents(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil, errors.Is(err, io.EOF):
		return nil
	case status.Code(err) == codes.InvalidArgument:
		return overspanv1.FromStatus(err)
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
