package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"hash"
	"io"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/remotecommand"
	client "k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
)

// Of each output this much is printed.
const printed = 64 << 10

type commandOptions struct {
	tty, stdout, stderr, stdinOn bool
	stdinText, stdinAfter        string
	stdinSize                    int64
	holdStdin                    bool
	sizes, sizesAfter            string
	cancelAfter                  string
	slow                         time.Duration
}

func (o *commandOptions) register(flags *flag.FlagSet) {
	flags.BoolVar(&o.tty, "tty", false, "the process has a terminal")
	flags.BoolVar(&o.stdout, "stdout", true, "take stdout")
	flags.BoolVar(&o.stderr, "stderr", true, "take stderr (never with -tty)")
	flags.BoolVar(&o.stdinOn, "stdin", false, "send a stdin, which is what -stdin-text and -stdin-size say")
	flags.StringVar(&o.stdinText, "stdin-text", "", "what to send")
	flags.Int64Var(&o.stdinSize, "stdin-size", 0, "how many bytes of a pattern to send behind -stdin-text")
	flags.StringVar(&o.stdinAfter, "stdin-after", "", "send only when stdout has held this text")
	flags.BoolVar(&o.holdStdin, "hold-stdin", false, "do not end stdin while the process runs")
	flags.StringVar(&o.sizes, "sizes", "", "sizes of the terminal, such as 80x24,100x30")
	flags.StringVar(&o.sizesAfter, "sizes-after", "", "send all sizes but the first only when stdout has held this text")
	flags.StringVar(&o.cancelAfter, "cancel-after", "", "leave when stdout has held this text")
	flags.DurationVar(&o.slow, "slow", 0, "pause this long after each read of stdout")
}

type commandResult struct {
	// ExitCode is absent when the process's end was not told.
	ExitCode *int   `json:"exit_code,omitempty"`
	Error    string `json:"error,omitempty"`
	Canceled bool   `json:"canceled,omitempty"`
	Stdin    output `json:"stdin"`
	Stdout   output `json:"stdout"`
	Stderr   output `json:"stderr"`
	Millis   int64  `json:"millis"`
}

type output struct {
	Bytes  int64  `json:"bytes"`
	Sha256 string `json:"sha256"`
	Text   string `json:"text"`
}

// recorder keeps what passes and tells when a text has passed.
type recorder struct {
	mu      sync.Mutex
	sum     hash.Hash
	bytes   int64
	head    bytes.Buffer
	waiting map[string]func()
	pause   time.Duration
}

func newRecorder() *recorder {
	return &recorder{sum: sha256.New(), waiting: map[string]func(){}}
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	r.sum.Write(p)
	r.bytes += int64(len(p))
	if room := printed - r.head.Len(); room > 0 {
		r.head.Write(p[:min(room, len(p))])
	}
	for text, then := range r.waiting {
		if strings.Contains(r.head.String(), text) {
			delete(r.waiting, text)
			then()
		}
	}
	r.mu.Unlock()
	time.Sleep(r.pause)
	return len(p), nil
}

// once gives a channel that is closed when the text has passed; at once if there is no text.
func (r *recorder) once(text string) <-chan struct{} {
	seen := make(chan struct{})
	if text == "" {
		close(seen)
		return seen
	}
	before := r.waiting[text]
	r.waiting[text] = func() {
		if before != nil {
			before()
		}
		close(seen)
	}
	return seen
}

func (r *recorder) result() output {
	r.mu.Lock()
	defer r.mu.Unlock()
	return output{Bytes: r.bytes, Sha256: hex.EncodeToString(r.sum.Sum(nil)), Text: r.head.String()}
}

// pattern is endless text of lines.
type pattern struct{ at int64 }

func (p *pattern) Read(b []byte) (int, error) {
	const line = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ\n"
	for i := range b {
		b[i] = line[p.at%int64(len(line))]
		p.at++
	}
	return len(b), nil
}

type waitFirst struct {
	io.Reader
	wait <-chan struct{}
}

func (w *waitFirst) Read(b []byte) (int, error) {
	<-w.wait
	return w.Reader.Read(b)
}

type never struct{ done <-chan struct{} }

func (n never) Read([]byte) (int, error) {
	<-n.done
	return 0, io.EOF
}

// sizeQueue gives the first size at once and the others when the text was seen.
type sizeQueue struct {
	sizes []client.TerminalSize
	given int
	after <-chan struct{}
	done  <-chan struct{}
}

func (q *sizeQueue) Next() *client.TerminalSize {
	if q.given == len(q.sizes) {
		<-q.done
		return nil
	}
	if q.given > 0 {
		select {
		case <-q.after:
		case <-q.done:
			return nil
		}
	}
	q.given++
	return &q.sizes[q.given-1]
}

func parseSizes(text string) ([]client.TerminalSize, error) {
	var sizes []client.TerminalSize
	for _, part := range strings.FieldsFunc(text, func(c rune) bool { return c == ',' }) {
		var size client.TerminalSize
		if _, err := fmt.Sscanf(part, "%dx%d", &size.Width, &size.Height); err != nil {
			return nil, fmt.Errorf("-sizes %q: %w", part, err)
		}
		sizes = append(sizes, size)
	}
	return sizes, nil
}

func executor(o options) (client.Executor, error) {
	if o.protocol == "websocket" {
		if o.subprotocol != "" {
			return client.NewWebSocketExecutorForProtocols(o.config(), "GET", o.url.String(), o.subprotocol)
		}
		return client.NewWebSocketExecutor(o.config(), "GET", o.url.String())
	}
	if o.subprotocol == "" {
		return client.NewSPDYExecutor(o.config(), "POST", o.url)
	}
	known := []string{
		remotecommand.StreamProtocolV1Name, remotecommand.StreamProtocolV2Name,
		remotecommand.StreamProtocolV3Name, remotecommand.StreamProtocolV4Name,
	}
	if !strings.Contains(strings.Join(known, " "), o.subprotocol) {
		return nil, fmt.Errorf("-subprotocol %q: not one of %v", o.subprotocol, known)
	}
	transport, upgrader, err := spdy.RoundTripperFor(o.config())
	if err != nil {
		return nil, err
	}
	return client.NewSPDYExecutorForProtocols(transport, upgrader, "POST", o.url, o.subprotocol)
}

func runCommand(o options) (any, error) {
	c := o.command
	with, err := executor(o)
	if err != nil {
		return nil, err
	}
	sizes, err := parseSizes(c.sizes)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), o.timeout)
	defer cancel()
	stdin, stdout, stderr := newRecorder(), newRecorder(), newRecorder()
	stdout.pause = c.slow
	streams := client.StreamOptions{Tty: c.tty}
	if c.stdinOn {
		parts := []io.Reader{strings.NewReader(c.stdinText), io.LimitReader(&pattern{}, c.stdinSize)}
		if c.holdStdin {
			parts = append(parts, never{ctx.Done()})
		}
		all := io.TeeReader(io.MultiReader(parts...), stdin)
		streams.Stdin = &waitFirst{all, stdout.once(c.stdinAfter)}
	}
	if c.stdout {
		streams.Stdout = stdout
	}
	if c.stderr && !c.tty {
		streams.Stderr = stderr
	}
	if len(sizes) > 0 {
		streams.TerminalSizeQueue = &sizeQueue{sizes: sizes, after: stdout.once(c.sizesAfter), done: ctx.Done()}
	}
	if c.cancelAfter != "" {
		seen := stdout.once(c.cancelAfter)
		go func() {
			<-seen
			cancel()
		}()
	}
	start := time.Now()
	result := commandResult{}
	err = with.StreamWithContext(ctx, streams)
	result.Millis = time.Since(start).Milliseconds()
	var code exec.CodeExitError
	switch {
	case err == nil:
		result.ExitCode = new(int)
	case errors.As(err, &code):
		result.ExitCode = &code.Code
	case errors.Is(err, context.Canceled):
		result.Canceled = true
	default:
		result.Error = err.Error()
	}
	result.Stdin, result.Stdout, result.Stderr = stdin.result(), stdout.result(), stderr.result()
	return result, nil
}
