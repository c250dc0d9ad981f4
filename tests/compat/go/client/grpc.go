package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	pb "google.golang.org/grpc/interop/grpc_testing"
)

// The streams' parts, and the pause before each: a second and a half.
const (
	parts   = 15
	pauseUs = 100_000
)

// overGrpc is a connection of its own for every few callers, of which one always has a long stream.
func overGrpc() []call {
	var callers []call
	for range *connections {
		connection, err := grpc.NewClient("passthrough:///"+*target,
			grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry(),
			grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
				return dial(ctx, "tcp", address)
			}))
		if err != nil {
			log.Fatal(err)
		}
		service := pb.NewTestServiceClient(connection)
		callers = append(callers, func(body []byte) ([]byte, error) { return stream(service, body) })
		for range *streams - 1 {
			callers = append(callers, func(body []byte) ([]byte, error) { return unary(service, body) })
		}
	}
	return callers
}

func unary(service pb.TestServiceClient, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()
	out, err := service.UnaryCall(ctx, &pb.SimpleRequest{Payload: &pb.Payload{Body: body}})
	return out.GetPayload().GetBody(), err
}

func stream(service pb.TestServiceClient, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()
	in := &pb.StreamingOutputCallRequest{Payload: &pb.Payload{Body: body}}
	for range parts {
		in.ResponseParameters = append(in.ResponseParameters, &pb.ResponseParameters{IntervalUs: pauseUs})
	}
	answers, err := service.StreamingOutputCall(ctx, in)
	if err != nil {
		return nil, err
	}
	for part := 0; ; part++ {
		answer, err := answers.Recv()
		if err == io.EOF && part == parts {
			return body, nil
		}
		if err == io.EOF {
			return nil, fmt.Errorf("the stream ended after %d parts", part)
		}
		if err != nil {
			return nil, err
		}
		if got := answer.GetPayload().GetBody(); !bytes.Equal(got, body) {
			return got, nil
		}
	}
}
