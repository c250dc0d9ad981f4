// app: the workload of the test cluster. GET or POST / answers the host name, /slow?ms=N after N ms,
// /healthz ok until GET /ill. On SIGTERM it exits at once, or drains first (GRACEFUL=1), or
// does nothing (IGNORE=1). "app get URL..." is a client, for exec in pods.
package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

func say(format string, a ...any) {
	fmt.Printf("%s %s\n", time.Now().UTC().Format("15:04:05.000"), fmt.Sprintf(format, a...))
}

func get(urls []string) {
	client := &http.Client{Timeout: 10 * time.Second}
	for _, url := range urls {
		answer, err := client.Get(url)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		body, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		fmt.Printf("%d %s", answer.StatusCode, body)
	}
}

func main() {
	if len(os.Args) > 2 && os.Args[1] == "get" {
		get(os.Args[2:])
		return
	}
	host, _ := os.Hostname()
	var ill atomic.Bool
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		fmt.Fprintln(w, host)
	})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		ms, _ := strconv.Atoi(r.URL.Query().Get("ms"))
		time.Sleep(time.Duration(ms) * time.Millisecond)
		fmt.Fprintln(w, host)
	})
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) {
		if ill.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("/ill", func(w http.ResponseWriter, r *http.Request) { ill.Store(true) })
	port := os.Getenv("PORT")
	if port == "" {
		port = "8080"
	}
	server := &http.Server{Addr: ":" + port, Handler: mux}
	go func() {
		if err := server.ListenAndServe(); err != http.ErrServerClosed {
			say("%v", err)
			os.Exit(1)
		}
	}()
	say("serving on %s", server.Addr)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	for s := range signals {
		say("got %v", s)
		switch {
		case os.Getenv("IGNORE") == "1":
			continue
		case os.Getenv("GRACEFUL") == "1":
			server.Shutdown(context.Background())
			say("drained")
		}
		return
	}
}
