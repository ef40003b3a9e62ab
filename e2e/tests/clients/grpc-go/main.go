// A client as kubelets before 1.31 make one: grpc-go of that time, the socket's path as the target, and a dialer.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// raw hands messages through as they are: an empty one asks for enough here.
type raw struct{}

func (raw) Name() string                             { return "proto" }
func (raw) Marshal(message any) ([]byte, error)      { return *message.(*[]byte), nil }
func (raw) Unmarshal(data []byte, message any) error { *message.(*[]byte) = data; return nil }

func run(path string, methods []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(dial),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{})),
	}
	connection, err := grpc.DialContext(ctx, path, options...)
	if err != nil {
		return err
	}
	defer connection.Close()
	for _, method := range methods {
		var request, answer []byte
		if err := connection.Invoke(ctx, method, &request, &answer); err != nil {
			return fmt.Errorf("%s: %w", method, err)
		}
		fmt.Printf("%s: %d bytes\n", method, len(answer))
	}
	return nil
}

func main() {
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
