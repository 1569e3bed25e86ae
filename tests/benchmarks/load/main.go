// The load of the benchmarks, and the MCP server behind what they measure: compiled, because it shares two cores with that.
//
//	load serve ADDRESS TOOLS [ERA]   an MCP server whose tools answer at once: t0, t1, ... as JSON, sse and crlf as an event stream; ERA is the one
//	                                 that it speaks, "sessions" or "stateless", else both; "sessionless" is both without sessions
//	load run -url URL -connections N -message JSON [-capabilities JSON]
//
// `run` opens a session on each connection and says "ready"; each line "SECONDS" on stdin is a round, answered by one line of JSON:
// {"calls": ..., "errors": ..., "seconds": ..., "p50": ..., "p95": ..., "p99": ...} (milliseconds). The end of stdin ends it.
//
//	load sessions -url URL -count N -message JSON
//
// `sessions` does on each line of stdin what that says, for all N at once (64 at a time), and answers as above: "initialize", "listen" (a GET
// stream for each), "call" (the message once in each session), "end" (DELETE), "vanish" (all connections are cut).
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

func main() {
	var err error
	switch {
	case len(os.Args) > 3 && os.Args[1] == "serve":
		err = serve(os.Args[2], os.Args[3], strings.Join(os.Args[4:], ""))
	case len(os.Args) > 2 && os.Args[1] == "run":
		err = run(os.Args[2:])
	case len(os.Args) > 2 && os.Args[1] == "sessions":
		err = sessions(os.Args[2:])
	default:
		err = fmt.Errorf("usage: load serve ADDRESS TOOLS | load run ... | load sessions ...")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// --- the server ---

const called = `{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":"done"}]}}`

func serve(address, count, era string) error {
	number, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	listed := tools(number)
	fmt.Println("listening", listener.Addr())
	return http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(w, r, listed, era) }))
}

func tools(count int) string {
	described := strings.Repeat("What this tool is good for. ", 4)
	properties := `{"a":{"type":"string","description":"the first"},"b":{"type":"integer","description":"the second"}}`
	var all []string
	for i := range count {
		all = append(all, fmt.Sprintf(`{"name":"t%d","description":"%s","inputSchema":{"type":"object","properties":%s}}`, i, described, properties))
	}
	all = append(all, `{"name":"sse","inputSchema":{"type":"object"}}`, `{"name":"crlf","inputSchema":{"type":"object"}}`)
	return `{"tools":[` + strings.Join(all, ",") + `]}`
}

func answer(w http.ResponseWriter, r *http.Request, listed, era string) {
	if r.Method != http.MethodPost {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	body, _ := io.ReadAll(r.Body)
	var message struct {
		ID     json.RawMessage
		Method string
		Params struct{ Name string }
	}
	if json.Unmarshal(body, &message) != nil || message.ID == nil {
		w.WriteHeader(http.StatusAccepted)
		return
	}
	header := w.Header()
	header.Set("Content-Type", "application/json")
	result := fmt.Sprintf(called, message.ID)
	switch {
	case era == "sessions" && message.Method == "server/discover":
		result = fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"no"}}`, message.ID)
	case era == "stateless" && message.Method == "initialize":
		result = fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"error":{"code":-32022,"message":"no","data":{"supported":["2026-07-28"]}}}`, message.ID)
		w.WriteHeader(http.StatusBadRequest)
	case message.Method == "initialize":
		if era != "sessionless" {
			header.Set("Mcp-Session-Id", strconv.FormatInt(time.Now().UnixNano(), 36))
		}
		result = `{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"load","version":"1"}}`
		result = fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":%s}`, message.ID, result)
	case message.Method == "server/discover":
		result = `{"supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"serverInfo":{"name":"load","version":"1"},"resultType":"complete"}`
		result = fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":%s}`, message.ID, result)
	case message.Method == "tools/list":
		result = fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":%s}`, message.ID, listed)
	case message.Params.Name == "sse" || message.Params.Name == "crlf":
		header.Set("Content-Type", "text/event-stream") // as servers of the SDKs send it: in chunks, the end by itself
		end := map[string]string{"sse": "\n", "crlf": "\r\n"}[message.Params.Name] // in TypeScript, in Python
		io.WriteString(w, "event: message"+end+"data: "+result+end+end)
		w.(http.Flusher).Flush()
		return
	}
	header.Set("Content-Length", strconv.Itoa(len(result)))
	io.WriteString(w, result)
}

// --- the clients ---

type client struct {
	host       string
	connection net.Conn
	reader     *bufio.Reader
	request    []byte
	times      []time.Duration
	errors     int
	body       []byte
}

func run(arguments []string) error {
	flags := flag.NewFlagSet("run", flag.ExitOnError)
	target := flags.String("url", "", "where to")
	count := flags.Int("connections", 1, "connections, each with a session")
	message := flags.String("message", "", "what each sends again and again")
	capabilities := flags.String("capabilities", "{}", "of the clients")
	accepted := flags.String("accept-encoding", "", "what the clients accept")
	flags.StringVar(&token, "token", "", "of the clients")
	flags.StringVar(&stateless, "stateless", "", "the name of the tool, for clients of 2026-07-28, which have no session")
	flags.Parse(arguments)
	to, err := url.Parse(*target)
	if err != nil {
		return err
	}
	var clients []*client
	for range *count {
		opened, err := open(to, *message, *capabilities, *accepted)
		if err != nil {
			return err
		}
		clients = append(clients, opened)
	}
	fmt.Println("ready")
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		seconds, err := strconv.ParseFloat(lines.Text(), 64)
		if err != nil {
			return err
		}
		round(clients, time.Duration(seconds*float64(time.Second)))
	}
	return nil
}

type session struct {
	id     string
	stream net.Conn
}

const atOnce = 64 // connections for what is not a stream

func sessions(arguments []string) error {
	flags := flag.NewFlagSet("sessions", flag.ExitOnError)
	target := flags.String("url", "", "where to")
	count := flags.Int("count", 1, "sessions")
	message := flags.String("message", "", "the call")
	flags.Parse(arguments)
	to, err := url.Parse(*target)
	if err != nil {
		return err
	}
	all := make([]*session, *count)
	for i := range all {
		all[i] = &session{}
	}
	steps := map[string]func(*session, *client) error{
		"initialize": func(s *session, c *client) error { return s.initialize(to, c) },
		"listen":     func(s *session, _ *client) error { return s.listen(to) },
		"call":       func(s *session, c *client) error { return c.expect(http.StatusOK, post(to, s.id, "", *message)) },
		"end":        func(s *session, c *client) error { return c.expect(http.StatusNoContent, request("DELETE", to, s.id)) },
		"vanish":     func(s *session, _ *client) error { return s.vanish() },
	}
	fmt.Println("ready")
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		step, known := steps[lines.Text()]
		if !known {
			return fmt.Errorf("no such step: %s", lines.Text())
		}
		each(to, all, step)
	}
	return nil
}

// each does a step for all sessions and prints what came of it.
func each(to *url.URL, all []*session, step func(*session, *client) error) {
	begun, todo := time.Now(), make(chan *session)
	var lock sync.Mutex
	var times []time.Duration
	var running sync.WaitGroup
	errors := 0
	for range atOnce {
		running.Go(func() {
			connection, err := net.Dial("tcp", to.Host)
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			defer connection.Close()
			c := &client{connection: connection, reader: bufio.NewReaderSize(connection, 1<<16)}
			for s := range todo {
				at := time.Now()
				connection.SetDeadline(at.Add(time.Minute))
				err := step(s, c)
				lock.Lock()
				times = append(times, time.Since(at))
				if err != nil {
					errors++
					if errors < 4 {
						fmt.Fprintln(os.Stderr, err)
					}
				}
				lock.Unlock()
			}
		})
	}
	for _, s := range all {
		todo <- s
	}
	close(todo)
	running.Wait()
	report(times, errors, time.Since(begun))
}

func (s *session) initialize(to *url.URL, c *client) error {
	body := `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"load","version":"1"}}}`
	status, id, err := c.send(post(to, "", "", body))
	if err != nil || status != http.StatusOK {
		return fmt.Errorf("initialize: status %d, %v", status, err)
	}
	s.id = id
	return nil
}

func (c *client) expect(wanted int, sent []byte) error {
	status, _, err := c.send(sent)
	if err == nil && (status != wanted || wanted == http.StatusOK && !bytes.Contains(c.body, []byte(`"result"`))) {
		err = fmt.Errorf("status %d: %s", status, c.body)
	}
	return err
}

// listen opens the stream and returns when its headers are here.
func (s *session) listen(to *url.URL) (err error) {
	if s.stream, err = net.Dial("tcp", to.Host); err != nil {
		return err
	}
	s.stream.SetDeadline(time.Now().Add(time.Minute))
	if _, err = s.stream.Write(request("GET", to, s.id)); err != nil {
		return err
	}
	head := make([]byte, 12)
	if _, err = io.ReadFull(s.stream, head); err == nil && string(head[9:]) != "200" {
		err = fmt.Errorf("stream: %s", head)
	}
	s.stream.SetDeadline(time.Time{})
	return err
}

func (s *session) vanish() error {
	if s.stream != nil {
		s.stream.(*net.TCPConn).SetLinger(0)
		s.stream.Close()
	}
	s.stream = nil
	return nil
}

func request(method string, to *url.URL, session string) []byte {
	return fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: %s\r\nAccept: text/event-stream\r\nMcp-Session-Id: %s\r\nMcp-Protocol-Version: 2025-06-18\r\n\r\n",
		method, to.Path, to.Host, session)
}

func open(to *url.URL, message, capabilities, accepted string) (*client, error) {
	connection, err := net.Dial("tcp", to.Host)
	if err != nil {
		return nil, err
	}
	c := &client{host: to.Host, connection: connection, reader: bufio.NewReaderSize(connection, 1<<16)}
	if stateless != "" {
		c.request = post(to, "", accepted, message)
		return c, nil
	}
	initialize := `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":` + capabilities +
		`,"clientInfo":{"name":"load","version":"1"}}}`
	status, session, err := c.send(post(to, "", "", initialize))
	if err != nil || status != http.StatusOK {
		return nil, fmt.Errorf("initialize: status %d, %v: %s", status, err, c.body)
	}
	status, _, err = c.send(post(to, session, "", `{"jsonrpc":"2.0","method":"notifications/initialized"}`))
	if err != nil || status != http.StatusAccepted && status != http.StatusOK {
		return nil, fmt.Errorf("initialized: status %d, %v: %s", status, err, c.body)
	}
	c.request = post(to, session, accepted, message)
	return c, nil
}

var token, stateless string // of all clients

func post(to *url.URL, session, accepted, body string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n", to.Path, to.Host)
	fmt.Fprintf(&b, "Accept: application/json, text/event-stream\r\nUser-Agent: load\r\nContent-Length: %d\r\n", len(body))
	if session != "" {
		fmt.Fprintf(&b, "Mcp-Session-Id: %s\r\nMcp-Protocol-Version: 2025-06-18\r\n", session)
	}
	if stateless != "" {
		fmt.Fprintf(&b, "Mcp-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: %s\r\n", stateless)
	}
	if token != "" {
		fmt.Fprintf(&b, "Authorization: Bearer %s\r\n", token)
	}
	if accepted != "" {
		fmt.Fprintf(&b, "Accept-Encoding: %s\r\n", accepted)
	}
	fmt.Fprintf(&b, "\r\n%s", body)
	return b.Bytes()
}

// send gives status and session of the answer; its body is in c.body.
func (c *client) send(request []byte) (status int, session string, err error) {
	if _, err = c.connection.Write(request); err != nil {
		return
	}
	length, chunked := 0, false
	for first := true; ; first = false {
		line, err := c.reader.ReadSlice('\n')
		if err != nil {
			return 0, "", err
		}
		line = bytes.TrimRight(line, "\r\n")
		if first {
			status, _ = strconv.Atoi(string(line[9:12]))
			continue
		}
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(": "))
		switch {
		case bytes.EqualFold(name, []byte("content-length")):
			length, _ = strconv.Atoi(string(value))
		case bytes.EqualFold(name, []byte("transfer-encoding")):
			chunked = true
		case bytes.EqualFold(name, []byte("mcp-session-id")):
			session = string(value)
		}
	}
	c.body = c.body[:0]
	if !chunked {
		return status, session, c.read(length)
	}
	for {
		line, err := c.reader.ReadSlice('\n')
		if err != nil {
			return 0, "", err
		}
		size, err := strconv.ParseInt(strings.TrimSpace(string(line)), 16, 64)
		if err != nil {
			return 0, "", err
		}
		if err = c.read(int(size)); err != nil {
			return 0, "", err
		}
		if _, err = c.reader.Discard(2); err != nil || size == 0 {
			return status, session, err
		}
	}
}

func (c *client) read(size int) error {
	at := len(c.body)
	c.body = slices.Grow(c.body, size)[:at+size]
	_, err := io.ReadFull(c.reader, c.body[at:])
	return err
}

func round(clients []*client, length time.Duration) {
	for _, c := range clients {
		if err := c.reconnect(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	begun := time.Now()
	end := begun.Add(length)
	var running sync.WaitGroup
	for _, c := range clients {
		running.Go(func() { c.loop(end) })
	}
	running.Wait()
	var times []time.Duration
	errors := 0
	for _, c := range clients {
		times = append(times, c.times...)
		errors += c.errors
	}
	report(times, errors, time.Since(begun))
}

func report(times []time.Duration, errors int, took time.Duration) {
	slices.Sort(times)
	at := func(part float64) float64 {
		if len(times) == 0 {
			return 0
		}
		return float64(times[int(part*float64(len(times)-1))].Microseconds()) / 1000
	}
	out, _ := json.Marshal(map[string]any{
		"calls": len(times), "errors": errors, "seconds": took.Seconds(), "p50": at(0.50), "p95": at(0.95), "p99": at(0.99),
	})
	fmt.Println(string(out))
}

// reconnect begins a round: a server may have closed what rested since the last one.
func (c *client) reconnect() (err error) {
	c.connection.Close()
	if c.connection, err = net.Dial("tcp", c.host); err == nil {
		c.reader.Reset(c.connection)
	}
	return err
}

// loop sends until the time is over. An answer without a result is an error; a broken connection ends the loop.
func (c *client) loop(end time.Time) {
	c.times, c.errors = c.times[:0], 0
	for begun := time.Now(); begun.Before(end); {
		status, _, err := c.send(c.request)
		done := time.Now()
		if err != nil {
			c.errors++
			return
		}
		if status != http.StatusOK || len(c.body) == 0 || c.body[0] == '{' && !bytes.Contains(c.body[:min(len(c.body), 60)], []byte(`"result"`)) {
			c.errors++
		}
		c.times = append(c.times, done.Sub(begun))
		begun = done
	}
}
