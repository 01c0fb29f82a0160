// A client of a streaming server that podbay's authors did not write: client-go, with flags for a
// test. It prints one JSON object and exits with 0 unless it could not even try.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/url"
	"os"
	"time"

	restclient "k8s.io/client-go/rest"
)

// options are the flags of all subcommands.
type options struct {
	url         *url.URL
	protocol    string
	subprotocol string
	timeout     time.Duration
	command     commandOptions
	forward     forwardOptions
}

func main() {
	if len(os.Args) < 2 {
		fail(fmt.Errorf("usage: %s exec|attach|portforward -url URL [flags]", os.Args[0]))
	}
	subcommand := os.Args[1]
	flags := flag.NewFlagSet(subcommand, flag.ExitOnError)
	var o options
	address := flags.String("url", "", "the URL that the runtime answered with")
	flags.StringVar(&o.protocol, "protocol", "spdy", "spdy or websocket")
	flags.StringVar(&o.subprotocol, "subprotocol", "", "offer only this one, such as v3.channel.k8s.io")
	flags.DurationVar(&o.timeout, "timeout", time.Minute, "when to give up")
	var run func(options) (any, error)
	switch subcommand {
	case "exec", "attach":
		o.command.register(flags)
		run = runCommand
	case "portforward":
		o.forward.register(flags)
		run = runForward
	default:
		fail(fmt.Errorf("no subcommand %q", subcommand))
	}
	_ = flags.Parse(os.Args[2:])
	if flags.NArg() > 0 {
		fail(fmt.Errorf("what is %q?", flags.Args()))
	}
	parsed, err := url.Parse(*address)
	if err != nil || parsed.Host == "" {
		fail(fmt.Errorf("-url %q: not a URL (%v)", *address, err))
	}
	if o.protocol != "spdy" && o.protocol != "websocket" {
		fail(fmt.Errorf("-protocol %q: neither spdy nor websocket", o.protocol))
	}
	o.url = parsed
	result, err := run(o)
	if err != nil {
		fail(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(result); err != nil {
		fail(err)
	}
}

func (o options) config() *restclient.Config {
	return &restclient.Config{TLSClientConfig: restclient.TLSClientConfig{Insecure: true}}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(2)
}
