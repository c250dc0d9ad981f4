// Command server sends every body back: net/http with HTTP/1.1 or cleartext HTTP/2, or grpc-go, each
// as it comes. It knows nothing of drains and ends at SIGTERM without a word.
package main

import (
	"context"
	"flag"
	"io"
	"log"
	"net"
	"net/http"
	"time"

	"google.golang.org/grpc"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/reflection"
)

func main() {
	protocol := flag.String("protocol", "h1", "h1, h2c or grpc")
	address := flag.String("address", ":8080", "where to listen")
	flag.Parse()
	switch *protocol {
	case "h1":
		log.Fatal(http.ListenAndServe(*address, http.HandlerFunc(echo)))
	case "h2c":
		server := &http.Server{Addr: *address, Handler: http.HandlerFunc(echo), Protocols: new(http.Protocols)}
		server.Protocols.SetHTTP1(true)
		server.Protocols.SetUnencryptedHTTP2(true)
		log.Fatal(server.ListenAndServe())
	case "grpc":
		listener, err := net.Listen("tcp", *address)
		if err != nil {
			log.Fatal(err)
		}
		server := grpc.NewServer()
		pb.RegisterTestServiceServer(server, testService{})
		reflection.Register(server)
		log.Fatal(server.Serve(listener))
	default:
		log.Fatalf("no protocol %q", *protocol)
	}
}

func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Write(body)
}

type testService struct {
	pb.UnimplementedTestServiceServer
}

func (testService) UnaryCall(_ context.Context, in *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	return &pb.SimpleResponse{Payload: in.GetPayload()}, nil
}

// StreamingOutputCall answers for as long as it was asked to: a long server stream.
func (testService) StreamingOutputCall(in *pb.StreamingOutputCallRequest, stream pb.TestService_StreamingOutputCallServer) error {
	for _, part := range in.GetResponseParameters() {
		time.Sleep(time.Duration(part.GetIntervalUs()) * time.Microsecond)
		if err := stream.Send(&pb.StreamingOutputCallResponse{Payload: in.GetPayload()}); err != nil {
			return err
		}
	}
	return nil
}
