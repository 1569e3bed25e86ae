// A client on the Go SDK (tests/clients/README.md).
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

func main() {
	url, tool, ctx := os.Args[1], os.Args[2], context.Background()
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()
	changed := func(context.Context, *mcp.ToolListChangedRequest) { fmt.Println("changed") }
	client := mcp.NewClient(&mcp.Implementation{Name: "go-client", Version: "1"}, &mcp.ClientOptions{ToolListChangedHandler: changed})
	session, err := client.Connect(ctx, &mcp.StreamableClientTransport{Endpoint: url}, nil)
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	if _, err = session.ListTools(ctx, nil); err != nil {
		fmt.Println("error", err)
	}
	for calls := 1; ; calls++ {
		result, err := session.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: map[string]any{}})
		if err != nil {
			fmt.Println("error", err)
		} else if result.IsError {
			fmt.Println("error", result.Content)
		}
		if calls == 1 {
			fmt.Println("ready", session.InitializeResult().ProtocolVersion)
		}
		select {
		case <-ended:
			_ = session.Close()
			fmt.Println("calls", calls)
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}
