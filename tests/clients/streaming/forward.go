package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
)

type forwardOptions struct {
	sends     sends
	noRequest bool
	tool      bool
}

// send is one connection: to which port, and what is sent.
type send struct {
	port string
	text string
	size int64
}

type sends []send

func (s *sends) String() string { return fmt.Sprint(*s) }

func (s *sends) Set(text string) error {
	port, rest, found := strings.Cut(text, ":")
	if !found {
		return errors.New("not PORT:TEXT or PORT:@BYTES")
	}
	one := send{port: port, text: rest}
	if size, is := strings.CutPrefix(rest, "@"); is {
		bytes, err := strconv.ParseInt(size, 10, 64)
		if err != nil {
			return err
		}
		one = send{port: port, size: bytes}
	}
	*s = append(*s, one)
	return nil
}

func (o *forwardOptions) register(flags *flag.FlagSet) {
	flags.Var(&o.sends, "send", "PORT:TEXT or PORT:@BYTES: connect, send, end, read to the end; several follow one another in one session")
	flags.BoolVar(&o.noRequest, "no-request-id", false, "as clients before Kubernetes 1.1")
	flags.BoolVar(&o.tool, "tool", false, "through client-go's local listeners, which end the session at the first error")
}

type forwardResult struct {
	// Error is why the session could not be had or has ended.
	Error       string             `json:"error,omitempty"`
	Protocol    string             `json:"protocol,omitempty"`
	Connections []connectionResult `json:"connections"`
}

type connectionResult struct {
	Port     string `json:"port"`
	Received output `json:"received"`
	// Error is what the server said about this connection.
	Error string `json:"error,omitempty"`
	// Broken is what broke at the client's end.
	Broken string `json:"broken,omitempty"`
}

func dialer(o options) (httpstream.Dialer, error) {
	if o.protocol == "websocket" {
		return portforward.NewSPDYOverWebsocketDialer(o.url, o.config())
	}
	transport, upgrader, err := spdy.RoundTripperFor(o.config())
	if err != nil {
		return nil, err
	}
	return spdy.NewDialer(upgrader, &http.Client{Transport: transport, Timeout: o.timeout}, "POST", o.url), nil
}

func runForward(o options) (any, error) {
	d, err := dialer(o)
	if err != nil {
		return nil, err
	}
	if o.forward.tool {
		return forwardByTool(o, d), nil
	}
	subprotocol := portforward.PortForwardProtocolV1Name
	if o.subprotocol != "" {
		subprotocol = o.subprotocol
	}
	session, protocol, err := d.Dial(subprotocol)
	if err != nil {
		return forwardResult{Error: err.Error(), Connections: []connectionResult{}}, nil
	}
	defer session.Close()
	result := forwardResult{Protocol: protocol, Connections: []connectionResult{}}
	for number, one := range o.forward.sends {
		result.Connections = append(result.Connections, connect(o, session, number, one))
	}
	select {
	case <-session.CloseChan():
		result.Error = "the server closed the session"
	default:
	}
	return result, nil
}

// connect carries one connection over a pair of streams.
func connect(o options, session httpstream.Connection, number int, one send) connectionResult {
	result := connectionResult{Port: one.port}
	headers := http.Header{}
	headers.Set(corev1.PortHeader, one.port)
	if !o.forward.noRequest {
		headers.Set(corev1.PortForwardRequestIDHeader, strconv.Itoa(number))
	}
	headers.Set(corev1.StreamType, corev1.StreamTypeError)
	errorStream, err := session.CreateStream(headers)
	if err != nil {
		result.Broken = fmt.Sprintf("opening the error stream: %v", err)
		return result
	}
	_ = errorStream.Close()
	headers.Set(corev1.StreamType, corev1.StreamTypeData)
	dataStream, err := session.CreateStream(headers)
	if err != nil {
		result.Broken = fmt.Sprintf("opening the data stream: %v", err)
		return result
	}
	said := make(chan string, 1)
	go func() {
		text, _ := io.ReadAll(errorStream)
		said <- string(text)
	}()
	result.Received, result.Broken = exchange(dataStream, one, o.timeout, func() error { return dataStream.Close() })
	select {
	case result.Error = <-said:
	case <-time.After(o.timeout):
		result.Broken = "the error stream did not end"
	}
	_ = dataStream.Reset()
	session.RemoveStreams(errorStream, dataStream)
	return result
}

// exchange sends, ends its direction and reads to the end.
func exchange(stream io.ReadWriter, one send, timeout time.Duration, end func() error) (output, string) {
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, err := io.Copy(stream, io.MultiReader(strings.NewReader(one.text), io.LimitReader(&pattern{}, one.size)))
		if err == nil {
			_ = end()
		}
	}()
	received := newRecorder()
	done := make(chan error, 1)
	go func() {
		_, err := io.Copy(received, stream)
		done <- err
	}()
	broken := ""
	select {
	case err := <-done:
		if err != nil {
			broken = err.Error()
		}
	case <-time.After(timeout):
		broken = "the connection did not end"
	}
	return received.result(), broken
}

// forwardByTool listens on a local port for each remote one, as kubectl does.
func forwardByTool(o options, d httpstream.Dialer) forwardResult {
	result := forwardResult{Connections: []connectionResult{}}
	var ports []string
	for _, one := range o.forward.sends {
		if spec := "0:" + one.port; !strings.Contains(" "+strings.Join(ports, " ")+" ", " "+spec+" ") {
			ports = append(ports, spec)
		}
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	forwarder, err := portforward.New(d, ports, stop, ready, io.Discard, io.Discard)
	if err != nil {
		result.Error = err.Error()
		return result
	}
	ended := make(chan error, 1)
	go func() { ended <- forwarder.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-ended:
		result.Error = fmt.Sprint(err)
		return result
	}
	listening, err := forwarder.GetPorts()
	if err != nil {
		result.Error = err.Error()
		return result
	}
	for _, one := range o.forward.sends {
		for _, port := range listening {
			if strconv.Itoa(int(port.Remote)) == one.port {
				result.Connections = append(result.Connections, connectLocally(o, port.Local, one))
			}
		}
	}
	close(stop)
	if err := <-ended; err != nil {
		result.Error = err.Error()
	}
	return result
}

func connectLocally(o options, local uint16, one send) connectionResult {
	result := connectionResult{Port: one.port}
	conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(local))))
	if err != nil {
		result.Broken = err.Error()
		return result
	}
	defer conn.Close()
	result.Received, result.Broken = exchange(conn, one, o.timeout, conn.(*net.TCPConn).CloseWrite)
	return result
}
