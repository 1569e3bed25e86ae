// A client on the Go SDK (tests/clients/README.md), and a server: go-client serve PORT.
package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

func main() {
	if os.Args[1] == "serve" {
		serve(os.Args[2])
		return
	}
	call(os.Args[1], os.Args[2])
}

type message struct {
	Message string `json:"message,omitempty"`
}

func serve(port string) {
	server := mcp.NewServer(&mcp.Implementation{Name: "go", Version: "1"}, nil)
	echo := func(_ context.Context, _ *mcp.CallToolRequest, in message) (*mcp.CallToolResult, any, error) {
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "Echo: " + in.Message}}}, nil, nil
	}
	mcp.AddTool(server, &mcp.Tool{Name: "echo", Description: "Say it again."}, echo)
	handler := mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, nil)
	http.Handle("/mcp", handler)
	fmt.Println(http.ListenAndServe("127.0.0.1:"+port, nil))
}

func call(url, tool string) {
	ctx := context.Background()
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
