// An authorization server that others wrote (the example of zitadel/oidc), with RFC 8693: whoever is an admin may
// have tokens exchanged. Usage: oidc PORT REDIRECT_URI USERS_FILE; it listens on loopback alone.
package main

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"

	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
)

func main() {
	port, redirect := os.Args[1], os.Args[2]
	issuer := fmt.Sprintf("http://localhost:%s/", port)
	storage.RegisterClients(storage.WebClient("web", "secret", redirect), storage.WebClient("gateway", "s/cret+", redirect))
	users, err := storage.StoreFromFile(os.Args[3])
	if err != nil {
		panic(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		panic(err)
	}
	router := exampleop.SetupServer(issuer, storage.NewStorage(users), slog.New(slog.NewTextHandler(os.Stderr, nil)), false)
	fmt.Println("listening")
	panic(http.Serve(listener, router))
}
