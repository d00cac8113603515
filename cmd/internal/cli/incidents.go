package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"understudy/cmd/internal/doc"
)

func incidentsCommand(opts Options) *cobra.Command {
	c := &cobra.Command{
		Use: "incidents", Short: "Show what an operator should know of", Args: cobra.NoArgs,
		Long: "Show the standing incidents, newest first: since when, how severe, on which node, and what. The exit code is 0 whether\n" +
			"there are any or not.",
	}
	config := ConfigFlag(c)
	asJSON := c.Flags().Bool("json", false, "print JSON")
	all := c.Flags().Bool("all", false, "show also those that ended, until they are forgotten")
	c.RunE = func(c *cobra.Command, _ []string) error {
		path := "/api/v1/incidents"
		if *all {
			path += "?all=true"
		}
		return withClient(c, *config, func(ctx context.Context, client *Client) error {
			return ask(ctx, client, path, *asJSON, opts.Out, incidentsText)
		})
	}
	return c
}

// incidentsText is one line an incident.
func incidentsText(list doc.Incidents) string {
	if len(list.Incidents) == 0 {
		return "No incident is standing.\n"
	}
	var b strings.Builder
	for _, i := range list.Incidents {
		text := printable(i.Text)
		if !i.Until.IsZero() {
			text += " (over since " + localTime(i.Until) + ")"
		}
		fmt.Fprintf(&b, "%-23s  %-8s %-10s  %s\n", localTime(i.Since), printable(i.Severity), printable(dash(i.Node)), text)
	}
	return b.String()
}
