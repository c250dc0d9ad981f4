// Command client keeps connections busy with one POST after the other, compares every answer with what
// it must be, and never sends a request twice. It ends when its standard input does, and prints what
// became of its requests as JSON.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// A call makes one request with this body and gives the answer's body.
type call func(body []byte) ([]byte, error)

type report struct {
	Requests int64    `json:"requests"`
	Failed   int64    `json:"failed"`
	Wrong    int64    `json:"wrong"`
	Opened   int64    `json:"opened"`
	Closes   int64    `json:"closes"`
	Errors   []string `json:"errors"`
	mutex    sync.Mutex
}

var (
	target      = flag.String("target", "", "address and port")
	protocol    = flag.String("protocol", "h1", "h1, h2c or grpc")
	path        = flag.String("path", "/", "where to send the requests")
	connections = flag.Int("connections", 64, "how many connections")
	streams     = flag.Int("streams", 4, "h2c, grpc: how many requests at once on each")
	expect      = flag.String("expect", "", "a file with what the answers must be; without it, the request's body")
	get         = flag.Bool("get", false, "h1: GET instead of POST")
	small       = flag.Bool("small", false, "small requests only, for servers that do not read them")
	sized       = flag.Int("size", 0, "bytes of every request's body, instead of sizes of many kinds")
	timeout     = flag.Duration("timeout", 10*time.Second, "a request without a complete answer by then has failed")
	most        = flag.Duration("most", 2*time.Minute, "the end, even if nobody asks for it")
	opened      atomic.Int64
	closes      atomic.Int64
)

func main() {
	flag.Parse()
	var wanted []byte
	if *expect != "" {
		var err error
		if wanted, err = os.ReadFile(*expect); err != nil {
			log.Fatal(err)
		}
	}
	var callers []call
	switch *protocol {
	case "h1":
		callers = http1()
	case "h2c":
		callers = h2c()
	case "grpc":
		callers = overGrpc()
	default:
		log.Fatalf("no protocol %q", *protocol)
	}
	stop := make(chan struct{})
	go func() {
		ended := make(chan struct{})
		go func() { io.Copy(io.Discard, os.Stdin); close(ended) }()
		select {
		case <-ended:
		case <-time.After(*most):
		}
		close(stop)
	}()
	var (
		result  = report{Errors: []string{}}
		numbers atomic.Int64
		workers sync.WaitGroup
	)
	for _, caller := range callers {
		workers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				sent := body(numbers.Add(1))
				got, err := caller(sent)
				want := wanted
				if want == nil {
					want = sent
				}
				result.count(got, want, err)
			}
		})
	}
	workers.Wait()
	result.Opened, result.Closes = opened.Load(), closes.Load()
	json.NewEncoder(os.Stdout).Encode(&result)
}

// body makes the body of request n, unlike any other, full of what looks like the start of a message.
// Every tenth needs several segments, every hundredth does not fit into a socket's buffers.
func body(n int64) []byte {
	size := 64
	if *sized > 0 {
		size = *sized
	} else if *small {
		size = 64
	} else if n%100 == 0 {
		size = 300_000
	} else if n%10 == 0 {
		size = 20_000
	}
	part := fmt.Sprintf("%d HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nPOST /%d HTTP/1.1\r\n", n, n)
	return bytes.Repeat([]byte(part), size/len(part)+1)[:size]
}

func (r *report) count(got, want []byte, err error) {
	r.mutex.Lock()
	r.Requests++
	failed := true
	switch {
	case err != nil:
		r.Failed++
		r.note(err.Error())
	case !bytes.Equal(got, want):
		r.Failed++
		r.Wrong++
		r.note(fmt.Sprintf("a wrong body of %d bytes instead of %d: %.80q", len(got), len(want), got))
	default:
		failed = false
	}
	r.mutex.Unlock()
	if failed {
		// A refusal shall not become a flood.
		time.Sleep(50 * time.Millisecond)
	}
}

func (r *report) note(text string) {
	if len(r.Errors) < 5 {
		r.Errors = append(r.Errors, time.Now().Format("15:04:05.000 ")+text)
	}
}
