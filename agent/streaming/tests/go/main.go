// The clients that Holdfast's streaming server is for: client-go's executors and port-forwarder, as kubelet, kubectl,
// crictl and critest use them.
//
//	interop exec       spdy|websocket URL tty|plain   stdin, stdout, stderr are passed through, and the exit code
//	interop forward    spdy|websocket URL PORT        stdin goes through one connection, what comes back to stdout
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
	"k8s.io/streaming/pkg/httpstream"
)

func main() {
	if len(os.Args) != 5 {
		fail(fmt.Errorf("four arguments are needed, not %d", len(os.Args)-1))
	}
	target, err := url.Parse(os.Args[3])
	if err != nil {
		fail(err)
	}
	switch os.Args[1] {
	case "exec":
		err = command(os.Args[2], target, os.Args[4] == "tty")
	case "forward":
		err = forward(os.Args[2], target, os.Args[4])
	default:
		err = fmt.Errorf("no such word: %s", os.Args[1])
	}
	var code exec.CodeExitError
	if errors.As(err, &code) {
		os.Exit(code.Code)
	}
	fail(err)
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(99)
	}
}

// sizes says two sizes and then nothing until the end.
type sizes struct{ left []remotecommand.TerminalSize }

func (s *sizes) Next() *remotecommand.TerminalSize {
	if len(s.left) == 0 {
		select {}
	}
	size := s.left[0]
	s.left = s.left[1:]
	return &size
}

func command(transport string, target *url.URL, tty bool) error {
	config := &restclient.Config{}
	executor, err := remotecommand.NewSPDYExecutor(config, http.MethodPost, target)
	if transport == "websocket" {
		executor, err = remotecommand.NewWebSocketExecutor(config, http.MethodGet, target.String())
	}
	if err != nil {
		return err
	}
	options := remotecommand.StreamOptions{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	if tty {
		options.Stderr = nil
		options.Tty = true
		options.TerminalSizeQueue = &sizes{[]remotecommand.TerminalSize{{Width: 80, Height: 24}, {Width: 100, Height: 50}}}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return executor.StreamWithContext(ctx, options)
}

func dialer(transport string, target *url.URL) (httpstream.Dialer, error) {
	config := &restclient.Config{}
	if transport == "websocket" {
		return portforward.NewSPDYOverWebsocketDialerForStreaming(target, config)
	}
	tripper, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return nil, err
	}
	return spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: tripper}, http.MethodPost, target), nil
}

func forward(transport string, target *url.URL, port string) error {
	dialer, err := dialer(transport, target)
	if err != nil {
		return err
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	forwarder, err := portforward.NewOnAddressesForStreaming(dialer, []string{"127.0.0.1"}, []string{"0:" + port}, stop, ready, io.Discard, os.Stderr)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- forwarder.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-ended:
		return err
	}
	ports, err := forwarder.GetPorts()
	if err != nil {
		return err
	}
	connection, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0].Local))
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(connection, os.Stdin)
		_ = connection.(*net.TCPConn).CloseWrite()
	}()
	if _, err := io.Copy(os.Stdout, connection); err != nil {
		return err
	}
	close(stop)
	return <-ended
}
